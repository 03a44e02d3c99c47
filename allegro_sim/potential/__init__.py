"""Potentials: one interface (`interface.Potential`), several implementations behind it."""

from __future__ import annotations

from allegro_sim.errors import DeviceError
from allegro_sim.model.description import AllegroModel
from allegro_sim.potential.cpu import CpuPotential
from allegro_sim.potential.interface import Potential

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("double", "single", "mixed")

__all__ = ["DEVICES", "PRECISIONS", "CpuPotential", "Potential", "create_potential", "pick_device"]


def pick_device(device: str, local_rank: int = 0) -> tuple[str, str]:
    """The device that `device` stands for, "cpu" or "cuda", and why where "auto" left the choice to the program.

    local_rank: the number of this rank on its node; ranks take a node's GPUs in turn.

    Raises
    ------
    DeviceError : "cuda" and there is no GPU that can be used; an unknown device
    """
    if device not in DEVICES:
        raise DeviceError(f"device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
    if device == "cpu":
        return "cpu", ""
    from allegro_sim.potential.cuda.device import find_device

    try:
        found = find_device(local_rank)
    except DeviceError as error:
        if device == "auto":
            return "cpu", f"auto, since {error}"
        raise DeviceError(f'device "cuda" was asked for, but {error}. Without a GPU use device = "cpu"') from None
    return "cuda", f"auto, since there is {found}" if device == "auto" else ""


def create_potential(
    model: AllegroModel,
    device: str = "auto",
    precision: str = "single",
    threads: int | None = None,
    chunk_edges: int | None = None,
    local_rank: int = 0,
) -> Potential:
    """The potential of a model on a device.

    device: "auto" (a GPU where there is one that can be used), "cpu" or "cuda"; precision: "double", "single" or
    "mixed" (on a CPU computed as "single"); threads: of the CPU, None for as many as this process may use; chunk_edges:
    edges computed at a time, None to fit a core's cache or a buffer on the GPU (the results do not depend on it);
    local_rank: see `pick_device`.

    Raises
    ------
    DeviceError : a device or precision that is not there; a model with an option that the device's kernels lack
    """
    if precision not in PRECISIONS:
        raise DeviceError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    chosen, reason = pick_device(device, local_rank)
    if chosen == "cuda":
        from allegro_sim.potential.cuda.potential import CudaPotential

        return CudaPotential(model, precision=precision, chunk_edges=chunk_edges, chosen=reason, local_rank=local_rank)
    return CpuPotential(model, precision=precision, threads=threads, chunk_edges=chunk_edges, chosen=reason)
