"""The command `allegro-sim input.toml`: arguments, start and end of MPI, exit codes."""

from __future__ import annotations

import argparse
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import NoReturn

from allegro_sim import __version__
from allegro_sim.config import load_settings
from allegro_sim.errors import AllegroSimError, InputError, UserError
from allegro_sim.output.screen import Screen
from allegro_sim.parallel.comm import Comm, collective_errors, world
from allegro_sim.simulation import Simulation

_KEYBOARD_INTERRUPT = 130
_PATIENCE_SECONDS = 5.0
"""How long a rank with an error waits for the others to arrive at the same."""

_EPILOG = """\
exit codes: 0 done; 1 internal error; 2 the input is wrong, nothing was overwritten; 3 stopped by a guard.
Relative input paths in INPUT.toml are relative to it, output paths to the current directory."""


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print: on many ranks, one of them speaks."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}\n{self.format_usage().rstrip()}")


def make_parser() -> argparse.ArgumentParser:
    """The command line of `allegro-sim`."""
    parser = _Parser(
        prog="allegro-sim",
        description="Molecular dynamics with an Allegro model; on several ranks with mpirun -n RANKS allegro-sim ...",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("input", metavar="INPUT.toml", help="the input file; its keys: docs/input.md")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="replace a key of the input; the value is TOML, a bare word a text; may be given often, applied in order",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--restart",
        nargs="?",
        const="",
        metavar="CHECKPOINT",
        help="continue up to run.steps from this checkpoint; without a file: the newest in the output directory",
    )
    existing.add_argument("--overwrite", action="store_true", help="replace the output of an earlier run")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything; print settings, decomposition and memory; run nothing"
    )
    parser.add_argument("--version", action="version", version=f"allegro-sim {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: with the same code on all ranks, or by aborting all of them."""
    mistake = None
    try:
        options = make_parser().parse_args(arguments)
    except InputError as error:
        mistake = error
    try:
        comm = world()
    except UserError as error:
        _tell(error)
        sys.exit(error.exit_code)
    if mistake is not None:
        if comm.rank == 0:
            _tell(mistake)
        sys.exit(mistake.exit_code)
    try:
        code = _run(options, comm)
    except KeyboardInterrupt:
        comm.abort(_KEYBOARD_INTERRUPT)
    except BaseException:
        print(f"allegro-sim: internal error on rank {comm.rank} of {comm.size}:", file=sys.stderr)
        traceback.print_exc()
        comm.abort(1)
    sys.exit(code)


def _run(options: argparse.Namespace, comm: Comm) -> int:
    """Exit code of a run. Errors of the user are raised on all ranks alike, and told by rank 0."""
    screen = Screen(enabled=comm.rank == 0)
    # Of its own, so that ranks that still work cannot take this farewell for one of their barriers.
    farewell = comm.split(0)
    try:
        settings = None
        with collective_errors(comm):
            if comm.rank == 0:
                settings = load_settings(options.input, options.overrides)
        settings = comm.bcast(settings)
        simulation = Simulation(settings, comm, restart=options.restart, overwrite=options.overwrite, screen=screen)
        if options.dry_run:
            simulation.describe()
        else:
            simulation.run()
    except AllegroSimError as error:
        _leave_together(farewell, error)
        return error.exit_code
    return 0


def _leave_together(comm: Comm, error: AllegroSimError) -> None:
    """Rank 0 tells the error, once all ranks have met it; should it be this rank's alone, all are ended."""

    def end_all() -> None:
        _tell(error)
        comm.abort(error.exit_code)

    alone = threading.Timer(_PATIENCE_SECONDS, end_all)
    alone.start()
    comm.patient_barrier()
    alone.cancel()
    if comm.rank == 0:
        _tell(error)


def _tell(error: AllegroSimError) -> None:
    sys.stdout.flush()
    print(f"allegro-sim: {error}", file=sys.stderr, flush=True)
