"""What tools/gpu_report.py brings along: machine code, references and, for upstream, checkpoints. Needs no GPU."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from allegro_sim.config import load_settings
from allegro_sim.errors import InputError
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.model.weight_file import load_model
from allegro_sim.parallel.comm import SerialComm
from allegro_sim.parallel.cores import affinity
from allegro_sim.potential.cuda.compile import FOLDER_VARIABLE, compile_module, module_name
from allegro_sim.potential.cuda.device import MATRIX_UNITS
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.folding import fold_model
from allegro_sim.simulation import Simulation
from allegro_sim.structure import Structure, read_structure
from allegro_sim.tools import gpu_report_tiles as tiles
from allegro_sim.tools.bench_upstream import commit
from allegro_sim.tools.benchmark_models import MODELS, benchmark_model, water_box
from allegro_sim.tools.compile_kernels import (
    NUMBA,
    PRECISIONS,
    SYSTEM,
    capability_of,
    compile_all,
    compiler_version,
    table_text,
)
from allegro_sim.tools.gpu_report import Expected
from allegro_sim.tools.gpu_report_device import CEILINGS_OPTIONS, CEILINGS_SOURCE, use_tests
from allegro_sim.tools.gpu_report_md import trajectory

ZOO, LEGACY_ZOO = "zoo/", "legacy-zoo/"
"""Prefix of the small models of tests/data/golden."""

ALLOY_ATOMS = 6
"""Of the cluster for the model of many types: 30 edges, each of 10 million multiply-adds."""

UPSTREAM_MEDIUM = {
    "_target_": "allegro.model.AllegroModel",
    "seed": 2023,
    "model_dtype": "float32",
    "type_names": ["H", "O"],
    "r_max": 4.5,
    "l_max": 2,
    "parity": True,
    "num_layers": 2,
    "num_scalar_features": 128,
    "num_tensor_features": 64,
    "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 8},
    "scalar_embed_mlp_hidden_layers_depth": 1,
    "scalar_embed_mlp_hidden_layers_width": 128,
    "allegro_mlp_hidden_layers_depth": 1,
    "allegro_mlp_hidden_layers_width": 128,
    "readout_mlp_hidden_layers_depth": 1,
    "readout_mlp_hidden_layers_width": 128,
    "avg_num_neighbors": 38.0,
}
"""The medium model by upstream's own builder: its weights differ from ours, which changes no time."""


DHFR = Path(__file__).resolve().parent.parent / "inputs" / "dhfr"
DHFR_RELAXED = "dhfr.xyz"
TRAJECTORY = "trajectory.npz"


class Prepared:
    """The folder that `prepare` made.

    Attributes: commit of the checkout it was made from; nvrtc, the compiler's release.

    Raises
    ------
    InputError : the folder is not one
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = folder / "manifest.json"
        if not manifest.exists():
            raise InputError(f"{folder}: there is no manifest.json; make the folder with --phase prepare")
        content = json.loads(manifest.read_text())
        self.commit, self.nvrtc = content["commit"], content["nvrtc"]

    def use_cubins(self) -> None:
        """From now on the program takes its modules from here."""
        os.environ[FOLDER_VARIABLE] = str(self.folder / "cubins")

    def ceilings(self, capability: tuple[int, int]) -> bytes:
        """Machine code of `gpu_report_device.CEILINGS_SOURCE`."""
        path = self.folder / f"ceilings.sm_{capability[0]}{capability[1]}.cubin"
        if not path.exists():
            raise InputError(f"{path}: not prepared; prepare with --architecture {path.suffixes[0][1:]}")
        return path.read_bytes()

    def model(self, name: str) -> AllegroModel:
        """A benchmark model, or a small one of the tests."""
        if not name.startswith((ZOO, LEGACY_ZOO)):
            return benchmark_model(name)
        use_tests()
        from support.golden import golden_model
        from support.legacy import legacy_model

        if name.startswith(LEGACY_ZOO):
            return legacy_model(name.removeprefix(LEGACY_ZOO))
        return golden_model(name.removeprefix(ZOO))

    def dhfr(self) -> tuple[AllegroModel, Structure]:
        """Dihydrofolate reductase in water, relaxed, and its model."""
        model = load_model(DHFR / "bio.h5")
        path = self.folder / DHFR_RELAXED
        if not path.exists():
            raise InputError(f"{path}: not prepared; make the folder again with --phase prepare")
        return model, read_structure(path, model=model)

    def trajectory(self) -> dict[str, np.ndarray]:
        """The CPU's `gpu_report_md.trajectory` of the bundled model."""
        with np.load(self.folder / TRAJECTORY) as arrays:
            return dict(arrays)

    def expected(self) -> dict[str, Expected]:
        """References of the accuracy phase by name."""
        found = {}
        for path in sorted((self.folder / "expected").glob("*.npz")):
            with np.load(path) as arrays:
                fields = {name: arrays[name] for name in arrays.files}
            structure = (fields["positions"], fields.get("cell"), fields["pbc"], fields["types"])
            found[path.stem] = Expected(
                str(fields["model"]),
                structure,
                *(fields[name] for name in ("energies", "forces")),
                *(fields.get(name) for name in ("rounded_energies", "rounded_forces")),
                float(fields["spread"]),
            )
        return found


