"""Damaged and senseless files: refused with one message and exit code 2, or read as exactly what they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings
from support import trajectories
from support.survival import write_input

from allegro_sim.config import KEYS, Settings, load_settings
from allegro_sim.errors import InputError, ModelFileError, OutputError, RestartError
from allegro_sim.model.consistency import named_arrays
from allegro_sim.model.weight_file import load_model
from allegro_sim.output.checkpoint import list_checkpoints, load_checkpoint
from allegro_sim.output.trajectory_reader import TrajectoryReader

PLACES = 50


@pytest.fixture
def program(run_program: Callable, tmp_path: Path, repository: Path) -> Callable[..., tuple[int, str]]:
    """program(*arguments) -> exit code, standard error, in a folder with an input file."""
    write_input(tmp_path, repository, steps=1)

    def run(*arguments: str) -> tuple[int, str]:
        code, _, errors = run_program(*arguments)
        return code, errors

    return run


def check_refusal(what: object, code: int, message: str) -> None:
    assert code == 2, (what, code, message)
    assert message.startswith("allegro-sim: ") and message.count("\n") == 1, (what, message)


GOOD = """
[model]
file = "water.h5"
masses = { H = 2.014 }
[structure]
file = "water.xyz"
replicate = [1, 2, 1]
[run]
steps = 10
timestep_fs = 0.5
[dynamics]
ensemble = "langevin"
temperature_K = 300.0
[output]
directory = "out"
velocities = true
"""

edits = st.lists(
    st.tuples(
        st.integers(0, len(GOOD)),
        st.integers(0, 12),
        st.one_of(
            st.binary(max_size=6),
            st.sampled_from(
                [b"[", b"]]", b"{", b'"', b"'''", b"=", b"\n", b"-", b"1e999", b"nan", b"\\u0000", b"1979-05-27"]
            ),
        ),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=400)
@given(edits)
@example([(0, 0, b"a = " + b"[" * 5000)])
@example([(0, 0, b"a." * 5000 + b"b = 1\n")])
@example([(GOOD.index("10"), 2, b"9" * 5000)])
@example([(GOOD.index("10"), 2, b"0x" + b"f" * 5000)])
@example([(GOOD.index("out"), 3, b"\\u0000")])
@example([(GOOD.index("out"), 3, b"~nobody/at/home")])
@example([(0, 0, b"\xef\xbb\xbf")])
def test_any_change_of_the_input_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, changes) -> None:
    content = GOOD.encode()
    for place, length, inserted in changes:
        content = content[:place] + inserted + content[place + length :]
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(content)
    try:
        assert isinstance(load_settings(path), Settings)
    except InputError as error:
        assert "fuzz.toml" in str(error) and "\n" not in str(error), error


VALUES = [
    "0",
    "-1",
    "1e308",
    "1e-308",
    "9223372036854775807",
    "true",
    "''",
    "'x'",
    "'\\u0000'",
    "'~nobody/x'",
    "[]",
    "{}",
]
VALUES += [
    "[0, 0, 0]",
    "[1000000, 1000000, 1000000]",
    "[9223372036854775807, 1, 1]",
    f"'{'n' * 5000}'",
    "nan",
    "1979-05-27",
]


def test_any_value_of_any_key_is_taken_or_refused(program, tmp_path: Path) -> None:
    for key in KEYS:
        for value in VALUES:
            code, message = program("input.toml", "--dry-run", "--set", f"{key.path}={value}")
            if code:
                check_refusal((key.path, value), code, message)
    assert [path.name for path in tmp_path.iterdir()] == ["input.toml"]


def damaged(content: bytes):
    """Truncated, and with one bit flipped, at each fiftieth of the length."""
    generator = np.random.default_rng(0)
    for part in range(PLACES):
        place = part * len(content) // PLACES
        yield f"cut at {place}", content[:place]
        flipped = bytearray(content)
        place = int(generator.integers(place, (part + 1) * len(content) // PLACES))
        flipped[place] ^= 1 << int(generator.integers(8))
        yield f"flipped at {place}", bytes(flipped)


def test_a_damaged_model_is_refused_or_the_same(program, tmp_path: Path, inputs: Path) -> None:
    content = (inputs / "water" / "water.h5").read_bytes()
    whole = [array.tobytes() for _, array, _ in named_arrays(load_model(inputs / "water" / "water.h5"))]
    path = tmp_path / "model.h5"
    refused = 0
    for what, bytes_of_it in damaged(content):
        path.write_bytes(bytes_of_it)
        try:
            model = load_model(path)
        except ModelFileError as error:
            refused += 1
            assert str(path) in str(error)
            if refused % 5 == 0:
                check_refusal(what, *program("input.toml", "--dry-run", "--set", f"model.file={path}"))
        else:
            assert [array.tobytes() for _, array, _ in named_arrays(model)] == whole, what
    assert refused >= PLACES


def test_a_damaged_checkpoint_is_refused(program, tmp_path: Path) -> None:
    assert program("input.toml")[0] == 0
    path = list_checkpoints(tmp_path / "out")[0]
    content = path.read_bytes()
    copy = tmp_path / "checkpoint.h5"
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    for number, (what, bytes_of_it) in enumerate(damaged(content)):
        copy.write_bytes(bytes_of_it)
        with pytest.raises(RestartError, match="checkpoint"):
            load_checkpoint(copy)
        if number % 5 == 0:
            check_refusal(what, *program("input.toml", "--restart", str(copy), "--set", "run.steps=2"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    assert program("input.toml", "--restart", str(path), "--set", "run.steps=2")[0] == 0


def test_a_damaged_trajectory_is_refused_or_continued_to_the_right_end(program, tmp_path: Path) -> None:
    """A restart reads no frames and no checksums; what it counts and where it goes on must hold all the same."""
    assert program("input.toml")[0] == 0
    path = tmp_path / "out" / "trajectory.h5md"
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for what, bytes_of_it in damaged(files[path.name]):
        for name, content in files.items():
            (tmp_path / "out" / name).write_bytes(content)
        path.write_bytes(bytes_of_it)
        code, message = program("input.toml", "--restart", "--set", "run.steps=2")
        if code:
            check_refusal(what, code, message)
            assert path.name in message
        newest = load_checkpoint(list_checkpoints(tmp_path / "out")[0])
        assert newest.step == (1 if code else 2), what


def test_a_damaged_trajectory_gives_its_frames_or_says_which_it_cannot(tmp_path: Path) -> None:
    """Positions, velocities and forces are what was written, or refused: each truncation, and each flipped bit."""
    path = tmp_path / "whole.h5md"
    writer = trajectories.create(path, with_velocities=True, with_forces=True)
    for step in range(40):
        trajectories.append(writer, step)
    writer.close()
    copy, refused = tmp_path / "copy.h5md", 0
    for what, content in damaged(path.read_bytes()):
        copy.write_bytes(content)
        try:
            with TrajectoryReader(copy) as trajectory:
                for index in range(len(trajectory)):
                    try:
                        frame = trajectory.frame(index)
                    except OutputError as error:
                        refused += 1
                        assert f"copy.h5md: frame {index}" in str(error), what
                    else:
                        assert (frame.positions == trajectories.positions_at(index)).all(), what
                        assert (frame.velocities == np.float32(trajectories.velocities_at(index))).all(), what
        except OutputError as error:
            refused += 1
            assert "copy.h5md" in str(error), what
    assert refused >= PLACES
