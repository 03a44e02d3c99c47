"""Inputs with one mistake each. As a script: tries them on the ranks it is started on.

mpirun -n RANKS python bad_inputs.py FOLDER INPUTS RESULTS.json EVERY

Of the cases of each area, every EVERY-th is tried; 1: all. RESULTS.json: case -> list of [exit code, standard error,
seconds] of each rank.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import h5py
import numpy as np

from allegro_sim.config import load_settings
from allegro_sim.output.lock import RunLock
from allegro_sim.parallel.comm import SerialComm, world
from allegro_sim.simulation import Simulation


@dataclass(frozen=True)
class Case:
    """Arguments of `allegro-sim`, and words that the message must hold."""

    arguments: list[str]
    words: list[str]


LAMMPS = """\
two atoms

2 atoms
2 atom types
0 9 xlo xhi
0 9 ylo yhi
0 9 zlo zhi

Atoms # atomic

1 1 0 0 0
2 2 1 0 0
"""


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def _write_other_model(source: Path, target: Path) -> None:
    """The same model, with other content of the file."""
    shutil.copyfile(source, target)
    with h5py.File(target, "r+") as file:
        file.attrs["remark"] = "of another day"


def _make_run(good: Path, directory: Path) -> tuple[Path, Path]:
    """The output of a run of one step, and its newest checkpoint."""
    if not directory.exists():
        overrides = [f"output.directory={directory}", "run.steps=1", "run.threads=1", "output.trajectory_every=1"]
        with contextlib.redirect_stdout(io.StringIO()):
            Simulation(load_settings(good, overrides), SerialComm()).run()
    return directory, directory / "checkpoint-000000001.h5"


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
    (folder / "empty.toml").write_text("")
    (folder / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (folder / "empty.h5").write_bytes(b"")
    (folder / "flipped.h5").write_bytes(_flipped(whole, len(whole) // 2))
    _write_other_model(water / "water.h5", folder / "other.h5")
    (folder / "a.data").write_text(LAMMPS)
    (folder / "cut.pdb").write_text("ATOM      1  OW  HOH A   1       0.000   0.0\n")
    (folder / "fast.xyz").write_text(
        '2\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:velocity_A_fs:R:3\n'
        "O 0 0 0 0 0 0\nH 1 0 0 0 nan 0\n"
    )
    ran, newest = _make_run(good, folder / "ran")
    (folder / "cut.h5").write_bytes(newest.read_bytes()[:5000])
    trajectory = (ran / "trajectory.h5md").read_bytes()
    (folder / "torn.h5md").write_bytes(trajectory[: len(trajectory) // 3])
    damaged, no_thermo, cut_thermo, foreign_thermo, no_trajectory, torn = (
        shutil.copytree(ran, folder / name, dirs_exist_ok=True)
        for name in ("damaged", "no-thermo", "cut-thermo", "foreign-thermo", "no-trajectory", "torn")
    )
    for checkpoint in damaged.glob("checkpoint-*.h5"):
        content = checkpoint.read_bytes()
        checkpoint.write_bytes(_flipped(content, len(content) - 100))
    (no_thermo / "thermo.csv").unlink()
    (cut_thermo / "thermo.csv").write_text((ran / "thermo.csv").read_text().rsplit("\n", 2)[0] + "\n")
    (foreign_thermo / "thermo.csv").write_text("time,energy\n0,1\n")
    (no_trajectory / "trajectory.h5md").unlink()
    (torn / "trajectory.h5md").write_bytes(trajectory[: len(trajectory) // 3])
    locked = folder / "locked"
    locked.mkdir(exist_ok=True)
    if not (locked / "run.lock").exists():
        RunLock.acquire(locked)  # by this process, which is alive
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

    settings = {
        "missing input": Case([str(folder / "none.toml")], ["none.toml", "no such input file"]),
        "input is a folder": Case([str(folder)], [folder.name, "cannot be read"]),
        "input is not text": Case([str(folder / "binary.toml")], ["binary.toml", "cannot be read"]),
        "input is not TOML": Case([str(folder / "broken.toml")], ["broken.toml", "line 1"]),
        "empty input": Case([str(folder / "empty.toml")], ["empty.toml", "[model] is missing"]),
        "unknown section": wrong(["[guard]", "'guards'"], "guard.max_force_eV_A=1"),
        "unknown key": wrong(["run.time_step", "'timestep_fs'"], "run.time_step=1"),
        "key of another section": wrong(["'skin_A'", "[neighbors]"], "run.skin_A=1"),
        "override without a value": wrong(["run.steps", "section.key=value"], "run.steps"),
        "override that is not TOML": wrong(["structure.replicate", "not valid TOML"], "structure.replicate=[1,1"),
        "wrong type": wrong(["run.steps", "whole number", '"many"'], "run.steps=many"),
        "steps with a fraction": wrong(["run.steps", "whole number", "2.5"], "run.steps=2.5"),
        "number for a switch": wrong(["output.forces", "true or false"], "output.forces=1"),
        "negative seed": wrong(["run.seed", "at least 0"], "run.seed=-1"),
        "no time step": wrong(["run.timestep_fs", "greater than 0 fs"], "run.timestep_fs=0"),
        "infinite time step": wrong(["run.timestep_fs", "number (fs)"], "run.timestep_fs=inf"),
        "negative threads": wrong(["run.threads", "at least 0"], "run.threads=-2"),
        "unknown precision": wrong(["run.precision", '"single"', '"singel"'], "run.precision=singel"),
        "device that is not there": wrong(["cuda"], "run.device=cuda"),
        "negative skin": wrong(["neighbors.skin_A", "at least 0"], "neighbors.skin_A=-0.5"),
        "negative temperature": wrong(["velocities.temperature_K", "-5"], "velocities.temperature_K=-5"),
        "bath without a temperature": wrong(["dynamics.temperature_K", "langevin"], "dynamics.ensemble=langevin"),
        "unknown ensemble": wrong(["dynamics.ensemble", '"nve"', '"npt"'], "dynamics.ensemble=npt"),
        "negative friction": wrong(["dynamics.friction_per_ps", "at least 0"], "dynamics.friction_per_ps=-1"),
        "negative interval": wrong(["output.thermo_every", "at least 0"], "output.thermo_every=-1"),
        "map to an unknown type": wrong(["model.types.O", "Ox"], "model.types.O=Ox"),
        "mass of an unknown type": wrong(["model.masses.C", "O, H"], "model.masses.C=12.0"),
        "mass of zero": wrong(["model.masses.O", "greater than 0"], "model.masses.O=0"),
        "guard of unknown types": wrong(["min_distance_A.O-C", "O, H"], "guards.min_distance_A.O-C=1"),
        "guard beyond the cutoff": wrong(["min_distance_A.O-H", "4.5 Å"], "guards.min_distance_A.O-H=7"),
        "guard with an unknown action": wrong(["guards.on_force", '"warn"', '"halt"'], "guards.on_force=halt"),
        "guard that nothing passes": wrong(
            ["min_temperature_K", "max_temperature_K"], "guards.min_temperature_K=9", "guards.max_temperature_K=8"
        ),
        "minimisation of negative steps": wrong(["minimize.max_steps", "at least 0"], "minimize.max_steps=-1"),
        "minimisation to no force at all": wrong(
            ["force_tolerance_eV_A", "greater than 0"], "minimize.force_tolerance_eV_A=0"
        ),
        "no velocities": Case([str(cold)], ["velocities.temperature_K", "water-192.xyz"]),
        "no velocities after a minimisation": Case(
            [str(cold), "--set", "minimize.max_steps=5"], ["velocities.temperature_K", "minimisation"]
        ),
        "dry run of a bad input": wrong(["run.steps"], "run.steps=-1", flags=["--dry-run"]),
    }
    models = {
        "missing model": wrong(["none.h5"], f"model.file={folder / 'none.h5'}"),
        "model is a folder": wrong([folder.name, "cannot be read"], f"model.file={folder}"),
        "model is empty": wrong(["empty.h5"], f"model.file={folder / 'empty.h5'}"),
        "model is not HDF5": wrong(["text.h5"], f"model.file={folder / 'text.h5'}"),
        "model is a trajectory": wrong(["trajectory.h5md"], f"model.file={ran / 'trajectory.h5md'}"),
        "truncated model": wrong(["truncated.h5"], f"model.file={folder / 'truncated.h5'}"),
        "model with a changed bit": wrong(["flipped.h5"], f"model.file={folder / 'flipped.h5'}"),
    }
    structures = {
        "missing structure": wrong(["none.xyz", "no such"], f"structure.file={folder / 'none.xyz'}"),
        "structure is a folder": wrong([folder.name, "cannot be read"], f"structure.file={folder}"),
        "structure that cannot be read": wrong(["/proc/self/mem"], "structure.file=/proc/self/mem"),
        "unreadable structure": wrong(["nonsense.xyz"], f"structure.file={folder / 'nonsense.xyz'}"),
        "structure is another HDF5 file": wrong(["water.h5"], f"structure.file={water / 'water.h5'}"),
        "damaged PDB file": wrong(["cut.pdb"], f"structure.file={folder / 'cut.pdb'}"),
        "missing frame": wrong(["water-192.xyz", "frame 7"], "structure.frame=7"),
        "missing frame of a trajectory": wrong(
            ["trajectory.h5md", "frame 7"], f"structure.file={ran / 'trajectory.h5md'}", "structure.frame=7"
        ),
        "missing frame of a checkpoint": wrong(
            ["checkpoint-000000001.h5", "frame 1"], f"structure.file={newest}", "structure.frame=1"
        ),
        "damaged trajectory": wrong(["torn.h5md"], f"structure.file={folder / 'torn.h5md'}"),
        "damaged checkpoint as a structure": wrong(["damaged"], f"structure.file={damaged / newest.name}"),
        "no atoms": wrong(["empty.xyz", "no atoms"], structure("empty.xyz", "", [], cubic)),
        "element not in the model": wrong(
            ["salt.xyz", "Na (2 atoms)", "O, H"], structure("salt.xyz", "Na O Na", places, cubic)
        ),
        "unknown column of types": wrong(["structure.type_column", "'site'"], "structure.type_column=site"),
        "column of types of a trajectory": wrong(
            ["structure.type_column", "trajectory.h5md"],
            f"structure.file={ran / 'trajectory.h5md'}",
            "structure.type_column=site",
        ),
        "LAMMPS data without types": wrong(["a.data", "lammps_types"], f"structure.file={folder / 'a.data'}"),
        "LAMMPS data with too few types": wrong(
            ["a.data", "1 names", "2 atom types"], f"structure.file={folder / 'a.data'}", 'structure.lammps_types=["O"]'
        ),
        "LAMMPS data with unknown types": wrong(
            ["lammps_types", "'Ow'"], f"structure.file={folder / 'a.data'}", 'structure.lammps_types=["Ow", "H"]'
        ),
        "LAMMPS data of another style": wrong(
            ["a.data", "full"],
            f"structure.file={folder / 'a.data'}",
            'structure.lammps_types=["O", "H"]',
            "structure.lammps_style=full",
        ),
        "structure that is not LAMMPS data": wrong(["water-192.xyz"], 'structure.lammps_types=["O", "H"]'),
        "two atoms at one place": wrong(
            ["atoms 0 and 2", "place"], structure("twice.xyz", "O H O", [places[0], places[1], places[0]], cubic)
        ),
        "two images at one place": wrong(
            ["atoms 0 and 1", "place"], structure("image.xyz", "O H", [[0, 1, 1], [9, 1, 1]], cubic)
        ),
        "position is not a number": wrong(
            ["nan.xyz", "atom 1", "H", "nan"], structure("nan.xyz", "O H", [places[0], [0.0, float("nan"), 1.0]], cubic)
        ),
        "infinite position": wrong(
            ["inf.xyz", "atom 0", "inf"], structure("inf.xyz", "O H", [[float("inf"), 0, 0], places[1]], cubic)
        ),
        "velocity is not a number": wrong(["fast.xyz", "velocity of atom 1"], f"structure.file={folder / 'fast.xyz'}"),
        "cell of zero volume": wrong(
            ["flat.xyz", "no volume"],
            structure("flat.xyz", "O", [places[0]], 'Lattice="9 0 0 9 0 0 0 0 9" pbc="T T T"'),
        ),
        "cell that is not a number": wrong(
            ["nowhere.xyz", "cell"],
            structure("nowhere.xyz", "O", [places[0]], 'Lattice="nan 0 0 0 9 0 0 0 9" pbc="T T T"'),
        ),
        "periodic without a cell": wrong(["bare.xyz", "cell"], structure("bare.xyz", "O", [places[0]], 'pbc="T T T"')),
        "copies of a cluster": wrong(
            ["structure.replicate", "not periodic"],
            structure("cluster.xyz", "O H H", places, cluster),
            "structure.replicate=[2,1,1]",
        ),
        "no copies": wrong(["structure.replicate", "at least 1"], "structure.replicate=[1,1,0]"),
    }

    def again(words: list[str], directory: Path, *overrides: str, checkpoint: Path | None = None) -> Case:
        flags = ["--restart", *([str(checkpoint)] if checkpoint else [])]
        return wrong(words, f"output.directory={directory}", "run.steps=3", *overrides, flags=flags)

    files = {
        "output exists": wrong(["taken", "--restart", "--overwrite"], f"output.directory={taken}"),
        "output of a run exists": wrong(["ran", "--restart", "--overwrite"], f"output.directory={ran}"),
        "output below a file": wrong(["good.toml", "directory"], f"output.directory={good / 'out'}"),
        "output not writable": wrong(["output.directory"], "output.directory=/proc/none/out"),
        "output locked by another run": wrong(["run.lock"], f"output.directory={locked}"),
        "nothing to restart": wrong(["out", "no checkpoint"], flags=["--restart"]),
        "missing checkpoint": again(["none.h5", "no such"], ran, checkpoint=folder / "none.h5"),
        "restart from no checkpoint": wrong(["text.h5"], flags=["--restart", str(folder / "text.h5")]),
        "restart from a folder": again([folder.name], ran, checkpoint=folder),
        "restart from a damaged checkpoint": again(["damaged"], ran, checkpoint=damaged / newest.name),
        "restart from a truncated checkpoint": again(["cut.h5", "damaged"], ran, checkpoint=folder / "cut.h5"),
        "all checkpoints damaged": again(["damaged", "2 checkpoints"], damaged),
        "restart with another time step": again(["run.timestep_fs: 0.5 -> 0.25"], ran, "run.timestep_fs=0.25"),
        "restart with another seed": again(["run.seed"], ran, "run.seed=5"),
        "restart with another precision": again(["run.precision"], ran, "run.precision=double"),
        "restart of another system": again(["number of atoms: 192 -> 384"], ran, "structure.replicate=[2,1,1]"),
        "restart in another cell": again(
            ["cell"], ran, structure("wide.xyz", *_of_file(water / "water-192.xyz"), 'Lattice="13 0 0 0 13 0 0 0 13"')
        ),
        "restart with another model": again(["content of the model file"], ran, f"model.file={folder / 'other.h5'}"),
        "restart without the thermo file": again(["thermo.csv", "missing"], no_thermo),
        "restart with a thermo file cut short": again(["thermo.csv", "rows"], cut_thermo),
        "restart with another's thermo file": again(["thermo.csv", "first line"], foreign_thermo),
        "restart without the trajectory": again(["trajectory.h5md"], no_trajectory),
        "restart with a trajectory torn apart": again(["trajectory.h5md"], torn),
    }
    areas = {"settings": settings, "models": models, "structures": structures, "files": files}
    return {f"{area}: {name}": case for area, cases in areas.items() for name, case in cases.items()}


def _of_file(path: Path) -> tuple[str, list[list[float]]]:
    """Symbols and positions of an XYZ file."""
    rows = [line.split() for line in path.read_text().splitlines()[2:]]
    return " ".join(row[0] for row in rows), [[float(x) for x in row[1:4]] for row in rows]


def sample(cases: dict[str, Case], every: int) -> dict[str, Case]:
    """Every `every`-th case of each area."""
    chosen = {}
    for area in dict.fromkeys(name.partition(":")[0] for name in cases):
        names = [name for name in cases if name.partition(":")[0] == area]
        chosen |= {name: cases[name] for name in names[::every]}
    return chosen


def run_case(case: Case) -> tuple[int, str, float]:
    """Exit code, standard error and seconds of `allegro-sim` with these arguments, in this process."""
    from allegro_sim.cli import main

    errors, began = io.StringIO(), monotonic()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(case.arguments)
        except SystemExit as ended:
            code = ended.code
    return int(code or 0), errors.getvalue(), monotonic() - began


def snapshot(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder; of folders the name."""
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def main() -> None:
    comm = world()
    folder, inputs, results = map(Path, sys.argv[1:4])
    cases = comm.bcast(make_cases(folder, inputs) if comm.rank == 0 else None)
    before = snapshot(folder)
    outcomes = {name: comm.gather(run_case(case)) for name, case in sample(cases, int(sys.argv[4])).items()}
    if comm.rank == 0:
        assert snapshot(folder) == before, "something was written"
        results.write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
