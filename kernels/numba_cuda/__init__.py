"""Index work on a GPU: Numba CUDA, of NVIDIA's numba-cuda. Importing a module of it loads numba.cuda."""
