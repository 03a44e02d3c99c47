"""Kernels in CUDA C++ (`*.cu`, `*.cuh`), compiled when a model is loaded. All inline assembly is in `ptx.cuh`."""
