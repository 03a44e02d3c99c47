"""Energies, forces and virials of whole centres: an Allegro model, forward and backward, one chunk of edges at a time.

Nothing here is as long as the list of edges: a chunk holds the edges of a run of centres, as many as keep its
features in a core's own cache, and goes through the whole model before the next one starts. Threads take chunks in
turn from a shared counter; since everything summed over centres is summed in integers, it does not matter which
thread takes which.

Order of a chunk: gather -> radial basis, harmonics -> embedding -> for each layer: tensor track, latent MLP ->
readout -> energies; then the same steps backward, down to dE/dr of each edge -> fixed-point forces.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compilation import kernel
from .edges import Edges, add_forces, edge_gradients, gather
from .harmonics import harmonics, repeat_harmonics
from .inner import inner_kernel
from .network import run_program
from .radial import (
    LENNARD_JONES,
    NO_PAIRS,
    PAIR_BESSEL,
    SPLINE,
    bessel_basis,
    constant_functions,
    cutoff_function,
    edge_factors,
    lennard_jones,
    pair_bessel_basis,
    spline_basis,
    zbl,
)
from .simd import fetch_add
from .tensor_track import TensorTrack
from .tracks import layer_backward, layer_forward


class Network(NamedTuple):
    """Constants of a model, as the kernels read them. F: the features' dtype."""

    cutoffs: np.ndarray  # float64 (nt, nt), Å, where the network ends
    reaches: np.ndarray  # float64 (nt, nt), Å, where the edges end
    radial_kind: int  # radial.BESSEL, SPLINE or PAIR_BESSEL
    frequencies: np.ndarray  # float64 (num_bessels,)
    pair_frequencies: np.ndarray  # float64 (nt * nt, num_bessels), of PAIR_BESSEL
    with_constants: int  # 1 where u_p and 1 end the basis
    spline_span: float
    cutoff_exponent: float  # of the Bessel functions; 0 for none
    harmonic_norms: np.ndarray  # float64 (l_max + 1, l_max + 1)
    repeated_degrees: np.ndarray  # int64 (n,), of further copies of harmonics
    weights: np.ndarray  # F, all matrices of the programs
    buffers: np.ndarray  # int64 (buffers, 3), see network.py
    programs: np.ndarray  # int64 (steps, columns), all programs one after the other
    program_starts: np.ndarray  # int64 (2 (L + 1) + 1,): forward 0 .. L, then backward L .. 0
    environment_norms: np.ndarray  # F (nt,), 1/sqrt(N_avg)
    seeds: np.ndarray  # F (nt, width): dE_i/d(what the readout sums over edges)
    energy_weights: np.ndarray  # float64 (width,): the readout's last linear layer
    energy_factors: np.ndarray  # float64 (nt,): scale times norm of the sum over edges
    shifts: np.ndarray  # float64 (nt,), eV
    pair_kind: int  # radial.NO_PAIRS, ZBL or LENNARD_JONES
    pair_numbers: np.ndarray  # float64 (nt,), atomic numbers for ZBL
    pair_strength: float  # K of ZBL, eV Å
    pair_tables: np.ndarray  # float64 (3, nt * nt), of Lennard-Jones, see `radial.lennard_jones`; so the next three
    pair_style: int
    pair_power: float
    pair_end: float  # Å
    pair_exponent: float  # of the cutoff function; 0 for none
    pair_scales: np.ndarray  # float64 (nt,), factor by type of the centre
    factor_kinds: np.ndarray  # int64 (n,): factors of edges by length or types, see `radial.edge_factors`
    factor_parameters: np.ndarray  # float64 (n, 2)
    edge_scales: np.ndarray  # float64 (nt * nt,)


class Workspace(NamedTuple):
    """Scratch of one thread, allocated once."""

    features: np.ndarray  # F, all buffers of the edges
    centers: np.ndarray  # F, track.block elements for each centre of a chunk
    totals: np.ndarray  # float64 (max_centers, width)
    tensors: np.ndarray  # F, scratch of the legacy tensor track for a panel of edges


