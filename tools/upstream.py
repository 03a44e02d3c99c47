"""Run by an interpreter that has nequip and nequip-allegro, never by this project's own: upstream's results in float64.

    PYTHON upstream.py evaluate JOB.json    results of a checkpoint for structures given as arrays
    PYTHON upstream.py build JOB.json       a checkpoint of a model with random weights
    PYTHON upstream.py script JOB.json      a checkpoint's model as TorchScript
    PYTHON upstream.py package JOB.json     a checkpoint's model as a package

A float32 checkpoint is evaluated with its weights cast to float64 and every constant (Wigner 3j symbols, norms, grids
of splines) computed in float64: a model of dtype float64 is built from the checkpoint's options and given its weights.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version

import numpy as np
import torch
from nequip.data import AtomicDataDict, compute_neighborlist_, from_dict
from nequip.train import NequIPLightningModule
from nequip.utils.global_state import set_global_state
from nequip.utils.versions import get_current_code_versions

VERSION = tuple(map(int, version("nequip").split(".")[:2]))
OLD = VERSION < (0, 17)
OLD_LOSS = {
    "_target_": "nequip.train.EnergyForceLoss",
    "per_atom_energy": True,
    "coeffs": {"total_energy": 1.0, "forces": 1.0},
}  # older nequip builds no training module without one
EDGES_OF_A_PASS = 1000
CONSTANTS = ("w3j", "spline.lower", "spline.upper", "atomic_numbers")


def load(path: str, config: dict, model_name: str, raw_weights: bool) -> torch.nn.Module:
    """The model of a checkpoint or package as upstream loads it, or with the weights of the last training step."""
    if path.endswith(".nequip.zip"):
        from nequip.model import ModelFromPackage

        return ModelFromPackage(path)[model_name]
    if not raw_weights:
        from nequip.model import ModelFromCheckpoint

        return ModelFromCheckpoint(path)[model_name]
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    model = build(config)
    prefix = f"model.{model_name}."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    model.load_state_dict(state)
    return model


def build(config: dict) -> torch.nn.Module:
    """A model from its resolved options (with `_target_`), as training builds it."""
    datasets = {"train": 1, "val": 0, "test": 0, "predict": 0}
    module = NequIPLightningModule(model=config, num_datasets=datasets, **({"loss": OLD_LOSS} if OLD else {}))
    return module.model["sole_model"]


def as_float64(model: torch.nn.Module, config: dict, pair_cutoff_exponent: float | None) -> torch.nn.Module:
    """The same model with weights cast to float64 and constants computed in float64."""
    config = json.loads(json.dumps(config))
    inner = config
    while inner["_target_"] == "nequip.model.modify":
        inner = inner["model"]
    inner["model_dtype"] = "float64"
    inner.pop("compile_mode", None)
    if not inner.get("scatter_features"):  # gone since nequip-allegro 0.7, which refuses it
        inner.pop("scatter_features", None)
    if inner.get("pair_potential") and pair_cutoff_exponent is not None and not OLD:
        inner["pair_potential"]["polynomial_cutoff_p"] = pair_cutoff_exponent
    double = build(config)
    state = double.state_dict()
    found = model.state_dict()
    if set(state) != set(found):
        raise SystemExit(f"tensors differ: {sorted(set(state) ^ set(found))}")
    for name, tensor in found.items():
        if not name.endswith(CONSTANTS):
            state[name] = tensor.to(state[name].dtype)
    double.load_state_dict(state)
    return double.eval()


def evaluate(model: torch.nn.Module, config: dict, types, positions, cell, pbc) -> dict[str, np.ndarray]:
    """Energy (), energies (N,), forces (N, 3), virial (3, 3) = -dE/dstrain; eV, Å.

    Edges are listed within r_max; those beyond their own cutoff contribute zero. The strain is applied to positions and
    cell by hand, so that structures without a cell have a virial too. The energy of a centre depends on its own edges
    alone: a structure of many edges is evaluated in passes of whole centres, which keeps large models in memory.
    """
    while config["_target_"] == "nequip.model.modify":
        config = config["model"]
    fields = {AtomicDataDict.POSITIONS_KEY: positions, AtomicDataDict.ATOM_TYPE_KEY: types, AtomicDataDict.PBC_KEY: pbc}
    if cell is not None:
        fields[AtomicDataDict.CELL_KEY] = cell
    data = from_dict({k: torch.as_tensor(v) for k, v in fields.items()})
    data = compute_neighborlist_(data, r_max=float(config["r_max"]))
    table = config.get("per_edge_type_cutoff")
    if table is not None and not OLD:  # edges beyond their own cutoff contribute zero in any case
        from nequip.data.transforms import NeighborListTransform

        transform = NeighborListTransform(
            r_max=float(config["r_max"]), per_edge_type_cutoff=table, type_names=config["type_names"]
        )
        data = transform(data)
    energy_model = model.model.func if hasattr(model.model, "func") else model.model
    centers = data[AtomicDataDict.EDGE_INDEX_KEY][0]
    passes = (torch.cumsum(torch.bincount(centers, minlength=len(types)), 0) - 1) // EDGES_OF_A_PASS
    if passes.max() <= 0:
        return differentiate(energy_model, data, slice(None))
    parts = []
    for number in passes.unique():
        part = dict(data)
        for field in (AtomicDataDict.EDGE_INDEX_KEY, AtomicDataDict.EDGE_CELL_SHIFT_KEY):
            if field in data:
                chosen = torch.isin(centers, torch.nonzero(passes == number))
                part[field] = data[field][:, chosen] if field == AtomicDataDict.EDGE_INDEX_KEY else data[field][chosen]
        parts.append(differentiate(energy_model, part, passes == number))
    summed = {name: np.sum([part[name] for part in parts], axis=0) for name in ("energy", "forces", "virial")}
    return {**summed, "energies": np.concatenate([part["energies"] for part in parts])}


def differentiate(energy_model: torch.nn.Module, data: dict, chosen) -> dict[str, np.ndarray]:
    """Energies of the chosen atoms, and the derivatives of their sum."""
    data = dict(data)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deformation = torch.eye(3, dtype=torch.float64) + 0.5 * (strain + strain.T)
    plain = data[AtomicDataDict.POSITIONS_KEY].clone().requires_grad_(True)
    data[AtomicDataDict.POSITIONS_KEY] = plain @ deformation
    if AtomicDataDict.CELL_KEY in data:
        data[AtomicDataDict.CELL_KEY] = data[AtomicDataDict.CELL_KEY] @ deformation
    result = energy_model(data)
    energies = result[AtomicDataDict.PER_ATOM_ENERGY_KEY].reshape(-1)[chosen]
    energy = energies.sum()
    gradient, strain_gradient = None, None
    if energy.requires_grad:
        gradient, strain_gradient = torch.autograd.grad(energy, [plain, strain], allow_unused=True)
    forces = np.zeros(plain.shape) if gradient is None else -gradient.numpy()
    virial = np.zeros((3, 3)) if strain_gradient is None else -strain_gradient.numpy()
    return {
        "energy": energy.detach().numpy(),
        "energies": energies.detach().numpy(),
        "forces": forces,
        "virial": virial,
    }


def mend_lennard_jones() -> None:
    """Make nequip's LennardJones and SimpleLennardJones usable in an Allegro model, in this process.

    Their formulas are left as they are. They are written for lengths of edges of the shape (E,), which they make
    (E, 1); since nequip 0.7 lengths are (E, 1) already, become (E, 1, 1), and do not fit the cutoff function's (E, 1).
    The parameters that LennardJones looks up for the edges are (E,). Here they see the shapes they are written for, and
    the parameters are (E, 1). AllegroModel gives every pair potential the argument type_names, which SimpleLennardJones
    does not take: here it does, and has no use for it.
    """
    from nequip.nn import pair_potential as module

    # TorchScript compiles a method under the name of its function.
    for kind, mended in (
        (module._LJParam, parameter_of_edges),
        (module.LennardJones, with_flat_lengths),
        (module.SimpleLennardJones, with_flat_lengths),
    ):
        kind.unmended = kind.forward
        kind.unmended.__name__ = "unmended"
        kind.forward = mended
    construct = module.SimpleLennardJones.__init__
    module.SimpleLennardJones.__init__ = lambda self, type_names, **options: construct(self, **options)


def parameter_of_edges(self, param, index1, index2):
    """Forward of _LJParam, (E, 1) for (E,). Tensors: the parameter, types of centres and neighbours."""
    return self.unmended(param, index1, index2).unsqueeze(-1)


def with_flat_lengths(self, data: AtomicDataDict.Type) -> AtomicDataDict.Type:
    """Forward of a term that takes lengths as (E,)."""
    lengths = data[AtomicDataDict.EDGE_LENGTH_KEY]
    data[AtomicDataDict.EDGE_LENGTH_KEY] = lengths.view(-1)
    data = self.unmended(data)
    data[AtomicDataDict.EDGE_LENGTH_KEY] = lengths
    return data


def run_evaluate(job: dict) -> None:
    """job: checkpoint, config, raw_weights, pair_cutoff_exponent, structures (npz), output (npz), count; of every job
    mend_lennard_jones (optional)."""
    model = load(job["checkpoint"], job["config"], job["model_name"], job["raw_weights"])
    model = as_float64(model, job["config"], job["pair_cutoff_exponent"])
    structures = np.load(job["structures"])
    results: dict[str, np.ndarray] = {"versions": np.array(json.dumps(get_current_code_versions(verbose=False)))}
    for index in range(job["count"]):
        fields = {name: structures[f"{index}/{name}"] for name in ("types", "positions", "pbc")}
        cell = structures.get(f"{index}/cell")
        for name, values in evaluate(model, job["config"], cell=cell, **fields).items():
            results[f"{index}/{name}"] = values
    np.savez(job["output"], allow_pickle=False, **results)


def run_build(job: dict) -> None:
    """job: config, run_config, training_module, output: a Lightning checkpoint of a model with random weights.

    The entries are those Lightning's trainer writes and `ModelFromCheckpoint` reads. Bessel frequencies, scales and
    shifts are moved off their initial values as training would, and raw weights away from their averages.
    """
    import lightning
    from hydra.utils import get_class

    info = dict(job["run_config"])
    info["versions"] = get_current_code_versions(verbose=False)
    info["training_module"] = {"_target_": job["training_module"], "model": job["config"]}
    schedule_free = "ScheduleFree" in job["training_module"]
    optimizer = {"_target_": "schedulefree.AdamWScheduleFree", "lr": 0.02} if schedule_free else None
    module = get_class(job["training_module"])(
        model=job["config"],
        num_datasets={"train": 1, "val": 0, "test": 0, "predict": 0},
        info_dict=info,
        **({"optimizer": optimizer} if schedule_free else {}),
        **({"loss": OLD_LOSS} if OLD else {}),
    )
    generator = torch.Generator().manual_seed(1)

    def noise(parameter: torch.Tensor) -> torch.Tensor:
        return torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)

    with torch.no_grad():
        for name, parameter in module.model.named_parameters():
            if name.endswith(("bessel_weights", "scales", "shifts")) or hasattr(module, "ema"):
                parameter += 0.05 * noise(parameter)
    checkpoint = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": lightning.__version__}
    if hasattr(module, "ema"):
        module.ema.update_parameters(module.model)
    if schedule_free:
        optimizer = module.configure_optimizers()
        optimizer.train()
        for _ in range(3):
            for parameter in module.model.parameters():
                parameter.grad = noise(parameter)
            optimizer.step()
        checkpoint["schedulefree_optimizer_state_dict"] = optimizer.state_dict()
    checkpoint |= {
        "state_dict": module.state_dict(),
        "hparams_name": "kwargs",
        "hyper_parameters": dict(module.hparams),
    }
    torch.save(checkpoint, job["output"])


def run_script(job: dict) -> None:
    """job: checkpoint, config, output: the model as TorchScript, with the texts that `nequip-compile` adds."""
    from e3nn.util.jit import script

    model = load(job["checkpoint"], job["config"], "sole_model", False).eval()
    config = job["config"]
    while config["_target_"] == "nequip.model.modify":
        config = config["model"]
    texts = {
        "model_dtype": config["model_dtype"],
        "type_names": " ".join(config["type_names"]),
        "num_types": str(len(config["type_names"])),
        "r_max": str(config["r_max"]),
    }
    torch.jit.save(script(model), job["output"], _extra_files=texts)


def run_package(job: dict) -> None:
    """job: checkpoint, config, run_config, output: the model as a package, without the example data."""
    import yaml

    models = torch.nn.ModuleDict({"sole_model": load(job["checkpoint"], job["config"], "sole_model", False).eval()})
    versions = yaml.dump(get_current_code_versions(verbose=False))
    with torch.package.PackageExporter(job["output"]) as package:
        package.extern("**")
        package.save_text("model", "config.yaml", yaml.dump({"training_module": {"model": job["config"]}}))
        if VERSION < (0, 8):
            package.save_text("model", "versions.txt", versions)
        else:
            metadata = {"package_version_id": 1, "versions": get_current_code_versions(verbose=False)}
            package.save_text("model", "package_metadata.txt", yaml.dump(metadata))
        package.save_pickle("model", "eager_model.pkl", models, dependencies=False)


def main() -> None:
    """Do one job."""
    warnings.simplefilter("ignore")
    torch.manual_seed(1)
    torch.set_num_threads(1)
    set_global_state()
    with open(sys.argv[2], encoding="utf-8") as file:
        job = json.load(file)
    if job.get("mend_lennard_jones"):
        mend_lennard_jones()
    {"evaluate": run_evaluate, "build": run_build, "script": run_script, "package": run_package}[sys.argv[1]](job)


if __name__ == "__main__":
    main()
