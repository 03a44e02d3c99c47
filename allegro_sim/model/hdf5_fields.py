"""Checksummed fields of an HDF5 file, and reading them with errors that name the file and the field.

Arrays and texts carry HDF5's Fletcher-32 checksum; attributes lie in object headers, which the file format of HDF5 1.10
protects with checksums of its own (`LIBRARY_VERSIONS`). So every bit that matters is covered, and no string is of
variable length (those live in a heap without checksums).
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from allegro_sim.errors import ModelFileError

LIBRARY_VERSIONS = ("v110", "v110")
"""For `h5py.File(..., libver=)`: the file format whose metadata has checksums; any HDF5 since 1.10 (2016) reads it."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DAMAGED = (OSError, RuntimeError, KeyError)  # what h5py raises for bytes that do not read back


def write_array(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """A dataset with a checksum; at least one element."""
    group.create_dataset(name, data=np.ascontiguousarray(values), chunks=True, fletcher32=True)


def write_texts(group: h5py.Group, name: str, texts: tuple[str, ...] | list[str]) -> None:
    """Texts as a dataset (n,) of fixed-length UTF-8, with a checksum."""
    encoded = [text.encode() for text in texts]
    dtype = h5py.string_dtype("utf-8", max(1, *map(len, encoded)))
    group.create_dataset(name, data=np.array(encoded, dtype=dtype), chunks=True, fletcher32=True)


def write_attribute(group: h5py.Group, name: str, value: str | float | int | bool) -> None:
    """One hyperparameter; short texts only (an attribute holds up to 64 KB)."""
    if isinstance(value, str):
        encoded = value.encode()
        group.attrs.create(name, np.array(encoded, dtype=h5py.string_dtype("utf-8", max(1, len(encoded)))))
    else:
        group.attrs[name] = value


class FieldReader:
    """A group of an HDF5 file, read field by field. Every method raises ModelFileError, naming file and field."""

    def __init__(self, path: Path, group: h5py.Group) -> None:
        self.path = path
        self.name = group.name
        self._group = group

    def _name(self, name: str) -> str:
        return f"{self.name.rstrip('/')}/{name}"

    def _damaged(self, name: str, error: Exception) -> ModelFileError:
        return ModelFileError(
            f"{self.path}: '{self._name(name)}' is damaged and cannot be read ({error}). "
            "Copy or import the model again."
        )

    def has(self, name: str) -> bool:
        try:
            return name in self._group
        except _DAMAGED as error:
            raise self._damaged(name, error) from error

    def has_attribute(self, name: str) -> bool:
        try:
            return name in self._group.attrs
        except _DAMAGED as error:
            raise self._damaged(name, error) from error

    def names(self) -> list[str]:
        """Names of all fields and groups, sorted."""
        try:
            return sorted(self._group)
        except _DAMAGED as error:
            raise self._damaged("", error) from error

    def group(self, name: str) -> FieldReader:
        member = self._member(name)
        if not isinstance(member, h5py.Group):
            raise ModelFileError(f"{self.path}: '{self._name(name)}' is not a group as a model file has it.")
        return FieldReader(self.path, member)

    def array(self, name: str, dtype: type = np.float64) -> np.ndarray:
        member = self._member(name)
        if not isinstance(member, h5py.Dataset) or member.dtype.kind not in "biuf":
            raise ModelFileError(f"{self.path}: '{self._name(name)}' is not an array of numbers.")
        try:
            return np.asarray(member[...], dtype=dtype)
        except _DAMAGED as error:
            raise self._damaged(name, error) from error

    def texts(self, name: str) -> tuple[str, ...]:
        member = self._member(name)
        if not isinstance(member, h5py.Dataset) or member.dtype.kind != "S" or member.ndim != 1:
            raise ModelFileError(f"{self.path}: '{self._name(name)}' is not a list of texts.")
        try:
            return tuple(bytes(text).decode() for text in member[...])
        except (*_DAMAGED, UnicodeDecodeError) as error:
            raise self._damaged(name, error) from error

    def attribute(self, name: str, kind: type):
        """An attribute as `kind` (str, int, float or bool)."""
        if not self.has_attribute(name):
            raise ModelFileError(
                f"{self.path}: attribute '{name}' of '{self.name}' is missing. Import the model again."
            )
        try:
            value = self._group.attrs[name]
        except _DAMAGED as error:
            raise self._damaged(name, error) from error
        if isinstance(value, (bytes, np.bytes_)):
            value = value.decode(errors="replace")
        if isinstance(value, str) != (kind is str) or np.ndim(value) != 0:
            raise ModelFileError(
                f"{self.path}: attribute '{name}' of '{self.name}' is {value!r}; expected a value of type "
                f"{kind.__name__}."
            )
        return kind(value)

    def _member(self, name: str) -> h5py.Group | h5py.Dataset:
        if not self.has(name):
            raise ModelFileError(f"{self.path}: '{self._name(name)}' is missing. Import the model again.")
        try:
            return self._group[name]
        except _DAMAGED as error:
            raise self._damaged(name, error) from error


def open_for_reading(path: Path) -> h5py.File:
    """Open an HDF5 file. Raises ModelFileError: no such file, not HDF5, truncated, or not readable."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_SIGNATURE))
    except FileNotFoundError as error:
        raise ModelFileError(
            f"{path}: no such file; give the path of a model made by `allegro-tools import`."
        ) from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}.") from error
    if start != _SIGNATURE:
        raise ModelFileError(
            f"{path}: not an HDF5 file ({'it is empty' if size == 0 else f'it starts with {start!r}'}). "
            "A checkpoint of nequip must be imported first: `allegro-tools import CHECKPOINT -o MODEL.h5`."
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = str(error)
        if "truncated" in reason or size < 96:
            raise ModelFileError(
                f"{path}: truncated HDF5 file, {size} bytes of it are there. Copy or import the model again."
            ) from error
        raise ModelFileError(f"{path}: damaged HDF5 file ({reason}). Copy or import the model again.") from error
