"""A run from settings to the last step: builds everything, and holds THE loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim import __version__
from allegro_sim.config import Settings, render_toml
from allegro_sim.dynamics.guard import Limits
from allegro_sim.dynamics.langevin import Langevin
from allegro_sim.dynamics.observables import Integrator, Observables, degrees_of_freedom, measure
from allegro_sim.dynamics.rehearsal import Rehearsal
from allegro_sim.dynamics.velocities import draw_velocities
from allegro_sim.dynamics.velocity_verlet import VelocityVerlet
from allegro_sim.errors import GuardStop, RunStopped
from allegro_sim.kernels.cpu.compilation import is_warm, mark_warm
from allegro_sim.kernels.cpu.fixed_point import forces_to_float
from allegro_sim.loads import load_facts
from allegro_sim.minimization import Minimization
from allegro_sim.motion import HostMotion, Motion, Parts
from allegro_sim.output.checkpoint import checkpoint_path
from allegro_sim.output.directory import MINIMIZATION, existing_outputs
from allegro_sim.output.intervals import Due, Intervals
from allegro_sim.output.outputs import Outputs
from allegro_sim.output.record import RunRecord
from allegro_sim.output.screen import Screen
from allegro_sim.parallel.collect import gather_arrays, in_order_of_ids, initial_share
from allegro_sim.parallel.comm import Comm, collective_errors
from allegro_sim.parallel.cores import cores_of_rank
from allegro_sim.potential import create_potential
from allegro_sim.potential.interface import Potential
from allegro_sim.report import TITLE, banner_facts
from allegro_sim.start import Start, read_start, resolved_precision, start_temperature
from allegro_sim.stops import CHECKPOINT, NOTHING, Stops, describe_request, ends_run
from allegro_sim.structure import element_symbols, replicated_atoms
from allegro_sim.system import System
from allegro_sim.timers import Timers
from allegro_sim.watch import Bounds, Watch, distance_limits


class Simulation:
    """One run on the ranks of `comm` (collective in everything).

    Parameters
    ----------
    settings : Settings, the same on all ranks
    restart : None for a new run; "" for the newest checkpoint in the output directory; else a checkpoint file
    overwrite : replace the output of an earlier run
    stops : requests from outside to end the run; none by default

    Raises (all methods, on all ranks)
    ----------------------------------
    UserError : settings, structure, model, outputs or checkpoint do not allow the run; nothing has been written
    GuardStop : forces or positions went wrong during the run
    StorageStop : the disk took no more
    RunStopped : the run was asked to end, and has, with a checkpoint
    """

    def __init__(
        self,
        settings: Settings,
        comm: Comm,
        *,
        restart: str | Path | None = None,
        overwrite: bool = False,
        screen: Screen | None = None,
        stops: Stops | None = None,
    ) -> None:
        self.settings = settings
        self.comm = comm
        self.screen = screen or Screen(enabled=False)
        self.stops = stops or Stops()
        self.timers = Timers()
        self.start = self._read(restart, overwrite)
        self.step = 0 if self.start.checkpoint is None else self.start.checkpoint.step

        model, run = self.start.model, settings.run
        self.threads = run.threads or cores_of_rank(comm)
        precision = resolved_precision(run.precision, run.device)
        with collective_errors(comm):
            self.potential: Potential = create_potential(
                model, device=run.device, precision=precision, threads=self.threads, local_rank=comm.node_rank
            )
        self.system = self._place_atoms()
        self.integrator = self._make_integrator()
        self._rehearsal = Rehearsal(model)
        output = settings.output
        self.outputs = Outputs(
            comm,
            output.directory,
            Intervals(run.steps, output.trajectory_every, output.thermo_every, output.checkpoint_every),
            checkpoint_every_minutes=output.checkpoint_every_minutes,
            velocities=output.velocities,
            forces=output.forces,
            precision=output.precision,
            timers=self.timers,
        )
        self.watch = self._make_watch()
        self.guard = self.watch.guard

    def run(self) -> None:
        """Run to the last step, writing output on the way."""
        if self.start.checkpoint is not None and self.step >= self.settings.run.steps and not self.start.minimizes:
            self.screen.message(f"The run is finished: {self.step} of {self.settings.run.steps} steps are done.")
            return
        self._make_domain()
        self._prepare_kernels()
        try:
            self._begin()
            request = self._loop()
            with self.timers("output"):
                self.outputs.close()
        except (GuardStop, RunStopped):  # on all ranks alike: what was measured until then is kept
            self.outputs.close()
            raise
        finally:
            self.outputs.abandon()
        self.screen.finish()
        self.screen.summary(self.timers.table(), self.outputs.files())
        if ends_run(request):
            raise self._stopped(request, f"at step {self.step} of {self.settings.run.steps}", self.step)

    def _loop(self) -> float:
        """Advance to the next step with output, or as far as the motion likes; act on what it found; write."""
        motion, alarmed = self.motion, False
        while self.step < self.settings.run.steps:
            next_due = self.outputs.next_due(self.step)
            observed = self.outputs.due(next_due).observables
            found = motion.advance(next_due - self.step, measure=observed, asked=self._asked)
            self.step = found.step
            if found.between:
                if found.fault:
                    self.watch.stop(self.step, motion.atoms())
                alarmed |= self.watch.respond(found.broken, self.step, motion.atoms(), motion.pairs())
                continue
            due = self.outputs.due(self.step)
            with self.timers("output"):
                self._write(due.with_checkpoint() if alarmed or found.request != NOTHING else due)
            alarmed = False
            self.screen.progress(self.step)
            if ends_run(found.request) and self.step < self.settings.run.steps:
                return found.request
        self.watch.check_last(self.step, motion.atoms, motion.pairs)
        return NOTHING

    def _asked(self) -> float:
        """What this rank was asked for from outside; the loop follows the largest request of all ranks."""
        return max(self.stops.request(), CHECKPOINT if self.outputs.asks() else NOTHING)

    def _stopped(self, request: float, where: str, step: int) -> RunStopped:
        found = f"{describe_request(request)} {where}; checkpoint: {checkpoint_path(self.outputs.directory, step)}"
        return RunStopped(f"stopped by {found}. Continue with --restart")

    def describe(self) -> None:
        """What `--dry-run` does: set all up but the kernels, and print settings, decomposition and memory."""
        self._make_domain()
        self.screen.banner(TITLE, banner_facts(self))
        self.screen.banner("In one rank, at most", load_facts(self.motion.load()))
        self.screen.message(render_toml(self._resolved()))
        self.screen.message("Dry run: all of the input is valid; nothing was run or written.")

    # ------------------------------------------------------------------------------------------ before the first step

    def _read(self, restart: str | Path | None, overwrite: bool) -> Start:
        """Read model, structure and checkpoint on rank 0, and refuse what does not fit."""
        start = None
        with collective_errors(self.comm):
            if self.comm.rank == 0:
                start = read_start(self.settings, self.screen, restart=restart, overwrite=overwrite)
        return self.comm.bcast(start)

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

    def _make_watch(self) -> Watch:
        guards, model = self.settings.guards, self.start.model
        distances = distance_limits(guards.min_distance_A, model.type_names, model.reaches, self.settings.source)
        return Watch(
            Limits(guards.max_displacement_A, guards.max_force_eV_A, distances),
            Bounds(guards.min_temperature_K, guards.max_temperature_K, guards.max_energy_jump_eV),
            {
                "displacement": guards.on_displacement,
                "force": guards.on_force,
                "distance": guards.on_distance,
                "temperature": guards.on_temperature,
                "energy": guards.on_energy,
            },
            self.system.num_global,
            self.comm,
            self.outputs,
            self.screen,
        )

    def _make_domain(self) -> None:
        """Every atom to its rank, the first neighbour list, and no two atoms at one place."""
        if self.comm.node_rank == 0:
            self._rehearsal.rehearse_neighbors()
        self.comm.patient_barrier()
        with collective_errors(self.comm):
            self.motion = self._make_motion()
        self.motion.place()
        self.motion.check_overlaps()

    def _make_motion(self) -> Motion:
        """On a GPU everything stays there; else step by step on the host."""
        parts = Parts(
            self.comm,
            self.system,
            self.start.cell,
            self.start.model.reaches,
            self.settings.neighbors.skin_A,
            self.potential,
            self.integrator,
            self.guard,
            self.timers,
        )
        if self.potential.device != "cuda":
            return HostMotion(parts)
        from allegro_sim.gpu.start import make_motion

        gpu = self.settings.gpu
        return make_motion(
            parts,
            steps_ahead=gpu.steps_ahead,
            transport=gpu.transport,
            images_travel=gpu.images_travel,
            graphs=gpu.graphs,
            warn=self.screen.warning,
        )

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
        """Velocities, first forces, output files, minimisation, step 0."""
        if self.start.minimizes:
            self.system = self.motion.atoms()  # with the velocities that a checkpoint of a minimisation has
        else:
            self._set_velocities()
        self.motion.start(self.step)
        self.screen.banner(TITLE, banner_facts(self))
        self._open_outputs()
        if self.start.minimizes:
            self._minimize()
            self._set_velocities()
            self.motion.start(self.step)
        self.screen.start(self.step, self.settings.run.steps, self.settings.run.timestep_fs)
        self.timers.restart()
        if self.start.checkpoint is None or self.start.minimizes:
            with self.timers("output"):
                self._write(self.outputs.due(0))

    def _set_velocities(self) -> None:
        """Those to start with, and how many degrees of freedom they have; a checkpoint knows both."""
        checkpoint, conserved = self.start.checkpoint, self.integrator.conserves_momentum
        self.system = self.motion.atoms()
        if checkpoint is not None and not self.start.minimizes:
            self.freedom = int(checkpoint.state["degrees_of_freedom"])
            if self.comm.rank == 0:  # one rank has it: what counts is the sum
                self.integrator.heat = int(checkpoint.state.get("heat", 0))
            self.watch.restore(checkpoint.state.get("guards", {}))
            return
        temperature = start_temperature(self.settings, self.start.structure, self.start.minimizes)
        if temperature is not None:
            draw_velocities(self.system, self.comm, temperature, self.settings.run.seed, conserved)
        self.freedom = degrees_of_freedom(self.system, self.comm, conserved)

    def _minimize(self) -> None:
        """Positions downhill, and minimized.xyz."""
        settings, checkpoint = self.settings.minimize, self.start.checkpoint
        request = Minimization(
            comm=self.comm,
            motion=self.motion,
            watch=self.watch,
            screen=self.screen,
            asked=self._asked,
            save=self._save_minimization,
            save_every=self.settings.output.checkpoint_every,
            max_steps=settings.max_steps,
            tolerance=settings.force_tolerance_eV_A,
            max_move=settings.max_move_A,
        ).run(self.outputs.directory / MINIMIZATION, None if checkpoint is None else checkpoint.minimization)
        if ends_run(request):
            raise self._stopped(request, "in the minimisation", 0)
        arrays = gather_arrays(self.comm, self.motion.snapshot(["types", "positions", "forces"]).wait())
        with collective_errors(self.comm):
            if arrays is not None:
                atoms = in_order_of_ids(arrays)
                self.outputs.write_minimized(atoms["types"], atoms["positions"], forces_to_float(atoms["forces"]))

    def _save_minimization(self, state: dict[str, Any]) -> None:
        due = Due(trajectory=False, thermo=False, checkpoint=True)
        self.outputs.write(due, 0, 0.0, self.motion.snapshot, state={"minimization": state})

    def _open_outputs(self) -> None:
        """New files, or those of the run that is continued; one continued elsewhere has a checkpoint there at once."""
        record = self._record() if self.comm.rank == 0 else None
        checkpoint = self.start.checkpoint
        if checkpoint is not None and self.comm.bcast(bool(existing_outputs(self.settings.output.directory))):
            self.outputs.resume(record, checkpoint, self.start.checkpoints)
        else:
            self.outputs.create(record, overwrite=self.start.replaces)
            if checkpoint is not None and checkpoint.minimization is not None:
                self._save_minimization(checkpoint.minimization)
            elif checkpoint is not None:
                self._write(Due(trajectory=False, thermo=False, checkpoint=True))
        for note in self.outputs.notes:
            self.screen.message(note)

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

    def _write(self, due: Due) -> None:
        """Measure, and write what is due at this step; nothing is written of a state that is at fault."""
        if not due:
            return
        motion = self.motion
        observables = measure(motion.sums(), self.start.cell, self.comm, self.freedom)
        if observables.faulty:
            system = motion.atoms()
            self.guard.remember(system)
            self.watch.stop(self.step, system)
        if due.observables and self.watch.check(observables, self.step, motion.atoms, motion.pairs):
            due = due.with_checkpoint()
        row = self._thermo_row(observables)
        time_fs = self.step * self.settings.run.timestep_fs
        state = {"degrees_of_freedom": self.freedom, "heat": observables.heat, "guards": self.watch.state}
        self.outputs.write(due, self.step, time_fs, motion.snapshot, row=row, state=state)
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
            "conserved_eV": observables.conserved,
            "pressure_bar": observables.pressure_bar,
            "volume_A3": self.start.cell.volume if self.start.cell.fully_periodic else None,
        }

    # --------------------------------------------------------------------------------------------------- what is told

    def _resolved(self) -> dict[str, dict[str, Any]]:
        """The settings as stored in the output: what was left to the program replaced by its choice."""
        resolved = self.settings.resolved()
        resolved["run"] |= {
            "precision": self.potential.precision,
            "device": self.potential.device,
            "threads": self.threads,
        }
        return resolved
