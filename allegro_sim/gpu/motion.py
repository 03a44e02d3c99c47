"""The step on a GPU: steps are launched ahead, and the host looks in between.

Every kernel of a step obeys the control words (kernels/numba_cuda/control.py): where a step cannot go on as launched,
because the neighbour list has grown old, a chunk of the potential overflowed, or a guard found something, all that was
launched after it does nothing, and the host, when it looks, finds the atoms where they must be for it to act. So the
number of steps that are launched ahead is a matter of speed alone. Several ranks agree on the control words twice a
step, before anything moves that one of them could not take back; where the transport does that from GPU to GPU, the
hosts need not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from allegro_sim.dynamics.guard import WATCHED
from allegro_sim.dynamics.observables import KineticSums, RankSums, with_bath
from allegro_sim.gpu.arrays import to_device
from allegro_sim.gpu.atoms import DeviceAtoms
from allegro_sim.gpu.bricks import DeviceBricks
from allegro_sim.gpu.descent import DeviceDescent
from allegro_sim.gpu.graphs import StepGraph, obstacle_to_graphs
from allegro_sim.gpu.integration import Integration
from allegro_sim.gpu.module import KERNELS, module_source
from allegro_sim.gpu.neighbors import DeviceNeighbors
from allegro_sim.gpu.snapshots import DeviceSnapshots
from allegro_sim.gpu.transport import Transport
from allegro_sim.kernels.cpu.fixed_point import words_to_integer
from allegro_sim.kernels.numba_cuda import control as word
from allegro_sim.loads import RankLoad
from allegro_sim.motion import Advance, Parts
from allegro_sim.neighbors import NeighborList, refuse_overlap
from allegro_sim.output.snapshot import Snapshot
from allegro_sim.parallel.decomposition import Decomposition
from allegro_sim.potential.cuda.potential import CudaPotential
from allegro_sim.system import System

_WATCHED_WORDS = {"displacement": word.DISPLACEMENT, "force": word.FORCE, "distance": word.DISTANCE}
_FAULTS, _ENERGY, _MOMENTUM, _HEAT, _KINETIC = 0, 1, 2, 5, 6  # rows of sums.cu


class DeviceMotion:
    """`motion.Motion` on a GPU.

    Parameters
    ----------
    parts : Parts, with a CudaPotential; its system is a copy for those who look at atoms on the host, and where they
        come from at `place`
    transport : Transport
    steps_ahead : most steps to launch before the host looks; 1 on several ranks whose transport has the host wait
    images_travel : see `DeviceBricks`
    graphs : see `StepGraph`
    """

    def __init__(
        self,
        parts: Parts,
        *,
        transport: Transport,
        steps_ahead: int,
        images_travel: bool = False,
        graphs: str = "auto",
    ) -> None:
        assert isinstance(parts.potential, CudaPotential)
        comm, system = parts.comm, parts.system
        self.comm, self.system, self.potential = comm, system, parts.potential
        self.integrator, self.guard, self.timers = parts.integrator, parts.guard, parts.timers
        self.executor = executor = self.potential.engine.executor
        executor.load_module(module_source(), KERNELS)
        self._pairs = NeighborList(parts.reaches, parts.skin)
        self.decomposition = Decomposition(comm, parts.cell, self._pairs.reach)
        self.rows = DeviceAtoms(executor)
        self.control, self._status = self._array(word.WORDS, np.int64), self._array(8, np.int32)
        self.bricks = DeviceBricks(
            self.rows, self.decomposition, transport, self.control, self._status, images_travel=images_travel
        )
        self.neighbors = DeviceNeighbors(self.rows, self.decomposition, parts.reaches, parts.skin)
        self._alone = comm.size == 1
        self.steps_ahead = steps_ahead if self._alone or not transport.waits else 1
        self.graph = StepGraph(executor, graphs, obstacle_to_graphs(ranks=comm.size, images_travel=images_travel))
        self._virial_words, self._no_atom_virials = self._array((9, 2), np.int64), self._array((1, 9), np.int64)
        types = len(system.masses)
        # Kinetic sums between kick and noise of the step that is measured, and sums at whole steps.
        self._between = self._array((_KINETIC + types, 2), np.int64)
        self._whole = self._array((_KINETIC + types, 2), np.int64)
        limits, masses = self.guard.limits, system.masses
        self.integration = Integration(
            self.rows, self.neighbors, self.integrator, limits, masses, self.control, self._status
        )
        self._snapshots = DeviceSnapshots(self.rows)
        self._idle = self._array(word.WORDS, np.int64)  # control words of a kernel that is not part of a step
        self.step = 0
        self._is_between = self._must_rebuild = False
        self._took_between = False
        self._bound_builds = 0
        self._old, self._lifetime = 0, steps_ahead  # steps since the last build, and between the two before

    # --- before the first step ----------------------------------------------------------------------------------------

    def place(self) -> None:
        self.rows.take(self.system)
        self._rebuild(bind=False)

    def check_overlaps(self) -> None:
        refuse_overlap(min(self.comm.allgather(self.neighbors.closest_pair())))

    def load(self) -> RankLoad:
        self._bind()
        table = self.potential.engine.table
        values = [
            self.rows.num_owned,
            self.rows.num_ghosts,
            self.bricks.num_received,
            self.neighbors.num_edges,
            0 if table is None else table.edges,
        ]
        return RankLoad(*self.comm.allreduce_max(np.array(values, np.float64)).tolist())

    def totals(self) -> tuple[int, int, int]:
        """Edges within the cutoffs, listed pairs and ghosts of all ranks (collective)."""
        self._bind()
        table = self.potential.engine.table
        own = [0 if table is None else table.edges, self.neighbors.num_edges, self.rows.num_ghosts]
        edges, listed, ghosts = (int(n) for n in self.comm.allreduce_sum(np.array(own, np.int64)))
        return edges, listed, ghosts

    def array_bytes(self) -> int:
        return self.rows.nbytes + self.neighbors.nbytes

    def facts(self) -> list[tuple[str, str]]:
        self._bind()
        table = self.potential.engine.table
        places = self.comm.allgather(f"{self.comm.rank}: {self.executor.device.place}")
        transport = self.bricks.transport
        halo = f"{transport.name}: {transport.note}"
        if self._alone and not self.bricks.num_travelling:
            halo = "copies on the GPU"
        return [
            ("GPUs", "; ".join(places)),
            ("halo", halo),
            ("steps ahead", f"{self.steps_ahead} at most before the host looks"),
            ("CUDA graphs", self.graph.fact(0 if table is None else table.num_chunks)),
        ]

    def start(self, step: int) -> None:
        self.step = step
        self.rows.upload("velocities", self.system.velocities[: self.rows.num_owned])
        words = np.zeros(word.WORDS, np.int64)
        words[word.STEP] = step
        self.executor.upload(self.control, words)
        self._bind()
        self._evaluate(want_virial=True)
        self._took_between = False
        self._old, self._lifetime = 0, self.steps_ahead  # a list of the minimisation says nothing of steps

    def descent(self) -> DeviceDescent:
        return DeviceDescent(self.comm, self.bricks, self.potential.engine, self.neighbors.skin, self._renew)

    # --- steps --------------------------------------------------------------------------------------------------------

    def advance(self, most: int, *, measure: bool, asked: Callable[[], float]) -> Advance:
        if self._is_between:
            self._go_on(want_virial=measure and most == 1)
            return Advance(self.step, request=self._reduce(asked)[1])
        ahead = min(most, self._planned())
        with self.timers("steps"):
            for number in range(1, ahead + 1):
                self._launch_step(measured=measure and number == most)
            words = self.executor.download(self.control)
        done = int(words[word.STEP]) - self.step
        # Kinetic energy between kick and noise was taken if the first half of the last step was.
        self._took_between = self._took_between and done + bool(words[word.HALT]) >= ahead
        self.step += done
        self._old += done
        if words[word.HALT]:
            # The first half of the next step is done; it was a measured one only if it was the last of `most`.
            self._is_between = True
            want_virial = measure and done + 1 == most
            if words[word.OVERFLOW]:
                self._must_rebuild = False
                engine = self.potential.engine
                if engine.overflow(self.executor.download(self._status)):  # here, and not only on another rank
                    engine.recover()
                self._go_on(want_virial=want_virial)
            else:
                self._must_rebuild = bool(words[word.REBUILD])
                reduced, request = self._reduce(asked, words)
                if reduced[1:].any():
                    return Advance(self.step, True, bool(reduced[1]), reduced[2:], request)
                self._go_on(want_virial=want_virial)
        return Advance(self.step, request=self._reduce(asked)[1])

    def _planned(self) -> int:
        """Steps to launch: until the list will be as old as the last one grew, then by few."""
        return max(1, min(self.steps_ahead, self._lifetime - self._old), min(self.steps_ahead, self._lifetime // 8))

    def _reduce(self, asked: Callable[[], float], words: np.ndarray | None = None) -> tuple[np.ndarray, float]:
        """Over all ranks: whether to rebuild, a fault, each of WATCHED; and the largest request."""
        found = np.zeros(3 + len(WATCHED))
        if words is not None:
            found[:-1] = [words[word.REBUILD], words[word.FAULT], *(words[_WATCHED_WORDS[what]] for what in WATCHED)]
        found[-1] = asked()
        reduced = self.comm.allreduce_max(found)
        return reduced[:-1], float(reduced[-1])

    def _launch_step(self, *, measured: bool) -> None:
        """A whole step; on one rank one that is not measured may be a graph."""
        if measured:
            self._launch_first_half(measured)
            self._launch_rest(want_virial=True)
            return
        engine = self.potential.engine
        assert engine.table is not None
        parts = (self.integration.calls, self.bricks.copies, engine.bound)
        self.graph.launch(self._launch_plain_step, parts, engine.table.num_chunks)
        self._took_between = False

    def _launch_plain_step(self) -> None:
        """What a graph keeps: no number of the host in it changes from step to step."""
        self.integration.run("kick", "drift")
        self._launch_rest(want_virial=False)

    def _agree(self) -> None:
        """What one rank found, all have found: the flags of all ranks, and the step's number is the same anyway."""
        if not self._alone:
            self.bricks.transport.take_maximum(self.control)

    def _launch_first_half(self, measured: bool) -> None:
        self.integration.run("kick")
        self._took_between = measured and self.integrator.has_bath
        if self._took_between:
            self._zero(self._between)
            self.integration.add_kinetic_sums(self._between, self.control)
        self.integration.run("drift")

    def _launch_rest(self, *, want_virial: bool) -> None:
        """From ghosts to the second half: everything that obeys the word FOUND."""
        self._agree()
        self.bricks.update_positions()
        self.potential.engine.launch(want_virial=want_virial)
        self.bricks.add_forces()
        self.integration.run("looks")
        if not self._alone:  # a rank that had too little room has sent others too little force
            self.integration.run("room")
            self._agree()
        self.integration.run("second half")

    def _go_on(self, *, want_virial: bool) -> None:
        """The rest of a step whose first half is done, with a new list if there must be one; the host looks."""
        with self.timers("neighbors"):
            if self._must_rebuild:
                self._rebuild()
            self._clear_control()
            self.bricks.update_positions()
        self._evaluate(want_virial=want_virial)
        with self.timers("integrate"):
            self.integration.run("second half")
        self._is_between = False
        self.step += 1
        self._old += 1

    def _evaluate(self, *, want_virial: bool) -> None:
        """Complete forces; the host waits, and has them computed again where a chunk overflowed."""
        engine = self.potential.engine
        with self.timers("forces"):
            while True:
                engine.launch(want_virial=want_virial)
                if not engine.overflow(self.executor.download(self._status)):
                    break
                engine.recover()
        with self.timers("return forces"):
            self.bricks.add_forces()
            self.integration.run("looks")

    def _clear_control(self) -> None:
        words = np.zeros(word.WORDS, np.int64)
        words[word.STEP] = self.step
        self.executor.upload(self.control, words)

    # --- a new neighbour list -----------------------------------------------------------------------------------------

    def _rebuild(self, *, bind: bool = True) -> None:
        if self.neighbors.num_builds:
            self._lifetime, self._old = self._old, 0
        self.bricks.rebuild()
        self.neighbors.build()
        if bind:
            self._bind()

    def _renew(self) -> None:
        """A new list where no step is under way, and control words that know of nothing."""
        self._rebuild()
        self._clear_control()

    def _bind(self) -> None:
        """Prepare all launches for the rows and the list of the last build."""
        if self._bound_builds == self.neighbors.num_builds:
            return
        self._bound_builds = self.neighbors.num_builds
        rows, owned = self.rows, self.rows.num_owned
        self.potential.bind(
            {
                "positions": rows.positions,
                "images": rows.images,
                "types": rows.types,
                "forces": rows.forces,
                "faults": rows.faults,
                "energies": rows.energies,
                "cell": self.neighbors.cell,
                "row_offsets": self.neighbors.row_offsets,
                "indices": self.neighbors.indices,
                "virial_words": self._virial_words,
                "atom_virials": self._no_atom_virials,
                "status": self._status,
                "control": self.control,
            },
            owned,
            self.neighbors.num_edges,
        )
        self.integration.bind()

    # --- what others see ----------------------------------------------------------------------------------------------

    def sums(self) -> RankSums:
        launch, rows, number = self.executor.launch, self.rows, np.int32(self.rows.num_owned)
        self._zero(self._whole)
        self.integration.add_kinetic_sums(self._whole, self._idle)
        launch("energy_sum", rows.num_owned, self._whole, rows.energies, number)
        launch("heat_sum", len(rows.heat), self._whole, rows.heat, np.int32(len(rows.heat)))
        whole, status = self.executor.download(self._whole), self.executor.download(self._status)
        taken = self.executor.download(self._between) if self._took_between else whole
        heat = self.integrator.heat + words_to_integer(whole[_HEAT])
        sums = [
            KineticSums(words[_KINETIC:], words[_MOMENTUM : _MOMENTUM + 3], not words[_FAULTS, 0])
            for words in (taken, whole)
        ]
        return RankSums(
            faults=int(status[1] != 0) + int(whole[_FAULTS, 0]),
            energy_words=whole[_ENERGY],
            virial_words=self.executor.download(self._virial_words),
            kinetic=with_bath(self.integrator, sums[0], sums[1], heat, True),
        )

    def atoms(self) -> System:
        system, rows = self.system, self.rows
        rows.give(system, ("ids", "types", "positions", "images", "forces", "velocities", "energies"))
        faults = self.executor.download(rows.local("faults")) if rows.num_local else np.zeros(0, np.uint8)
        bad, last = np.flatnonzero(faults), int(self.executor.download(self._status)[1])
        # A sum that left its range on the way back to an owner is told by its row alone.
        system.bad_centres = np.union1d(bad, [last - 1]).astype(np.int64) if last else bad
        if rows.num_owned:
            self.guard.recall(self.executor.download(rows.owned("before")))
        return system

    def snapshot(self, names: Sequence[str]) -> Snapshot:
        return self._snapshots.take(names)

    def pairs(self) -> NeighborList:
        self.neighbors.give(self._pairs)
        return self._pairs

    # --- small things -------------------------------------------------------------------------------------------------

    def _zero(self, array: Any) -> None:
        with self.executor.working():
            array[...] = 0

    def _array(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        return to_device(self.executor, np.zeros(shape, dtype), "sums and control words")
