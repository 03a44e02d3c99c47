"""Checkpoints: the same bits back, damage always noticed, and never a moment without a whole one."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from allegro_sim.errors import OutputError, RestartError
from allegro_sim.output import checkpoint as module
from allegro_sim.output.checkpoint import (
    Checkpoint,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    remove_checkpoints_after,
    write_checkpoint,
)


def example(step: int, cell: np.ndarray | None = None) -> Checkpoint:
    generator = np.random.default_rng(step)
    return Checkpoint(
        step=step,
        time_fs=0.1 * step,
        positions=generator.normal(size=(5, 3)) * 1e3,
        velocities=generator.normal(size=(5, 3)) * 1e-3,
        types=np.array([0, 1, 1, 0, 1], dtype=np.int32),
        type_names=("Ow", "Hw"),
        type_masses=np.array([15.999, 1.008]),
        cell=cell,
        pbc=np.array([True, False, True]),
        settings={"run": {"timestep_fs": 0.1, "seed": 2**62 + 1}, "structure": {"replicate": [1, 2, 3], "file": None}},
        model_file="models/water é.h5",
        model_sha256="ab" * 32,
        frames_written=7,
        thermo_rows_written=9,
        state={"heat": 0.1 + 0.2, "degrees_of_freedom": 12},
    )


@pytest.mark.parametrize("cell", [None, np.diag([3.0, 4.0, 5.0])])
def test_everything_reads_back_bit_for_bit(tmp_path: Path, cell) -> None:
    before = example(1000, cell)
    path = write_checkpoint(tmp_path, before)
    assert path == tmp_path / "checkpoint-000001000.h5"
    after = load_checkpoint(path)
    for item in dataclasses.fields(Checkpoint):
        old, new = getattr(before, item.name), getattr(after, item.name)
        if isinstance(old, np.ndarray):
            assert old.dtype == new.dtype
            assert old.tobytes() == new.tobytes(), item.name
        else:
            assert old == new, item.name


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 100, 99_999_999, 12_345_678_901):
        write_checkpoint(tmp_path, example(step))
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "checkpoint-12345678901.h5",
        "checkpoint-099999999.h5",
    ]
    assert len(list(tmp_path.iterdir())) == 2


def test_newest_is_found_by_step(tmp_path: Path) -> None:
    for step in (999_999_999, 1_000_000_000):
        write_checkpoint(tmp_path, example(step))
    path, found = newest_checkpoint(tmp_path, warn=pytest.fail)
    assert (path, found.step) == (checkpoint_path(tmp_path, 1_000_000_000), 1_000_000_000)


def test_plain_hdf5_programs_open_it(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, example(1))
    with h5py.File(path) as file:
        assert file["positions"].shape == (5, 3)
        assert file.attrs["step"] == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_newest_falls_back_with_a_warning(tmp_path: Path, damage: str) -> None:
    write_checkpoint(tmp_path, example(10))
    newest = write_checkpoint(tmp_path, example(20))
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        del content[len(content) * 2 // 3 :]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        content.clear()
    newest.write_bytes(content)
    warnings: list[str] = []
    _, found = newest_checkpoint(tmp_path, warn=warnings.append)
    assert found.step == 10
    assert len(warnings) == 1
    assert newest.name in warnings[0]


def test_every_truncation_and_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, example(10))
    content = path.read_bytes()
    for place in [*range(0, 512, 7), *range(512, len(content), len(content) // 50)]:
        path.write_bytes(content[:place])
        with pytest.raises(RestartError, match="checkpoint"):
            load_checkpoint(path)
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        path.write_bytes(flipped)
        with pytest.raises(RestartError, match="checkpoint"):
            load_checkpoint(path)


def test_without_a_whole_one_the_message_says_so(tmp_path: Path) -> None:
    with pytest.raises(RestartError, match="no checkpoint to restart from"):
        newest_checkpoint(tmp_path / "absent", warn=pytest.fail)
    checkpoint_path(tmp_path, 1).write_bytes(b"")
    with pytest.raises(RestartError, match="damaged"):
        newest_checkpoint(tmp_path, warn=lambda text: None)
    with pytest.raises(RestartError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.h5")


def test_a_newer_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "CHECKPOINT_VERSION", 3)
        path = write_checkpoint(tmp_path, example(1))
    with pytest.raises(RestartError, match="version 3"):
        load_checkpoint(path)


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, example(step))

    def fail(*_arguments) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(OutputError, match="No space left"):
            write_checkpoint(tmp_path, example(3))
    assert [load_checkpoint(path).step for path in list_checkpoints(tmp_path)] == [2, 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_checkpoints_after_a_step_are_removed(tmp_path: Path) -> None:
    for step in (10, 20):
        write_checkpoint(tmp_path, example(step))
    (tmp_path / "checkpoint-mine.h5").write_text("not by this program")
    remove_checkpoints_after(tmp_path, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-000000010.h5", "checkpoint-mine.h5"]
