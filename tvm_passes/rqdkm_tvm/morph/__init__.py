"""Kernel morphing: layers that own several kernels, one of which is chosen at run time."""