def prepare(folder: Path, architectures: list[str], upstream_python: str | None, bundled: Path | None) -> None:
    """Fill the folder; takes some minutes."""
    cubins, expected = folder / "cubins", folder / "expected"
    for path in (cubins, expected):
        path.mkdir(parents=True, exist_ok=True)
    table = compile_all([*(f"{name}-{p}" for name in MODELS for p in PRECISIONS), SYSTEM, NUMBA], architectures, cubins)
    (folder / "resources.json").write_text(table_text(table, compiler_version()))
    for architecture in architectures:
        code, _ = compile_module(CEILINGS_SOURCE, architecture, CEILINGS_OPTIONS)
        (folder / f"ceilings.{architecture}.cubin").write_bytes(code)
    use_tests()
    _expect_water(expected)
    _expect_alloy(expected, benchmark_model("many_types"))
    _expect_zoo(expected, cubins, architectures)
    for model_name, variant in tiles.cases():
        with variant.taken():
            _compile(cubins, [(benchmark_model(model_name), "mixed")], architectures)
    np.savez(folder / TRAJECTORY, **trajectory(benchmark_model("bundled"), device="cpu"))
    _relax_dhfr(folder)
    if upstream_python:
        _upstream_models(folder, upstream_python, bundled)
    (folder / "manifest.json").write_text(
        json.dumps({"commit": commit(), "nvrtc": compiler_version(), "architectures": architectures}, indent=1) + "\n"
    )


def save(path: Path, name: str, model: AllegroModel, structure: tuple, exact: Any) -> None:
    """Write exact results (with energies and forces), beside them those of the rounding reference of `mixed`.

    That reference is of the current generation alone, and of tables of all pairs of types.
    """
    use_tests()
    from support import mixed_reference as mixed

    positions, cell, pbc, types = structure
    arrays = {
        "model": np.array(name), "positions": positions, "pbc": pbc, "types": types,
        "energies": exact.energies, "forces": exact.forces, "spread": np.array(0.0),
    }  # fmt: skip
    if not model.is_legacy and fold_model(model).separable is None:
        ways = (mixed.MIXED, mixed.disturbed(0))
        rounded, noisy = (mixed.evaluate_structure(model, *structure, way) for way in ways)
        spread = np.sqrt(np.sum((noisy.forces - rounded.forces) ** 2) / np.sum(exact.forces**2))
        arrays |= {"rounded_energies": rounded.energies, "rounded_forces": rounded.forces, "spread": np.array(spread)}
    if cell is not None:
        arrays["cell"] = cell
    np.savez(path, allow_pickle=False, **arrays)


def _expect_water(folder: Path) -> None:
    for name in MODELS:
        if name == "many_types":
            continue  # plain NumPy would take gigabytes for its 28,000 edges; see `_expect_alloy`
        model = benchmark_model(name)
        positions, cell, types = water_box(192, model)
        structure = (positions, cell, np.ones(3, bool), types)
        exact = evaluate_structure(model, *structure)
        save(folder / f"{name}.npz", name, model, structure, exact)


