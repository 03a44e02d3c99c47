"""Potentials: one interface (`interface.Potential`), several implementations behind it."""

from __future__ import annotations

from allegro_sim.errors import DeviceError
from allegro_sim.model.description import AllegroModel
from allegro_sim.potential.cpu import CpuPotential
from allegro_sim.potential.interface import Potential

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("double", "single", "mixed")

__all__ = ["DEVICES", "PRECISIONS", "CpuPotential", "Potential", "create_potential"]


def create_potential(
    model: AllegroModel,
    device: str = "auto",
    precision: str = "single",
    threads: int | None = None,
    chunk_edges: int | None = None,
) -> Potential:
    """The potential of a model on a device.

    device: "auto" or "cpu"; precision: "double", "single" or "mixed" (on a CPU computed as "single"); threads: None
    for as many as this process may use; chunk_edges: edges computed at a time, None to fit a core's cache (the
    results do not depend on it).

    Raises
    ------
    DeviceError : a device or precision that is not there
    """
    if device not in DEVICES:
        raise DeviceError(f"device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
    if precision not in PRECISIONS:
        raise DeviceError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    if device == "cuda":
        raise DeviceError(
            'device "cuda" was asked for, but this version has no CUDA backend; use device = "cpu" or "auto"'
        )
    return CpuPotential(model, precision=precision, threads=threads, chunk_edges=chunk_edges)
