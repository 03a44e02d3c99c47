"""Kernels for the CPU: Numba, compiled once per machine and cached."""