def _relax_dhfr(folder: Path) -> None:
    """The minimisation with which inputs/dhfr/nvt.toml begins: the structure comes from another force field."""
    if (folder / DHFR_RELAXED).exists():
        return
    with TemporaryDirectory() as place:
        changes = ["run.steps=0", 'run.device="cpu"', f'output.directory="{place}/run"']
        Simulation(load_settings(DHFR / "nvt.toml", changes), SerialComm()).run()
        shutil.copyfile(Path(place) / "run" / "minimized.xyz", folder / DHFR_RELAXED)


def _expect_alloy(folder: Path, model: AllegroModel) -> None:
    """A cluster of five elements, within one cutoff, for the model of many types."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    fcc = 1.8 * grid @ np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])  # Å; lattice constant 3.6 Å
    nearest = np.argsort(np.linalg.norm(fcc, axis=1), kind="stable")[:ALLOY_ATOMS]
    positions = fcc[nearest] + rng.normal(0.0, 0.1, (ALLOY_ATOMS, 3))
    types = np.array([model.type_names.index(symbol) for symbol in ("Cr", "Mn", "Fe", "Co", "Ni")])
    structure = (positions, None, np.zeros(3, bool), types[np.arange(ALLOY_ATOMS) % len(types)])
    save(folder / "many_types.npz", "many_types", model, structure, evaluate_structure(model, *structure))


def _expect_zoo(folder: Path, cubins: Path, architectures: list[str]) -> None:
    from support.golden import MODELS as NAMES
    from support.golden import golden_model, golden_structure
    from support.legacy import MODELS as LEGACY_NAMES
    from support.legacy import legacy_model, legacy_structure

    wanted: list[AllegroModel] = []
    for name in NAMES:
        model = golden_model(name)
        if name.startswith("pairwise"):
            continue  # pairs of options on a GPU again would cost minutes
        golden = golden_structure(name, "triclinic")
        structure = (golden.positions, golden.cell, golden.pbc, golden.types)
        save(folder / f"zoo-{name}.npz", ZOO + name, model, structure, golden)
        wanted.append(model)
    for name in LEGACY_NAMES:
        model, structure = legacy_model(name), legacy_structure(name, "triclinic")
        exact = evaluate_structure(model, *structure)
        save(folder / f"legacy-zoo-{name}.npz", LEGACY_ZOO + name, model, structure, exact)
        wanted.append(model)

    wanted.append(load_model(DHFR / "bio.h5"))
    _compile(cubins, [(model, precision) for model in wanted for precision in PRECISIONS], architectures)


def _compile(cubins: Path, wanted: list[tuple[AllegroModel, str]], architectures: list[str]) -> None:
    """Modules of (model, precision)."""

    def keep(model: AllegroModel, precision: str, architecture: str) -> None:
        layout = Layout(model, precision, matrix_units=capability_of(architecture) in MATRIX_UNITS)
        path = cubins / module_name(layout.source, architecture)
        if not path.exists():  # its name says what it was made from
            path.write_bytes(compile_module(layout.source, architecture)[0])

    jobs = [(model, precision, arch) for model, precision in wanted for arch in architectures]
    with ThreadPoolExecutor(len(affinity())) as pool:
        for _ in pool.map(lambda job: keep(*job), jobs):
            pass


def _upstream_models(folder: Path, python: str, bundled: Path | None) -> None:
    """medium.ckpt by upstream, and the bundled model's checkpoint, as far as it is given."""
    from allegro_sim.tools.importing.self_checks import run_script

    job = {
        "config": UPSTREAM_MEDIUM,
        "run_config": {},
        "training_module": "nequip.train.NequIPLightningModule",
        "output": str((folder / "medium.ckpt").resolve()),
    }
    run_script(Path(python), "build", job, folder)
    if bundled:
        (folder / "bundled.ckpt").write_bytes(bundled.read_bytes())
