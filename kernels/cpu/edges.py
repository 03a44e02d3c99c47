"""A chunk's edges: from the neighbour list and the positions, and back from edge gradients to forces on atoms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compilation import kernel
from .fixed_point import FORCE_LIMIT, add_overflows, add_to_words, to_fixed
from .inner import inner_kernel


class Edges(NamedTuple):
    """Arrays over the edges z of one chunk; capacity rows, or (rows, capacity) for those of several rows.

    A chunk is a run of whole centres; edges of its centre number c are first[c] .. first[c + 1].
    """

    first: np.ndarray  # int64 (max_centers + 1,)
    centers: np.ndarray  # int64, number of the centre within the chunk
    center_types: np.ndarray  # int64
    neighbors: np.ndarray  # int64, local row of j
    pairs: np.ndarray  # int64, t_i * num_types + t_j
    vectors: np.ndarray  # float64 (3, .), r_ij, Å
    units: np.ndarray  # float64 (3, .), r_ij / d
    lengths: np.ndarray  # float64, d, Å
    inverse_cutoffs: np.ndarray  # float64, 1/rc[t_i, t_j]
    x: np.ndarray  # float64, d / rc
    radial_slopes: np.ndarray  # float64, dE/dx
    gradients: np.ndarray  # float64 (3, .), dE_i/dr_ij, eV/Å
    cutoff: np.ndarray  # float64, u_p(x)
    cutoff_slopes: np.ndarray  # float64, du_p/dx
    pair_energies: np.ndarray  # float64, the repulsion's share of the centre, eV
    pair_slopes: np.ndarray  # float64, its derivative by d, eV/Å
    numbers: np.ndarray  # float64 (2, .), atomic numbers of centre and neighbour for the repulsion
    scratch: np.ndarray  # float64 (rows, .), for the harmonics
    harmonic_slopes: np.ndarray  # float64 (3 M, .), dY_a/dn_c at row 3 a + c
    harmonics: np.ndarray  # features' dtype (M, .), Y_a
    flat_harmonics: np.ndarray  # the same memory in one dimension
    basis: np.ndarray  # features' dtype (num_basis, .), radial basis
    basis_slopes: np.ndarray  # features' dtype (num_basis, .), its derivative by x
    factors: np.ndarray  # features' dtype (n, .), factors by length or types (legacy generation)
    factor_slopes: np.ndarray  # float64 (n, .), their derivatives by x


class Atoms(NamedTuple):
    """What a potential reads and writes of a system, and the neighbour list."""

    positions: np.ndarray  # float64 (rows, 3), Å
    images: np.ndarray  # int32 (rows, 3)
    types: np.ndarray  # int32 (rows,)
    cell: np.ndarray  # float64 (3, 3)
    row_offsets: np.ndarray  # int64 (num_owned + 1,)
    indices: np.ndarray  # int32
    energies: np.ndarray  # float64 (rows,) OUTPUT
    faults: np.ndarray  # uint8 (rows,) OUTPUT: 1 for centres with an energy or force not finite or out of range


class Sums(NamedTuple):
    """Integer sums of one thread (accumulates)."""

    forces: np.ndarray  # int64 (rows, 3)
    virial_words: np.ndarray  # int64 (9, 2)
    atom_virials: np.ndarray  # int64 (rows, 9), or (0, 9) when not wanted
    virial: np.ndarray  # float64 (9,), scratch


@kernel
def plan_chunks(chunks, row_offsets, max_edges, max_centers):
    """Cut the centres into runs of at most `max_edges` listed edges and `max_centers` centres.

    chunks: int64, OUTPUT, at least num_owned + 1 long: run n is the centres chunks[n] .. chunks[n + 1]. Returns the
    number of runs. A centre with more listed edges than `max_edges` makes a run of its own.
    """
    num_centers = len(row_offsets) - 1
    count, start = 0, 0
    chunks[0] = 0
    for i in range(num_centers):
        if i > start and (row_offsets[i + 1] - row_offsets[start] > max_edges or i - start >= max_centers):
            count += 1
            chunks[count] = start = i
    if num_centers > start:
        count += 1
        chunks[count] = num_centers
    return count


@inner_kernel
def gather(edges, atoms, cutoffs, reaches, first_center, last_center):
    """Fill the chunk with the edges of the centres first_center .. last_center; returns their number.

    Pairs beyond their reach (the list's skin) are left out, the others keep the list's order. cutoffs, of x, and
    reaches, as far or farther: float64 (nt, nt), Å, by type of centre and neighbour. The vector is
    r_ij = (x_j - x_i) + (images_j - images_i) @ cell, each operation rounded on its own.
    """
    count = 0
    num_types = len(cutoffs)
    cell = atoms.cell
    for i in range(first_center, last_center):
        number = i - first_center
        edges.first[number] = count
        center_type = np.int64(atoms.types[i])
        for place in range(atoms.row_offsets[i], atoms.row_offsets[i + 1]):
            j = np.int64(atoms.indices[place])
            n0 = np.float64(atoms.images[j, 0] - atoms.images[i, 0])
            n1 = np.float64(atoms.images[j, 1] - atoms.images[i, 1])
            n2 = np.float64(atoms.images[j, 2] - atoms.images[i, 2])
            shift_x = (n0 * cell[0, 0] + n1 * cell[1, 0]) + n2 * cell[2, 0]
            shift_y = (n0 * cell[0, 1] + n1 * cell[1, 1]) + n2 * cell[2, 1]
            shift_z = (n0 * cell[0, 2] + n1 * cell[1, 2]) + n2 * cell[2, 2]
            rx = (atoms.positions[j, 0] - atoms.positions[i, 0]) + shift_x
            ry = (atoms.positions[j, 1] - atoms.positions[i, 1]) + shift_y
            rz = (atoms.positions[j, 2] - atoms.positions[i, 2]) + shift_z
            squared = (rx * rx + ry * ry) + rz * rz
            neighbor_type = np.int64(atoms.types[j])
            reach = reaches[center_type, neighbor_type]
            # Written so that a NaN stays in, and shows in the centre's energy.
            if squared >= reach * reach:
                continue
            edges.vectors[0, count], edges.vectors[1, count], edges.vectors[2, count] = rx, ry, rz
            edges.lengths[count] = squared
            edges.inverse_cutoffs[count] = cutoffs[center_type, neighbor_type]
            edges.centers[count] = number
            edges.center_types[count] = center_type
            edges.neighbors[count] = j
            edges.pairs[count] = center_type * num_types + neighbor_type
            count += 1
    edges.first[last_center - first_center] = count
    for z in range(count):
        length = np.sqrt(edges.lengths[z])
        inverse = 1.0 / edges.inverse_cutoffs[z]
        edges.lengths[z] = length
        edges.inverse_cutoffs[z] = inverse
        edges.x[z] = length * inverse
        for c in range(3):
            edges.units[c, z] = edges.vectors[c, z] / length
    return count


@inner_kernel
def edge_gradients(edges, features, harmonic_gradients_at, row, count):
    """dE/dr_ij from dE/dx and dE/dY:  (dE/dd) n + (1 - n n^T) (sum_a dE/dY_a dY_a/dn) / d  (overwrites
    `edges.gradients`).

    dE/dY_a of edge z, a > 0, stands in `features` at harmonic_gradients_at + z row + a - 1.
    """
    gradients, units = edges.gradients, edges.units
    for c in range(3):
        gradients[c, :count] = 0.0
    for component in range(1, len(edges.harmonics)):  # Y_0 is constant
        for z in range(count):
            factor = np.float64(features[harmonic_gradients_at + z * row + component - 1])
            gradients[0, z] += factor * edges.harmonic_slopes[3 * component, z]
            gradients[1, z] += factor * edges.harmonic_slopes[3 * component + 1, z]
            gradients[2, z] += factor * edges.harmonic_slopes[3 * component + 2, z]
    for z in range(count):
        radial = edges.radial_slopes[z] * edges.inverse_cutoffs[z] + edges.pair_slopes[z]
        along = (gradients[0, z] * units[0, z] + gradients[1, z] * units[1, z]) + gradients[2, z] * units[2, z]
        for c in range(3):
            across = (gradients[c, z] - along * units[c, z]) / edges.lengths[z]
            gradients[c, z] = radial * units[c, z] + across


@inner_kernel
def add_forces(sums, edges, atoms, first_center, num_centers, want_virial, want_atom_virials):
    """Add the edges' gradients to the forces, and the virials where wanted, in fixed point (accumulates).

    The force of an edge on its centre is +dE_i/dr_ij and on its neighbour the negative of the same integer. W = -sum
    r (x) dE/dr; atom virials go to the neighbour. A centre with a term that is not finite or out of range is marked
    in `atoms.faults`.
    """
    forces, gradients, vectors, virial = sums.forces, edges.gradients, edges.vectors, sums.virial
    for number in range(num_centers):
        i = first_center + number
        good = True
        virial[:] = 0.0
        for z in range(edges.first[number], edges.first[number + 1]):
            j = edges.neighbors[z]
            for c in range(3):
                if not abs(gradients[c, z]) < FORCE_LIMIT:
                    good = False
                    continue
                term = to_fixed(gradients[c, z])
                if add_overflows(forces[i, c], term) or add_overflows(forces[j, c], -term):
                    good = False
                forces[i, c] += term
                forces[j, c] -= term
            if want_virial or want_atom_virials:
                for a in range(3):
                    for b in range(3):
                        share = -(vectors[a, z] * gradients[b, z])
                        virial[3 * a + b] += share
                        if want_atom_virials:
                            if abs(share) < FORCE_LIMIT:
                                sums.atom_virials[j, 3 * a + b] += to_fixed(share)
                            else:
                                good = False
        if want_virial:
            for a in range(9):
                good = add_to_words(sums.virial_words[a], virial[a]) and good
        if not good:
            atoms.faults[i] = 1


@kernel
def merge_rows(total, part, faults):
    """total += part and part = 0 for int64 arrays (rows, k); a row whose sum leaves the range is marked in `faults`."""
    for row in range(len(total)):
        for k in range(total.shape[1]):
            if add_overflows(total[row, k], part[row, k]):
                faults[row] = 1
            total[row, k] += part[row, k]
            part[row, k] = 0
