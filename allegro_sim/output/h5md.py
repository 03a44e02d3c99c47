"""The layout of a trajectory file (H5MD 1.1): its names and units, how it is laid out, and which of its frames count.

T frames, N atoms in input order, R thermo rows:

    h5md/                                   version (1, 1), author, creator
    particles/all/box                       attributes dimension = 3 and boundary; edges/value (T,3,3)
    particles/all/{position,velocity,force} value (T,N,3), step (T), time (T)
    particles/all/{species,mass,id}         (N): enumeration of type names, Da, index in the input
    observables/NAME                        value (T), step, time: scalars sampled at exactly these frames
    thermo/COLUMN                           (R): thermodynamics at their own interval, with thermo/step
    parameters/types/{name,element}         (types): names of the model's types and their element symbols
    parameters/{input,provenance}           text: the resolved input; JSON of program version, model file, SHA-256, ...

Units: Angstrom, Angstrom fs-1, kJ mol-1 Angstrom-1 (MDAnalysis refuses eV), fs. Rows of edges are lattice vectors.
Positions are unwrapped. `step` and `time` are one pair of datasets, hard-linked wherever H5MD wants them.

Why a kill loses at most the frame being written: a frame is written in two flushes, first all values, then one more
entry in `time` and `step`; a frame counts when its step does. Frames already counted cannot be lost either: datasets
are indexed by HDF5's extensible arrays, to which entries are only added, whereas its default B-trees move entries of
old frames between nodes. Extensible arrays need the library bounds v110 while the datasets are created. The file itself
is begun with the earliest superblock, which has no mark for "being written" that readers would stop at.

Positions, velocities and forces carry checksums (Fletcher32), which every HDF5 program verifies as it reads; a chunk of
theirs is written once. Chunks of scalars hold many frames and are written again with each: a write torn by a kill
would cost them all if the chunk had a checksum, and costs nothing as it is.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from allegro_sim import __version__
from allegro_sim.errors import OutputError

OBSERVABLES: dict[str, str] = {
    "potential_energy": "eV",
    "kinetic_energy": "eV",
    "total_energy": "eV",
    "conserved_energy": "eV",
    "temperature": "K",
    "pressure": "bar",
}
"""Scalars stored with every frame, name -> unit. A quantity that does not exist is NaN."""

UNCOUNTED = -1
"""Fill value of `step`: an entry that a kill left behind, of a frame that does not count."""

GROUPS: dict[str, str] = {"position": "Angstrom", "velocity": "Angstrom fs-1", "force": "kJ mol-1 Angstrom-1"}
_CHUNK_ATOMS = 1 << 22  # a chunk is one frame, or at most this many atoms of it (HDF5 allows 4 GiB)
_CHUNK_CELLS, _CHUNK_SCALARS = 16, 256
DTYPES: dict[str, np.dtype[Any]] = {"single": np.dtype("<f4"), "double": np.dtype("<f8")}
_END_OF_FILE = 40
"""Where a superblock of version 0 has the end-of-file address."""

LIBVER_FILE, LIBVER_DATASETS = ("earliest", "v110"), ("v110", "v110")


@contextmanager
def reporting(path: Path, doing: str) -> Iterator[None]:
    """HDF5's errors as an OutputError that names the file."""
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise OutputError(f"{path}: {doing}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """One line of what went wrong: the operating system's word for it, where HDF5 passes that on among much else."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    found = re.search(r"error message = '([^']*)'", text)
    return found.group(1) if found else " ".join(text.split())


def is_checksum_error(error: Exception) -> bool:
    """Whether reading failed because a checksum differs, and not for want of the file or memory."""
    return "Fletcher32" in str(error) or "filter" in str(error)


def read_steps(dataset: h5py.Dataset) -> np.ndarray:
    """All entries of a `step` dataset, but for the last where a kill came between it and the index of its chunk."""
    try:
        return dataset[:]
    except OSError:
        return dataset[:-1]


def count_whole(steps: np.ndarray, last_step: int | None = None) -> int:
    """Number of leading entries that count: increasing, not fill values, and not after last_step."""
    stops = np.diff(steps, prepend=UNCOUNTED) <= 0
    if last_step is not None:
        stops |= steps > last_step
    return int(np.argmax(stops)) if stops.any() else len(steps)


def count_complete(steps: np.ndarray, datasets: Iterable[h5py.Dataset], last_step: int | None = None) -> int:
    """Number of leading entries that count, as `count_whole`, and that every one of the datasets has."""
    return min([count_whole(steps, last_step), *(len(dataset) for dataset in datasets)])


def match_end_of_file(path: Path) -> int | None:
    """Make the file as long as its superblock says, or let it say how long the file is (`h5clear --increment`).

    HDF5 writes the end-of-file address last in a flush. After a kill just before, it lies before the newest blocks, and
    HDF5 would refuse them, or use their place again, when the file is changed.
    Where a write failed, or a copy was cut short, it lies after the end, and HDF5 would refuse the file altogether.

    Returns the length that a file cut short had: what lies after it is lost; None where nothing is.
    """
    size, end = _lengths(path)
    with reporting(path, "cannot be changed"), open(path, "r+b") as file:
        if size > end:
            file.seek(_END_OF_FILE)
            file.write(struct.pack("<Q", size))
        elif size < end:
            file.truncate(end)
    return size if size < end else None


def give_back(path: Path) -> None:
    """Cut a closed file after its last byte in use: what was reserved beyond goes back to the disk."""
    size, end = _lengths(path)
    if size > end:
        os.truncate(path, end)


def is_cut_short(path: Path) -> bool:
    """Whether the file is shorter than its superblock says, which no HDF5 program opens."""
    size, end = _lengths(path)
    return size < end


def _lengths(path: Path) -> tuple[int, int]:
    """Bytes that are there, and that the superblock speaks of."""
    with reporting(path, "cannot be opened"), open(path, "rb") as file:
        superblock = file.read(_END_OF_FILE + 8)
        size = file.seek(0, os.SEEK_END)
    if superblock[:9] != b"\x89HDF\r\n\x1a\n\x00" or superblock[13:15] != b"\x08\x08" or len(superblock) < 48:
        raise OutputError(f"{path}: is not a trajectory of this program (no HDF5 superblock of version 0)")
    return size, int.from_bytes(superblock[_END_OF_FILE:], "little")


def count_stored(dataset: h5py.Dataset, size: int) -> int:
    """Number of leading entries whose chunks lie in the first `size` bytes of the file."""
    length, deep = dataset.chunks[0], range(0, dataset.shape[1], dataset.chunks[1]) if dataset.ndim > 1 else (0,)
    for first in range(0, len(dataset), length):
        for second in deep:
            try:
                chunk = dataset.id.get_chunk_info_by_coord((first, second, 0)[: dataset.ndim])
            except (OSError, RuntimeError):  # the index itself is lost
                return first
            if chunk.byte_offset is None or chunk.byte_offset + chunk.size > size:
                return first
    return len(dataset)


def create_header(
    file: h5py.File,
    species: np.ndarray,
    type_names: Sequence[str],
    type_symbols: Sequence[str],
    masses: np.ndarray,
    input_text: str,
    provenance: Mapping[str, Any],
) -> None:
    """Everything that does not grow."""
    h5md = file.create_group("h5md")
    h5md.attrs["version"] = np.array([1, 1], dtype=np.int32)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        user = "unknown"
    h5md.create_group("author").attrs["name"] = user
    h5md.create_group("creator").attrs.update({"name": "allegro-sim", "version": __version__})

    all_atoms = file.create_group("particles/all")
    enumeration = h5py.enum_dtype({name: index for index, name in enumerate(type_names)}, basetype="<i4")
    all_atoms.create_dataset("species", data=np.asarray(species, dtype="<i4"), dtype=enumeration)
    all_atoms.create_dataset("mass", data=np.asarray(masses, dtype="<f8")).attrs["unit"] = "u"
    all_atoms.create_dataset("id", data=np.arange(len(species), dtype="<i8"))

    parameters = file.create_group("parameters")
    text = h5py.string_dtype()
    parameters.create_dataset("types/name", data=list(type_names), dtype=text)
    parameters.create_dataset("types/element", data=list(type_symbols), dtype=text)
    parameters.create_dataset("input", data=input_text, dtype=text)
    parameters.create_dataset("provenance", data=json.dumps(provenance, indent=1), dtype=text)


def create_frames(
    file: h5py.File,
    num_atoms: int,
    groups: list[str],
    dtype: np.dtype,
    with_edges: bool,
    pbc: Sequence[bool] | np.ndarray,
) -> None:
    """The datasets with one entry a frame."""
    all_atoms = file["particles/all"]
    # `time` before `step`: a flush goes by address, and with `step` the frame counts.
    position = all_atoms.create_group("position")
    time = create_column(position, "time", "fs")
    step = create_column(position, "step")

    def create_value(group: h5py.Group, unit: str, **options: Any) -> None:
        _create_growing(group, "value", unit, **options)
        if group != position:
            group["time"], group["step"] = time, step

    blocks = -(-num_atoms // _CHUNK_ATOMS)
    for name in groups:
        chunk = (1, -(-num_atoms // blocks), 3)
        group = all_atoms.require_group(name)
        create_value(group, GROUPS[name], dtype=dtype, row=(num_atoms, 3), chunk=chunk, checksum=True)

    box = all_atoms.create_group("box")
    box.attrs["dimension"] = 3
    boundary = ["periodic" if periodic else "none" for periodic in pbc]
    box.attrs.create("boundary", boundary, dtype=h5py.string_dtype())
    if with_edges:
        create_value(box.create_group("edges"), "Angstrom", dtype="<f8", row=(3, 3), chunk=(_CHUNK_CELLS, 3, 3))

    for name, unit in OBSERVABLES.items():
        create_value(file.create_group(f"observables/{name}"), unit, dtype="<f8", chunk=(_CHUNK_SCALARS,))


def create_column(group: h5py.Group, name: str, unit: str = "") -> h5py.Dataset:
    """A growing column of numbers: integers for `step`, else float64."""
    if name == "step":
        return _create_growing(group, name, unit, dtype="<i8", chunk=(_CHUNK_SCALARS,), fill=UNCOUNTED)
    return _create_growing(group, name, unit, dtype="<f8", chunk=(_CHUNK_SCALARS,))


def _create_growing(
    group: h5py.Group,
    name: str,
    unit: str,
    *,
    dtype: str | np.dtype,
    chunk: tuple[int, ...],
    row: tuple[int, ...] = (),
    fill: float = np.nan,
    checksum: bool = False,
) -> h5py.Dataset:
    """A dataset of no rows that grows along its first axis. `checksum`: of each chunk, verified when it is read."""
    dataset = group.create_dataset(
        name, (1, *row), dtype, maxshape=(None, *row), chunks=chunk, fillvalue=fill, fletcher32=checksum
    )
    if unit:
        dataset.attrs["unit"] = unit
    # HDF5 makes the index with the first chunk that reaches the disk. It must be there before the first frame, or a
    # kill during that frame could leave a dataset that points to an index which was never written.
    dataset[0] = fill
    dataset.flush()
    dataset.resize(0, axis=0)
    return dataset
