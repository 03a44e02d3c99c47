"""The index, edge and centre kernels as data: their arguments, launch geometry, constants, and `extern "C"` text.

The plan launches by these lists and the entry points are generated from them, so neither can disagree with the other.
The bodies are device functions of the same names in kernels/cuda/{index,scan,edges,centers}.cu, arguments in the
same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allegro_sim.kernels.numba_cuda.control import FOUND
from allegro_sim.model.description import LENNARD_JONES_STYLES, AllegroModel, BesselEmbedding, LennardJones, Zbl
from allegro_sim.model.irreps import component_slices, total_dim
from allegro_sim.potential.cuda.mlp_shapes import Rounding
from allegro_sim.potential.pair_tables import lennard_jones_tables

ROW_BLOCK = 128
"""Threads a block of the kernels with a thread for each row, each centre, or each channel of a centre."""

ENERGY_LANES = 8
"""Threads that sum the energies of one centre's edges; the order of the sum follows from it."""

JOINT_BLOCKS = 7
"""Blocks of a `JointSpec` a multiprocessor should have registers for: 72 a thread, what its parts take by themselves.
Left to itself the compiler takes fewer, and keeps some numbers in memory."""

SCAN_BLOCK = 1024
"""Threads of the one block that scans a chunk's counts."""

_C_TYPES = {
    # system and results
    "positions": "double*", "images": "int*", "types": "int*", "cell": "double*",
    "cutoffs": "double*", "reaches": "double*",
    "energies": "double*", "forces": "long long*", "virial_words": "long long*", "atom_virials": "long long*",
    "faults": "unsigned char*", "status": "int*", "control": "long long*",
    # index
    "row_offsets": "long long*", "indices": "int*",
    "counts": "int*", "chunk_centers": "int*", "first": "int*", "edge_center": "int*", "edge_neighbor": "int*",
    # geometry
    "vectors": "double*", "pairs": "int*",
    "pair_terms": "double*", "radial_slope": "double*",
    # features
    "edge_energies": "double*", "latent_slope": "double*",
    # constants
    "energy_factors": "double*", "shifts": "double*", "frequencies": "double*", "pair_table": "double*",
    "edge_scales": "double*",
    # numbers
    "chunk": "int", "capacity": "int", "max_centers": "int", "want_virial": "int", "want_atom_virials": "int",
    "rows": "int", "owned": "int", "virial_rows": "int",
}  # fmt: skip
"""C type of every argument that is not REAL*, arrays as they are written; inputs become pointers to const."""


