"""`allegro-tools evaluate MODEL.h5 STRUCTURE`: energy, forces and virials of one structure."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import h5py
import numpy as np

import allegro_sim
from allegro_sim.errors import InputError, OutputError
from allegro_sim.evaluation import Evaluation, Evaluator
from allegro_sim.model.weight_file import load_model
from allegro_sim.structure import Structure, read_structure

UNITS = {
    "energy": "eV",
    "energies": "eV",
    "forces": "eV/Å",
    "virial": "eV",
    "stress": "eV/Å^3",
    "virials": "eV",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this verb."""
    parser.add_argument("model", metavar="MODEL.h5", type=Path, help="weight file")
    parser.add_argument(
        "structure", metavar="STRUCTURE", type=Path, help="any format that ASE reads, or our trajectory"
    )
    parser.add_argument("--precision", choices=("double", "single", "mixed"), default="double", help="default: double")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument(
        "--index", metavar="I", type=int, default=-1, help="frame of the file, from 0; default: the last"
    )
    parser.add_argument(
        "--types",
        metavar="SYMBOL=TYPE",
        nargs="+",
        default=[],
        help="model type of a chemical symbol, where their names differ",
    )
    parser.add_argument("--per-atom-virial", action="store_true", help="also the virial of each atom, 3x3")
    parser.add_argument("-o", "--output", metavar="OUT.h5", type=Path, help="write everything to this HDF5 file")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, and write; returns the exit code.

    Raises
    ------
    UserError : something of what was given is wrong (InputError, ModelFileError, StructureError, DeviceError,
        OutputError)
    """
    if args.output is not None and args.output.exists() and not args.overwrite:
        raise OutputError(f"{args.output} exists already; choose another name, or give --overwrite to replace it")
    type_map = parse_types(args.types)
    model = load_model(args.model)
    structure = read_structure(args.structure, args.index, model=model, type_map=type_map)
    evaluator = Evaluator(model, device=args.device, precision=args.precision)
    result = evaluator.evaluate(
        structure.types, structure.positions, structure.cell, want_atom_virials=args.per_atom_virial
    )
    arrays = result_arrays(result)
    if args.output is not None:
        attributes = {
            "program": f"allegro-sim {allegro_sim.__version__}",
            "model": str(args.model),
            "structure": str(args.structure),
            "index": args.index,
            "device": evaluator.potential.device,
            "precision": evaluator.potential.precision,
        }
        write_results(args.output, arrays, attributes)
    if args.json:
        print(json.dumps({name: np.asarray(values).tolist() for name, values in arrays.items()}))
    else:
        print_summary(args, evaluator, structure, result)
    return 0


def parse_types(pairs: list[str]) -> dict[str, str]:
    """SYMBOL=TYPE words as a mapping; InputError for a word of another form."""
    mapping = {}
    for pair in pairs:
        symbol, equals, name = pair.partition("=")
        if not (symbol and equals and name):
            raise InputError(f"--types {pair}: expected SYMBOL=TYPE, for example --types O=Ow H=Hw")
        mapping[symbol] = name
    return mapping


def result_arrays(result: Evaluation) -> dict[str, np.ndarray | float]:
    """The data sets of the output: energy (), energies (N,), forces (N,3), virial (3,3), stress (3,3) where the cell is
    periodic in all directions, virials (N,3,3) where per-atom virials were computed."""
    arrays: dict[str, np.ndarray | float] = {
        "energy": result.energy,
        "energies": result.energies,
        "forces": result.forces,
        "virial": result.virial,
    }
    if result.stress is not None:
        arrays["stress"] = result.stress
    if result.atom_virials is not None:
        arrays["virials"] = result.atom_virials
    return arrays


def write_results(path: Path, arrays: dict[str, np.ndarray | float], attributes: dict[str, object]) -> None:
    """Write the data sets with their units, whole or not at all; OutputError when the file cannot be written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with h5py.File(partial, "w") as file:
            file.attrs.update(attributes)
            for name, values in arrays.items():
                file.create_dataset(name, data=values).attrs["unit"] = UNITS[name]
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}") from None


def print_summary(args: argparse.Namespace, evaluator: Evaluator, structure: Structure, result: Evaluation) -> None:
    """A few lines for the screen."""
    potential = evaluator.potential
    print(f"{args.structure}: {structure.num_atoms} atoms, {result.num_edges} edges; {args.model}")
    print(f"device {potential.device}, precision {potential.precision}")
    print(f"energy      {result.energy:.9f} eV")
    print(f"max |force| {np.linalg.norm(result.forces, axis=1).max():.6f} eV/Å")
    if result.stress is not None:
        print(
            "stress      "
            + "\n            ".join(" ".join(f"{s:13.6e}" for s in row) for row in result.stress)
            + " eV/Å³"
        )
    if args.output is not None:
        print(f"written: {args.output}")
