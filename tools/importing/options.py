"""Options and tensors of a checkpoint, each taken once by name: what is left over is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.averages import Extrapolated
from allegro_sim.tools.importing.unpickle import Tensor

_REQUIRED = object()
_MOST = {"l_max": 11, "irreps_edge_sh": 11, "num_layers": 100}  # e3nn has harmonics up to that degree
_LARGEST = 100_000  # of other sizes: no model comes near, and none may take memory without end before it is found wrong
_KINDS = {"integer": int, "number": (int, float), "flag": bool, "text": str, "mapping": dict, "list": list}


class Options:
    """One level of the configuration. `where` is its place, for messages."""

    def __init__(self, values: dict[str, Any], path: Path, where: str) -> None:
        self._values = dict(values)
        self._path = path
        self._where = where

    @property
    def path(self) -> Path:
        """The file, for messages."""
        return self._path

    def take(self, name: str, kind: str = "any", default: Any = _REQUIRED) -> Any:
        """Remove and return an option of the given kind (see `_KINDS`, or "any"). None counts as absent. Integers are
        sizes, so not negative, and not larger than any model's; numbers are finite.

        Raises CheckpointImportError when it is missing without a default, or of another kind.
        """
        value = self._values.pop(name, None)
        if value is None:
            if default is _REQUIRED:
                raise self.error(name, "is missing")
            return default
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)
        if kind != "any" and (
            not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "flag")  # type: ignore[arg-type]
        ):
            raise self.error(name, f"is {value!r}; a {kind} is expected")
        if kind == "integer" and not 0 <= value <= _MOST.get(name, _LARGEST):
            raise self.error(name, f"is {value!r}; 0 to {_MOST.get(name, _LARGEST)} is expected")
        if kind == "number" and not isfinite(value):
            raise self.error(name, f"is {value!r}; a finite number is expected")
        return value

    def take_length(self, name: str) -> float:
        """A positive number, in Å. Raises CheckpointImportError for others."""
        value = float(self.take(name, "number"))
        if value <= 0.0:
            raise self.error(name, f"is {value:g}; a positive length is expected")
        return value

    def peek(self, name: str, kind: str, default: Any) -> Any:
        """As `take`, but the option stays, to be read again."""
        before = dict(self._values)
        value = self.take(name, kind, default)
        self._values = before
        return value

    def has(self, name: str) -> bool:
        """Whether the option is there and not null."""
        return self._values.get(name) is not None

    def is_null(self, name: str) -> bool:
        """Whether the option is there, and null."""
        return name in self._values and self._values[name] is None

    def section(self, name: str) -> Options | None:
        """A nested mapping as options of its own, or None where it is absent."""
        value = self.take(name, "mapping", None)
        return None if value is None else Options(value, self._path, f"{self._where}.{name}")

    def values(self) -> dict[str, Any]:
        """A copy of the options that nobody took yet."""
        return dict(self._values)

    def with_values(self, values: dict[str, Any]) -> Options:
        """Options of the same place with other values."""
        return Options(values, self._path, self._where)

    def ignore(self, *names: str) -> None:
        """Drop options that do not change what the model computes."""
        for name in names:
            self._values.pop(name, None)

    def finish(self) -> None:
        """Raises CheckpointImportError naming the options nobody took."""
        if self._values:
            names = ", ".join(f"{self._where}.{name} = {value!r}" for name, value in self._values.items())
            raise CheckpointImportError(f"{self._path}: unknown option {names}: the model may compute something else")

    def error(self, name: str, what: str) -> CheckpointImportError:
        """An error about the option `name`, to be raised."""
        return CheckpointImportError(f"{self._path}: the option {self._where}.{name} {what}")


class Tensors:
    """The tensors of a model by name, each to be taken once."""

    def __init__(self, tensors: Mapping[str, Tensor | Extrapolated], path: Path, constants: dict[str, Any]) -> None:
        self._tensors = dict(tensors)
        self._constants = dict(constants)
        self._path = path
        self.num_weights = 0

    def take(self, name: str, shape: tuple[int, ...] | None = None, *, weight: bool = True) -> np.ndarray:
        """Remove and return a tensor as float64, its shape checked. `weight` says whether it counts among the weights.

        Raises CheckpointImportError when it is missing, of another shape, not of numbers, or not finite.
        """
        tensor = self._tensors.pop(name, None)
        if tensor is None:
            raise CheckpointImportError(f"{self._path}: the tensor {name} is missing; the configuration calls for it")
        if shape is not None and tensor.shape != shape:
            raise CheckpointImportError(
                f"{self._path}: the tensor {name} has shape {tensor.shape}; the configuration calls for {shape}"
            )
        numbers = tensor.numpy(np.float64)
        if numbers.dtype.kind != "f":
            raise CheckpointImportError(
                f"{self._path}: the tensor {name} holds {numbers.dtype}, no floating-point numbers"
            )
        if not np.isfinite(numbers).all():
            raise CheckpointImportError(f"{self._path}: the tensor {name} holds numbers that are not finite")
        if weight:
            self.num_weights += numbers.size
        return numbers

    def rename(self, beginnings: tuple[tuple[str, str], ...]) -> None:
        """Give tensors other names: the first (old, new) that fits the beginning of a name is exchanged."""

        def renamed(name: str) -> str:
            fitting = ((old, new) for old, new in beginnings if name.startswith(old))
            old, new = next(fitting, ("", ""))
            return new + name.removeprefix(old)

        self._tensors = {renamed(name): tensor for name, tensor in self._tensors.items()}
        self._constants = {renamed(name): value for name, value in self._constants.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor that is still there. Raises CheckpointImportError when it is missing."""
        if name not in self._tensors:
            raise CheckpointImportError(f"{self._path}: the tensor {name} is missing; the configuration calls for it")
        return self._tensors[name].shape

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def error(self, name: str, what: str) -> CheckpointImportError:
        """An error about the tensor `name`, to be raised."""
        return CheckpointImportError(f"{self._path}: the tensor {name} {what}")

    def expect(self, name: str, expected: Any, tolerance: float) -> None:
        """Take a tensor that holds a constant, and compare. Raises CheckpointImportError where it differs."""
        self._compare(name, self.take(name, weight=False), expected, tolerance)

    def expect_constant(self, name: str, expected: Any, tolerance: float) -> None:
        """Compare a number upstream recomputes with what a package stores of it; nothing where it stores none."""
        value = self._constants.pop(name, None)
        if value is not None:
            found = value.numpy().astype(np.float64) if isinstance(value, Tensor) else np.asarray(value, np.float64)
            self._compare(name, found, expected, tolerance)

    def _compare(self, name: str, found: np.ndarray, expected: Any, tolerance: float) -> None:
        expected = np.asarray(expected, np.float64)
        if found.size != expected.size or not np.allclose(
            found.ravel(), expected.ravel(), rtol=tolerance, atol=tolerance
        ):
            raise CheckpointImportError(
                f"{self._path}: {name} does not hold what the configuration calls for: "
                f"found {_shown(found)}, expected {_shown(expected)}"
            )

    def finish(self, *, ignored_constants: Iterable[str] = ()) -> None:
        """Raises CheckpointImportError naming the tensors nobody took."""
        endings = tuple(ignored_constants)
        left = [*self._tensors, *(name for name in self._constants if not name.endswith(endings))]
        if left:
            raise CheckpointImportError(
                f"{self._path}: unknown tensors {', '.join(left[:6])}{', ...' if len(left) > 6 else ''}: "
                "the model may compute something else"
            )


def _shown(numbers: np.ndarray) -> str:
    flat = numbers.ravel()
    return f"{[float(x) for x in flat[:4]]}{'...' if flat.size > 4 else ''} of shape {numbers.shape}"
