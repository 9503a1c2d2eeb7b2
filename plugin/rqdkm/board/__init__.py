"""Boards: the virtual one, QEMU, and a real one behind OpenOCD."""
