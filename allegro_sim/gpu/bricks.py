"""Which atoms a rank owns, and its ghosts, on the device: migration, halo, and the exchanges between two builds.

The same bricks as on the host (`parallel.decomposition`). Ghosts come from their owners at once, in one exchange: an
owner knows from an atom's place in which bricks' halos it lies, periodic images included (kernels/numba_cuda/halo.py).
A rank's own periodic images are copies on the device; what goes to other ranks is packed, and goes by a transport. On
one rank there is nothing but own images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from allegro_sim.errors import StructureError
from allegro_sim.gpu.arrays import new_array, to_device
from allegro_sim.gpu.atoms import DeviceAtoms
from allegro_sim.gpu.sorting import sort_keys
from allegro_sim.gpu.transport import Transport
from allegro_sim.kernels.numba_cuda.halo_limits import CURVE_BITS, MOST_SHIFTS
from allegro_sim.parallel.decomposition import NO_EXTREMES, Decomposition
from allegro_sim.potential.cuda.engine import Executor

_PACKED_ATOM, _PACKED_GHOST = 8, 9


class DeviceBricks:
    """Migration and halo of one rank's atoms.

    Parameters
    ----------
    atoms : DeviceAtoms
    decomposition : Decomposition
    transport : Transport
    images_travel : send this rank's own periodic images through the transport, too (to try it out on one rank)

    Attributes
    ----------
    control, status : device arrays that the exchanges between two builds obey (kernels/numba_cuda/control.py)
    copies : launches of positions to own images, and of their forces back; the same objects over many builds
    """

    def __init__(
        self,
        atoms: DeviceAtoms,
        decomposition: Decomposition,
        transport: Transport,
        control: Any,
        status: Any,
        *,
        images_travel: bool = False,
    ) -> None:
        self.atoms, self.decomposition, self.transport = atoms, decomposition, transport
        self.control, self.status = control, status
        self._comm = decomposition.comm
        self._executor: Executor = atoms.executor
        self._images_travel = images_travel
        cell = decomposition.cell
        self._inverse = self._device(np.ascontiguousarray(cell.inverse))
        self._frame = self._device(np.zeros((4, 3)))
        self._lattice = self._device(np.zeros((3, 3), np.int32))
        self._own_images = 0
        self._sent = np.zeros(self._comm.size, np.int64)
        self._received = np.zeros(self._comm.size, np.int64)
        # Rows that ghosts are copies of, first those of own images, in an array that stays until it must grow; and how
        # many own images there are. Of each ghost of an owned atom the rank that gets it, and its shift there.
        self._rows, self._num_images = self._new((0,), np.int32), self._device(np.zeros(1, np.int32))
        self._peers, self._shifts = self._rows, self._rows
        self._extremes = self._device(np.zeros(9, np.int64))
        self._copied: tuple[Any, ...] = ()
        self.copies: tuple[Callable[[], None], ...] = ()
        self._update: list[Callable[[], None]] = []
        self._return: list[Callable[[], None]] = []

    @property
    def num_received(self) -> int:
        """Ghosts that come from other ranks in each exchange of positions."""
        return int(self._received.sum() - self._received[self._comm.rank])

    @property
    def num_travelling(self) -> int:
        """Ghosts of this rank that come by the transport."""
        return int(self._received.sum())

    def rebuild(self) -> None:
        """Every atom to the rank of its brick, in the order of space, and all ghosts anew (collective)."""
        self.atoms.num_ghosts = 0
        self._fit()
        self._migrate()
        self._sort()
        self._make_ghosts()
        self._prepare_exchanges()

    def update_positions(self) -> None:
        """Ghosts to where their owners are now, bit for bit (collective)."""
        for call in self._update:
            call()

    def add_forces(self) -> None:
        """Forces of ghosts to their owners: integers, in any order (collective; accumulates)."""
        for call in self._return:
            call()

    # --- migration ----------------------------------------------------------------------------------------------------

    def _fit(self) -> None:
        """Bounds of the bricks, and what kernels need of them."""
        decomposition, cell = self.decomposition, self.decomposition.cell
        with self._executor.working():
            self._extremes[...] = 0
        self._run("extremes", self.atoms.num_owned, self._extremes, self.atoms.positions, self._inverse, self._owned())
        if not decomposition.fit(ordered_numbers(self._executor.download(self._extremes))):
            return
        assert decomposition.grid is not None
        place = (decomposition.upper - decomposition.lower) * cell.heights
        step = max(0.5 * decomposition.reach, float(place.max()) / (2**CURVE_BITS - 1))
        frame = [
            decomposition.lower,
            decomposition.upper - decomposition.lower,
            decomposition.halo_fraction,
            cell.heights / step,
        ]
        self._executor.upload(self._frame, np.stack(frame))
        lattice = [cell.pbc.astype(np.int32), decomposition.grid, decomposition.coordinates]
        self._executor.upload(self._lattice, np.stack(lattice).astype(np.int32))
        self._check_layers()

    def _migrate(self) -> None:
        """Atoms to their ranks."""
        if self._comm.size == 1:
            return
        ranks, _ = self._locate()
        atoms, xp, count = self.atoms, self._executor.arrays, self.atoms.num_owned
        counts = np.zeros(self._comm.size, np.int64)
        packed = self._packed(count, _PACKED_ATOM)
        if count:
            with self._executor.working():
                order = xp.argsort(ranks[:count])
                counts = self._executor.download(xp.bincount(ranks[:count], minlength=self._comm.size)).astype(np.int64)
            bits = atoms.bits("positions"), atoms.bits("velocities")
            self._run("pack_atoms", count, packed, order, atoms.ids, atoms.types, *bits, np.int32(count))
        incoming = self._comm.alltoall(counts)
        total = int(incoming.sum())
        received = self._new((total, _PACKED_ATOM), np.int64)
        self.transport.exchange(packed[:count], counts, received, incoming)
        atoms.num_owned = 0
        atoms.reserve(total, total)
        atoms.num_owned = total
        bits = atoms.bits("positions"), atoms.bits("velocities")
        self._run("unpack_atoms", total, atoms.ids, atoms.types, *bits, received, np.int32(total))

    def _sort(self) -> None:
        """Atoms in the order of their places on the space-filling curve, and their images."""
        atoms, count = self.atoms, self.atoms.num_owned
        if not count:
            return
        order, _ = sort_keys(atoms, self._locate()[1], count)
        packed, bits = self._packed(count, _PACKED_ATOM), (atoms.bits("positions"), atoms.bits("velocities"))
        self._run("pack_atoms", count, packed, order, atoms.ids, atoms.types, *bits, np.int32(count))
        self._run("unpack_atoms", count, atoms.ids, atoms.types, *bits, packed, np.int32(count))
        self._locate()

    def _locate(self) -> tuple[Any, Any]:
        """Images of all owned atoms; the rank of each and its place on the curve, in arrays with room to spare."""
        atoms, count = self.atoms, self.atoms.num_owned
        ranks, codes = atoms.scratch.get("ranks", count, np.int32), atoms.scratch.get("keys", count, np.int64)
        self._run("locate", count, atoms.images, ranks, codes, atoms.positions, *self._where(), np.int32(count))
        return ranks, codes

    # --- ghosts -------------------------------------------------------------------------------------------------------

    def _make_ghosts(self) -> None:
        atoms, xp, count, rank = self.atoms, self._executor.arrays, self.atoms.num_owned, self._comm.rank
        total = self._list_copies()
        rows, peers, shifts = self._rows, self._peers, self._shifts
        self._sent = np.zeros(self._comm.size, np.int64)
        if total:
            self._sent[rank] = total
            if self._comm.size > 1:
                with self._executor.working():
                    peers = peers[:total]
                    self._sent = self._executor.download(xp.bincount(peers, minlength=self._comm.size)).astype(np.int64)
                    # Own images first, then what goes to each rank.
                    keys = peers if self._images_travel else xp.where(peers == rank, -1, peers)
                    order = xp.argsort(keys)
                    rows[:total], shifts[:total] = rows[order], shifts[order]
        packed = self._packed(total, _PACKED_GHOST)
        given = (atoms.ids, atoms.types, atoms.bits("positions"), atoms.images)
        self._run("pack_ghosts", total, packed, rows, shifts, *given, np.int32(total))

        self._own_images = 0 if self._images_travel else int(self._sent[rank])
        self._sent[rank] -= self._own_images
        self._received = self._comm.alltoall(self._sent)
        own = self._own_images
        ghosts = own + int(self._received.sum())
        received = packed
        if self._comm.size > 1 or self._images_travel:
            received = self._new((ghosts, _PACKED_GHOST), np.int64)
            with self._executor.working():
                received[:own] = packed[:own]
            self.transport.exchange(packed[own:total], self._sent, received[own:], self._received)
        if count + ghosts > np.iinfo(np.int32).max:
            raise StructureError(f"{count + ghosts} atoms and ghosts on one rank are too many: use more ranks")
        atoms.reserve(count + ghosts, count)
        atoms.num_ghosts = ghosts
        self._run("key_atoms", count, atoms.order_keys, atoms.ids, np.int32(count))
        target = (atoms.ids, atoms.types, atoms.bits("positions"), atoms.images, atoms.order_keys)
        self._run("unpack_ghosts", ghosts, *target, received, np.int32(count), np.int32(ghosts))

    def _list_copies(self) -> int:
        """Of all ghosts of owned atoms, anywhere, the owner's row, the rank that gets it, its shift there; how many."""
        atoms, xp, count = self.atoms, self._executor.arrays, self.atoms.num_owned
        if not count:
            return 0
        ends = atoms.scratch.get("counts", count, np.int64)
        arguments = (atoms.positions, atoms.images, *self._where(), np.int32(count))
        self._run("count_copies", count, ends, *arguments)
        with self._executor.working():
            xp.cumsum(ends[:count], out=ends[:count])
        total = int(self._executor.download(ends[count - 1 : count])[0])
        if total > np.iinfo(np.int32).max:
            raise StructureError(f"{total} ghosts of one rank's atoms are too many: use more ranks")
        if total > len(self._rows):
            room = total + total // 8 + 16
            self._rows = self._new((room,), np.int32)
        if total:
            self._peers = atoms.scratch.get("peers", total, np.int32)
            self._shifts = atoms.scratch.get("shifts", total, np.int32, 3)
            self._run("list_copies", count, self._rows, self._peers, self._shifts, ends, *arguments)
        return total

    def _check_layers(self) -> None:
        """Refuse a cell so small that the images of an atom cannot be numbered."""
        decomposition = self.decomposition
        layers = np.where(decomposition.cell.pbc, np.ceil(decomposition.halo_fraction) + 1, 0)
        if layers.max() > MOST_SHIFTS:
            raise StructureError(
                f"the cell is so small that the model sees {int(layers.max())} of its images in one direction, and "
                f"{MOST_SHIFTS} are the most: replicate the structure"
            )

    # --- between two builds -------------------------------------------------------------------------------------------

    def _prepare_exchanges(self) -> None:
        """Launches of `update_positions` and `add_forces` for the rows of this build."""
        atoms, own, first = self.atoms, self._own_images, self.atoms.num_owned
        self._prepare_copies()
        self._update, self._return = list(self.copies[:1]), list(self.copies[1:])
        out, into = int(self._sent.sum()), int(self._received.sum())
        if not out and not into and (self._comm.size == 1 or not self.transport.waits):
            return
        rows, number = self._rows[own : own + out], self._device(np.array([out], np.int32))
        sent, returned = self._new((out, 3), np.float64), self._new((out, 3), np.int64)
        ghosts = slice(first + own, first + own + into)
        if out:
            self._update.append(self._call("copy_positions", out, sent, atoms.positions, rows, number))
        counts = self._sent, self._received
        self._update.append(lambda: self.transport.exchange(sent, counts[0], atoms.positions[ghosts], counts[1]))
        self._return.append(lambda: self.transport.exchange(atoms.forces[ghosts], counts[1], returned, counts[0]))
        if out:
            self._return.append(self._call("add_forces", out, self.status, atoms.forces, rows, returned, number))

    def _prepare_copies(self) -> None:
        """Own images: the launches of the last build, with other rows and another number, where the arrays stayed."""
        atoms, own, first = self.atoms, self._own_images, self.atoms.num_owned
        self._executor.upload(self._num_images, np.array([own], np.int32))
        copied = (first, own > 0, self._rows, atoms.positions, atoms.forces)
        if (
            self._copied
            and copied[:2] == self._copied[:2]
            and all(a is b for a, b in zip(copied[2:], self._copied[2:], strict=True))
        ):
            return
        self._copied, self.copies = copied, ()
        if own:
            rows, number = self._rows, self._num_images
            positions, terms = atoms.positions[first:], atoms.forces[first:]
            self.copies = (
                self._call("copy_positions", len(rows), positions, atoms.positions, rows, number),
                self._call("add_forces", len(rows), self.status, atoms.forces, rows, terms, number),
            )

    # --- small things -------------------------------------------------------------------------------------------------

    def _owned(self) -> np.int32:
        return np.int32(self.atoms.num_owned)

    def _where(self) -> tuple[Any, Any, Any]:
        return self._inverse, self._frame, self._lattice

    def _call(self, kernel: str, threads: int, *arguments: Any) -> Callable[[], None]:
        return self._executor.call(kernel, threads, self.control, *arguments)

    def _run(self, kernel: str, threads: int, *arguments: Any) -> None:
        if threads:
            self._executor.launch(kernel, threads, *arguments)

    def _packed(self, rows: int, width: int) -> Any:
        """Room for what is packed; what was packed there before is gone."""
        return self.atoms.scratch.get(f"packed {width}", rows, np.int64, width)

    def _new(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return new_array(self._executor, shape, dtype, f"ghosts and exchanges of {self.atoms.num_owned} atoms")

    def _device(self, values: np.ndarray) -> Any:
        return to_device(self._executor, values, "the bricks")


def ordered_numbers(ordered: np.ndarray) -> np.ndarray:
    """Numbers whose order kernels/cuda/sums.cu wrote as that of unsigned integers; of the extremes of no atom the first
    six are -inf, the others 0: `NO_EXTREMES`."""
    bits = ordered.view(np.uint64)
    signed = np.where(bits >> np.uint64(63) != 0, bits ^ np.uint64(1 << 63), ~bits)
    return np.where(bits == 0, NO_EXTREMES, signed.view(np.float64))
