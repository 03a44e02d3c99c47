"""`allegro-tools import CHECKPOINT -o MODEL.h5`: a weight file from a checkpoint of nequip/allegro, without PyTorch."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
from pathlib import Path

import allegro_sim
from allegro_sim.errors import CheckpointImportError, InputError, OutputError
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.model.self_check import SelfCheck, check_structures, compare, make_reference_self_checks
from allegro_sim.model.weight_file import save_model
from allegro_sim.tools.importing.build import Built, build_model
from allegro_sim.tools.importing.self_checks import upstream_self_checks
from allegro_sim.tools.importing.source import Source, open_source
from allegro_sim.tools.importing.summary import activation_warnings, describe_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this verb."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="Lightning .ckpt or .nequip.zip")
    parser.add_argument("-o", "--output", metavar="MODEL.h5", type=Path, required=True, help="weight file to write")
    parser.add_argument(
        "--upstream-python",
        metavar="PATH",
        type=Path,
        help="an interpreter that has nequip and nequip-allegro: the self-checks are then computed by upstream",
    )
    parser.add_argument(
        "--raw-weights",
        action="store_true",
        help="the weights of the last training step instead of their average (EMA)",
    )
    parser.add_argument(
        "--elements",
        metavar="TYPE=SYMBOL",
        nargs="+",
        default=[],
        help="chemical element of a type whose name does not tell it",
    )
    parser.add_argument(
        "--licence", metavar="TEXT|FILE", help="licence of the weights: a text, or a file that holds it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the weight file if it exists")


def run(args: argparse.Namespace) -> int:
    """Read, build, check, write, and print a summary; returns the exit code.

    Raises
    ------
    UserError : CheckpointImportError for the checkpoint, InputError for an argument, OutputError for the weight file
    """
    output: Path = args.output
    if output.exists() and not args.overwrite:
        raise OutputError(f"{output} exists already; choose another name, or give --overwrite to replace it")
    if not output.parent.is_dir():
        raise OutputError(f"{output.parent} is no folder; create it first, or choose another place for {output.name}")
    elements = parse_elements(args.elements)
    source = open_source(args.checkpoint)
    built = build_model(source, raw_weights=args.raw_weights, elements=elements)
    checks = make_self_checks(built.model, source, args.upstream_python, args.raw_weights)
    save_model(output, built.model, make_provenance(source, built, args.licence), checks)
    print(f"{source.path}: {source.kind}, {built.weights_used} weights")
    for line in describe_model(built.model, built.num_weights):
        print(f"  {line}")
    for note in (*built.notes, *activation_warnings(built.model)):
        print(f"  warning: {note}")
    print(f"  self-checks       {len(checks)} structures, computed by {checks[0].source}")
    print(f"written: {output}")
    return 0


def parse_elements(pairs: list[str]) -> dict[str, str]:
    """Pairs TYPE=SYMBOL as a mapping. Raises InputError for anything else."""
    mapping = {}
    for pair in pairs:
        name, equals, symbol = pair.rpartition("=")
        if not (name and equals and symbol):
            raise InputError(f"--elements {pair}: expected TYPE=SYMBOL, such as --elements my_Cu=Cu")
        mapping[name] = symbol
    return mapping


def make_self_checks(model: AllegroModel, source: Source, python: Path | None, raw_weights: bool) -> list[SelfCheck]:
    """Self-checks from upstream where an interpreter is named, else from the reference.

    Raises CheckpointImportError when upstream and the reference disagree: the model would be wrong.
    """
    if python is None:
        return make_reference_self_checks(model)
    exponent = None if model.zbl is None else model.zbl.cutoff_exponent
    checks = upstream_self_checks(
        python, source, check_structures(model), raw_weights=raw_weights, pair_exponent=exponent
    )
    for check in checks:
        ours = evaluate_structure(model, check.positions, check.cell, check.pbc, check.types)
        for deviation in compare(
            model, check, energies=ours.energies, forces=ours.forces, virial=ours.virial, precision="double"
        ):
            if not deviation.passed:
                raise CheckpointImportError(
                    f"{source.path}: {check.source} computes something else than this import: {deviation.quantity} "
                    f"differ by {deviation.largest:.3g} {deviation.unit} (bound {deviation.bound:.3g}). "
                    "Nothing was written; please report this checkpoint's options."
                )
    return checks


def make_provenance(source: Source, built: Built, licence: str | None) -> dict[str, str]:
    """Where the weights came from, as texts."""
    provenance = {
        "source_file": source.path.name,
        "source_sha256": hashlib.sha256(source.path.read_bytes()).hexdigest(),
        "source_kind": source.kind,
        "weights": built.weights_used,
        "upstream_versions": json.dumps(source.versions, sort_keys=True),
        "imported_by": f"allegro-sim {allegro_sim.__version__}",
        "imported_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "num_weights_upstream": str(built.num_weights),
    }
    if licence is not None:
        provenance["licence"] = _licence_text(licence)
    return provenance


def _licence_text(given: str) -> str:
    try:
        if Path(given).is_file():
            return Path(given).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--licence {given}: cannot be read as text: {error}") from error
    return given
