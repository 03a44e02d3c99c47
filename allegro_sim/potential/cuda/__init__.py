"""The CUDA potential: a model turned into kernels, buffers and launches, and what executes them."""
