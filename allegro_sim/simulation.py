"""A run from settings to the last step: builds everything, and holds THE loop."""

from __future__ import annotations

import hashlib
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from allegro_sim import __version__
from allegro_sim.cell import Cell
from allegro_sim.config import Settings, changed_on_restart, render_toml
from allegro_sim.dynamics.guard import Guard
from allegro_sim.dynamics.langevin import Langevin
from allegro_sim.dynamics.observables import Integrator, Observables, degrees_of_freedom, measure
from allegro_sim.dynamics.rehearsal import Rehearsal
from allegro_sim.dynamics.velocities import draw_velocities
from allegro_sim.dynamics.velocity_verlet import VelocityVerlet
from allegro_sim.errors import GuardStop, InputError, RestartError
from allegro_sim.kernels.cpu.compilation import is_warm, mark_warm
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.weight_file import load_model, read_provenance
from allegro_sim.neighbors import NeighborList, check_overlaps
from allegro_sim.output.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from allegro_sim.output.outputs import Outputs, RunRecord, check_directory, existing_outputs
from allegro_sim.output.screen import Screen
from allegro_sim.parallel.collect import initial_share
from allegro_sim.parallel.comm import Comm, collective_errors
from allegro_sim.parallel.cores import cores_of_rank
from allegro_sim.parallel.domain import Domain
from allegro_sim.potential import create_potential
from allegro_sim.potential.interface import Potential
from allegro_sim.structure import (
    Structure,
    element_symbols,
    read_structure,
    replicated_atoms,
    replicated_cell,
    type_masses,
)
from allegro_sim.system import System
from allegro_sim.timers import Timers


@dataclass(frozen=True)
class Start:
    """All that is read before anything is built; the same on all ranks."""

    model: AllegroModel
    model_sha256: str
    model_provenance: dict[str, str]
    structure: Structure  # one replica
    cell: Cell  # of all replicas
    masses: np.ndarray  # (nt,) Da
    checkpoint: Checkpoint | None


