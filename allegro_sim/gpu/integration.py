"""Launches of a step that are neither the network's nor the halo's: kicks, drifts, the looks of the guards, sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from allegro_sim.dynamics.guard import Limits
from allegro_sim.dynamics.observables import Integrator
from allegro_sim.gpu.arrays import to_device
from allegro_sim.gpu.atoms import DeviceAtoms
from allegro_sim.gpu.neighbors import DeviceNeighbors
from allegro_sim.kernels.cpu.fixed_point import FORCE_SCALE
from allegro_sim.units import KINETIC


class Integration:
    """An integrator and the limits of the guards on the device.

    Parameters
    ----------
    rows, neighbors : atoms and their list
    integrator : what is to be done in the two halves of a step
    limits : of the guards
    masses : float64 (nt,), Da
    control, status : device arrays of control words, and of the potential's status
    """

    def __init__(
        self,
        rows: DeviceAtoms,
        neighbors: DeviceNeighbors,
        integrator: Integrator,
        limits: Limits,
        masses: np.ndarray,
        control: Any,
        status: Any,
    ) -> None:
        self._executor = rows.executor
        self._rows, self._neighbors, self._integrator, self._limits = rows, neighbors, integrator, limits
        self._control, self._status = control, status
        self._tables = {name: self._device(table) for name, table in {"masses": masses, **integrator.tables}.items()}
        self._distances = None if limits.distances is None else self._device(limits.distances**2)
        self._num_types = np.int32(len(masses))
        self.calls: dict[str, list[Callable[[], None]]] = {}
        self._sums: dict[int, Callable[[], None]] = {}  # by the array that is summed into, which the launch keeps
        self._bound: tuple[Any, ...] = ()

    def bind(self) -> None:
        """Prepare all launches for the arrays there are, unless they are those of the last time."""
        rows, owned = self._rows, self._rows.num_owned
        bound = (owned, *rows.held, *self._neighbors.held)
        if (
            self._bound
            and self._bound[0] == owned
            and all(a is b for a, b in zip(bound[1:], self._bound[1:], strict=True))
        ):
            return  # what was prepared for the last list is what this one needs
        self._bound, self._sums, number = bound, {}, np.int32(owned)
        factors = (rows.types, self._tables["factors"], number)
        drift, arguments = self._integrator.device_drift
        named = {name: getattr(rows, name) for name in ("velocities", "forces", "types", "ids", "heat")}
        named |= self._tables
        half_skin = -1.0 if self._neighbors.skin == 0.0 else (0.5 * self._neighbors.skin) ** 2
        moves = (
            self._status,
            rows.positions,
            rows.before,
            rows.built,
            np.float64(half_skin),
            np.float64(self._limits.displacement**2),
        )
        kick = (rows.before, rows.positions, rows.velocities, rows.forces, *factors)
        self.calls = {
            "kick": [self._call("first_kick", *kick)] if self._integrator.has_bath else [],
            "drift": [self._call(drift, *(named[a] if isinstance(a, str) else a for a in arguments), *moves, number)],
            "looks": self._looks(number),
            "room": [self._executor.call("look_at_room", 1, self._control, self._status)],
            "second half": [self._call("second_half", self._status, rows.velocities, rows.forces, *factors)],
        }

    def _looks(self, number: np.int32) -> list[Callable[[], None]]:
        rows, limits, looks = self._rows, self._limits, []
        if limits.force is not None:
            scale, largest = np.float64(1.0 / FORCE_SCALE), np.float64(limits.force**2)
            looks.append(self._call("look_at_forces", rows.forces, scale, largest, number))
        if self._distances is not None:
            pairs = (self._neighbors.row_offsets, self._neighbors.indices)
            where = (rows.types, rows.positions, rows.images, self._neighbors.cell)
            looks.append(self._call("look_at_distances", *pairs, *where, self._distances, self._num_types, number))
        return looks

    def run(self, *parts: str) -> None:
        """Launch "kick" (nothing where no sums can be wanted after it), "drift" (what is left of the first half, and
        the look at the moves), "looks" (at forces and distances), "room" (an overflow becomes a control word), "second
        half".
        """
        for part in parts:
            for call in self.calls[part]:
                call()

    def add_kinetic_sums(self, sums: Any, control: Any) -> None:
        """Launch the sums of the kinetic energy, for these arrays prepared once; see kernels/cuda/sums.cu."""
        if id(sums) not in self._sums:
            rows, number = self._rows, np.int32(self._rows.num_owned)
            given = (rows.velocities, rows.types, self._tables["masses"], np.float64(KINETIC), self._num_types, number)
            self._sums[id(sums)] = self._executor.call("kinetic_sums", rows.num_owned, sums, control, *given)
        self._sums[id(sums)]()

    def _call(self, kernel: str, *arguments: Any) -> Callable[[], None]:
        return self._executor.call(kernel, self._rows.num_owned, self._control, *arguments)

    def _device(self, values: np.ndarray) -> Any:
        return to_device(self._executor, np.ascontiguousarray(values, np.float64), "tables by type")
