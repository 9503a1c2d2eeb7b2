"""Relay passes that take a quantized CNN to the rqdkm C kernels. Needs only numpy and a TVM with Relay."""
