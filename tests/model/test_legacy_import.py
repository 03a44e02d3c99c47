"""Importing a legacy model: what is not supported or not known is refused by name, and the weight file keeps it all."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
from support.legacy import MODELS, StoredArray, legacy_model, legacy_source, legacy_structure

from allegro_sim.errors import CheckpointImportError, ModelFileError
from allegro_sim.model.caveats import jump_warnings
from allegro_sim.model.consistency import find_inconsistency, named_arrays
from allegro_sim.model.description import AllegroModel, LennardJones, Mlp, Zbl
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.model.summary import summary
from allegro_sim.model.weight_file import load_model, save_model
from allegro_sim.tools.importing.legacy import read_legacy_model
from allegro_sim.tools.importing.summary import describe_model

PAIR_BUILDERS = ["allegro.model.Allegro", "PerSpeciesRescale", "PairPotentialTerm", "RescaleEnergyEtc"]
ZBL = {"pair_style": "ZBL", "units": "metal"}


def _import(name: str, changes: dict, tensors: dict | None = None, drop: str = "") -> tuple[AllegroModel, list[str]]:
    source = legacy_source(name)
    config = {key: value for key, value in (source.config | changes).items() if value != "absent"}
    others = {key: StoredArray(value) for key, value in (tensors or {}).items()}
    stored = {key: value for key, value in (source.tensors | others).items() if key != drop}
    notes: list[str] = []
    return read_legacy_model(dataclasses.replace(source, config=config, tensors=stored), {}, notes)[0], notes


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("five_layers", {"embed_initial_edge": False}, "embed_initial_edge is False"),
        ("five_layers", {"latent_mlp_nonlinearity": "ssp"}, "latent_mlp_nonlinearity is 'ssp'"),
        ("five_layers", {"latent_mlp_batchnorm": True}, "latent_mlp_batchnorm is true.*biases"),
        ("p_l3_collected", {"two_body_latent_mlp_batchnorm": True}, "two_body_latent_mlp_batchnorm is true"),
        ("batch_norms", {"two_body_latent_mlp_batchnorm": False}, r"unknown tensors allegro\.latents\.0\."),
        ("five_layers", {"pad_to_alignment": 4}, r"_big_w3j does not hold what"),
        ("five_layers", {"pad_to_alignment": 0}, "pad_to_alignment is 0"),
        ("five_layers", {"l_max": 10**18}, f"l_max is {10**18}; 0 to 11"),
        ("five_layers", {"num_layers": -1}, "num_layers is -1; 0 to 100"),
        ("five_layers", {"num_basis": 10**9}, f"num_basis is {10**9}"),
        ("five_layers", {"r_max": 0}, "r_max is 0; a positive length"),
        ("five_layers", {"r_max": float("nan")}, "r_max is nan; a finite number"),
        ("original_basis", {"r_max": 3.9}, r"allegro\.r_max does not hold"),
        ("replaced_layer_cutoffs", {"r_max": 4.3}, "per_layer_cutoffs is .* at most r_max"),
        ("replaced_layer_cutoffs", {"per_layer_cutoffs": ["x"]}, "per_layer_cutoffs is"),
        ("five_layers", {"cutoff_type": "step"}, "cutoff_type is 'step'"),
        ("five_layers", {"parity": "o2"}, "parity is 'o2'"),
        ("five_layers", {"avg_num_neighbors": "auto"}, "avg_num_neighbors is 'auto'"),
        ("five_layers", {"num_layers": "absent"}, "num_layers is missing"),
        ("five_layers", {"latent_dropout_of_a_kind": 1}, "unknown option config.latent_dropout_of_a_kind = 1"),
        ("five_layers", {"model_builders": ["allegro.model.Allegro", "MyTerm"]}, "MyTerm"),
        ("five_layers", {"r_max": 3.9}, "per_layer_cutoffs does not hold"),
        ("five_layers", {"latent_mlp_latent_dimensions": [16, 8]}, "calls for"),
        ("so3_replaced", {"per_layer_cutoffs": [4.0, 4.0, 3.0]}, "per_layer_cutoffs does not hold"),
        ("zbl_02", {"pair_style": "LJ"}, "lj_sigma is missing"),
        ("lj_fancy", {}, r"'LJ_fancy' \(nequip\.nn\.pair_potential\.LennardJones\).*--mend-lennard-jones imports"),
        ("zbl_02", {"pair_style": "Morse"}, "pair_style is 'Morse'"),
        ("lj_02", {"SimpleLennardJones_lj_sigma": 1.0}, "SimpleLennardJones_lj_sigma"),
        ("zbl_02", {"units": "nano"}, "units is 'nano'"),
        ("p_l3_collected", {"tensors_mixing_mode": "uvw"}, "tensors_mixing_mode is 'uvw'"),
        ("p_l3_collected", {"use_original_normalized_basis": True}, r"radial_basis\._mean"),
        ("five_layers", {"edge_sh_normalization": "4pi"}, "edge_sh_normalization is '4pi'; component, norm, integral"),
        ("five_layers", {"edge_sh_normalize": False}, "edge_sh_normalize is False"),
        ("five_layers", {"mlp_nonlinearity": None}, "unknown option config.mlp_nonlinearity"),  # of every MLP
        ("five_layers", {"p": 4}, "unknown option config.p = 4"),  # of the polynomial cutoff
        ("p_l3_collected", {"ProductTypeEmbedding_initial_scalar_embedding_dim": 4}, "unknown option config.Product"),
        ("p_l3_collected", {"latent_mlp_bfloat16": True}, "latent_mlp_bfloat16"),
        ("original_basis", {**ZBL, "model_builders": PAIR_BUILDERS}, "they have none"),
        ("p_l3_collected", {"avg_num_neighbors": 0.5}, "more than 1"),
        ("pair_cutoffs_zbl", {"per_edge_type_cutoff": {"H": {"H": 3.0, "O": 4.0}, "O": 4.5}}, "_rmax_recip"),
        ("pair_cutoffs_zbl", {"per_edge_type_cutoff": {"H": 3.0}}, r"per_edge_type_cutoff\.O\.H"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(name, changes, message):
    with pytest.raises(CheckpointImportError, match=message):
        _import(name, changes)


def test_tensors_are_all_used():
    with pytest.raises(CheckpointImportError, match=r"unknown tensors allegro\.extra"):
        _import("five_layers", {}, {"allegro.extra": np.ones(2)})
    with pytest.raises(CheckpointImportError, match=r"allegro\.linears\.1\.w is missing"):
        _import("five_layers", {}, drop="allegro.linears.1.w")
    with pytest.raises(CheckpointImportError, match=r"shift_by is 1\.5.*--drop-total-energy-shift"):
        _import("five_layers", {}, {"shift_by": np.array(1.5)})
    with pytest.raises(CheckpointImportError, match="neither the tensor"):
        _import("five_layers", {}, drop="allegro.per_layer_cutoffs")
    with pytest.raises(CheckpointImportError, match=r"unknown tensors allegro\.choice"):
        _import("five_layers", {}, {"allegro.choice": np.array([1, 0])})
    index = np.zeros(4, np.int64)
    with pytest.raises(CheckpointImportError, match="_w_index"):
        _import("five_layers", {}, {"allegro._env_weighter._w_index": index})


def test_other_options_are_ignored_and_named():
    model, notes = _import("five_layers", {"optimizer_name": "Adam", "my_own_note": "x", "dataset_foo": 3})
    assert notes == ["options that no part of the model reads were ignored: my_own_note"]
    assert model.num_layers == 5


def test_radial_functions_without_a_cutoff_function_are_told():
    model, notes = _import("original_basis", {})
    assert model.radial.cutoff_exponent is None and model.radial.with_constants and not notes
    assert any("use_original_normalized_basis" in text for text in jump_warnings(model))
    assert any("5 Bessel functions, sharp cutoff" in line for line in describe_model(model, 1))
    assert not legacy_model("original_basis_unshifted").radial.with_constants


def test_cutoffs_of_pairs_that_the_radial_functions_do_not_look_at_are_told():
    model, notes = _import("original_basis_pair_cutoffs", {})
    assert "per_edge_type_cutoff has no effect" in notes[0] and (model.cutoffs == 4.0).all()


def test_the_highest_frequency_says_how_many_radial_functions_there_are():
    changes = {"num_bessels_per_basis": "absent", "bessel_frequency_cutoff": 4.5}  # 4.5 * 4 / pi = 5.7
    found, expected = _import("uuup_self_edge", changes)[0], legacy_model("uuup_self_edge")
    assert all(
        np.array_equal(a, b) for (_, a, _), (_, b, _) in zip(named_arrays(found), named_arrays(expected), strict=True)
    )
    with pytest.raises(CheckpointImportError, match="calls for"):
        _import("uuup_self_edge", changes | {"bessel_frequency_cutoff": 5.0})


def test_layer_cutoffs_below_r_max_are_told():
    for name in ("cosine_layer_cutoffs", "replaced_layer_cutoffs"):
        model, notes = _import(name, {})
        assert not notes and any("per_layer_cutoffs" in text and "jumps" in text for text in jump_warnings(model))
    assert not jump_warnings(_import("so3_replaced", {})[0])


def test_a_zbl_term_before_equal_scales_takes_them():
    builders = ["allegro.model.Allegro", "PairPotentialTerm", "PerSpeciesRescale", "RescaleEnergyEtc"]
    scales = {"per_species_rescale.scales": np.array([1.5, 1.5])}
    before, _ = _import("zbl_02", {"model_builders": builders}, scales)
    assert isinstance(before.pair_term, Zbl)
    assert before.pair_term.coulomb == pytest.approx(1.5 * legacy_model("zbl_02").pair_term.coulomb, rel=1e-15)
    assert before.pair_scales is None


def test_a_pair_term_before_scales_that_differ_takes_that_of_the_centre():
    model = legacy_model("zbl_before_scales")
    assert np.ptp(model.pair_scales) > 0.1
    np.testing.assert_allclose(1.7 * model.pair_scales, model.scales, rtol=1e-15)


def test_lennard_jones_is_what_upstream_computes_from_the_file():
    """Of a folder the option times the factor on all energies, of a deployed model its module's own number."""
    model, notes = _import("lj_02", {})
    assert model.pair_term == LennardJones(1.4, 1.7 * 0.03, None)
    assert "0.03" in notes[0] and "1.7" in notes[0]
    assert [text for text in jump_warnings(model) if "Lennard-Jones" in text]
    source = legacy_source("lj_02")
    attributes = {"pair_potential.lj_epsilon": 0.03 / 1.7}
    deployed = read_legacy_model(dataclasses.replace(source, attributes=attributes), {}, notes := [])[0]
    assert deployed.pair_term.epsilon == pytest.approx(0.03, rel=1e-15) and not notes
    wrong = {"pair_potential.lj_sigma": 1.5}
    with pytest.raises(CheckpointImportError, match="lj_sigma"):
        read_legacy_model(dataclasses.replace(source, attributes=wrong), {}, [])
    with_cutoff, notes = _import("lj_pair_cutoffs", {})
    assert with_cutoff.pair_term.cutoff_exponent == 6.0 and not jump_warnings(with_cutoff)
    assert with_cutoff.reaches is with_cutoff.cutoffs


