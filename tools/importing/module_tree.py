"""Module trees, as nequip's packages pickle them and as TorchScript archives do, in one form."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from allegro_sim.tools.importing.unpickle import Record, Tensor, python_name

# What PyTorch adds to every module: nothing of it says what the module computes.
_BOOKKEEPING = {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
_BOOKKEEPING_MARKS = ("_hook", "_hooks", "_hooks_with_kwargs", "_hooks_always_called")
_RECOMPUTED = ("alpha", "_rtoi", "norm_const")  # tensors PyTorch does not save, by their last name
_FACTORS = {"alpha": "nequip.nn.mlp.", "scatter_factor": "allegro.", "_factor": "allegro."}  # of other versions
_MOST_MODULES, _DEEPEST = 20_000, 60


@dataclass(frozen=True)
class Module:
    """A module of PyTorch: full name below the model's top module, Python class, and what it holds.

    tensors: parameters, then buffers, by their own names. attributes: plain values. children: in order.
    """

    name: str
    kind: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    children: dict[str, Module] = field(default_factory=dict)

    def walk(self) -> Iterator[Module]:
        """This module and all below it, parents first."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def find(self, path: str) -> Module | None:
        """The module at a dotted path below this one, or None."""
        module: Module | None = self
        for part in path.split("."):
            module = module.children.get(part) if module is not None else None
        return module


def scripted_tree(record: Record) -> Module:
    """The tree of a TorchScript module. Raises UnpicklingError for one that no program writes."""
    return _scripted(record, "", [0], 0)


def pickled_tree(record: Record) -> Module:
    """The tree of a pickled torch.nn.Module. Raises UnpicklingError for one that no program writes."""
    return _pickled(record, "", [0], 0)


def state_of(module: Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name in the order of `state_dict`, and constants: what upstream computes anew and does not save."""
    state: dict[str, Tensor] = {}
    constants: dict[str, Any] = {}
    for part in module.walk():
        prefix = f"{part.name}." if part.name else ""
        for name, tensor in part.tensors.items():
            (constants if name in _RECOMPUTED else state)[prefix + name] = tensor
        for name, kind in _FACTORS.items():
            if part.kind.startswith(kind) and isinstance(part.attributes.get(name), float):
                constants[prefix + name] = part.attributes[name]
    return state, constants


def _count(counter: list[int], depth: int) -> None:
    counter[0] += 1
    if counter[0] > _MOST_MODULES or depth > _DEEPEST:
        raise pickle.UnpicklingError("a tree of modules larger than any model's")


def _scripted(record: Record, name: str, counter: list[int], depth: int) -> Module:
    _count(counter, depth)
    module = Module(name, python_name(record.qualified_name))
    for key, value in record.attributes.items():
        if isinstance(value, Record):
            below = f"{name}.{key}" if name else str(key)
            module.children[str(key)] = _scripted(value, below, counter, depth + 1)
        elif isinstance(value, Tensor):
            module.tensors[str(key)] = value
        elif not _is_bookkeeping(key):
            module.attributes[str(key)] = value
    return module


def _pickled(record: Record, name: str, counter: list[int], depth: int) -> Module:
    _count(counter, depth)
    module = Module(name, record.qualified_name)
    for group in ("_parameters", "_buffers"):
        members = record.attributes.get(group)
        for key, value in members.items() if isinstance(members, dict) else ():
            if isinstance(value, Tensor):
                module.tensors[str(key)] = value
    module.attributes.update((str(k), v) for k, v in record.attributes.items() if not _is_bookkeeping(k))
    members = record.attributes.get("_modules")
    for key, value in members.items() if isinstance(members, dict) else ():
        if isinstance(value, Record):
            below = f"{name}.{key}" if name else str(key)
            module.children[str(key)] = _pickled(value, below, counter, depth + 1)
    return module


def _is_bookkeeping(name: Any) -> bool:
    return name in _BOOKKEEPING or str(name).endswith(_BOOKKEEPING_MARKS)
