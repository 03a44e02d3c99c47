"""A model file gives back what was saved, and refuses everything else with a message that says why."""

from __future__ import annotations

import dataclasses
import shutil

import h5py
import numpy as np
import pytest
from support.golden import golden_model
from support.legacy import legacy_model
from support.random_models import random_model

from allegro_sim.errors import ModelFileError, OutputError
from allegro_sim.model.consistency import find_inconsistency, named_arrays
from allegro_sim.model.description import BesselEmbedding
from allegro_sim.model.self_check import make_reference_self_checks
from allegro_sim.model.summary import count_weights, summary
from allegro_sim.model.weight_file import (
    FORMAT_VERSION,
    load_model,
    read_provenance,
    read_self_checks,
    save_model,
)

OPTIONS = [
    {},
    {"spline": True, "zbl": True, "num_types": 3, "per_pair_cutoffs": True},
    {"l_max": 3, "num_layers": 3, "parity": False},
    {"individual_irreps": False, "num_layers": 1, "trained_dtype": "float32"},
    {"l_max": 0, "activation": "identity", "hidden_depth": 0},
]
PROVENANCE = {"source_file": "näh.ckpt", "sha256": "0" * 64, "licence": "free " * 20000, "note": ""}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model with two self-checks; tests copy it before they damage it."""
    path = tmp_path_factory.mktemp("models") / "model.h5"
    model = random_model(1, zbl=True)
    save_model(path, model, PROVENANCE, make_reference_self_checks(model))
    return path


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copy(saved, tmp_path / "copy.h5")


def _read_everything(path):
    model = load_model(path)
    return model, read_provenance(path), read_self_checks(path)


def _same_arrays(one, other) -> bool:
    return all(
        name == other_name and a.dtype == b.dtype and np.array_equal(a, b)
        for (name, a, _), (other_name, b, _) in zip(named_arrays(one), named_arrays(other), strict=True)
    )


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "plain")
def test_a_saved_model_loads_with_the_same_bits(options, tmp_path):
    model = random_model(3, **options)
    save_model(tmp_path / "model.h5", model, {}, [])
    loaded = load_model(tmp_path / "model.h5")
    assert _same_arrays(model, loaded)
    plain = [f.name for f in dataclasses.fields(model) if isinstance(getattr(model, f.name), (int, str, dict))]
    assert len(plain) >= 7
    assert [getattr(model, name) for name in plain] == [getattr(loaded, name) for name in plain]
    assert model.type_names == loaded.type_names
    for before, after in zip(model.layers, loaded.layers, strict=True):
        assert (before.irreps_in, before.irreps_out, before.paths) == (after.irreps_in, after.irreps_out, after.paths)
        assert before.latent.activation == after.latent.activation
    assert isinstance(model.radial, BesselEmbedding) == isinstance(loaded.radial, BesselEmbedding)
    assert read_self_checks(tmp_path / "model.h5") == []


def test_a_model_of_so3_loads_as_one(tmp_path):
    model = golden_model("so3")
    save_model(tmp_path / "model.h5", model, {}, [])
    loaded = load_model(tmp_path / "model.h5")
    assert loaded.so3 and loaded.generation == "current" and loaded.layers[1].paths == model.layers[1].paths


def test_a_model_with_repeated_irreps_loads_as_one(tmp_path):
    model = golden_model("repeated_everywhere")
    save_model(tmp_path / "model.h5", model, {}, [])
    loaded = load_model(tmp_path / "model.h5")
    assert loaded.harmonics == model.harmonics and len(model.repeated_harmonics) == 1
    assert loaded.repeated_tensors == model.repeated_tensors and len(model.repeated_tensors) == 4
    assert all(a.paths == b.paths for a, b in zip(loaded.layers, model.layers, strict=True))
    assert _same_arrays(model, loaded)
    assert summary(loaded)["repeated_irreps"] == ["0e", "1e", "1o"]


def test_a_model_with_scatter_features_loads_as_one(tmp_path):
    model = golden_model("scatter_so3")
    save_model(tmp_path / "model.h5", model, {}, [])
    loaded = load_model(tmp_path / "model.h5")
    assert loaded.scatter_features and summary(loaded)["scatter_features"] and _same_arrays(model, loaded)
    assert [a.paths for a in loaded.layers] == [b.paths for b in model.layers]
    legacy = dataclasses.replace(legacy_model("pair_cutoffs_zbl"), scatter_features=True)
    assert find_inconsistency(legacy) == "scatter_features is an option of the current generation"


@pytest.mark.parametrize("name", ["lj_tables", "lj_repulsive", "lj_simple"])
def test_a_model_with_a_lennard_jones_term_loads_as_one(name, tmp_path):
    path, model = tmp_path / "model.h5", golden_model(name)
    save_model(path, model, {}, [])
    loaded = load_model(path)
    assert _same_arrays(model, loaded) and count_weights(loaded) == count_weights(model)
    for field in dataclasses.fields(model.pair_term):
        assert np.array_equal(getattr(loaded.pair_term, field.name), getattr(model.pair_term, field.name)), field.name
    with h5py.File(path, "a") as file:  # a reader of version 7 knows neither tables nor styles
        assert file.attrs["format_version"] == (3 if name == "lj_simple" else 8)
        if name != "lj_simple":
            del file["lennard_jones/delta"]
    if name != "lj_simple":
        with pytest.raises(ModelFileError, match="'/lennard_jones/delta' is missing"):
            load_model(path)


def test_provenance_and_self_checks_come_back(saved):
    assert read_provenance(saved) == PROVENANCE
    checks = read_self_checks(saved)
    expected = make_reference_self_checks(load_model(saved))
    assert len(checks) == len(expected) >= 2
    assert [check.cell is None for check in checks] == [False, True]
    for check, wanted in zip(checks, expected, strict=True):
        for field in dataclasses.fields(check):
            assert np.array_equal(getattr(check, field.name), getattr(wanted, field.name))


def test_summary_holds_what_json_can_hold(saved):
    import json

    found = summary(load_model(saved))
    assert json.loads(json.dumps(found)) == found
    assert found["type_names"] == ["H", "O"]
    assert {"cutoffs", "generation", "num_weights", "l_max", "num_layers", "trained_dtype"} <= set(found)


def test_every_array_has_a_checksum(saved):
    without = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not item.fletcher32:
            without.append(name)

    with h5py.File(saved) as file:
        file.visititems(visit)
    assert without == []


def test_missing_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"nowhere\.h5: no such file"):
        load_model(tmp_path / "nowhere.h5")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a checkpoint", b"\x89HD"])
def test_not_hdf5(tmp_path, content):
    path = tmp_path / "model.h5"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not an HDF5 file"):
        load_model(path)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_model(tmp_path)


@pytest.mark.parametrize("part", [0.0005, 0.01, 0.5, 0.99, 0.99999])
def test_truncated(copy, part):
    size = copy.stat().st_size
    with copy.open("rb+") as file:
        file.truncate(max(8, int(part * size)))
    for read in (load_model, read_provenance, read_self_checks):
        with pytest.raises(ModelFileError, match="truncated"):
            read(copy)


def test_another_format(tmp_path):
    path = tmp_path / "trajectory.h5"
    with h5py.File(path, "w") as file:
        file["positions"] = np.zeros(3)
    with pytest.raises(ModelFileError, match="another format"):
        load_model(path)
    with h5py.File(path, "a") as file:
        file.attrs["format"] = "other-model"
    with pytest.raises(ModelFileError, match="another format"):
        load_model(path)


def test_newer_version(copy):
    with h5py.File(copy, "a") as file:
        file.attrs["format_version"] = FORMAT_VERSION + 1
    for read in (load_model, read_provenance, read_self_checks):
        with pytest.raises(ModelFileError, match=f"version {FORMAT_VERSION + 1}, newer than version {FORMAT_VERSION}"):
            read(copy)


@pytest.mark.parametrize(
    "name", ["tensor_linear", "types/names", "layers/1/latent/0", "radial/basis_linear", "readout"]
)
def test_missing_field_is_named(copy, name):
    with h5py.File(copy, "a") as file:
        del file[name]
    with pytest.raises(ModelFileError, match=f"'/{name}' is missing"):
        load_model(copy)


def test_missing_attribute_is_named(copy):
    with h5py.File(copy, "a") as file:
        del file.attrs["l_max"]
    with pytest.raises(ModelFileError, match="'l_max'"):
        load_model(copy)


def test_a_cutoff_exponent_that_is_lost_is_not_a_sharp_cutoff(copy):
    """Only since version 6 has a file none by intention."""
    with h5py.File(copy, "a") as file:
        del file["radial"].attrs["cutoff_exponent"]
    with pytest.raises(ModelFileError, match="'cutoff_exponent'"):
        load_model(copy)


def test_a_cutoff_exponent_of_zero_is_named(copy):
    with h5py.File(copy, "a") as file:
        file["radial"].attrs["cutoff_exponent"] = 0.0
    with pytest.raises(ModelFileError, match="cutoff_exponent"):
        load_model(copy)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tensor_linear", np.zeros((8, 5)), "'tensor_linear' has shape"),
        ("layers/0/paths", np.zeros((4, 3), int), "irreps or paths of 'layers/0'"),
        ("layers/0/paths", np.zeros((2, 2), int), "layers/0/paths"),
        ("scales", np.array([1.0, np.nan]), "'scales' holds values that are not finite"),
        ("cutoffs", np.array([[4.0, 0.0], [4.0, 4.0]]), "must be positive"),
        ("readout/0", np.array(b"text"), "not an array of numbers"),
        ("hyperparameters", np.array([b"{"], "S1"), "hyperparameters"),
    ],
)
def test_parts_that_do_not_fit_are_named(copy, name, value, message):
    with h5py.File(copy, "a") as file:
        del file[name]
        file[name] = value
    with pytest.raises(ModelFileError, match=message):
        load_model(copy)


def test_an_unknown_activation_is_named(copy):
    with h5py.File(copy, "a") as file:
        file["readout"].attrs["activation"] = "relu"
    with pytest.raises(ModelFileError, match="'relu' of 'readout'"):
        load_model(copy)


def test_damage_in_an_array_is_found(copy):
    weights = load_model(copy).tensor_linear.tobytes()
    content = bytearray(copy.read_bytes())
    content[content.index(weights) + 11] ^= 1
    copy.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"'/tensor_linear' is damaged"):
        load_model(copy)


def test_a_flipped_bit_anywhere_changes_nothing_or_is_refused(copy, saved):
    """HDF5 leaves gaps without meaning; every other bit lies under a checksum."""
    model, provenance, checks = _read_everything(saved)
    content = saved.read_bytes()
    rng = np.random.default_rng(5)
    refused = 0
    for place in rng.integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        copy.write_bytes(damaged)
        try:
            found, found_provenance, found_checks = _read_everything(copy)
        except ModelFileError:
            refused += 1
            continue
        assert _same_arrays(model, found)
        assert (found.hyperparameters, found.pair_term.coulomb) == (model.hyperparameters, model.pair_term.coulomb)
        assert found_provenance == provenance
        for check, wanted in zip(found_checks, checks, strict=True):
            assert np.array_equal(check.forces, wanted.forces)
            assert (check.energy, check.source) == (wanted.energy, wanted.source)
    assert refused > 100


def test_saving_replaces_the_file_whole_or_leaves_it(copy):
    before = copy.read_bytes()
    bad = dataclasses.replace(random_model(1), scales=np.ones(3))
    with pytest.raises(ModelFileError, match="'scales' has shape"):
        save_model(copy, bad, {}, [])
    with pytest.raises(AttributeError):
        save_model(copy, random_model(1), {"fails in the middle": "", "x": 3}, [])
    assert copy.read_bytes() == before
    assert [file.name for file in copy.parent.iterdir()] == [copy.name]
    save_model(copy, random_model(2), {}, [])
    assert _same_arrays(load_model(copy), random_model(2))


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(tmp_path / "none" / "model.h5", random_model(1), {}, [])


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "plain")
def test_random_models_are_consistent(options):
    assert find_inconsistency(random_model(4, **options)) is None