class Simulation:
    """One run on the ranks of `comm` (collective in everything).

    Parameters
    ----------
    settings : Settings, the same on all ranks
    restart : None for a new run; "" for the newest checkpoint in the output directory; else a checkpoint file
    overwrite : replace the output of an earlier run

    Raises (all methods, on all ranks)
    ----------------------------------
    UserError : settings, structure, model, outputs or checkpoint do not allow the run; nothing has been written
    GuardStop : forces or positions went wrong during the run
    """

    def __init__(
        self,
        settings: Settings,
        comm: Comm,
        *,
        restart: str | Path | None = None,
        overwrite: bool = False,
        screen: Screen | None = None,
    ) -> None:
        self.settings = settings
        self.comm = comm
        self.screen = screen or Screen(enabled=False)
        self.timers = Timers()
        self._restart = restart
        self._overwrite = overwrite
        self.start = self._read()
        self.step = 0 if self.start.checkpoint is None else self.start.checkpoint.step

        model, run = self.start.model, settings.run
        self.threads = run.threads or cores_of_rank(comm)
        precision = _precision(run.precision, run.device)
        with collective_errors(comm):
            self.potential: Potential = create_potential(
                model, device=run.device, precision=precision, threads=self.threads
            )
        self.system = self._place_atoms()
        self.neighbors = NeighborList(model.cutoffs, settings.neighbors.skin_A)
        self.domain = Domain(comm, self.start.cell, self.neighbors)
        self.integrator = self._make_integrator()
        self._rehearsal = Rehearsal(model)
        self.guard = Guard(settings.guards.max_displacement_A)
        output = settings.output
        self.outputs = Outputs(
            comm,
            output.directory,
            last_step=run.steps,
            trajectory_every=output.trajectory_every,
            thermo_every=output.thermo_every,
            checkpoint_every=output.checkpoint_every,
            velocities=output.velocities,
            forces=output.forces,
            precision=output.precision,
        )

    def run(self) -> None:
        """Run to the last step, writing output on the way."""
        if self.start.checkpoint is not None and self.step >= self.settings.run.steps:
            self.screen.message(f"The run is finished: {self.step} of {self.settings.run.steps} steps are done.")
            return
        self._make_domain()
        self._prepare_kernels()
        self._begin()
        try:
            self._loop()
        finally:
            self.outputs.close()
        self.screen.finish()
        self.screen.summary(self.timers.table(), self.outputs.files())

    def _loop(self) -> None:
        system, comm, timers = self.system, self.comm, self.timers
        while self.step < self.settings.run.steps:
            due = self.outputs.due(self.step + 1)
            with timers("integrate"):
                self.guard.remember(system)
                self.integrator.first_half(system, self.step, measure=due.observables)
            with timers("neighbors"):
                must_rebuild = self.neighbors.must_rebuild(system, comm, flags=self.guard.fault(system))
                if self.neighbors.reduced_flags:
                    self._stop()
                if must_rebuild:
                    self.domain.rebuild(system)
                else:
                    self.domain.update_positions(system)
            with timers("forces"):
                self.potential.compute(system, self.neighbors, want_virial=due.observables)
            with timers("return forces"):
                self.domain.add_forces(system)
            with timers("integrate"):
                self.integrator.second_half(system)
            self.step += 1
            with timers("output"):
                self._write()
            self.screen.progress(self.step)

    def describe(self) -> None:
        """What `--dry-run` does: set all up but the kernels, and print settings, decomposition and memory."""
        self._make_domain()
        self.screen.banner(self._title(), self._facts())
        self.screen.message(render_toml(self._resolved()))
        self.screen.message("Dry run: all of the input is valid; nothing was run or written.")

    # ------------------------------------------------------------------------------------------ before the first step

    def _read(self) -> Start:
        """Read model, structure and checkpoint on rank 0, and refuse what does not fit."""
        start = None
        with collective_errors(self.comm):
            if self.comm.rank == 0:
                start = self._read_files()
        return self.comm.bcast(start)

    def _read_files(self) -> Start:
        settings = self.settings
        check_directory(settings.output.directory, overwrite=self._overwrite, restart=self._restart is not None)
        model = load_model(settings.model.file)
        structure = read_structure(
            settings.structure.file, settings.structure.frame, model=model, type_map=settings.model.types
        )
        checkpoint = None
        if self._restart is not None:
            if self._restart == "":
                path, checkpoint = newest_checkpoint(settings.output.directory, warn=self.screen.warning)
            else:
                path, checkpoint = Path(self._restart), load_checkpoint(self._restart)
            self.screen.message(f"Restart from {path}, step {checkpoint.step}.")
        start = Start(
            model=model,
            model_sha256=hashlib.sha256(settings.model.file.read_bytes()).hexdigest(),
            model_provenance=read_provenance(settings.model.file),
            structure=structure,
            cell=replicated_cell(structure.cell, settings.structure.replicate),
            masses=type_masses(model, settings.model.masses),
            checkpoint=checkpoint,
        )
        if checkpoint is not None:
            self._compare_with_checkpoint(start, checkpoint)
        elif structure.velocities is None and self._start_temperature(structure) is None:
            raise InputError(
                f"{settings.source}: velocities.temperature_K is missing, and {settings.structure.file} holds no "
                "velocities; give [velocities] temperature_K (0 starts at rest)"
            )
        return start

    def _start_temperature(self, structure: Structure) -> float | None:
        """Temperature, K, of velocities to be drawn; None where those of the structure are taken."""
        if self.settings.velocities.temperature_K is not None or structure.velocities is not None:
            return self.settings.velocities.temperature_K
        return self.settings.dynamics.temperature_K if self.settings.dynamics.ensemble == "langevin" else None

    def _compare_with_checkpoint(self, start: Start, checkpoint: Checkpoint) -> None:
        """Raise RestartError when the checkpoint is of another system, model or settings."""
        _, types, _, _ = replicated_atoms(start.structure, self.settings.structure.replicate)
        differences = []
        if len(types) != checkpoint.num_atoms:
            differences.append(f"number of atoms: {checkpoint.num_atoms} -> {len(types)}")
        elif checkpoint.type_names != start.model.type_names:
            differences.append(f"types of the model: {checkpoint.type_names} -> {start.model.type_names}")
        elif (types != checkpoint.types).any():
            differences.append(f"type of atom {int(np.flatnonzero(types != checkpoint.types)[0])}")
        given = start.cell.given
        if (given is None) != (checkpoint.cell is None) or (given is not None and (given != checkpoint.cell).any()):
            differences.append("cell")
        if (start.cell.pbc != checkpoint.pbc).any():
            differences.append(f"periodic directions: {checkpoint.pbc.tolist()} -> {start.cell.pbc.tolist()}")
        if start.model_sha256 != checkpoint.model_sha256:
            differences.append(f"content of the model file ({checkpoint.model_file} -> {self.settings.model.file})")
        resolved = self.settings.resolved()
        resolved["run"]["precision"] = _precision(self.settings.run.precision, self.settings.run.device)
        differences += changed_on_restart(checkpoint.settings, resolved)
        if differences:
            raise RestartError(
                f"the checkpoint of step {checkpoint.step} is of another run; these differ: {'; '.join(differences)}. "
                "Restore them, or start a new run"
            )

    def _place_atoms(self) -> System:
        """This rank's first share of the atoms, by index; the first rebuild moves each to the rank of its brick."""
        start, counts = self.start, self.settings.structure.replicate
        num_global = start.structure.num_atoms * int(np.prod(counts))
        share = initial_share(self.comm, num_global)
        ids, types, positions, velocities = replicated_atoms(start.structure, counts, share)
        if start.checkpoint is not None:
            positions, velocities = start.checkpoint.positions[share], start.checkpoint.velocities[share]
        system = System(start.cell, start.masses, num_global)
        system.set_owned(ids, types, positions, velocities)
        return system

    def _make_integrator(self) -> Integrator:
        run, dynamics = self.settings.run, self.settings.dynamics
        if dynamics.ensemble == "nve":
            return VelocityVerlet(run.timestep_fs, self.start.masses)
        assert dynamics.temperature_K is not None  # the settings' own check
        return Langevin(run.timestep_fs, self.start.masses, dynamics.temperature_K, dynamics.friction_per_ps, run.seed)

    def _make_domain(self) -> None:
        """Every atom to its rank, the first neighbour list, and no two atoms at one place."""
        if self.comm.node_rank == 0:
            self._rehearsal.rehearse_neighbors()
        self.comm.patient_barrier()
        self.domain.rebuild(self.system)
        check_overlaps(self.system, self.neighbors, self.comm)

    def _prepare_kernels(self) -> None:
        """Compile the kernels, or load them: first one rank a node, so that the others find them on the disk."""
        group = f"run-{self.potential.device}-{self.potential.precision}"
        if self.comm.node_rank == 0:
            if not is_warm(group):
                self.screen.message("Compiling kernels (once on this machine, about a minute) ...")
            self._rehearsal.rehearse_step(self.potential)
            mark_warm(group)
        self.comm.patient_barrier()
        self.potential.prepare()

    def _begin(self) -> None:
        """Velocities, first forces, output files, step 0."""
        conserved = self.integrator.conserves_momentum
        if self.start.checkpoint is None:
            temperature = self._start_temperature(self.start.structure)
            if temperature is not None:
                draw_velocities(self.system, self.comm, temperature, self.settings.run.seed, conserved)
            self.freedom = degrees_of_freedom(self.system, self.comm, conserved)
        else:
            self.freedom = int(self.start.checkpoint.state["degrees_of_freedom"])
        self.potential.compute(self.system, self.neighbors, want_virial=True)
        self.domain.add_forces(self.system)
        self.screen.banner(self._title(), self._facts())
        self._open_outputs()
        self.screen.start(self.step, self.settings.run.steps, self.settings.run.timestep_fs)
        self.timers.restart()
        if self.start.checkpoint is None:
            self._write()

    def _open_outputs(self) -> None:
        record = self._record() if self.comm.rank == 0 else None
        continued = self.start.checkpoint is not None and bool(existing_outputs(self.settings.output.directory))
        if self.comm.bcast(continued):
            self.outputs.resume(record, self.start.checkpoint)
        else:
            self.outputs.create(record, overwrite=self._overwrite)

    def _record(self) -> RunRecord:
        start, checkpoint = self.start, self.start.checkpoint
        _, types, positions, _ = replicated_atoms(start.structure, self.settings.structure.replicate)
        return RunRecord(
            types=types,
            positions=positions if checkpoint is None else checkpoint.positions,
            type_names=start.model.type_names,
            type_symbols=tuple(element_symbols(start.model.atomic_numbers)),
            type_masses=start.masses,
            cell=start.cell.given,
            pbc=start.cell.pbc,
            settings=self._resolved(),
            input_text=render_toml(self._resolved()),
            model_file=str(self.settings.model.file),
            model_sha256=start.model_sha256,
            provenance={"allegro_sim": __version__, "model": start.model_provenance},
        )

    # ---------------------------------------------------------------------------------------------- during the run

    def _write(self) -> None:
        """Measure and write what is due at this step; nothing is written of a state that is at fault."""
        due = self.outputs.due(self.step)
        if not due:
            return
        observables = measure(self.system, self.comm, self.integrator.kinetic_sums(self.system), self.freedom)
        if observables.faulty:
            self.guard.remember(self.system)
            self._stop()
        row = self._thermo_row(observables)
        time_fs = self.step * self.settings.run.timestep_fs
        self.outputs.write(self.step, time_fs, self.system, row=row, state={"degrees_of_freedom": self.freedom})
        if due.thermo:
            self.screen.thermo(row)

    def _thermo_row(self, observables: Observables) -> dict[str, float | int | None]:
        return {
            "step": self.step,
            "time_ps": self.step * self.settings.run.timestep_fs * 1.0e-3,
            "temperature_K": observables.temperature,
            "potential_eV": observables.potential,
            "kinetic_eV": observables.kinetic,
            "total_eV": observables.total,
            "pressure_bar": observables.pressure_bar,
            "volume_A3": self.start.cell.volume if self.start.cell.fully_periodic else None,
        }

    def _stop(self) -> NoReturn:
        """End the run on all ranks; rank 0 writes the positions of this step with the atoms at fault marked."""
        offenders = self.guard.offenders(self.system, self.comm)
        with collective_errors(self.comm):
            if offenders is not None:
                path = self.outputs.write_stopped(
                    self.step,
                    offenders.types,
                    offenders.positions,
                    {"id": offenders.ids, "at_fault": offenders.marked, "displacement": offenders.displacements},
                )
                raise GuardStop(f"{offenders.describe(self.step, self.guard.max_displacement_A)} Positions: {path}")
        raise AssertionError("unreachable: rank 0 raises for all ranks")

    # --------------------------------------------------------------------------------------------------- what is told

    def _title(self) -> str:
        return f"allegro-sim {__version__}"

    def _resolved(self) -> dict[str, dict[str, Any]]:
        """The settings as stored in the output: what was left to the program replaced by its choice."""
        resolved = self.settings.resolved()
        resolved["run"] |= {
            "precision": self.potential.precision,
            "device": self.potential.device,
            "threads": self.threads,
        }
        return resolved

    def _facts(self) -> list[tuple[str, object]]:
        """Label and value, for the banner (collective)."""
        settings, dynamics = self.settings, self.settings.dynamics
        atoms = self.system.num_global
        own = [self.neighbors.count_within_cutoffs(self.system), self.neighbors.num_edges, self.system.num_ghosts]
        edges, listed, ghosts = (int(n) for n in self.comm.allreduce_sum(np.array(own, np.int64)))
        resident, arrays = self.comm.allreduce_max(np.array(self._memory_MiB()))
        bath = ""
        if dynamics.ensemble == "langevin":
            bath = f", {dynamics.temperature_K:g} K, friction {dynamics.friction_per_ps:g}/ps"
        model = self.start.model
        return [
            ("model", f"{settings.model.file}: types {', '.join(model.type_names)}; cutoff {model.cutoffs.max():g} Å"),
            ("structure", f"{settings.structure.file}: {atoms} atoms, {_cell_text(self.start.cell)}"),
            ("dynamics", dynamics.ensemble + bath),
            ("steps", f"{self.step} to {settings.run.steps}, {settings.run.timestep_fs:g} fs each"),
            ("device", f"{self.potential.device}, {self.potential.description}"),
            ("precision", self.potential.precision),
            ("ranks, threads", f"{self.comm.size} x {self.threads}"),
            ("decomposition", self.domain.decomposition.describe()),
            ("edges per atom", f"{edges / atoms:.1f} ({listed / atoms:.1f} with the skin)"),
            ("ghosts per atom", f"{ghosts / atoms:.2f}"),
            (
                "memory",
                f"{resident:.0f} MiB in the largest rank, {arrays:.1f} of them for atoms, ghosts and neighbours",
            ),
            ("output", settings.output.directory),
        ]

    def _memory_MiB(self) -> tuple[float, float]:
        """This rank's largest resident memory so far, and what of it is arrays of atoms, ghosts and the list."""
        parts = [*vars(self.system).values(), *vars(self.neighbors).values()]
        arrays = sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
        # Linux counts KiB, macOS bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, arrays / 2**20


def _precision(precision: str, device: str) -> str:
    """What `auto` stands for."""
    if precision != "auto":
        return precision
    return "mixed" if device == "cuda" else "single"


def _cell_text(cell: Cell) -> str:
    if not cell.pbc.any():
        return "not periodic"
    directions = "".join(name for name, periodic in zip("abc", cell.pbc, strict=True) if periodic)
    lengths = " x ".join(f"{length:.3f}" for length in np.linalg.norm(cell.vectors, axis=1))
    return f"periodic along {directions}, vectors of {lengths} Å"
