"""Inputs with one mistake each. As a script: tries all of them on the ranks it is started on.

mpirun -n RANKS python bad_inputs.py FOLDER INPUTS RESULTS.json

RESULTS.json: case -> list of [exit code, standard error] of each rank.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Case:
    """Arguments of `allegro-sim`, and words that the message must hold."""

    arguments: list[str]
    words: list[str]


def make_cases(folder: Path, inputs: Path) -> dict[str, Case]:
    """Write the files of all cases to `folder`; `inputs`: the folder inputs/ of the project."""
    water = inputs / "water"
    good = folder / "good.toml"
    good.write_text(
        f'[model]\nfile = "{water / "water.h5"}"\n[structure]\nfile = "{water / "water-192.xyz"}"\n'
        '[run]\nsteps = 2\ndevice = "cpu"\n[velocities]\ntemperature_K = 300\n[dynamics]\nensemble = "nve"\n'
        f'[output]\ndirectory = "{folder / "out"}"\n'
    )
    cold = folder / "cold.toml"
    cold.write_text(good.read_text().replace("[velocities]\ntemperature_K = 300\n", ""))
    (folder / "broken.toml").write_text("[model\n")
    (folder / "text.h5").write_text("not HDF5 at all")
    whole = (water / "water.h5").read_bytes()
    (folder / "truncated.h5").write_bytes(whole[: len(whole) // 2])
    (folder / "nonsense.xyz").write_text("this is\nno structure\n")
    taken = folder / "taken"
    taken.mkdir(exist_ok=True)
    (taken / "thermo.csv").write_text("precious")

    def structure(name: str, symbols: str, positions: list[list[float]], header: str) -> str:
        rows = [f"{s} {x} {y} {z}" for s, (x, y, z) in zip(symbols.split(), positions, strict=True)]
        text = "\n".join([str(len(rows)), f"{header} Properties=species:S:1:pos:R:3", *rows]) + "\n"
        (folder / name).write_text(text)
        return f"structure.file={folder / name}"

    cubic, cluster = 'Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T"', 'pbc="F F F"'
    places = (np.arange(9.0).reshape(3, 3) * 0.5).tolist()

    def wrong(words: list[str], *overrides: str, flags: list[str] | None = None) -> Case:
        return Case([str(good), *(a for o in overrides for a in ("--set", o)), *(flags or [])], words)

    return {
        "missing input": Case([str(folder / "none.toml")], ["none.toml", "no such input file"]),
        "input is not TOML": Case([str(folder / "broken.toml")], ["broken.toml", "line 1"]),
        "unknown key": wrong(["run.time_step", "'timestep_fs'"], "run.time_step=1"),
        "wrong type": wrong(["run.steps", "whole number", '"many"'], "run.steps=many"),
        "negative temperature": wrong(["velocities.temperature_K", "-5"], "velocities.temperature_K=-5"),
        "missing model": wrong(["none.h5"], f"model.file={folder / 'none.h5'}"),
        "model is not HDF5": wrong(["text.h5"], f"model.file={folder / 'text.h5'}"),
        "truncated model": wrong(["truncated.h5"], f"model.file={folder / 'truncated.h5'}"),
        "missing structure": wrong(["none.xyz", "no such"], f"structure.file={folder / 'none.xyz'}"),
        "unreadable structure": wrong(["nonsense.xyz"], f"structure.file={folder / 'nonsense.xyz'}"),
        "missing frame": wrong(["water-192.xyz", "frame 7"], "structure.frame=7"),
        "no atoms": wrong(["empty.xyz", "no atoms"], structure("empty.xyz", "", [], cubic)),
        "element not in the model": wrong(
            ["salt.xyz", "Na (2 atoms)", "O, H"], structure("salt.xyz", "Na O Na", places, cubic)
        ),
        "two atoms at one place": wrong(
            ["atoms 0 and 2", "place"], structure("twice.xyz", "O H O", [places[0], places[1], places[0]], cubic)
        ),
        "two images at one place": wrong(
            ["atoms 0 and 1", "place"], structure("image.xyz", "O H", [[0, 1, 1], [9, 1, 1]], cubic)
        ),
        "position is not a number": wrong(
            ["nan.xyz", "atom 1", "H", "nan"], structure("nan.xyz", "O H", [places[0], [0.0, float("nan"), 1.0]], cubic)
        ),
        "cell of zero volume": wrong(
            ["flat.xyz", "no volume"],
            structure("flat.xyz", "O", [places[0]], 'Lattice="9 0 0 9 0 0 0 0 9" pbc="T T T"'),
        ),
        "periodic without a cell": wrong(["bare.xyz", "cell"], structure("bare.xyz", "O", [places[0]], 'pbc="T T T"')),
        "copies of a cluster": wrong(
            ["structure.replicate", "not periodic"],
            structure("cluster.xyz", "O H H", places, cluster),
            "structure.replicate=[2,1,1]",
        ),
        "map to an unknown type": wrong(["model.types.O", "Ox"], "model.types.O=Ox"),
        "mass of an unknown type": wrong(["model.masses.C", "O, H"], "model.masses.C=12.0"),
        "device that is not there": wrong(["cuda"], "run.device=cuda"),
        "no velocities": Case([str(cold)], ["velocities.temperature_K", "water-192.xyz"]),
        "output exists": wrong(["taken", "--restart", "--overwrite"], f"output.directory={taken}"),
        "output below a file": wrong(["good.toml", "directory"], f"output.directory={good / 'out'}"),
        "output not writable": wrong(["output.directory"], "output.directory=/proc/none/out"),
        "nothing to restart": wrong(["out", "no checkpoint"], flags=["--restart"]),
        "restart from no checkpoint": wrong(["text.h5"], flags=["--restart", str(folder / "text.h5")]),
        "dry run of a bad input": wrong(["run.steps"], "run.steps=-1", flags=["--dry-run"]),
    }


def run_case(case: Case) -> tuple[int, str]:
    """Exit code and standard error of `allegro-sim` with these arguments, in this process."""
    from allegro_sim.cli import main

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(case.arguments)
        except SystemExit as ended:
            code = ended.code
    return int(code or 0), errors.getvalue()


def snapshot(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def main() -> None:
    from allegro_sim.parallel.comm import world

    comm = world()
    folder, inputs, results = map(Path, sys.argv[1:])
    cases = comm.bcast(make_cases(folder, inputs) if comm.rank == 0 else None)
    outcomes = {name: comm.gather(run_case(case)) for name, case in cases.items()}
    if comm.rank == 0:
        results.write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
