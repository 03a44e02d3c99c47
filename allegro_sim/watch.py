"""What happens when a guard finds something: a warning, a checkpoint, or the end of the run; and the files about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from allegro_sim.dynamics.guard import ADVICE, WATCHED, Excerpt, Guard, Limits, name_atoms
from allegro_sim.dynamics.observables import Observables
from allegro_sim.errors import GuardStop, InputError
from allegro_sim.neighbors import NeighborList
from allegro_sim.output.outputs import Outputs
from allegro_sim.output.screen import Screen
from allegro_sim.parallel.comm import Comm, collective_errors
from allegro_sim.system import System
from allegro_sim.units import KINETIC

WARN, CHECKPOINT, STOP = "warn", "checkpoint", "stop"

QUIET_STEPS = 1000
"""After a guard has warned, it says nothing for so many steps: what is wrong once is mostly wrong for a while."""

_EXTREME_ATOMS = 10
"""Atoms that are shown for a limit that the system as a whole has broken."""

_FINDINGS = {
    "displacement": ("would move farther than guards.max_displacement_A in one step, {limit:g} Å", "Å"),
    "force": ("feel a force above guards.max_force_eV_A, {limit:g} eV/Å", "eV/Å"),
    "distance": ("are closer than guards.min_distance_A", "Å below it"),
    "temperature": ("have the largest kinetic energies", "eV"),
    "energy": ("have the energies farthest from the mean of their type", "eV from it"),
}


@dataclass(frozen=True)
class Bounds:
    """What the system as a whole is held to; None: anything."""

    coldest: float | None = None  # K
    hottest: float | None = None  # K
    energy_jump: float | None = None  # eV per atom, from one row of thermodynamics to the next


def distance_limits(
    least: Mapping[str, float], type_names: tuple[str, ...], cutoffs: np.ndarray, source: object
) -> np.ndarray | None:
    """Least distances by types, float64 (nt, nt), Å, from names such as "O-H"; None where there are none.

    Raises
    ------
    InputError : a name that is no pair of types, or a distance beyond the cutoff, where the list of pairs ends
    """
    limits = np.zeros(cutoffs.shape)
    pairs = {f"{a}-{b}": (i, j) for i, a in enumerate(type_names) for j, b in enumerate(type_names)}
    for name, distance in least.items():
        if name not in pairs:
            raise InputError(
                f"{source}: guards.min_distance_A.{name}: is no pair of the model's types; give two of "
                f"{', '.join(type_names)}, such as {type_names[0]}-{type_names[-1]}"
            )
        i, j = pairs[name]
        cutoff = float(min(cutoffs[i, j], cutoffs[j, i]))
        if distance > cutoff:
            raise InputError(
                f"{source}: guards.min_distance_A.{name} is {distance:g} Å, beyond the model's cutoff of {cutoff:g} Å "
                "for this pair; give less"
            )
        limits[i, j] = limits[j, i] = distance
    return limits if least else None


class Watch:
    """The guards of a run, on all ranks.

    Parameters
    ----------
    limits : of single atoms, compared at every step
    bounds : of the whole system, compared where thermodynamics are due
    actions : WARN, CHECKPOINT or STOP for each of "displacement", "force", "distance", "temperature" and "energy"
    num_atoms : of the whole system
    """

    def __init__(
        self,
        limits: Limits,
        bounds: Bounds,
        actions: Mapping[str, str],
        num_atoms: int,
        comm: Comm,
        outputs: Outputs,
        screen: Screen,
    ) -> None:
        self.guard = Guard(limits)
        self._bounds = bounds
        self._num_atoms = num_atoms
        self._actions = actions
        self._comm = comm
        self._outputs = outputs
        self._screen = screen
        self._quiet_until: dict[str, int] = {}
        self._conserved: float | None = None

    def restore(self, state: Mapping[str, float | None]) -> None:
        """Continue as the run did that `state` is of."""
        self._conserved = state.get("conserved_eV")

    @property
    def state(self) -> dict[str, float | None]:
        """What a restart needs to find the same."""
        return {"conserved_eV": self._conserved}

    # ------------------------------------------------------------------------------------------ limits of single atoms

    def respond(self, reduced: np.ndarray, step: int, system: System, neighbors: NeighborList) -> bool:
        """Act on `Guard.broken`, reduced over ranks: True when a checkpoint is asked for (collective).

        Between `Guard.remember` and a migration; `step` is that of the last forces.

        Raises
        ------
        GuardStop : on all ranks, where the action is to stop
        """
        if not reduced.any():
            return False
        wants_checkpoint = False
        # Those that stop last: the others are told all the same.
        found = [what for what, broken in zip(WATCHED, reduced, strict=True) if broken]
        for what in sorted(found, key=lambda what: self._actions[what] == STOP):
            if self._is_quiet(what, step):
                continue
            values, at_fault = self.guard.values(what, system, neighbors)
            excerpt = self.guard.excerpt(system, neighbors, self._comm, values, at_fault)
            wants_checkpoint |= self._act(what, step, system, excerpt, "")
        return wants_checkpoint

    def check_last(self, step: int, atoms: Callable[[], System], pairs: Callable[[], NeighborList]) -> None:
        """The forces and distances of the last step, which no later step compares (collective).

        atoms, pairs: see `motion.Motion`. Raises GuardStop as `respond` does.
        """
        if self.guard.limits.force is None and self.guard.limits.distances is None:
            return
        system, neighbors = atoms(), pairs()
        self.guard.remember(system)
        self.guard.look(system, neighbors)
        self.respond(self._comm.allreduce_max(self.guard.broken(system)), step, system, neighbors)

    # -------------------------------------------------------------------------------------- bounds of the whole system

    def check(
        self, observables: Observables, step: int, atoms: Callable[[], System], pairs: Callable[[], NeighborList]
    ) -> bool:
        """Compare temperature and energy of this step: True when a checkpoint is asked for (collective).

        atoms, pairs: see `motion.Motion`.

        Raises
        ------
        GuardStop : on all ranks, where the action is to stop
        """
        before, self._conserved = self._conserved, observables.conserved
        found = {}
        bounds, temperature = self._bounds, observables.temperature
        if bounds.coldest is not None and temperature < bounds.coldest:
            found["temperature"] = f"{temperature:.4g} K, below guards.min_temperature_K, {bounds.coldest:g} K"
        if bounds.hottest is not None and temperature > bounds.hottest:
            found["temperature"] = f"{temperature:.4g} K, above guards.max_temperature_K, {bounds.hottest:g} K"
        if bounds.energy_jump is not None and before is not None:
            jump = (observables.conserved - before) / self._num_atoms
            if abs(jump) > bounds.energy_jump:
                found["energy"] = (
                    f"the conserved energy changed by {jump:.4g} eV per atom since the last row of thermodynamics, "
                    f"more than guards.max_energy_jump_eV, {bounds.energy_jump:g} eV"
                )
        wants_checkpoint = False
        for what in sorted(found, key=lambda what: self._actions[what] == STOP):
            if self._is_quiet(what, step):
                continue
            system, neighbors = atoms(), pairs()
            self.guard.remember(system)
            values = self._kinetic(system) if what == "temperature" else self._deviations(system)
            at_fault = values >= self._extreme(values)
            excerpt = self.guard.excerpt(system, neighbors, self._comm, values, at_fault)
            wants_checkpoint |= self._act(what, step, system, excerpt, f"{found[what]}; ")
        return wants_checkpoint

    def _kinetic(self, system: System) -> np.ndarray:
        """Kinetic energy of each owned atom, eV."""
        n = system.num_owned
        return 0.5 * KINETIC * system.masses[system.types[:n]] * (system.velocities[:n] ** 2).sum(axis=1)

    def _deviations(self, system: System) -> np.ndarray:
        """How far the energy of each owned atom is from the mean of its type, eV. Only to pick atoms to show."""
        n = system.num_owned
        energies, types = system.energies[:n], system.types[:n]
        sums = np.stack([np.bincount(types, w, len(system.masses)) for w in (energies, np.ones(n))])
        sums = sum(self._comm.allgather(sums))
        return np.abs(energies - (sums[0] / np.maximum(sums[1], 1.0))[types])

    def _extreme(self, values: np.ndarray) -> float:
        """The smallest of the largest values on all ranks."""
        largest = np.concatenate(self._comm.allgather(np.sort(values)[-_EXTREME_ATOMS:]))
        return float(np.sort(largest)[-_EXTREME_ATOMS:][0])

    # ------------------------------------------------------------------------------------------------ what is done then

    def _is_quiet(self, what: str, step: int) -> bool:
        if self._actions[what] == STOP:
            return False
        if step < self._quiet_until.get(what, step):
            return True
        self._quiet_until[what] = step + QUIET_STEPS
        return False

    def _act(self, what: str, step: int, system: System, excerpt: Excerpt | None, found: str) -> bool:
        action = self._actions[what]
        text = ""
        with collective_errors(self._comm):
            if excerpt is not None:
                columns = {"id": excerpt.ids, "at_fault": excerpt.at_fault, "value": excerpt.values}
                columns |= {"velocity_A_fs": excerpt.velocities, "force_eV_A": excerpt.forces}
                path = self._outputs.write_excerpt(what, step, excerpt.types, excerpt.positions, columns)
                limit = self.guard.limits.force if what == "force" else self.guard.limits.displacement
                finding, unit = _FINDINGS[what]
                named = f"{name_atoms(excerpt.ids[excerpt.at_fault])} {finding.format(limit=limit)}"
                worst = excerpt.worst
                text = (
                    f"{found}atoms {named} (atom {excerpt.ids[worst]}: {excerpt.values[worst]:.4g} {unit}; counted "
                    f"from 0). They and their neighbourhood: {path}."
                )
        if action == STOP:
            self.stop(step, system, text, None if excerpt is None else excerpt.ids[excerpt.at_fault])
        self._screen.warning(f"guard at step {step}: {text}" + (" A checkpoint follows." * (action == CHECKPOINT)))
        return action == CHECKPOINT

    def stop(self, step: int, system: System, found: str = "", at_fault: np.ndarray | None = None) -> NoReturn:
        """End the run on all ranks; rank 0 writes the positions of this step with the atoms at fault marked.

        found, at_fault : what a limit has found, and the ids (rank 0); without them a fault is looked for.
        """
        offenders = self.guard.offenders(system, self._comm)
        with collective_errors(self._comm):
            if offenders is not None:
                marked = offenders.marked if at_fault is None else np.isin(offenders.ids, at_fault)
                path = self._outputs.write_stopped(
                    step,
                    offenders.types,
                    offenders.positions,
                    {"id": offenders.ids, "at_fault": marked, "displacement": offenders.displacements},
                )
                text = f"stopped at step {step}: {found} {ADVICE}" if found else offenders.describe(step)
                raise GuardStop(f"{text} Positions: {path}")
        raise AssertionError("unreachable: rank 0 raises for all ranks")
