"""Every error a user can meet. Each message names the file, key or atom, says what was found, and what to do.

Exit codes: 0 done; 1 internal error; 2 the user's input; 3 stopped by a guard or a full disk; 4 stopped from outside,
after a checkpoint.
"""

from __future__ import annotations


class AllegroSimError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the program ends with."""

    exit_code = 1


class UserError(AllegroSimError):
    """Something the user gave or set up is wrong; nothing was computed with it."""

    exit_code = 2


class InputError(UserError):
    """The input file: a key, a value, or the file itself."""


class StructureError(UserError):
    """The atomic structure: unreadable, an element the model lacks, coinciding atoms, a bad cell."""


class ModelFileError(UserError):
    """The HDF5 weight file: missing, truncated, of another format or version."""


class CheckpointImportError(UserError):
    """A file given to `allegro-tools import`: not an Allegro checkpoint, corrupt, or with an option not supported."""


class OutputError(UserError):
    """The output directory or a file in it: exists already, is not writable, or is damaged."""


class RestartError(UserError):
    """A checkpoint to restart from: missing, damaged, or of another system, model or settings."""


class DeviceError(UserError):
    """The device or precision asked for is not there."""


class LauncherError(UserError):
    """The MPI launcher and the MPI library do not belong together."""


class GuardStop(AllegroSimError):
    """A guard stopped the run: forces that are not finite or out of range, or an atom that moved too far."""

    exit_code = 3


class StorageStop(AllegroSimError):
    """The disk took no more during a run, or there was too little space for what was due; earlier output is whole."""

    exit_code = 3


class RunStopped(AllegroSimError):
    """A signal or `--max-hours` ended the run; a checkpoint was written."""

    exit_code = 4
