"""The input file: TOML -> typed, frozen settings, by the table of `keys`."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from allegro_sim.errors import InputError
from allegro_sim.keys import INPUT_NAME, KEYS, REQUIRED, SECTIONS, Key


@dataclass(frozen=True)
class ModelSettings:
    file: Path
    types: Mapping[str, str]
    masses: Mapping[str, float]


@dataclass(frozen=True)
class StructureSettings:
    file: Path
    frame: int
    replicate: tuple[int, int, int]
    type_column: str
    lammps_types: tuple[str, ...]
    lammps_style: str
    lammps_units: str


@dataclass(frozen=True)
class MinimizeSettings:
    max_steps: int
    force_tolerance_eV_A: float
    max_move_A: float


@dataclass(frozen=True)
class RunSettings:
    steps: int
    timestep_fs: float
    seed: int
    device: str
    precision: str
    threads: int


@dataclass(frozen=True)
class GpuSettings:
    steps_ahead: int
    graphs: str
    transport: str
    images_travel: bool


@dataclass(frozen=True)
class NeighborSettings:
    skin_A: float


@dataclass(frozen=True)
class VelocitySettings:
    temperature_K: float | None


@dataclass(frozen=True)
class DynamicsSettings:
    ensemble: str
    temperature_K: float | None
    friction_per_ps: float


@dataclass(frozen=True)
class OutputSettings:
    directory: Path
    trajectory_every: int
    thermo_every: int
    checkpoint_every: int
    checkpoint_every_minutes: float
    velocities: bool
    forces: bool
    precision: str


@dataclass(frozen=True)
class GuardSettings:
    max_displacement_A: float
    max_force_eV_A: float | None
    min_distance_A: Mapping[str, float]
    min_temperature_K: float | None
    max_temperature_K: float | None
    max_energy_jump_eV: float | None
    on_displacement: str
    on_force: str
    on_distance: str
    on_temperature: str
    on_energy: str


@dataclass(frozen=True)
class Settings:
    """All settings of a run, one attribute a section; `source` is the input file."""

    source: Path
    model: ModelSettings
    structure: StructureSettings
    minimize: MinimizeSettings
    run: RunSettings
    gpu: GpuSettings
    neighbors: NeighborSettings
    velocities: VelocitySettings
    dynamics: DynamicsSettings
    output: OutputSettings
    guards: GuardSettings

    def resolved(self) -> dict[str, dict[str, Any]]:
        """Every key with its value, as plain data (paths as text, absent values as None)."""
        return {
            section: {k.name: plain_value(self._value(k)) for k in KEYS if k.section == section} for section in SECTIONS
        }

    def _value(self, key: Key) -> Any:
        return getattr(getattr(self, key.section), key.name)


_MAY_CHANGE_ON_RESTART = {key.path for key in KEYS if key.section in ("gpu", "guards", "minimize")} | {
    "model.file",  # the model's hash is compared instead
    "structure.file",  # the atoms are compared instead
    "structure.frame",
    "structure.type_column",
    "structure.lammps_types",
    "structure.lammps_style",
    "structure.lammps_units",
    "run.steps",
    "run.device",
    "run.threads",
    "neighbors.skin_A",
    "velocities.temperature_K",
    "output.directory",
    "output.trajectory_every",
    "output.thermo_every",
    "output.checkpoint_every",
    "output.checkpoint_every_minutes",
}


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Read an input file and apply `section.key=value` overrides in order.

    Raises
    ------
    InputError : the file is missing or not TOML; a key is unknown, missing, of a wrong type or out of bounds
    """
    path = Path(path)
    tree = _read_toml(path)
    for override in overrides:
        _apply_override(tree, override)
    return _build(path, tree)


