"""Units: eV, Å, fs, Da, K; pressure in bar at the user's side. Constants: CODATA 2018."""

from __future__ import annotations

_ELEMENTARY_CHARGE_C = 1.602176634e-19
_BOLTZMANN_J_PER_K = 1.380649e-23
_AVOGADRO_PER_MOL = 6.02214076e23
_DALTON_KG = 1.66053906660e-27

BOLTZMANN = _BOLTZMANN_J_PER_K / _ELEMENTARY_CHARGE_C
"""Boltzmann's constant, eV/K."""

ACCELERATION = _ELEMENTARY_CHARGE_C / _DALTON_KG * 1.0e-10
"""Å/fs² per (eV/Å)/Da: acceleration = ACCELERATION * force / mass. Also (Å/fs)² per eV/Da."""

KINETIC = 1.0 / ACCELERATION
"""eV per Da (Å/fs)²: kinetic energy = KINETIC * m v² / 2."""

BAR = _ELEMENTARY_CHARGE_C * 1.0e30 * 1.0e-5
"""bar per eV/Å³."""

KJ_PER_MOL = _ELEMENTARY_CHARGE_C * _AVOGADRO_PER_MOL * 1.0e-3
"""kJ/mol per eV."""
