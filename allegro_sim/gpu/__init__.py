"""Molecular dynamics with all arrays of a rank on a GPU: atoms, ghosts, neighbour list and the step."""
