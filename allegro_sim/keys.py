"""The keys of the input file: one table, KEYS, holds every default, unit, bound and description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REQUIRED = object()
"""Default of a key that the input must give."""

INPUT_NAME = object()
"""Default of `output.directory`: the name of the input file without its ending."""


@dataclass(frozen=True)
class Key:
    """One key of the input.

    kind: "integer", "number", "boolean", "text", "input path" (relative to the input file), "output path" (relative to
    the current directory), "counts" (three integers), "list" (of texts), "names" (table of texts) or "numbers" (table
    of numbers). Bounds hold for each number in it; `above` excludes the bound itself.
    """

    section: str
    name: str
    kind: str
    default: Any
    description: str
    unit: str = ""
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"


SECTIONS = {
    "model": "the trained model",
    "structure": "the atoms to start from",
    "minimize": "relaxing the positions before the dynamics",
    "run": "how long, and on what",
    "gpu": "how a run goes on GPUs; on a CPU without meaning",
    "neighbors": "the neighbour list",
    "velocities": "the velocities to start with",
    "dynamics": "equations of motion",
    "output": "what is written, where, and how often",
    "guards": "what to watch, and what to do about it",
}

KEYS: tuple[Key, ...] = (
    Key("model", "file", "input path", REQUIRED, "weight file (HDF5), made by `allegro-tools import`"),
    Key(
        "model",
        "types",
        "names",
        {},
        "model type of each name in the structure (chemical symbol, or entry of `structure.type_column`), "
        '`{ O = "Ow" }`; needed only where the names differ',
    ),
    Key(
        "model", "masses", "numbers", {}, "masses by model type, `{ H = 2.014 }`; default: the model's", "Da", above=0.0
    ),
    Key(
        "structure",
        "file",
        "input path",
        REQUIRED,
        "structure: any format that ASE reads (also gzipped), LAMMPS data, or our trajectory or checkpoint",
    ),
    Key("structure", "frame", "integer", -1, "which frame of the file, from 0; -1 is the last"),
    Key("structure", "replicate", "counts", (1, 1, 1), "copies of the cell along each of its three vectors", minimum=1),
    Key(
        "structure",
        "type_column",
        "text",
        "symbol",
        "what names the type of an atom: its chemical symbol, or a column of the file such as `atomtypes` (atom names "
        "of a PDB file), `tags`, or any of an extended XYZ file",
    ),
    Key(
        "structure",
        "lammps_types",
        "list",
        (),
        'the file is LAMMPS data: the symbol or model type of each of its atom types, from 1, `["O", "H"]`',
    ),
    Key(
        "structure",
        "lammps_style",
        "text",
        "auto",
        "atom style of LAMMPS data; `auto`: as the file says behind `Atoms #`",
        choices=("auto", "atomic", "charge", "molecular", "full", "bond", "angle"),
    ),
    Key(
        "structure",
        "lammps_units",
        "text",
        "metal",
        "units of LAMMPS data: velocities in Å/ps (metal) or Å/fs (real)",
        choices=("metal", "real"),
    ),
    Key(
        "minimize",
        "max_steps",
        "integer",
        0,
        "most steps of minimisation (FIRE) before the velocities are drawn; 0: none",
        "steps",
        minimum=0,
    ),
    Key(
        "minimize",
        "force_tolerance_eV_A",
        "number",
        0.05,
        "done when no atom feels a larger force",
        "eV/Å",
        above=0.0,
    ),
    Key("minimize", "max_move_A", "number", 0.1, "longest move of an atom in one step", "Å", above=0.0),
    Key(
        "run",
        "steps",
        "integer",
        REQUIRED,
        "length of the run; a restart continues up to this total",
        "steps",
        minimum=0,
    ),
    Key("run", "timestep_fs", "number", 0.5, "time step", "fs", above=0.0),
    Key("run", "seed", "integer", 0, "seed of all random numbers", minimum=0),
    Key("run", "device", "text", "auto", "where forces are computed", choices=("auto", "cpu", "cuda")),
    Key(
        "run",
        "precision",
        "text",
        "auto",
        "arithmetic of the network: 64 bits, 32 bits, or 32 bits with TF32 products (on a CPU the same as `single`); "
        "`auto` is `single` on a CPU and `mixed` on a GPU",
        choices=("auto", "double", "single", "mixed"),
    ),
    Key(
        "run",
        "threads",
        "integer",
        0,
        "threads of each rank; 0: the cores that are free for it",
        minimum=0,
        maximum=1024,
    ),
    Key(
        "gpu",
        "steps_ahead",
        "integer",
        20,
        "most steps that are launched before the host looks, also whether it is asked to stop; no result changes",
        "steps",
        minimum=1,
        maximum=1000,
    ),
    Key(
        "gpu",
        "graphs",
        "text",
        "auto",
        "launch a step as one CUDA graph, on one rank: `auto` where all edges are one chunk (small systems); the same "
        "bits either way; `on` is refused where graphs cannot be",
        choices=("auto", "on", "off"),
    ),
    Key(
        "gpu",
        "transport",
        "text",
        "auto",
        "how ghosts get from rank to rank: through the host's memory and MPI, from GPU to GPU by NCCL (a GPU for "
        "each rank), or by an MPI library that takes memory of GPUs (`cuda-aware`: untested on hardware; a probe is "
        "sent at the start); `auto` is `nccl` where that can be, else `host`",
        choices=("auto", "host", "nccl", "cuda-aware"),
    ),
    Key(
        "gpu",
        "images_travel",
        "boolean",
        False,
        "send a rank's own periodic images through the transport, too: to try it out on one rank",
    ),
    Key(
        "neighbors",
        "skin_A",
        "number",
        1.0,
        "how much farther than the cutoff the neighbour list looks",
        "Å",
        minimum=0.0,
        maximum=20.0,
    ),
    Key(
        "velocities",
        "temperature_K",
        "number",
        None,
        "draw Maxwell-Boltzmann velocities of exactly this temperature, total momentum zero; default: the velocities "
        "in the structure file and, where it has none, `dynamics.temperature_K` (nve: an error)",
        "K",
        minimum=0.0,
    ),
    Key(
        "dynamics",
        "ensemble",
        "text",
        "nve",
        "constant energy (velocity Verlet) or constant temperature (Langevin, BAOAB)",
        choices=("nve", "langevin"),
    ),
    Key(
        "dynamics", "temperature_K", "number", None, "temperature of the bath; required for langevin", "K", minimum=0.0
    ),
    Key("dynamics", "friction_per_ps", "number", 1.0, "friction of the bath; langevin only", "1/ps", minimum=0.0),
    Key(
        "output",
        "directory",
        "output path",
        INPUT_NAME,
        "folder of all output; default: the input file's name without `.toml`",
    ),
    Key("output", "trajectory_every", "integer", 100, "interval of frames; 0: no trajectory", "steps", minimum=0),
    Key(
        "output",
        "thermo_every",
        "integer",
        10,
        "interval of thermodynamics; 0: first and last step only",
        "steps",
        minimum=0,
    ),
    Key(
        "output",
        "checkpoint_every",
        "integer",
        1000,
        "interval of checkpoints; 0: first and last step only",
        "steps",
        minimum=0,
    ),
    Key(
        "output",
        "checkpoint_every_minutes",
        "number",
        30.0,
        "longest wall time between two checkpoints; 0: as long as it takes",
        "min",
        minimum=0.0,
    ),
    Key("output", "velocities", "boolean", False, "velocities in the trajectory"),
    Key("output", "forces", "boolean", False, "forces in the trajectory"),
    Key(
        "output",
        "precision",
        "text",
        "single",
        "numbers of the trajectory: 32 or 64 bits",
        choices=("single", "double"),
    ),
    Key("guards", "max_displacement_A", "number", 1.0, "longest way of an atom in one step", "Å", above=0.0),
    Key("guards", "max_force_eV_A", "number", None, "largest force on an atom; default: any", "eV/Å", above=0.0),
    Key(
        "guards",
        "min_distance_A",
        "numbers",
        {},
        "least distance of two atoms by their model types, `{ O-H = 0.7, H-H = 1.1 }`; less than the cutoff",
        "Å",
        above=0.0,
    ),
    Key("guards", "min_temperature_K", "number", None, "lowest temperature; default: any", "K", minimum=0.0),
    Key("guards", "max_temperature_K", "number", None, "highest temperature; default: any", "K", above=0.0),
    Key(
        "guards",
        "max_energy_jump_eV",
        "number",
        None,
        "largest change per atom of the conserved energy (`conserved_eV`) from one row of thermodynamics to the next; "
        "default: any",
        "eV",
        above=0.0,
    ),
    *(
        Key(
            "guards",
            f"on_{what}",
            "text",
            "stop",
            f"what happens when the {words}: a warning, a warning and a checkpoint, or the end (exit code 3)",
            choices=("warn", "checkpoint", "stop"),
        )
        for what, words in (
            ("displacement", "displacement is longer"),
            ("force", "force is larger"),
            ("distance", "distance is less"),
            ("temperature", "temperature is out of its range"),
            ("energy", "energy jumps"),
        )
    ),
)
