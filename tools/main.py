"""`allegro-tools VERB`: what is done with models and trajectories outside a run. Each verb is a module here."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import allegro_sim
from allegro_sim.errors import AllegroSimError

VERBS = {
    "import": ("import_model", "make an HDF5 weight file of a checkpoint of nequip/allegro"),
    "info": ("info", "show what is in a weight file"),
    "check": ("check", "evaluate a weight file's self-checks on this machine"),
    "evaluate": ("evaluate", "energy, forces and virial of one structure"),
    "repair": ("repair", "cut what a killed run left to its last whole frame, row and checkpoint"),
    "convert": ("convert", "write a trajectory as extended XYZ, XTC, DCD, LAMMPS dump or PDB"),
    "thermo": ("thermo", "averages of thermodynamics with their errors"),
    "plot": ("plot", "draw thermodynamics and pair distribution functions"),
    "plan": ("plan", "memory, traffic and speed of an input on a number of ranks or GPUs"),
}
"""Verb -> (module, one line of help). A module offers `add_arguments(parser)` and `run(args) -> exit code`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Only that verb's module is loaded."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((argument for argument in arguments if argument in VERBS), None)
    parser = argparse.ArgumentParser(prog="allegro-tools", description="Tools around allegro-sim.")
    parser.add_argument("--version", action="version", version=f"allegro-tools {allegro_sim.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    modules = {}
    for verb, (module, text) in VERBS.items():
        subparser = verbs.add_parser(verb, help=text, description=text[0].upper() + text[1:] + ".")
        if verb == chosen:
            modules[verb] = importlib.import_module(f"allegro_sim.tools.{module}")
            modules[verb].add_arguments(subparser)
    args = parser.parse_args(arguments)
    try:
        code = modules[args.verb].run(args)
        sys.stdout.flush()
        return code
    except AllegroSimError as error:
        print(f"allegro-tools {args.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
