"""`allegro-tools plot`: pair distribution functions of structures with known ones; a picture of what there is."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from support import trajectories

from allegro_sim.errors import InputError
from allegro_sim.output.thermo import ThermoWriter
from allegro_sim.output.trajectory import TrajectoryWriter
from allegro_sim.output.trajectory_reader import TrajectoryReader
from allegro_sim.tools.main import main
from allegro_sim.tools.pair_distribution import PairDistributions, pair_distributions


def distributions(path: Path, frames: list[np.ndarray], types: np.ndarray, cell: np.ndarray, **options):
    writer = TrajectoryWriter.create(
        path, species=types, type_names=("A", "B"), type_symbols=("O", "H"), masses=np.ones(len(types)), cell=cell,
        pbc=[True] * 3, precision="double",
    )  # fmt: skip
    for step, positions in enumerate(frames):
        writer.append(step, float(step), positions, cell=cell, observables={})
    writer.close()
    with TrajectoryReader(path) as trajectory:
        return pair_distributions(trajectory, range(len(frames)), **options)


def neighbours(found: PairDistributions, names: tuple[str, str], density: float, least: float, most: float) -> float:
    """Atoms of the second type around one of the first, from the integral of g(r)."""
    width = found.centres[1] - found.centres[0]
    low, high = found.centres - 0.5 * width, found.centres + 0.5 * width
    chosen = (found.centres > least) & (found.centres < most)
    shells = 4.0 / 3.0 * np.pi * (high**3 - low**3)
    return float((density * found.functions[names] * shells)[chosen].sum())


def test_shells_of_rock_salt_have_their_numbers_of_atoms(tmp_path: Path) -> None:
    """Spacing 2 Å: 6 of the other kind at 2 Å, 12 of one's own at 2.83 Å, 8 of the other at 3.46 Å; exact but for the
    one atom of the centre itself that the density of one's own kind leaves out. In a turned cell, off the origin."""
    places = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    types = places.sum(axis=1) % 2
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    found = distributions(tmp_path / "t.h5md", [(2.0 * places - 31.7) @ turn], types, 8.0 * turn, width=0.1)
    volume = 8.0**3
    assert neighbours(found, ("A", "B"), 32 / volume, 1.5, 2.4) == pytest.approx(6.0)
    assert neighbours(found, ("A", "A"), 31 / volume, 2.5, 3.1) == pytest.approx(12.0)
    assert neighbours(found, ("B", "B"), 31 / volume, 2.5, 3.1) == pytest.approx(12.0)
    assert neighbours(found, ("A", "B"), 32 / volume, 3.2, 3.7) == pytest.approx(8.0)


def test_a_gas_has_one_everywhere(tmp_path: Path) -> None:
    """Two frames of 800 random atoms in a triclinic cell: above 2 Å a bin of 0.5 Å has at least 2000 pairs, so that
    10 % are more than four standard deviations."""
    cell = np.array([[14.0, 0.0, 0.0], [3.0, 13.0, 0.0], [-2.0, 4.0, 15.0]])
    rng = np.random.default_rng(3)
    frames = [rng.random((800, 3)) @ cell for _ in range(2)]
    found = distributions(tmp_path / "t.h5md", frames, np.arange(800) % 2, cell, width=0.5)
    assert found.centres[-1] < 0.5 * 15.0
    for values in found.functions.values():
        np.testing.assert_allclose(values[found.centres > 2.0], 1.0, atol=0.1)


def test_reach_beyond_half_the_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="half the least height of the cell, 4 Å"):
        distributions(tmp_path / "t.h5md", [np.zeros((2, 3))], np.zeros(2, int), 8.0 * np.eye(3), reach=4.5)


def run_directory(folder: Path, *, pbc: bool = True) -> Path:
    writer = trajectories.create(folder / "trajectory.h5md", pbc=pbc)
    csv = ThermoWriter.create(folder / "thermo.csv")
    for step in range(0, 40, 2):
        trajectories.append(writer, step)
        row = trajectories.thermo_row(step) | {"time_ps": 0.5e-3 * step}
        row |= {} if pbc else {"pressure_bar": None, "volume_A3": None}
        writer.append_thermo(row)
        csv.write(row)
    writer.close()
    csv.close()
    return folder


def size_of(picture: Path) -> tuple[int, int]:
    """Width and height of a PNG that is not of one colour."""
    pixels = matplotlib.image.imread(picture)
    assert np.ptp(pixels[..., :3]) > 0.5
    return pixels.shape[1], pixels.shape[0]


def test_a_picture_of_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trajectory adds columns of g(r); without a pressure there is a panel less."""
    folder = run_directory(tmp_path)
    pictures = {name: tmp_path / f"{name}.png" for name in ("thermo", "trajectory", "directory")}
    assert main(["plot", str(folder / "thermo.csv")]) == 0
    assert main(["plot", str(folder / "trajectory.h5md"), "--discard", "25%"]) == 0
    assert "15 rows of thermodynamics, g(r) of 15 frames" in capsys.readouterr().out
    assert main(["plot", str(folder), "-o", str(pictures["directory"])]) == 0
    sizes = {name: size_of(path) for name, path in pictures.items()}
    assert sizes["trajectory"][0] > sizes["thermo"][0]
    assert sizes["directory"] == sizes["trajectory"]
    (tmp_path / "free").mkdir()
    free = run_directory(tmp_path / "free", pbc=False)
    assert main(["plot", str(free), "-o", str(free / "out.png")]) == 0
    assert "no g(r)" in capsys.readouterr().out
    assert size_of(free / "out.png")[1] < sizes["thermo"][1]


@pytest.mark.parametrize("case", ["exists", "other ending", "reach without trajectory", "no such folder", "missing"])
def test_what_cannot_be_drawn_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    folder = run_directory(tmp_path)
    arguments, named = [str(folder / "thermo.csv")], "thermo.png"
    if case == "exists":
        (tmp_path / "thermo.png").write_text("precious")
    elif case == "other ending":
        arguments, named = [*arguments, "-o", str(tmp_path / "thermo.pdf")], "thermo.pdf"
    elif case == "reach without trajectory":
        arguments, named = [*arguments, "--r-max", "5"], "--r-max"
    elif case == "no such folder":
        arguments, named = [*arguments, "-o", str(tmp_path / "absent" / "thermo.png")], "absent"
    else:
        arguments, named = [str(tmp_path / "other.csv")], "other.csv"
    assert main(["plot", *arguments]) == 2
    assert named in capsys.readouterr().err
    assert case != "exists" or (tmp_path / "thermo.png").read_text() == "precious"


def test_a_missing_matplotlib_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", str(run_directory(tmp_path) / "thermo.csv")]) == 2
    assert 'pip install "allegro-sim[analysis]"' in capsys.readouterr().err
