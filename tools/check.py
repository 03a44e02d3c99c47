"""`allegro-tools check MODEL.h5`: the weight file's self-checks, evaluated on this machine's device and precision."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from allegro_sim.cell import Cell
from allegro_sim.errors import ModelFileError
from allegro_sim.evaluation import Evaluator
from allegro_sim.model.self_check import compare
from allegro_sim.model.weight_file import load_model, read_self_checks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this verb."""
    parser.add_argument("model", metavar="MODEL.h5", type=Path, help="weight file")
    parser.add_argument("--precision", choices=("double", "single", "mixed"), default="double", help="default: double")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Evaluate all self-checks and print the largest deviations; returns 0 when all bounds hold, else 1.

    Raises
    ------
    UserError : ModelFileError (also when the file has no self-checks), DeviceError
    """
    model = load_model(args.model)
    checks = read_self_checks(args.model)
    if not checks:
        raise ModelFileError(f"{args.model}: has no self-checks; import the model again")
    evaluator = Evaluator(model, device=args.device, precision=args.precision)
    rows: list[dict[str, Any]] = []
    for index, check in enumerate(checks):
        result = evaluator.evaluate(check.types, check.positions, Cell(check.cell, check.pbc))
        precision = evaluator.potential.precision
        for deviation in compare(
            model, check, energies=result.energies, forces=result.forces, virial=result.virial, precision=precision
        ):
            rows.append(
                {
                    "structure": index,
                    "source": check.source,
                    "quantity": deviation.quantity,
                    "largest": deviation.largest,
                    "bound": deviation.bound,
                    "unit": deviation.unit,
                    "passed": deviation.passed,
                }
            )
    passed = all(row["passed"] for row in rows)
    device, precision = evaluator.potential.device, evaluator.potential.precision
    if args.json:
        print(json.dumps({"passed": passed, "device": device, "precision": precision, "deviations": rows}, indent=1))
    else:
        print(f"{args.model}: {len(checks)} self-checks on {device}, {precision}")
        for index, check in enumerate(checks):
            print(f"  structure {index}: {len(check.types)} atoms, expected results from {check.source}")
            for row in rows:
                if row["structure"] == index:
                    print(
                        f"    {row['quantity']:<16} largest deviation {row['largest']:9.2e} {row['unit']:<5} "
                        f"bound {row['bound']:9.2e}  {'ok' if row['passed'] else 'BROKEN'}"
                    )
        print(
            "all within bounds" if passed else "a bound is broken: do not use this model on this device and precision"
        )
    return 0 if passed else 1
