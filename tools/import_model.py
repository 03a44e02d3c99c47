"""`allegro-tools import FILE -o MODEL.h5`: a weight file from any checkpoint of nequip/allegro, without PyTorch."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
from pathlib import Path

import allegro_sim
from allegro_sim.errors import CheckpointImportError, InputError, OutputError
from allegro_sim.model.caveats import jump_warnings
from allegro_sim.model.description import AllegroModel
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.model.self_check import SelfCheck, check_structures, compare, make_reference_self_checks
from allegro_sim.model.weight_file import save_model
from allegro_sim.tools.importing.build import Built, build_model
from allegro_sim.tools.importing.legacy_source import LegacySource
from allegro_sim.tools.importing.model_source import LIGHTNING, PACKAGE
from allegro_sim.tools.importing.pair_terms import MEND_OPTION
from allegro_sim.tools.importing.self_checks import upstream_self_checks
from allegro_sim.tools.importing.source import Source, open_any
from allegro_sim.tools.importing.summary import describe_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this verb."""
    parser.add_argument(
        "checkpoint",
        metavar="FILE",
        type=Path,
        help="Lightning .ckpt, .nequip.zip, .nequip.pth; of nequip below 0.7: deployed .pth, training folder",
    )
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
        help="the weights of the last training step instead of their average (EMA, schedule-free)",
    )
    parser.add_argument(
        "--drop-total-energy-shift",
        action="store_true",
        help="import a legacy model without the constant it adds to every total energy, which changes no force",
    )
    parser.add_argument(
        MEND_OPTION,
        action="store_true",
        help="import nequip's LennardJones or SimpleLennardJones, which no release of nequip evaluates in an Allegro "
        "model, with its formula taken edge by edge",
    )
    parser.add_argument("--model", metavar="NAME", help="which model, where a training has several")
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
    source = open_any(args.checkpoint, args.model)
    built = build_model(
        source,
        raw_weights=args.raw_weights,
        without_total_shift=args.drop_total_energy_shift,
        mend_lennard_jones=args.mend_lennard_jones,
        elements=elements,
    )
    checks = make_self_checks(built.model, source, args.upstream_python, args.raw_weights)
    lines = describe_model(built.model, built.num_weights)
    provenance = make_provenance(source, built, args.licence)
    provenance["summary"] = "\n".join(lines)
    save_model(output, built.model, provenance, checks)
    print(f"{source.path}: {source_kind(source)}, {built.weights_used} weights")
    for line in lines:
        print(f"  {line}")
    if "licence" in provenance:
        print(f"  licence           {provenance['licence'].splitlines()[0]}")
    for note in (*built.notes, *jump_warnings(built.model)):
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


def source_kind(source: Source | LegacySource) -> str:
    """What a file is, in two or three words."""
    return source.form if isinstance(source, LegacySource) else source.kind


def make_self_checks(
    model: AllegroModel, source: Source | LegacySource, python: Path | None, raw_weights: bool
) -> list[SelfCheck]:
    """Self-checks from upstream where an interpreter is named, else from the reference.

    Raises CheckpointImportError when upstream and the reference disagree: the model would be wrong; InputError for a
    file from which upstream cannot build the model anew.
    """
    if python is None:
        return make_reference_self_checks(model)
    if isinstance(source, LegacySource) or source.kind not in (LIGHTNING, PACKAGE):
        raise InputError(
            f"--upstream-python: upstream can rebuild a .ckpt or .nequip.zip in float64, but no {source_kind(source)}; "
            "leave the option out, the self-checks are then made by this project's reference"
        )
    checks = upstream_self_checks(
        python, source, check_structures(model), raw_weights=raw_weights, pair_term=model.pair_term
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


def make_provenance(source: Source | LegacySource, built: Built, licence: str | None) -> dict[str, str]:
    """Where the weights came from, as texts; notes of the import one a line."""
    provenance = {
        "source_file": source.path.name,
        "source_sha256": _digest(source.path),
        "source_kind": source_kind(source),
        "weights": built.weights_used,
        "upstream_versions": json.dumps(_versions(source), sort_keys=True),
        "imported_by": f"allegro-sim {allegro_sim.__version__}",
        "imported_on": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "num_weights_upstream": str(built.num_weights),
    }
    if built.notes:
        provenance["notes"] = "\n".join(built.notes)
    if licence is not None:
        provenance["licence"] = _licence_text(licence)
    return provenance


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions(source: Source | LegacySource) -> dict[str, str]:
    if isinstance(source, Source):
        return source.versions
    return {name.removesuffix("_version"): text for name, text in source.metadata.items() if name.endswith("_version")}


def _licence_text(given: str) -> str:
    try:
        if Path(given).is_file():
            return Path(given).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--licence {given}: cannot be read as text: {error}") from error
    return given
