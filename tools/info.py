"""`allegro-tools info MODEL.h5`: what is in a weight file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from allegro_sim.model.caveats import jump_warnings
from allegro_sim.model.summary import summary
from allegro_sim.model.weight_file import load_model, read_provenance, read_self_checks
from allegro_sim.potential.folding import fold_model
from allegro_sim.tools.importing.summary import describe_model

_LABELS = {
    "source_file": "source file",
    "source_sha256": "source SHA-256",
    "source_kind": "source kind",
    "weights": "weights taken",
    "upstream_versions": "upstream",
    "imported_by": "imported by",
    "imported_on": "imported on",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this verb."""
    parser.add_argument("model", metavar="MODEL.h5", type=Path, help="weight file")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the summary; returns the exit code. Raises ModelFileError for a file that is no sound weight file."""
    model = load_model(args.model)
    provenance = read_provenance(args.model)
    sources = [check.source for check in read_self_checks(args.model)]
    warnings = jump_warnings(model)
    # Upstream's count of trained weights; merging linear layers at import may have left fewer numbers.
    num_weights = int(provenance.get("num_weights_upstream", summary(model)["num_weights"]))
    if args.json:
        written, computed = fold_model(model).multiply_adds
        everything = {
            **summary(model),
            "num_weights": num_weights,
            "multiply_adds_per_edge": {"written": written, "computed": computed},
            "provenance": provenance,
            "self_checks": sources,
            "warnings": warnings,
            "hyperparameters": model.hyperparameters,
        }
        print(json.dumps(everything, indent=1))
        return 0
    print(f"{args.model}: Allegro model, {model.generation} generation")
    for line in describe_model(model, num_weights):
        print(f"  {line}")
    print(f"  self-checks       {len(sources)} structures, computed by {', '.join(sorted(set(sources))) or 'nothing'}")
    for key, label in _LABELS.items():
        if key in provenance:
            print(f"  {label:<17} {provenance[key]}")
    if "licence" in provenance:
        print("  licence:")
        for line in provenance["licence"].splitlines():
            print(f"    {line}")
    for note in provenance.get("notes", "").splitlines():
        print(f"  noted at import: {note}")
    for warning in warnings:
        print(f"  warning: {warning}")
    return 0