@dataclass(frozen=True)
class KernelSpec:
    """One kernel: its name, arguments in order (buffers, then int32 numbers), and how it is launched.

    outputs: what it writes (some of it is read as well), the first arguments. body: the device function called, with
    its template arguments. threads: what there is a thread for, "row" (capacity), "center" (max_centers * lanes),
    "channel" of each group of a centre (max_centers * GROUPS * LANES), "edge channel" (capacity * LANES), "block" (a
    single block), or a warp: "center warp" (max_centers). Kernels of a whole evaluation take all rows of atoms and all
    centres for these two sizes. placed: whether the device function takes the number of its block and how many there
    are, so that it may be a part of a `JointSpec`.
    """

    name: str
    body: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    threads: str
    lanes: int = 1
    placed: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.outputs + self.inputs

    @property
    def block(self) -> int:
        if self.threads == "channel" and groups_of_center(self.lanes) > 1:  # they meet at barriers
            return groups_of_center(self.lanes) * self.lanes
        return SCAN_BLOCK if self.threads == "block" else ROW_BLOCK

    def grid(self, capacity: int, max_centers: int) -> int:
        """Blocks for chunks of at most `capacity` edges and `max_centers` centres."""
        if self.threads == "block":
            return 1
        threads = {
            "row": capacity,
            "center": max_centers * self.lanes,
            "center warp": max_centers * 32,
            "channel": max_centers * self.lanes * groups_of_center(self.lanes),
            "edge channel": capacity * self.lanes,
        }[self.threads]
        return max(1, -(-threads // self.block))

    def entry_point(self) -> str:
        """The `extern "C"` function: the body, under the kernel's name."""
        return _entry_point(self, f"  {self.call('(int)blockIdx.x', '(int)gridDim.x')}\n")

    def call(self, block: str, blocks: str) -> str:
        """The statement that runs it in one of so many blocks."""
        place = (block, blocks) if self.placed else ()
        return f"{self.body}({', '.join((*self.arguments, *place))});"


@dataclass(frozen=True)
class JointSpec:
    """Two kernels side by side in one launch: the blocks of `first`, then those of `second`.

    Neither reads or overwrites what the other writes; both may add to the same. threads: C++ for the number of threads
    of `first`, one or more, from numbers among the arguments; numbers: those of them that are arguments of neither.
    """

    name: str
    first: KernelSpec
    second: KernelSpec
    threads: str
    numbers: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.first.outputs + self.second.outputs))

    @property
    def inputs(self) -> tuple[str, ...]:
        names = dict.fromkeys(self.first.inputs + self.second.inputs + self.numbers)
        return tuple(name for name in names if name not in self.outputs)

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.outputs + self.inputs

    @property
    def block(self) -> int:
        return ROW_BLOCK

    def grid(self, capacity: int, max_centers: int) -> int:
        """Blocks of both."""
        return self.first.grid(capacity, max_centers) + self.second.grid(capacity, max_centers)

    def entry_point(self) -> str:
        """The `extern "C"` function: one of the two, by the block."""
        return _entry_point(
            self,
            f"  const int own = ({self.threads} + {ROW_BLOCK - 1}) / {ROW_BLOCK}, block = (int)blockIdx.x;\n"
            f"  if (block < own) {self.first.call('block', 'own')}\n"
            f"  else {self.second.call('block - own', '(int)gridDim.x - own')}\n",
        )


def _entry_point(spec: KernelSpec | JointSpec, body: str) -> str:
    parameters = []
    for name in spec.arguments:
        kind = _C_TYPES.get(name, "REAL*")
        if kind.endswith("*"):
            kind = f"{kind} __restrict__" if name in spec.outputs else f"const {kind} __restrict__"
        parameters.append(f"{kind} {name}")
    together = f", {JOINT_BLOCKS}" if isinstance(spec, JointSpec) else ""
    bounds = f"__launch_bounds__({spec.block}{together})"
    return f'extern "C" __global__ void {bounds} {spec.name}({", ".join(parameters)}) {{\n{body}}}\n'


_CHUNK = ("first", "chunk_centers", "chunk", "capacity")

_LIST = ("positions", "images", "types", "cell", "reaches", "row_offsets", "indices")