def test_a_lennard_jones_term_of_pairs_takes_the_factor_on_all_energies():
    model = legacy_model("lj_fancy")
    term = model.pair_term
    assert (term.power, term.style, term.cutoff_exponent) == (5.5, "lj", 6.0)
    assert np.allclose(term.epsilon, 1.7 * 0.04, rtol=1e-15)
    assert np.array_equal(term.sigma, [[1.0, 1.2], [1.2, 1.5]]) and np.array_equal(term.delta, [[0.2, 0.0], [0.0, 0.0]])
    assert model.pair_scales is not None


def test_a_sharp_pair_term_reaches_to_r_max_whatever_the_cutoffs_of_pairs():
    model, notes = _import("lj_beyond_cutoffs", {})
    assert model.pair_term.reach == 4.5 and np.all(model.reaches == 4.5) and model.cutoffs.max() == 3.9
    assert any("reaches to r_max, 4.5" in note and "LAMMPS" in note for note in notes) and jump_warnings(model)
    assert any("sharp cutoff at 4.5" in line for line in describe_model(model, 1))
    assert _import("lj_02", {})[0].pair_term.reach is None


@pytest.mark.parametrize("name", MODELS)
def test_the_weight_file_gives_the_model_back(name, tmp_path):
    model = legacy_model(name)
    save_model(tmp_path / "model.h5", model, {}, [])
    loaded = load_model(tmp_path / "model.h5")
    for (one, a, _), (other, b, _) in zip(named_arrays(model), named_arrays(loaded), strict=True):
        assert one == other
        assert np.array_equal(a, b)
    structure = legacy_structure(name, "cluster")
    before, after = (evaluate_structure(which, *structure) for which in (model, loaded))
    assert np.array_equal(before.forces, after.forces)
    assert summary(loaded)["generation"] == "legacy"
    with h5py.File(tmp_path / "model.h5") as file:
        least = 3 if isinstance(model.pair_term, LennardJones) else 2
        least = 4 if model.pair_scales is not None else least
        newest = (model.reaches > model.cutoffs).any() or model.radial.cutoff_exponent is None
        least = 6 if newest else least
        least = 8 if name == "lj_fancy" else least
        assert file.attrs["format_version"] == (7 if name == "replaced_layer_cutoffs" else least)
    assert type(loaded.pair_term) is type(model.pair_term)
    assert np.array_equal(loaded.reaches, model.reaches)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("cosine_layer_cutoffs", "edge_scales"),
        ("cosine_layer_cutoffs", "latent_cutoff"),
        ("cosine_layer_cutoffs", "latent_factors"),
        ("environment_linear", "layers/0/environment_mix"),
        ("uvvp_collected_so3", "layers/1/mix_in"),
        ("five_layers", "layers/1/mix_out"),
        ("five_layers", "layers/1/environment_mlp"),
    ],
)
def test_a_stage_that_was_lost_is_named(name, lost, tmp_path):
    path = tmp_path / "model.h5"
    save_model(path, legacy_model(name), {}, [])
    with h5py.File(path, "a") as file:
        del file[lost]
    with pytest.raises(ModelFileError, match=f"'/{lost}' is missing"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("five_layers", {"latent_update": "sum"}, "latent_update 'sum'"),
        ("five_layers", {"latent_update": "replace"}, "'latent_factors' belong"),
        ("five_layers", {"generation": "current"}, "options of the legacy generation"),
        ("five_layers", {"generation": "older"}, "'older'"),
        ("five_layers", {"so3": True}, "irreps or paths"),
        ("five_layers", {"edge_scales": np.ones((3, 3))}, "'edge_scales' has shape"),
        ("environment_linear", {"self_edge": False}, "an environment of its own"),
        ("five_layers", {"num_scalar_features": 8}, "scalar features"),
        ("lj_pair_cutoffs", {"pair_term": LennardJones(1.0, 0.1, 6.0, 4.5)}, "'reach', which belongs"),
        ("lj_pair_cutoffs", {"pair_term": LennardJones(1.0, 0.1, None, -1.0)}, "reach -1.0"),
        ("lj_pair_cutoffs", {"pair_term": LennardJones(1.0, 0.1, None, 0.0)}, "reach 0.0"),
        ("lj_pair_cutoffs", {"pair_term": LennardJones(1.0, 0.1, 0.0)}, "exponent 0.0"),
        ("lj_pair_cutoffs", {"pair_term": LennardJones(1.0, 0.1, None, power=0.0)}, "power 0.0"),
        (
            "lj_pair_cutoffs",
            {"pair_term": LennardJones(1.0, 0.1, None, delta=np.inf)},
            "delta' holds values that are not finite",
        ),
        (
            "lj_pair_cutoffs",
            {"pair_term": LennardJones(1.0, 0.1, None, style="mie")},
            "style 'mie', not one of lj, lj_r",
        ),
        ("lj_pair_cutoffs", {"pair_term": LennardJones(0.0, 0.1, None, style="repulsive")}, "sigma' must be positive"),
        ("lj_pair_cutoffs", {"pair_term": LennardJones(np.ones((3, 3)), 0.1, None)}, "sigma' has shape (3, 3)"),
        ("lj_beyond_cutoffs", {"readout": Mlp((np.ones((16, 1)),), "sigmoid")}, "where this network is not 0"),
    ],
)
def test_stages_that_do_not_belong_together_are_named(name, changes, message):
    assert message in str(find_inconsistency(dataclasses.replace(legacy_model(name), **changes)))
