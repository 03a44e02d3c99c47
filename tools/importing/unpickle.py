"""Reading pickles of PyTorch as inert data: no code named in a file ever runs.

A pickle names functions and classes and asks for them to be called. Here the few names in `_CONSTRUCTORS` give
functions of this module that only collect data; every other name gives a subclass of `Record`, which keeps what it is
handed and does nothing. Tensors stay references into the archive until `Tensor.numpy` is called.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.archive import Archive

_STORAGE_TYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_EXPECTED_MODULES = {"torch", "nequip", "allegro", "e3nn", "lightning", "pytorch_lightning", "collections", "omegaconf",
                     "torch_runstats", "opt_einsum_fx"}  # fmt: skip
_COMPILED_MARKS = re.compile(r"(?:^|(?<=\.))(?:___torch_mangle_\d+|_torch_package_\d+_)\.")
_EXPECTED_BUILTINS = {"set", "frozenset", "list", "tuple", "dict", "int", "float", "bool", "str", "complex", "slice"}


class Record:
    """An object of a class this program does not know: its construction arguments and its state, as they were found."""

    qualified_name = ""  # "module.name", set on each subclass
    arguments: tuple[Any, ...]
    attributes: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        self = object.__new__(cls)
        self.arguments = args
        self.attributes = {}
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.attributes.update(part)

    def __call__(self, *args: Any, **kwargs: Any) -> Record:
        return Record()

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...

    def update(self, values: Any) -> None: ...


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the archive: entry name, dtype ("bfloat16" or a NumPy code), number of elements."""

    archive: Archive
    entry: str
    dtype: str
    count: int

    def __setstate__(self, state: Any) -> None: ...  # nothing in a pickle may change it

    def view(self) -> np.ndarray:
        """All numbers, one-dimensional, in the file's byte order, not to be written to; bfloat16 as float32.

        Raises CheckpointImportError where they are missing or damaged.
        """
        code = "u2" if self.dtype == "bfloat16" else self.dtype
        dtype = np.dtype(code).newbyteorder(">" if self.archive.big_endian else "<")
        data = self.archive.read(self.entry)
        if len(data) < self.count * dtype.itemsize:
            raise self.archive.damaged(
                f"the entry {self.entry} has {len(data)} bytes, {self.count} numbers of {dtype.itemsize} bytes expected"
            )
        numbers = np.frombuffer(data, dtype, self.count)
        if self.dtype == "bfloat16":  # the upper half of a float32
            return (numbers.astype(np.uint32) << 16).view(np.float32)
        return numbers


@dataclass(frozen=True)
class Tensor:
    """A view of a storage: `shape`, `strides` and `offset` counted in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, state: Any) -> None: ...  # nothing in a pickle may change it

    @property
    def dtype(self) -> str:
        """ "bfloat16" or a NumPy code."""
        return self.storage.dtype

    def numpy(self, dtype: type[np.floating] | None = None) -> np.ndarray:
        """A copy of the numbers, in C order, converted to `dtype` where they are floating-point numbers.

        Raises CheckpointImportError where they are missing or damaged.
        """
        if math.prod(self.shape) > self.storage.count:
            raise self.storage.archive.damaged(f"a tensor of shape {self.shape} is larger than its storage")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if min(self.shape, default=1) > 0 and last >= self.storage.count:
            raise self.storage.archive.damaged(f"a tensor of shape {self.shape} reaches beyond its storage")
        numbers = self.storage.view()
        native = numbers.dtype.newbyteorder("=") if dtype is None or numbers.dtype.kind != "f" else np.dtype(dtype)
        if min(self.shape, default=1) == 0:
            return np.empty(self.shape, native)
        strides = tuple(stride * numbers.itemsize for stride in self.strides)
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides, writeable=False)
        return np.array(view, native, order="C")


class _Dict(dict):
    """Stands for collections.OrderedDict; the attributes PyTorch attaches to a state dict are dropped."""

    def __init__(self, pairs: Any = ()) -> None:
        super().__init__(pairs if isinstance(pairs, (list, tuple, dict)) else ())

    def __setstate__(self, state: Any) -> None: ...


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)."""
    sizes = (*shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (-1,)
    if not isinstance(storage, Storage) or not all(map(_is_index, (offset, *sizes))) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor with a malformed storage, shape or stride")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    """torch._utils._rebuild_parameter(data, requires_grad, hooks)."""
    return tensor


def _first(value: Any = None, *_: Any) -> Any:
    """torch.jit._pickle.restore_type_tag(value, type) and build_intlist(values): the value itself."""
    return value


def _set(items: Any = ()) -> Any:
    """A set is kept as the list of its members: they need not be hashable."""
    return items


def _size(shape: Any = ()) -> tuple:
    return tuple(shape) if isinstance(shape, (list, tuple)) else ()


@dataclass(frozen=True)
class _StorageType:
    name: str

    def __setstate__(self, state: Any) -> None: ...


class _Constructor:
    """A function a pickle may call, and do nothing else with."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function with a state")