CLEAR_RESULTS = KernelSpec(
    "clear_results", "clear_arrays",
    ("forces", "virial_words", "atom_virials", "faults", "status"), ("control", "rows", "virial_rows"), "row",
    placed=True,
)  # fmt: skip
COUNT_EDGES = KernelSpec(
    "count_edges", "count_edges_of_center", ("counts",), (*_LIST, "owned"), "center warp", placed=True
)
CLEAR_AND_COUNT = JointSpec("clear_and_count", CLEAR_RESULTS, COUNT_EDGES, "rows")
FILL_EDGES = KernelSpec(
    "fill_edges", "fill_edges_of_center",
    ("edge_center", "edge_neighbor"), (*_LIST, "first", "chunk_centers", "chunk"), "center warp",
)  # fmt: skip
EDGE_GEOMETRY = KernelSpec(
    "edge_geometry", "geometry_of_edge",
    ("vectors", "pairs", "basis", "basis_slopes", "harmonics", "pair_terms", "edge_center", "edge_neighbor"),
    ("positions", "images", "types", "cell", "cutoffs", "frequencies", "pair_table", *_CHUNK), "row",
)  # fmt: skip
EDGE_FORCES = KernelSpec(
    "edge_forces", "forces_of_edge",
    ("forces", "virial_words", "atom_virials", "faults", "status"),
    ("radial_slope", "harmonic_gradient", "vectors", "pairs", "pair_terms", "edge_center", "edge_neighbor", "cutoffs",
     *_CHUNK, "want_virial", "want_atom_virials"), "row", placed=True,
)  # fmt: skip
CENTER_ENERGIES = KernelSpec(
    "center_energies", "energy_of_center",
    ("energies", "faults", "status"),
    ("control", "edge_energies", "pair_terms", "types", "energy_factors", "shifts", *_CHUNK), "center",
    lanes=ENERGY_LANES, placed=True,
)  # fmt: skip
ENERGIES_AND_FORCES = JointSpec(
    "energies_and_forces", CENTER_ENERGIES, EDGE_FORCES, f"max_centers * {ENERGY_LANES}", ("max_centers",)
)
SCAN_CHUNK = KernelSpec(
    "scan_chunk",
    "scan_counts",
    ("first", "status"),
    ("control", "counts", "chunk_centers", "chunk", "capacity"),
    "block",
)


def _flag(value: bool) -> str:
    return "true" if value else "false"


def center_forward(layer: int, lanes: int, round_scal: bool = True) -> KernelSpec:
    """round_scal: whether scal is an operand of TF32 products (in `mixed`), and so rounded."""
    return KernelSpec(
        f"center_forward_{layer}", f"forward_of_center<{layer}, {_flag(round_scal)}>",
        ("x", "A", "chain"),
        ("env", "w", "harmonics", "path_weights", "environment_norms", "types", *_CHUNK, "max_centers"),
        "channel", lanes,
    )  # fmt: skip


def center_backward(layer: int, lanes: int, round_denv: bool = True, round_dw: bool = True) -> KernelSpec:
    """round_denv, round_dw: whether these are operands of TF32 products (in `mixed`), and so rounded."""
    return KernelSpec(
        f"center_backward_{layer}", f"backward_of_center<{layer}, {_flag(round_denv)}, {_flag(round_dw)}>",
        ("denv", "dw", "harmonic_gradient", "dA", "dx"),
        ("env", "w", "harmonics", "A", "chain", "path_weights", "environment_norms", "types", *_CHUNK, "max_centers"),
        "channel", lanes,
    )  # fmt: skip


def kernel_specs(model: AllegroModel, rounding: Rounding | None = None) -> dict[str, KernelSpec | JointSpec]:
    """Every index, edge and centre kernel of a model of the current generation, by name."""
    return {**edge_specs(), **center_specs(model, rounding)}


def edge_specs() -> dict[str, KernelSpec | JointSpec]:
    """The index and edge kernels, which every model has."""
    index = (CLEAR_RESULTS, COUNT_EDGES, CLEAR_AND_COUNT, SCAN_CHUNK, FILL_EDGES)
    return {spec.name: spec for spec in (*index, EDGE_GEOMETRY, ENERGIES_AND_FORCES)}


def center_specs(model: AllegroModel, rounding: Rounding | None = None) -> dict[str, KernelSpec]:
    """The kernels of the vectors of centres; without `rounding`, `mixed` rounds all operands."""
    lanes, specs = lanes_of_center(model.num_tensor_features), list[KernelSpec]()
    layers = range(model.num_layers)
    if rounding is None:
        specs += [center_forward(k, lanes) for k in layers]
        specs += [center_backward(k, lanes) for k in layers]
    else:
        specs += [center_forward(k, lanes, rounding.invariants[k]) for k in layers]
        specs += [center_backward(k, lanes, rounding.environments[k], rounding.tensor) for k in layers]
    return {spec.name: spec for spec in specs}