def changed_on_restart(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys that must be the same in a run and its restart but differ, as "key: before -> now"."""
    differing = []
    for key in KEYS:
        old, new = (tree.get(key.section, {}).get(key.name) for tree in (before, now))
        if key.path not in _MAY_CHANGE_ON_RESTART and json.dumps(old) != json.dumps(new):
            differing.append(f"{key.path}: {json.dumps(old)} -> {json.dumps(new)}")
    return differing


def render_toml(resolved: Mapping[str, Mapping[str, Any]]) -> str:
    """The resolved settings as TOML text; keys without a value as comments."""
    lines = []
    for section, values in resolved.items():
        lines.append(f"[{section}]")
        for name, value in values.items():
            lines.append(f"# {name}: not set" if value is None else f"{name} = {toml_value(value)}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such input file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the input file cannot be read ({error})") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOML's own, a number of thousands of digits, brackets without end
        raise InputError(f"{path}: not valid TOML: {error}") from None


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in the tree; the value is TOML, and what is not TOML is a text."""
    name, equals, text = override.partition("=")
    parts = [part.strip() for part in name.split(".")]
    if not equals or len(parts) < 2 or not all(parts):
        raise InputError(f"--set {override}: expected section.key=value, for example --set run.steps=1000")
    _find_key(parts[0], parts[1], f"--set {override}")
    place: Any = tree
    for part in parts[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise InputError(f"--set {override}: {part} is a value, not a table")
    place[parts[-1]] = _parse_value(text.strip(), override)


def _parse_value(text: str, override: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError) as error:
        if text[:1] in ("[", "{", '"', "'"):
            raise InputError(f"--set {override}: the value is not valid TOML: {error}") from None
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _find_key(section: str, name: str, where: str) -> Key:
    if section not in SECTIONS:
        raise InputError(f"{where}: unknown section [{section}]{_nearest(section, SECTIONS)}")
    names = {key.name: key for key in KEYS if key.section == section}
    if name not in names:
        # A key put into the wrong section is the likeliest slip after a misspelt one.
        elsewhere = [key.section for key in KEYS if key.name == name]
        hint = f"; it belongs in [{elsewhere[0]}]" if elsewhere else _nearest(name, names)
        raise InputError(f"{where}: unknown key {name!r} in section [{section}]{hint}")
    return names[name]


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    close += [k for k in by_lower if k.split("_")[0] == word.lower().split("_")[0]]
    return f"; did you mean {by_lower[close[0]]!r}?" if close else f"; known are {', '.join(known)}"


def _build(path: Path, tree: dict[str, Any]) -> Settings:
    for section, content in tree.items():
        if section not in SECTIONS:
            belongs = [key.section for key in KEYS if key.name == section and not isinstance(content, dict)]
            hint = f"; it belongs in [{belongs[0]}]" if belongs else _nearest(section, SECTIONS)
            raise InputError(f"{path}: unknown {'section' if isinstance(content, dict) else 'key'} {section!r}{hint}")
        if not isinstance(content, dict):
            raise InputError(f"{path}: {section} must be a section, [{section}], found {_shown(content)}")
        for name in content:
            _find_key(section, name, str(path))
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key in KEYS:
        if key.name in tree.get(key.section, {}):
            value = _convert(key, tree[key.section][key.name], path)
        elif key.default is REQUIRED:
            missing = f"the section [{key.section}] is missing" if key.section not in tree else f"{key.path} is missing"
            raise InputError(f"{path}: {missing}; give [{key.section}] {key.name} = ... ({key.description})")
        else:
            value = Path(path.stem) if key.default is INPUT_NAME else key.default
        values[key.section][key.name] = value
    if values["dynamics"]["ensemble"] == "langevin" and values["dynamics"]["temperature_K"] is None:
        raise InputError(
            f"{path}: dynamics.temperature_K is missing; the ensemble langevin needs the bath's temperature"
        )
    coldest, hottest = values["guards"]["min_temperature_K"], values["guards"]["max_temperature_K"]
    if coldest is not None and hottest is not None and coldest >= hottest:
        raise InputError(
            f"{path}: guards.min_temperature_K is {coldest:g}, not below guards.max_temperature_K, {hottest:g}; "
            "no temperature lies between them"
        )
    types = get_type_hints(Settings)
    return Settings(source=path, **{section: types[section](**values[section]) for section in SECTIONS})


def _convert(key: Key, value: Any, path: Path) -> Any:
    """The value of one key, checked for type, choice and bounds."""
    where = f"{path}: {key.path}"
    if key.kind in ("names", "numbers"):
        if not isinstance(value, dict):
            example = '{ O = "Ow" }' if key.kind == "names" else "{ O = 15.999 }"
            raise InputError(f"{where} must be a table such as {example}, found {_shown(value)}")
        return {name: _scalar(key, entry, f"{where}.{_printable(name)}") for name, entry in value.items()}
    if key.kind == "list":
        if not isinstance(value, list):
            raise InputError(f'{where} must be a list of texts such as ["O", "H"], found {_shown(value)}')
        return tuple(_scalar(key, entry, where) for entry in value)
    if key.kind == "counts":
        if not isinstance(value, list) or len(value) != 3:
            raise InputError(f"{where} must be three whole numbers such as [2, 2, 2], found {_shown(value)}")
        return tuple(_scalar(key, entry, where) for entry in value)
    return _scalar(key, value, where, path.parent)


def _scalar(key: Key, value: Any, where: str, folder: Path | None = None) -> Any:
    if key.kind == "boolean":
        if not isinstance(value, bool):
            raise InputError(f"{where} must be true or false, found {_shown(value)}")
        return value
    if key.kind in ("integer", "counts"):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{where} must be a whole number, found {_shown(value)}")
        return _bounded(key, _in_64_bits(value, where), where)
    if key.kind in ("number", "numbers"):
        if isinstance(value, int):
            _in_64_bits(value, where)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{where} must be a number{f' ({key.unit})' if key.unit else ''}, found {_shown(value)}")
        return _bounded(key, float(value), where)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} must be a text, found {_shown(value)}")
    if _printable(value) != value:
        raise InputError(f"{where} must be a text without control characters, found {_shown(value)}")
    if key.choices and value not in key.choices:
        hint = difflib.get_close_matches(value.lower(), key.choices, n=1)
        known = ", ".join(f'"{choice}"' for choice in key.choices)
        raise InputError(
            f"{where} must be one of {known}, found {_shown(value)}" + (f'; did you mean "{hint[0]}"?' if hint else "")
        )
    if key.kind not in ("input path", "output path"):
        return value
    try:
        place = Path(value).expanduser()
    except RuntimeError as error:  # ~nobody
        raise InputError(f"{where} is {_shown(value)}: {error}") from None
    return (folder or Path()) / place if key.kind == "input path" else place


def _in_64_bits(value: int, where: str) -> int:
    if abs(value) >= 2**63:
        raise InputError(f"{where} must fit into 64 bits, found a number of {value.bit_length()} bits")
    return value


def _printable(text: str) -> str:
    """The text, or what stands for it where it would break a line or a terminal."""
    return text if text.isprintable() else json.dumps(text)


def _bounded(key: Key, value: float, where: str) -> float:
    unit = f" {key.unit}" if key.unit else ""
    if key.minimum is not None and value < key.minimum:
        raise InputError(f"{where} must be at least {key.minimum:g}{unit}, found {value}")
    if key.above is not None and value <= key.above:
        raise InputError(f"{where} must be greater than {key.above:g}{unit}, found {value}")
    if key.maximum is not None and value > key.maximum:
        raise InputError(f"{where} must be at most {key.maximum:g}{unit}, found {value}")
    return value


def _shown(value: Any) -> str:
    kinds = {bool: "boolean", int: "whole number", float: "number", str: "text", list: "list", dict: "table"}
    return f"the {kinds.get(type(value), type(value).__name__)} {toml_value(value) if type(value) in kinds else value}"


def plain_value(value: Any) -> Any:
    """A setting as what JSON can hold: paths as text, tuples as lists."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def toml_value(value: Any) -> str:
    """A plain value as TOML text."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