_CONSTRUCTORS = {
    ("collections", "OrderedDict"): _Constructor(_Dict),
    ("torch._utils", "_rebuild_tensor_v2"): _Constructor(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Constructor(_rebuild_parameter),
    ("torch", "Size"): _Constructor(_size),
    # TorchScript archives (PyTorch source, torch/jit/_pickle.py): containers with the text of their type.
    ("torch.jit._pickle", "restore_type_tag"): _Constructor(_first),
    ("torch.jit._pickle", "build_intlist"): _Constructor(_first),
    ("torch.jit._pickle", "build_doublelist"): _Constructor(_first),
    ("torch.jit._pickle", "build_boollist"): _Constructor(_first),
    ("torch.jit._pickle", "build_tensorlist"): _Constructor(_first),
    ("builtins", "set"): _Constructor(_set),
    ("builtins", "frozenset"): _Constructor(_set),
}


class _InertUnpickler(pickle.Unpickler):
    def __init__(self, archive: Archive, data: bytes, storage_entry: str) -> None:
        super().__init__(io.BytesIO(data))
        self._archive = archive
        self._storage_entry = storage_entry
        self.names: dict[str, type[Record]] = {}

    def find_class(self, module: str, name: str) -> Any:
        constructor = _CONSTRUCTORS.get((module, name))
        if constructor is not None:
            return constructor
        if module == "torch" and name in _STORAGE_TYPES:
            return _StorageType(name)
        full = f"{module}.{name}"
        if full not in self.names:
            self.names[full] = type("Record", (Record,), {"qualified_name": full})
        return self.names[full]

    def persistent_load(self, reference: Any) -> Any:
        """References to storages: ("storage", type, key, location, number of elements). Others are kept as None."""
        if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"):
            return None
        _, kind, key, _, count = reference[:5]
        if not isinstance(kind, _StorageType) or not (isinstance(key, str) or _is_index(key)) or not _is_index(count):
            return None
        return Storage(self._archive, self._storage_entry.format(key), _STORAGE_TYPES[kind.name], count)


def load_inert(archive: Archive, entry: str, storage_entry: str) -> tuple[Any, tuple[str, ...]]:
    """The object pickled in `entry` as plain containers, `Tensor` and `Record`; nothing named in it is run.

    storage_entry: pattern of the storages' entries, such as "data/{}".
    Returns the object and the names in the pickle that no checkpoint of nequip needs (empty for an honest file).
    Raises CheckpointImportError when the pickle is damaged.
    """
    data = archive.read(entry)
    unpickler = _InertUnpickler(archive, data, storage_entry)
    try:
        _check_opcodes(data)
        loaded = unpickler.load()
    except CheckpointImportError:
        raise
    except Exception as error:  # whatever a malformed pickle provokes in the C unpickler
        names = foreign_note(_foreign(unpickler))
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise archive.damaged(f"the pickle {entry} cannot be read ({reason}). {names}") from error
    return loaded, _foreign(unpickler)


def foreign_note(names: tuple[str, ...]) -> str:
    """A sentence about names that no checkpoint needs; empty where there are none."""
    return f"It names {', '.join(names)}, which no checkpoint needs; nothing of that was run. " if names else ""


def _foreign(unpickler: _InertUnpickler) -> tuple[str, ...]:
    return tuple(sorted(name for name in unpickler.names if not _expected(name)))


def _check_opcodes(data: bytes) -> None:
    """Refuse what would make the unpickler take memory far beyond the size of the pickle. Raises UnpicklingError."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(data):
            raise pickle.UnpicklingError(f"memo index {argument}")
        if opcode.name in ("BYTEARRAY8", "NEXT_BUFFER"):
            raise pickle.UnpicklingError(f"opcode {opcode.name}, which PyTorch does not write")


def python_name(name: str) -> str:
    """The name in Python of a class compiled by TorchScript.

    PyTorch puts "__torch__." before it, and marks in it: of classes with the same name, and of classes that came from a
    torch.package ("_torch_package_0_": models compiled from a .nequip.zip).
    """
    return _COMPILED_MARKS.sub("", name.removeprefix("__torch__."))


def _expected(name: str) -> bool:
    top, _, rest = python_name(name).partition(".")
    return top in _EXPECTED_MODULES or (top in ("builtins", "__builtin__") and rest in _EXPECTED_BUILTINS)
