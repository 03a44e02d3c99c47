"""Numbers that bound what halo.py can express; here, so that whoever checks them needs no GPU."""

SHIFT_BITS = 10
SHIFT_ZERO = 1 << (SHIFT_BITS - 1)
MOST_SHIFTS = SHIFT_ZERO - 1
"""A row's place in the canonical order is one number: its atom's id, then three shifts of 10 bits each."""

CURVE_BITS = 20
"""Bits of a place on the space-filling curve, for each direction."""
