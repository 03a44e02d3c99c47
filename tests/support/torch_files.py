"""PyTorch's files written without PyTorch: pickles that name its functions, and archives with storages beside them."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.tools.importing.archive import Archive
from allegro_sim.tools.importing.unpickle import Record, Tensor, load_inert

_STORAGES = {"f8": "DoubleStorage", "f4": "FloatStorage", "i8": "LongStorage", "?": "BoolStorage"}


@dataclass(frozen=True)
class Named:
    """A function or class by its name in Python; nothing of that name needs to exist."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """The result of calling `function` with `arguments`; with `state`, an object that is given that state."""

    function: Named
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclass
class _Storages:
    """Numbers that a pickle refers to, to be written as entries of the archive."""

    arrays: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class _Reference:
    content: tuple[Any, ...]


def module(kind: str, **members: Any) -> Call:
    """A torch.nn.Module of the class `kind` (module.Class), as torch.package pickles it.

    Arrays are parameters; other `Call`s are submodules; anything else is an attribute.
    """
    state: dict[str, Any] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    for name, value in members.items():
        group = "_parameters" if isinstance(value, np.ndarray) else "_modules" if isinstance(value, Call) else None
        (state if group is None else state[group])[name] = value
    package, _, name = kind.rpartition(".")
    return Call(Named(package, name), (), state)


_Pickler: Any = vars(pickle)["_Pickler"]  # the one in Python can be extended


class _Writer(_Pickler):
    def __init__(self, file: io.BytesIO, storages: _Storages) -> None:
        super().__init__(file, protocol=2)
        self._storages = storages

    def persistent_id(self, found: Any) -> Any:
        return found.content if isinstance(found, _Reference) else None

    def save(self, found: Any, save_persistent_id: bool = True) -> None:
        if isinstance(found, Named):
            self.write(f"c{found.module}\n{found.name}\n".encode())
        elif isinstance(found, Call) and id(found) in self.memo:
            self.write(self.get(self.memo[id(found)][0]))
        elif isinstance(found, Call):
            self.save(found.function)
            self.save(found.arguments)
            self.write(pickle.NEWOBJ if found.state is not None else pickle.REDUCE)
            if found.state is not None:
                self.save(found.state)
                self.write(pickle.BUILD)
            self.memoize(found)
        elif isinstance(found, np.ndarray):
            self.save(self._tensor(found))
        else:
            super().save(found, save_persistent_id)

    def _tensor(self, array: np.ndarray) -> Call:
        code = "?" if array.dtype.kind == "b" else f"{array.dtype.kind}{array.dtype.itemsize}"
        key = str(len(self._storages.arrays))
        self._storages.arrays.append(array)
        strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
        storage = ("storage", Named("torch", _STORAGES[code]), key, "cpu", array.size)
        hooks = Call(Named("collections", "OrderedDict"))
        arguments = (_Reference(storage), 0, array.shape, strides[: array.ndim], False, hooks)
        return Call(Named("torch._utils", "_rebuild_tensor_v2"), arguments)


def pickled(found: Any) -> tuple[bytes, list[np.ndarray]]:
    """A pickle of plain containers, arrays, `Named` and `Call`, and the arrays of its storages."""
    file, storages = io.BytesIO(), _Storages()
    _Writer(file, storages).dump(found)
    return file.getvalue(), storages.arrays


def read_saved(path: Path) -> Any:
    """What a file of torch.save holds, its tensors as arrays: to be changed and written again with `write_saved`."""
    return _plain(load_inert(Archive(path), "data.pkl", "data/{}")[0])


def read_scripted(path: Path) -> tuple[Call, dict[str, str]]:
    """The tree of modules of a TorchScript archive and its texts, to be changed and written with `write_scripted`."""
    archive = Archive(path)
    texts = {name.removeprefix("extra/"): archive.read(name).decode() for name in archive.names() if "extra/" in name}
    return _plain(load_inert(archive, "data.pkl", "data/{}")[0]), texts


def _plain(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.numpy()
    if isinstance(found, Record):
        return Call(Named(*found.qualified_name.rsplit(".", 1)), found.arguments, _plain(found.attributes))
    if isinstance(found, dict):
        return {key: _plain(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return type(found)(_plain(value) for value in found)
    return found


def write_saved(path: Path, found: Any) -> Path:
    """A file as torch.save writes it."""
    return _write(path, "archive/", {}, "data.pkl", "data/{}", found)


def write_scripted(path: Path, found: Any, texts: Mapping[str, str]) -> Path:
    """A TorchScript archive without code; `texts` lie in extra/."""
    entries = {f"extra/{name}": text.encode() for name, text in texts.items()} | {"constants.pkl": b"\x80\x02)."}
    return _write(path, "model/", entries, "data.pkl", "data/{}", found)


def write_package(path: Path, found: Any, config: str, versions: str) -> Path:
    """A package as `nequip-package` writes it, without source text."""
    entries = {
        ".data/version": b"6\n",
        "model/config.yaml": config.encode(),
        "model/package_metadata.txt": versions.encode(),
    }
    return _write(path, "package/", entries, "model/eager_model.pkl", ".data/{}.storage", found)


def _write(path: Path, prefix: str, entries: Mapping[str, bytes], name: str, storage: str, found: Any) -> Path:
    data, arrays = pickled(found)
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in {**entries, name: data, "version": b"3\n"}.items():
            archive.writestr(prefix + entry, content)
        for key, array in enumerate(arrays):
            archive.writestr(prefix + storage.format(key), np.ascontiguousarray(array).tobytes())
    return path


def scripted(kind: str, **members: Any) -> Call:
    """A TorchScript module of the class `kind`: tensors, submodules and attributes in one."""
    package, _, name = f"__torch__.{kind}".rpartition(".")
    return Call(Named(package, name), (), {"training": False, **members})
