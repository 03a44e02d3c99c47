"""Makes tests/data/golden: small models with random weights by upstream, and upstream's float64 results for them.

    python tools/make_golden.py --upstream-python PATH [--search-path FOLDER ...] --update-golden [NAME ...]

PATH is an interpreter with nequip and nequip-allegro. FOLDERs are looked in first: one with the package schedulefree is
needed for the models trained with it, and one with nequip 0.7.0 and nequip-allegro 0.4.0 for those called old_* and
scatter_*, which are made only when named. Those called lj_* have a pair potential that no release of upstream
evaluates: its shapes and an argument are mended in upstream's process (upstream.py, `mend_lennard_jones`). Each
model spans other options (tools/golden_models.py); each is evaluated on five structures: triclinic and periodic, a cell
smaller than the cutoff, a cluster, two atoms, and an isolated atom. The files are ours (MIT):

    NAME.ckpt          a Lightning checkpoint as upstream's training writes it, compressed
    NAME.npz           structures and results
    NAME.nequip.zip    of a few models: the package, without the source text of upstream
    NAME.nequip.pth    of a few models: the TorchScript archive, without its code
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allegro_sim.errors import AllegroSimError, OutputError
from allegro_sim.tools.golden_models import LENNARD_JONES, OLD_MODELS, SCATTER_FEATURES, all_models
from allegro_sim.tools.importing.build import build_model
from allegro_sim.tools.importing.self_checks import Structure, run_script, upstream_self_checks
from allegro_sim.tools.importing.source import open_source

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "data" / "golden"
FORMS = (
    "zbl_metal",
    "deep_linear",
    "pairwise_08",
    "pairwise_12",
    "old_bessel_zbl",
    "old_spline",
    "repeated_everywhere",
    "scatter_so3",
    "lj_tables",
    "lj_simple",
)
"""Models that are stored as package and as TorchScript, too."""


def make_structures(config: dict[str, Any], seed: int) -> dict[str, Structure]:
    """Five random structures: name -> positions (N, 3) Å, cell (3, 3) Å or None, pbc (3,), types (N,)."""
    rng = np.random.default_rng(seed)
    num_types = len(config["type_names"])
    r_max = config["r_max"]
    skewed = np.array([[1.0, 0.1, 0.0], [0.3, 0.9, -0.1], [-0.2, 0.25, 1.1]])
    triclinic, small = 1.3 * r_max * skewed, 0.62 * r_max * skewed
    open_ends, periodic = np.zeros(3, bool), np.ones(3, bool)

    def types(count: int) -> np.ndarray:
        return rng.permutation(np.arange(count) % num_types)

    pair = np.array([[0.1, -0.2, 0.3], [0.9, 0.5, 0.8]])
    return {
        "triclinic": (place(rng, 9, triclinic, True), triclinic, periodic, types(9)),
        "small_cell": (place(rng, 3, small, True), small, periodic, types(3)),
        "cluster": (place(rng, 6, 0.9 * r_max * np.eye(3), False), None, open_ends, types(6)),
        "pair": (pair, None, open_ends, types(2)),
        "isolated": (np.vstack([pair, [[3.0, 4.0, 25.0]]]), None, open_ends, types(3)),
    }


def place(rng: np.random.Generator, count: int, cell: np.ndarray, periodic: bool) -> np.ndarray:
    """Random positions (count, 3) in a cell, no two closer than 0.8 Å (to each other's nearest images, if periodic)."""
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1] if periodic else [0]] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    positions = np.empty((0, 3))
    while len(positions) < count:
        trial = rng.random(3) @ cell
        distances = np.linalg.norm(positions[:, None] + shifts - trial, axis=-1)
        if (distances > 0.8).all():
            positions = np.vstack([positions, trial])
    return positions


def make(name: str, python: Path, search_path: Sequence[Path]) -> None:
    """Build a model, evaluate it, and write its files."""
    config = dict(all_models()[name])
    training, modified = config.pop("training"), config.pop("modified", False)
    structures = make_structures(config, config["seed"])
    mended = name in LENNARD_JONES
    if modified:
        changes: list[dict[str, Any]] = [{"modifier": "enable_ForceStressOutput"}]
        if all(config.get(f"per_type_energy_{kind}") is not None for kind in ("scales", "shifts")):
            changes.append({"modifier": "modify_PerTypeScaleShift", "shifts": {"O": 0.3}, "scales_trainable": True})
        config = {"_target_": "nequip.model.modify", "model": config, "modifiers": changes}
    with tempfile.TemporaryDirectory(prefix="allegro-golden-") as folder_name:
        folder = Path(folder_name)
        raw = folder / f"{name}.ckpt"
        job = {"config": config, "run_config": {}, "training_module": training, "output": str(raw)}
        job["mend_lennard_jones"] = mended
        run_script(python, "build", job, folder, search_path)
        recompress(raw, FOLDER / f"{name}.ckpt")
        if name in FORMS:
            for verb, ending in (("package", ".nequip.zip"), ("script", ".nequip.pth")):
                job = {"checkpoint": str(raw), "config": config, "output": str(folder / f"{name}{ending}")}
                job["mend_lennard_jones"] = mended
                run_script(python, verb, job, folder, search_path)
                recompress(folder / f"{name}{ending}", FOLDER / f"{name}{ending}")
        source = open_source(raw)
        model = build_model(source, mend_lennard_jones=mended).model
        checks = upstream_self_checks(
            python,
            source,
            list(structures.values()),
            raw_weights=False,
            pair_term=model.pair_term,
            search_path=search_path,
        )
    arrays: dict[str, np.ndarray] = {"upstream": np.array(json.dumps(source.versions, sort_keys=True))}
    for structure, check in zip(structures, checks, strict=True):
        for field in ("positions", "cell", "pbc", "types", "energy", "energies", "forces", "virial"):
            if getattr(check, field) is not None:
                arrays[f"{structure}/{field}"] = np.asarray(getattr(check, field))
    np.savez_compressed(FOLDER / f"{name}.npz", allow_pickle=False, **arrays)


def recompress(source: Path, target: Path) -> None:
    """Write the archive again with its entries compressed and without dates, source text and compiled code."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            inner = info.filename.split("/", 1)[-1]
            if not (inner.startswith("code/") or inner.endswith((".py", "serialization_id"))):
                new.writestr(zipfile.ZipInfo(info.filename), old.read(info), zipfile.ZIP_DEFLATED, 9)


def main() -> int:
    """Make the named models, or all of present versions; returns the exit code."""
    models = all_models()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"default: all but old_* and scatter_*, of {', '.join(models)}"
    )
    parser.add_argument("--upstream-python", metavar="PATH", type=Path, required=True)
    parser.add_argument("--search-path", metavar="FOLDER", type=Path, nargs="+", default=[])
    parser.add_argument("--update-golden", action="store_true", help="replace files that exist")
    args = parser.parse_args()
    names = args.names or [name for name in models if name not in OLD_MODELS | SCATTER_FEATURES]
    unknown = sorted(set(names) - set(models))
    if unknown:
        parser.error(f"unknown model {', '.join(unknown)}")
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name in names:
            if (FOLDER / f"{name}.ckpt").exists() and not args.update_golden:
                raise OutputError(f"{FOLDER / name}.ckpt exists already; --update-golden replaces it")
            make(name, args.upstream_python, args.search_path)
            print(f"{name}: {sum(path.stat().st_size for path in FOLDER.glob(name + '.*')):,} bytes", flush=True)
    except AllegroSimError as error:
        print(f"make_golden: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
