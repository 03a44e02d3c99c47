"""Irreps of the tensor track and its paths are upstream's: kept, pruned and ordered alike."""

from __future__ import annotations

from itertools import pairwise

import pytest

from allegro_sim.model.irreps import (
    Irrep,
    Path,
    component_slices,
    harmonic_irreps,
    irreps_chain,
    tensor_product_paths,
    total_dim,
)


def _texts(chain):
    return [" ".join(map(str, irreps)) for irreps in chain]


def test_text_of_an_irrep_goes_both_ways():
    for text in ("0e", "1o", "12e"):
        assert str(Irrep.parse(text)) == text
    for text in ("", "e", "1x", "-1e", "1eo"):
        with pytest.raises(ValueError, match="not an irrep"):
            Irrep.parse(text)


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("l_max", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_up_to_two_layers_only_the_harmonics_irreps_are_left(num_layers, l_max, parity):
    harmonics = harmonic_irreps(l_max)
    assert irreps_chain(l_max, parity, num_layers) == (harmonics,) * num_layers + ((Irrep(0, 1),),)


def test_three_layers_with_parity_reach_the_other_parity_in_between():
    assert _texts(irreps_chain(2, True, 3)) == ["0e 1o 2e", "0e 1e 1o 2e 2o", "0e 1o 2e", "0e"]
    assert _texts(irreps_chain(3, False, 3)) == ["0e 1o 2e 3o"] * 3 + ["0e"]


def test_sizes_are_those_of_upstreams_tensor_products():
    # Shapes (paths, in, harmonics, out) of the couplings stored in a checkpoint of l_max 3 with 3 layers and parity.
    harmonics = harmonic_irreps(3)
    chain = irreps_chain(3, True, 3)
    sizes = [
        (len(tensor_product_paths(a, harmonics, b)), total_dim(a), total_dim(harmonics), total_dim(b))
        for a, b in pairwise(chain)
    ]
    assert sizes == [(34, 16, 16, 31), (34, 31, 16, 16), (4, 16, 16, 1)]


def test_paths_run_over_output_then_first_input_then_harmonics():
    harmonics = harmonic_irreps(1)
    assert tensor_product_paths(harmonics, harmonics, harmonics) == (
        Path(0, 0, 0), Path(1, 1, 0), Path(0, 1, 1), Path(1, 0, 1),
    )  # fmt: skip


def test_components_lie_one_irrep_after_the_other():
    assert component_slices(harmonic_irreps(2)) == (slice(0, 1), slice(1, 4), slice(4, 9))
