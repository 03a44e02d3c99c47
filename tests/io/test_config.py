"""The input file: defaults, overrides, messages, and the documentation made from the same table."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from allegro_sim.config import Settings, changed_on_restart, load_settings, render_toml
from allegro_sim.errors import InputError
from allegro_sim.keys import KEYS, SECTIONS
from allegro_sim.tools.input_reference import insert_tables

MINIMAL = '[model]\nfile = "m.h5"\n[structure]\nfile = "s.xyz"\n[run]\nsteps = 10\n'


@pytest.fixture
def load(tmp_path: Path):
    def function(text: str = MINIMAL, *overrides: str) -> Settings:
        path = tmp_path / "job.toml"
        path.write_text(text, encoding="utf-8")
        return load_settings(path, overrides)

    return function


def test_every_key_of_the_table_is_an_attribute_and_the_other_way_round(load) -> None:
    settings = load()
    for section in SECTIONS:
        names = {field.name for field in dataclasses.fields(getattr(settings, section))}
        assert names == {key.name for key in KEYS if key.section == section}


def test_defaults_fill_what_is_left_out(load) -> None:
    settings = load()
    for key in KEYS:
        if isinstance(key.default, int | float | str | bool | tuple | dict):
            assert getattr(getattr(settings, key.section), key.name) == key.default


def test_defaults_lie_within_their_own_bounds(load) -> None:
    resolved = load().resolved()
    for key in KEYS:
        value = resolved[key.section][key.name]
        if isinstance(value, int | float) and not isinstance(value, bool) and key.name != "frame":
            assert key.minimum is None or value >= key.minimum
            assert key.above is None or value > key.above


def test_input_paths_are_relative_to_the_file_and_outputs_to_the_current_directory(load, tmp_path: Path) -> None:
    settings = load()
    assert settings.model.file == tmp_path / "m.h5"
    assert settings.structure.file == tmp_path / "s.xyz"
    assert settings.output.directory == Path("job")
    assert load(MINIMAL, "model.file=/abs/m.h5").model.file == Path("/abs/m.h5")


def test_settings_are_frozen(load) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().run.steps = 3


def test_overrides_apply_in_order_and_are_toml_or_a_bare_word(load) -> None:
    settings = load(
        MINIMAL,
        "run.steps=20",
        "run.steps=30",
        "run.device=cpu",
        'structure.file="other file.xyz"',
        "structure.replicate=[1, 2, 3]",
        "model.types.O=Ow",
        "output.velocities=true",
        "run.timestep_fs=1",
        "output.directory=runs/a.b",
    )
    assert settings.run.steps == 30
    assert settings.run.device == "cpu"
    assert settings.structure.file.name == "other file.xyz"
    assert settings.structure.replicate == (1, 2, 3)
    assert settings.model.types == {"O": "Ow"}
    assert settings.output.velocities is True
    assert settings.run.timestep_fs == 1.0 and isinstance(settings.run.timestep_fs, float)
    assert settings.output.directory == Path("runs/a.b")


def test_resolved_settings_read_back_as_the_same(load, tmp_path: Path) -> None:
    settings = load(MINIMAL, "model.masses.H=2.014", "velocities.temperature_K=300", "structure.replicate=[2,1,1]")
    tree = tomllib.loads(render_toml(settings.resolved()))
    for section, values in settings.resolved().items():
        assert tree[section] == {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.step=5", ["run", "'step'", "'steps'"]),
        ("run.timestep=5", ["'timestep'", "'timestep_fs'"]),
        ("neighbors.skin=5", ["'skin'", "'skin_A'"]),
        ("rum.steps=5", ["[rum]", "'run'"]),
        ("run.ensemble=nve", ["'ensemble'", "[dynamics]"]),
        ("steps=5", ["section.key=value"]),
        ("run.steps", ["section.key=value"]),
        ("run.steps=five", ["run.steps", "whole number", '"five"']),
        ("run.steps=1.5", ["run.steps", "whole number", "1.5"]),
        ("run.steps=true", ["run.steps", "whole number", "true"]),
        ("run.steps=-1", ["run.steps", "at least 0", "-1"]),
        ("run.steps=99999999999999999999", ["run.steps", "64 bits"]),
        ("run.timestep_fs=0", ["run.timestep_fs", "greater than 0 fs"]),
        ("run.timestep_fs=nan", ["run.timestep_fs", "number (fs)"]),
        ("run.timestep_fs=inf", ["run.timestep_fs", "number (fs)"]),
        ("run.device=gpu", ["run.device", '"auto", "cpu", "cuda"', '"gpu"']),
        ("run.precision=Double", ["run.precision", 'did you mean "double"']),
        ("velocities.temperature_K=-300", ["velocities.temperature_K", "at least 0 K", "-300"]),
        ("dynamics.ensemble=langevin", ["dynamics.temperature_K is missing"]),
        ("structure.replicate=[2,2]", ["structure.replicate", "three whole numbers", "[2, 2]"]),
        ("structure.replicate=[2,2,0]", ["structure.replicate", "at least 1"]),
        ("structure.replicate=2", ["structure.replicate", "three whole numbers"]),
        ("structure.replicate=[2,2", ["--set structure.replicate=[2,2", "not valid TOML"]),
        ("model.types=O", ["model.types", "table such as"]),
        ("model.types.O=3", ["model.types.O", "text"]),
        ("model.masses.O=-3", ["model.masses.O", "greater than 0"]),
        ("model.file=''", ["model.file", "text"]),
        ("output.forces=1", ["output.forces", "true or false"]),
        ("output.forces.x=1", ["output.forces", "true or false"]),
    ],
)
def test_wrong_override_is_named_with_what_to_do(load, override: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load(MINIMAL, override)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["[model] is missing"]),
        ('[model]\nfile = "m.h5"\n[structure]\nfile = "s.xyz"\n', ["[run] is missing", "steps"]),
        ('[model]\n[structure]\nfile = "s.xyz"\n[run]\nsteps = 1\n', ["model.file is missing"]),
        (MINIMAL + "[outptu]\n", ["'outptu'", "'output'"]),
        (MINIMAL + "[guards]\nskin_A = 1\n", ["'skin_A'", "[neighbors]"]),
        ("steps = 3\n" + MINIMAL, ["'steps'", "[run]"]),
        ("model = 3\n", ["[model]", "whole number 3"]),
        (MINIMAL + "steps = \n", ["not valid TOML", "line 7"]),
        (MINIMAL + "steps = 4\n", ["not valid TOML", "line 7"]),
    ],
)
def test_wrong_file_is_named_with_what_to_do(load, text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load(text)
    assert all(word in str(caught.value) for word in [*words, "job.toml"]), str(caught.value)


def test_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.toml: there is no such input file"):
        load_settings(tmp_path / "nothing.toml")
    with pytest.raises(InputError, match="cannot be read"):
        load_settings(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary.toml.*cannot be read"):
        load_settings(tmp_path / "binary.toml")


def test_restart_may_change_length_and_intervals_only(load) -> None:
    before = load().resolved()
    assert changed_on_restart(before, load(MINIMAL, "run.steps=99", "output.thermo_every=3").resolved()) == []
    changed = changed_on_restart(before, load(MINIMAL, "run.timestep_fs=0.25", "run.seed=8").resolved())
    assert changed == ["run.timestep_fs: 0.5 -> 0.25", "run.seed: 0 -> 8"]


def test_documentation_holds_the_table_as_it_is(repository: Path) -> None:
    """Made again by `python tools/input_reference.py`."""
    document = (repository / "docs" / "input.md").read_text(encoding="utf-8")
    assert document == insert_tables(document)
    assert all(f"| `{key.name}` |" in document for key in KEYS)


def test_bundled_inputs_are_valid(inputs: Path) -> None:
    files = sorted(inputs.glob("*/*.toml"))
    assert files
    for path in files:
        settings = load_settings(path)
        assert settings.structure.file.exists()
        assert path.read_text(encoding="utf-8").startswith("#")
