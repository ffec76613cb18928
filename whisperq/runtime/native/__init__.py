"""Kernels in C++ between the integer products: compiled on the machine that runs them, called through ctypes."""
