"""The command `allegro-sim input.toml`: arguments, start and end of MPI, exit codes.

Whatever goes wrong on one rank must end them all. Once MPI runs, `comm.abort` does that; so MPI is started before the
rest of the program is loaded, which may fail on a rank whose machine is out of memory or has lost its disk.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from time import monotonic
from typing import NoReturn

from allegro_sim import __version__
from allegro_sim.errors import AllegroSimError, InputError, UserError
from allegro_sim.parallel.comm import Comm, collective_errors, world

_KEYBOARD_INTERRUPT = 130
_PATIENCE_SECONDS = 5.0
"""How long a rank with an error waits for the others to arrive at the same."""

_EPILOG = """\
exit codes: 0 done; 1 internal error; 2 the input is wrong, nothing was overwritten; 3 stopped by a guard or a full
disk; 4 stopped by SIGTERM, SIGINT, SIGUSR1 or --max-hours, after a checkpoint.
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
        "--max-hours",
        type=_hours,
        metavar="H",
        help="after H hours of wall time write a checkpoint and stop, with exit code 4",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything; print settings, decomposition and memory; run nothing"
    )
    parser.add_argument("--version", action="version", version=f"allegro-sim {__version__}")
    return parser


def _hours(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number of hours, found {text!r}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: with the same code on all ranks, or by aborting all of them."""
    started = monotonic()
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
    except BaseException as error:
        _tell_internal_error(error, "before MPI was started")
        # By a signal: a rank that exits before it has started MPI leaves the others of MPICH waiting for it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
    if mistake is not None:
        if comm.rank == 0:
            _tell(mistake)
        sys.exit(mistake.exit_code)
    code = 1
    try:
        code = _run(options, comm, started)
    except KeyboardInterrupt:
        comm.abort(_KEYBOARD_INTERRUPT)
    except BaseException as error:
        try:
            _tell_internal_error(error, f"on rank {comm.rank} of {comm.size}")
        finally:  # also where there is no memory left to print
            comm.abort(code)
    sys.exit(code)


def _run(options: argparse.Namespace, comm: Comm, started: float) -> int:
    """Exit code of a run. Errors of the user are raised on all ranks alike, and told by rank 0."""
    from allegro_sim.config import load_settings
    from allegro_sim.output.screen import Screen
    from allegro_sim.simulation import Simulation
    from allegro_sim.stops import Stops

    screen = Screen(enabled=comm.rank == 0)
    # Of its own, so that ranks that still work cannot take this farewell for one of their barriers.
    farewell = comm.split(0)
    # One rank decides when the time is up: clocks differ.
    max_hours = options.max_hours if comm.rank == 0 else None
    stops = Stops(max_hours=max_hours, started=started, speaks=comm.rank == 0)
    try:
        with stops.watching_signals():
            settings = None
            with collective_errors(comm):
                if comm.rank == 0:
                    settings = load_settings(options.input, options.overrides)
            settings = comm.bcast(settings)
            simulation = Simulation(
                settings, comm, restart=options.restart, overwrite=options.overwrite, screen=screen, stops=stops
            )
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
        try:
            _tell(error)
        finally:
            comm.abort(error.exit_code)

    alone = threading.Timer(_PATIENCE_SECONDS, end_all)
    alone.start()
    comm.patient_barrier()
    alone.cancel()
    if comm.rank == 0:
        _tell(error)


def _tell(error: AllegroSimError) -> None:
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it any more; the interpreter would stumble over it once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(f"allegro-sim: {error}", file=sys.stderr, flush=True)


def _tell_internal_error(error: BaseException, where: str) -> None:
    """In one piece, so that the lines of several ranks do not mix."""
    if isinstance(error, MemoryError):
        text = f"allegro-sim: out of memory {where} ({error}); use more machines, or fewer ranks on each\n"
    else:
        text = f"allegro-sim: internal error {where}:\n{''.join(traceback.format_exception(error))}"
    sys.stderr.write(text)
    sys.stderr.flush()