def padded(width: int) -> int:
    """Columns of a feature of this width: a multiple of 8."""
    return -(-width // 8) * 8


def lanes_of_center(channels: int) -> int:
    """Threads of one group of a centre, one a channel: a power of two that divides a warp, or whole warps."""
    columns = padded(channels)
    return -(-columns // 32) * 32 if columns > 32 else max(8, 1 << (columns - 1).bit_length())


def groups_of_center(lanes: int) -> int:
    """Groups of `lanes` threads that share the edges of one centre: a power of two, at most 8, in 256 threads.

    Sums over edges run in an order that follows from it, so it may depend on nothing but the model.
    """
    return min(8, 1 << max(256 // lanes, 1).bit_length() - 1)


def chain_dims(model: AllegroModel) -> dict[tuple[int, int], int]:
    """Components of the vectors N_k,j (layer k, 0 <= j < k) that forward keeps for backward, in their order in `chain`.

    N_k,k is not kept: it is a multiple of A_k.
    """
    dims = [model.harmonic_components, *(total_dim(layer.irreps_in) for layer in model.layers[1:])]
    return {(k, j): dims[j] for k in range(model.num_layers) for j in range(k)}


def chain_size(model: AllegroModel, max_centers: int) -> int:
    """Elements of `chain`: [one after the other of `chain_dims`][max_centers][dim][UP]."""
    return sum(chain_dims(model).values()) * max_centers * padded(model.num_tensor_features)


def environment_gradient_size(model: AllegroModel, max_centers: int) -> int:
    """Elements of `dA`, [LAYERS - 1][max_centers][M][UP]: that of the last layer stays in registers."""
    return (model.num_layers - 1) * max_centers * model.harmonic_components * padded(model.num_tensor_features)


def pair_table(model: AllegroModel) -> np.ndarray:
    """Constants of the pair term by ordered pair of types, float64 (3, nt * nt); zeros where the model has none.

    ZBL: (Z_i^0.23 + Z_j^0.23) / 0.46850, 1/Å, and K Z_i Z_j / 2, eV Å. Lennard-Jones: see `lennard_jones_tables`.
    Strengths, the second row, are times the model's `pair_scales`.
    """
    term, table = model.pair_term, np.zeros((3, model.num_types**2))
    if isinstance(term, Zbl):
        numbers = np.asarray(term.atomic_numbers, np.float64)
        table[0] = ((numbers[:, None] ** 0.23 + numbers**0.23) / 0.46850).ravel()
        table[1] = (0.5 * term.coulomb * numbers[:, None] * numbers).ravel()
    elif term is not None:
        table = lennard_jones_tables(term, model.num_types)
    if model.pair_scales is not None:
        table[1] *= np.repeat(model.pair_scales, model.num_types)
    return table


def pair_defines(model: AllegroModel) -> dict[str, int | float]:
    """Macros of the pair term: its kind, and the exponent of its cutoff function, 0 for none; the form of
    Lennard-Jones, PAIR_WHOLE_POWER being 0 for powers that are not whole, or large."""
    kinds = {"PAIR_ZBL": 1, "PAIR_LENNARD_JONES": 2}
    term = model.pair_term
    kind = 0 if term is None else kinds["PAIR_ZBL" if isinstance(term, Zbl) else "PAIR_LENNARD_JONES"]
    exponent = None if term is None else term.cutoff_exponent
    macros: dict[str, int | float] = {**kinds, "PAIR_TERM": kind, "PAIR_EXPONENT": float(exponent or 0.0)}
    if isinstance(term, LennardJones):
        whole = int(term.power) if term.power <= 64.0 and float(term.power).is_integer() else 0
        macros |= {
            "PAIR_REPULSIVE_PART": 1, "PAIR_ONE_POWER": 2, "PAIR_STYLE": LENNARD_JONES_STYLES.index(term.style),
            "PAIR_POWER": float(term.power), "PAIR_WHOLE_POWER": whole, "PAIR_END": term.end,
        }  # fmt: skip
    return macros


def pair_terms_size(model: AllegroModel, capacity: int) -> int:
    """Elements of `pair_terms`, float64 [2][capacity]: the pair term and its slope by d; none without a pair term."""
    return 2 * capacity if model.pair_term is not None else 0


def center_defines(model: AllegroModel, precision: str, row_columns: int | None = None) -> dict[str, str]:
    """The compile-time constants that the index, edge and centre kernels read, as macros.

    row_columns: columns of x, where they are not those of the current generation.
    """
    bessel = isinstance(model.radial, BesselEmbedding)
    components = model.harmonic_components
    channels, scalars = padded(model.num_tensor_features), padded(model.num_scalar_features)
    lanes = lanes_of_center(model.num_tensor_features)
    of_pairs = constants = whole = False
    if isinstance(model.radial, BesselEmbedding):
        frequencies, constants = np.asarray(model.radial.frequencies, np.float64), model.radial.with_constants
        bessels, span, exponent = frequencies.shape[-1], 0, float(model.radial.cutoff_exponent or 0.0)
        of_pairs = frequencies.ndim == 3
        whole = not of_pairs and bool(np.array_equal(frequencies, np.arange(1.0, bessels + 1.0)))
    else:
        bessels, span, exponent = model.radial.weights.shape[-1], int(model.radial.span), 6.0
    if row_columns is None:
        row_columns = channels + (model.num_layers + 1) * scalars
    values: dict[str, int | float] = {
        **{f"PRECISION_{name.upper()}": int(name == precision) for name in ("double", "single", "mixed")},
        "NT": model.num_types, "L_MAX": model.l_max, "HARMONICS": (model.l_max + 1) ** 2,
        "M": components, "MP": -(-components // 4) * 4,
        "U": model.num_tensor_features, "UP": channels, "S": model.num_scalar_features, "SP": scalars,
        "LAYERS": model.num_layers, "NB": bessels + 2 * constants, "BESSELS": bessels,
        "ENV_SLOTS": model.environment_weight_irreps, "W_SLOTS": model.tensor_weight_irreps,
        "NE": model.environment_weight_irreps * channels, "NW": model.tensor_weight_irreps * channels,
        "LDX": row_columns, "LANES": lanes, "WARPS": max(1, lanes // 32), "GROUPS": groups_of_center(lanes),
        "RADIAL_BESSEL": int(bessel), "WHOLE_FREQUENCIES": int(whole),
        "PAIR_FREQUENCIES": int(of_pairs), "WITH_CONSTANTS": int(constants), "SELF_EDGE": int(model.self_edge),
        "SEED_PAIRS": int(model.edge_scales is not None), "CUTOFF_EXPONENT": exponent,
        "SPLINE_SPAN": span, "SCAN_BLOCK": SCAN_BLOCK, "ENERGY_LANES": ENERGY_LANES, "CONTROL_FOUND": FOUND,
        **pair_defines(model),
    }  # fmt: skip
    return {name: repr(value) for name, value in values.items()} | component_macros(model)


def component_macros(model: AllegroModel) -> dict[str, str]:
    """REPEATED_SLOT_OF(a), number of the irrep of component a >= HARMONICS, and ORIGINAL_OF(a), which of the HARMONICS
    any component a is.

    Chains of choices, and no loop over a table: the compiler knows all of it when it unrolls a loop over components.
    """
    once = (model.l_max + 1) ** 2
    slots, originals = [], [f"(a) < {once} ? (a) : "]
    pieces = component_slices(model.harmonics)[model.l_max + 1 :]
    for number, (piece, irrep) in enumerate(zip(pieces, model.repeated_harmonics, strict=True)):
        slots.append(f"(a) < {piece.stop} ? {model.l_max + 1 + number} : ")
        originals.append(f"(a) < {piece.stop} ? (a) - {piece.start - irrep.degree**2} : ")
    return {"REPEATED_SLOT_OF(a)": f"({''.join(slots)}0)", "ORIGINAL_OF(a)": f"({''.join(originals)}0)"}