@kernel(inline="always")
def evaluate_chunk(
    network, track, workspace, edges, atoms, sums, first_center, last_center, want_virial, want_atom_virials
):
    """One chunk: the centres first_center .. last_center."""
    count = gather(edges, atoms, network.cutoffs, network.reaches, first_center, last_center)
    num_centers = last_center - first_center
    features, centers = workspace.features, workspace.centers
    num_layers = len(track.environment_buffers)
    starts = network.program_starts

    if network.radial_kind == SPLINE:
        spline_basis(edges.basis, edges.basis_slopes, network.spline_span, edges.x, count)
    else:
        cutoff_function(edges.cutoff, edges.cutoff_slopes, edges.x, network.cutoff_exponent, count)
        if network.radial_kind == PAIR_BESSEL:
            pair_bessel_basis(
                edges.basis, edges.basis_slopes, network.pair_frequencies, edges.pairs, edges.cutoff,
                edges.cutoff_slopes, edges.x, count,
            )  # fmt: skip
        else:
            bessel_basis(
                edges.basis, edges.basis_slopes, network.frequencies, edges.cutoff, edges.cutoff_slopes, edges.x, count
            )
        if network.with_constants == 1:
            constant_functions(edges.basis, edges.basis_slopes, edges.cutoff, edges.cutoff_slopes, count)
    edge_factors(
        edges.factors, edges.factor_slopes, edges.scratch, network.factor_kinds, network.factor_parameters,
        network.edge_scales, edges.pairs, edges.lengths, edges.inverse_cutoffs, count,
    )  # fmt: skip
    harmonics(edges.harmonics, edges.harmonic_slopes, edges.scratch, edges.units, network.harmonic_norms, count)
    repeat_harmonics(
        edges.harmonics, edges.harmonic_slopes, network.repeated_degrees, len(network.harmonic_norms), count
    )
    pair_terms(network, edges, count)

    # Program n <= L is the forward one before layer n, program 2 L + 1 - n its backward; tensor products stand in
    # between.
    workspace.totals[:num_centers] = 0.0
    for stage in range(2 * (num_layers + 1)):
        if 0 < stage <= num_layers:
            layer_forward(
                track, stage - 1, num_layers - 1, features, centers, workspace.tensors, network.environment_norms,
                edges, num_centers,
            )  # fmt: skip
        elif stage > num_layers + 1:
            layer = 2 * num_layers + 1 - stage
            layer_backward(
                track, layer, num_layers - 1, features, centers, workspace.tensors, network.environment_norms, edges,
                num_centers,
            )  # fmt: skip
        run_program(
            network.programs[starts[stage] : starts[stage + 1]], network.buffers, features, network.weights,
            network.seeds, edges, workspace.totals, count,
        )  # fmt: skip

    energies(network, workspace, edges, atoms, first_center, num_centers)
    edge_gradients(edges, features, track.harmonic_gradient[0], track.harmonic_gradient[1], count)
    add_forces(sums, edges, atoms, first_center, num_centers, want_virial, want_atom_virials)


@inner_kernel
def pair_terms(network, edges, count):
    """Energies and slopes of the pair term of the chunk's edges; zeros where the model has none."""
    if network.pair_kind == NO_PAIRS:
        edges.pair_energies[:count] = 0.0
        edges.pair_slopes[:count] = 0.0
        return
    cutoff_function(edges.cutoff, edges.cutoff_slopes, edges.x, network.pair_exponent, count)
    if network.pair_kind == LENNARD_JONES:
        lennard_jones(
            edges.pair_energies, edges.pair_slopes, edges.lengths, edges.cutoff, edges.cutoff_slopes,
            edges.inverse_cutoffs, edges.pairs, network.pair_tables, network.pair_style, network.pair_power,
            network.pair_end, count,
        )  # fmt: skip
    else:
        num_types = len(network.cutoffs)
        for z in range(count):
            edges.numbers[0, z] = network.pair_numbers[edges.center_types[z]]
            edges.numbers[1, z] = network.pair_numbers[edges.pairs[z] - num_types * edges.center_types[z]]
        zbl(
            edges.pair_energies, edges.pair_slopes, edges.lengths, edges.cutoff, edges.cutoff_slopes,
            edges.inverse_cutoffs, edges.numbers[0], edges.numbers[1], network.pair_strength, count,
        )  # fmt: skip
    for z in range(count):
        edges.pair_energies[z] *= network.pair_scales[edges.center_types[z]]
        edges.pair_slopes[z] *= network.pair_scales[edges.center_types[z]]


@inner_kernel
def energies(network, workspace, edges, atoms, first_center, num_centers):
    """E_i = shift + factor sum_s energy_weights[s] sum_z readout[z, s] + pair terms (overwrites `atoms.energies`)."""
    for number in range(num_centers):
        i = first_center + number
        center_type = atoms.types[i]
        total = 0.0
        for s in range(len(network.energy_weights)):
            total += network.energy_weights[s] * workspace.totals[number, s]
        pairs = 0.0
        for z in range(edges.first[number], edges.first[number + 1]):
            pairs += edges.pair_energies[z]
        energy = (network.shifts[center_type] + network.energy_factors[center_type] * total) + pairs
        atoms.energies[i] = energy
        atoms.faults[i] = 0 if np.isfinite(energy) else 1


@kernel
def work(network, track, workspace, edges, atoms, sums, chunks, num_chunks, counter, want_virial, want_atom_virials):
    """What each thread runs: take the next chunk until there is none.

    counter: int64 (1,), shared by all threads, zero at the start; chunks: from `edges.plan_chunks`.
    """
    while True:
        n = fetch_add(counter, 1)
        if n >= num_chunks:
            return
        evaluate_chunk(
            network, track, workspace, edges, atoms, sums, chunks[n], chunks[n + 1], want_virial, want_atom_virials
        )


__all__ = ["Edges", "Network", "TensorTrack", "Workspace", "work"]
