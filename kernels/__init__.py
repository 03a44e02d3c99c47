"""Handwritten kernels, one folder a back end. They import nothing from the rest of the package."""
