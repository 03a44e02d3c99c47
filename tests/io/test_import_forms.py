"""Every form of file: what is read from each, and files of other programs, damaged files and hostile ones."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.golden import FOLDER
from support.import_costs import assert_cheap_import
from support.torch_files import (
    Call,
    Named,
    module,
    read_saved,
    read_scripted,
    scripted,
    write_package,
    write_saved,
    write_scripted,
)

from allegro_sim.errors import CheckpointImportError, InputError
from allegro_sim.model.consistency import named_arrays
from allegro_sim.model.description import AllegroModel
from allegro_sim.tools.importing.build import Built, build_model
from allegro_sim.tools.importing.source import Source, open_any
from allegro_sim.tools.main import main

FORMS = sorted(path.name.removesuffix(".nequip.pth") for path in FOLDER.glob("*.nequip.pth"))
FILES = sorted(
    path for path in (*FOLDER.glob("*.nequip.*"), FOLDER / "zbl_metal.ckpt") if not path.name.startswith("lj_")
)


def load(path: Path, **options: Any) -> Built:
    mended = path.name.startswith("lj_")
    return build_model(open_any(path), mend_lennard_jones=mended, **options)


def refusal(path: Path, **options: Any) -> str:
    """The message with which a file is refused."""
    with pytest.raises(CheckpointImportError) as caught:
        build_model(open_any(path, **options))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def assert_same(found: AllegroModel, expected: AllegroModel, relative: float) -> None:
    for (name, array, _), (_, wanted, _) in zip(named_arrays(found), named_arrays(expected), strict=True):
        np.testing.assert_allclose(array, wanted, rtol=relative, atol=0.0, err_msg=name)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("ending", [".nequip.zip", ".nequip.pth"])
def test_every_form_gives_the_model_of_the_checkpoint(name: str, ending: str) -> None:
    """The exponent of ZBL and the activations are read from modules where no configuration says them."""
    expected, found = load(FOLDER / f"{name}.ckpt"), load(FOLDER / f"{name}{ending}")
    # Numbers of neighbours are found from their inverse square roots: two roundings, in the model's precision.
    precision = 4e-7 if expected.model.trained_dtype == "float32" else 4e-16
    assert_same(found.model, expected.model, precision if ending.endswith("pth") else 0.0)
    assert found.num_weights == expected.num_weights or ending.endswith("pth")
    for option in ("l_max", "parity", "trained_dtype", "type_names", "harmonics", "repeated_tensors"):
        assert getattr(found.model, option) == getattr(expected.model, option), option
    assert [layer.latent.activation for layer in found.model.layers] == [
        layer.latent.activation for layer in expected.model.layers
    ]
    for field in ("cutoff_exponent", "style", "power"):
        assert getattr(found.model.pair_term, field, None) == getattr(expected.model.pair_term, field, None), field
    if name == "lj_simple":
        assert found.model.pair_term == expected.model.pair_term


def test_forms_hold_both_radial_embeddings_and_both_packagings() -> None:
    assert len(FORMS) >= 4 and any(name.startswith("old_") for name in FORMS)
    entries = {name: zipfile.ZipFile(FOLDER / f"{name}.nequip.zip").namelist() for name in FORMS}
    kinds = {name: any(entry.endswith("model/versions.txt") for entry in found) for name, found in entries.items()}
    assert set(kinds.values()) == {True, False}
    source_text = [entry for found in entries.values() for entry in found if entry.endswith(".py") or "/code/" in entry]
    assert source_text == []


def test_options_of_a_package_are_read_from_its_modules_where_its_configuration_has_none(tmp_path: Path) -> None:
    """As of models trained further from another package."""
    original = FOLDER / "zbl_metal.nequip.zip"
    path = tmp_path / "further.nequip.zip"
    config = b"training_module: {model: {_target_: nequip.model.ModelFromPackage, package_path: gone.nequip.zip}}\n"
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, config if name.endswith("config.yaml") else old.read(name))
    found = load(path)
    assert_same(found.model, load(original).model, 4e-16)
    assert any("read from the model itself" in note for note in found.notes)


@pytest.mark.parametrize("name", FORMS)
def test_models_compiled_from_a_package_are_read(name: str, tmp_path: Path) -> None:
    """`nequip-compile MODEL.nequip.zip`: PyTorch then puts a mark before the name of every class."""

    def mark(entry: str, content: bytes) -> bytes:
        return (
            content.replace(b"c__torch__.", b"c__torch__._torch_package_0_.") if entry.endswith("data.pkl") else content
        )

    original = FOLDER / f"{name}.nequip.pth"
    path = rewrite(original, tmp_path / original.name, mark)
    assert path.read_bytes() != original.read_bytes()
    found = load(path)
    assert_same(found.model, load(original).model, 0.0)
    assert not any("no checkpoint needs" in note for note in found.notes)


def test_a_checkpoint_trained_further_takes_the_options_of_its_base_file(tmp_path: Path) -> None:
    content = read_saved(FOLDER / "deep_linear.ckpt")
    base = tmp_path / "base.ckpt"
    write_saved(base, content)
    target = {"_target_": "nequip.model.ModelFromCheckpoint", "checkpoint_path": "/somewhere/else/base.ckpt"}
    content["hyper_parameters"]["model"] = target
    further = write_saved(tmp_path / "further.ckpt", content)
    found = load(further)
    assert_same(found.model, load(FOLDER / "deep_linear.ckpt").model, 0.0)
    assert any("base.ckpt" in note for note in found.notes)
    base.unlink()
    assert "/somewhere/else/base.ckpt" in refusal(further)


def test_one_of_several_models_is_chosen_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (read_saved(FOLDER / f"{name}.ckpt") for name in ("deep_linear", "zbl_metal"))
    both = {"student": first, "teacher": second}
    content = {**first, "state_dict": {}, "hyper_parameters": dict(first["hyper_parameters"])}
    content["hyper_parameters"]["model"] = {
        "_target_": "my.two_models",
        **{name: found["hyper_parameters"]["model"] for name, found in both.items()},
    }
    for name, found in both.items():
        for tensor, value in found["state_dict"].items():
            content["state_dict"][tensor.replace("model.sole_model.", f"model.{name}.")] = value
    path = write_saved(tmp_path / "two.ckpt", content)
    message = refusal(path)
    assert "student, teacher" in message and "--model student" in message
    assert "no model 'coach'" in refusal(path, model_name="coach")
    found_model = build_model(open_any(path, "teacher")).model
    assert_same(found_model, load(FOLDER / "zbl_metal.ckpt").model, 0.0)
    assert main(["import", str(path), "-o", str(tmp_path / "m.h5"), "--model", "student"]) == 0
    assert "O, H" in capsys.readouterr().out


def test_schedule_free_averages_are_taken_in_either_mode_of_the_optimiser(tmp_path: Path) -> None:
    checkpoint = FOLDER / "pairwise_01.ckpt"
    averaged, raw = load(checkpoint), load(checkpoint, raw_weights=True)
    assert (averaged.weights_used, raw.weights_used) == ("averaged (schedule-free)", "raw")
    assert not np.array_equal(averaged.model.tensor_linear, raw.model.tensor_linear)
    content = read_saved(checkpoint)
    state = content["schedulefree_optimizer_state_dict"]
    state["param_groups"][0]["train_mode"] = False  # as after validation: the weights are the averages already
    path = write_saved(tmp_path / "evaluating.ckpt", content)
    assert_same(load(path).model, raw.model, 0.0)
    del state["param_groups"][0]["train_mode"]
    assert "momentum or mode" in refusal(write_saved(path, content))
    del content["schedulefree_optimizer_state_dict"]
    assert "the state of the optimiser" in refusal(write_saved(path, content))
    assert_same(load(path, raw_weights=True).model, raw.model, 0.0)


def test_averages_that_do_not_fit_are_refused_and_raw_weights_can_be_had(tmp_path: Path) -> None:
    content = read_saved(FOLDER / "l1_three_layers_float32_ema.ckpt")
    tensors = content["state_dict"]
    path = tmp_path / "ema.ckpt"
    tensors["ema._extra_state"] = {"is_holding_ema_weights": False}
    assert "exchanged" in refusal(write_saved(path, content))
    tensors["ema._extra_state"] = {"is_holding_ema_weights": True}
    last = max(int(name.rsplit("_", 1)[1]) for name in tensors if name.startswith("ema.ema_weight_"))
    taken = tensors.pop(f"ema.ema_weight_{last}")
    assert "--raw-weights" in refusal(write_saved(path, content))
    assert load(path, raw_weights=True).weights_used == "raw"
    tensors[f"ema.ema_weight_{last + 1}"] = taken
    assert f"ema.ema_weight_{last} is missing" in refusal(write_saved(path, content))
    for name in [name for name in tensors if name.startswith("ema.")]:
        del tensors[name]
    assert "no averaged weights" in refusal(write_saved(path, content))
    tensors["extra.weight"] = taken
    assert "unknown tensors extra.weight" in refusal(write_saved(path, content))


def test_options_and_tensors_that_no_model_has_are_named_in_a_package(tmp_path: Path) -> None:
    source = FOLDER / "zbl_metal.nequip.zip"

    def add_option(name: str, content: bytes) -> bytes:
        return content.replace(b"num_layers:", b"new_option: 3\n    num_layers:") if name.endswith(".yaml") else content

    assert "unknown option model.new_option = 3" in refusal(rewrite(source, tmp_path / "option.nequip.zip", add_option))
    opened = open_any(source)
    assert isinstance(opened, Source)
    opened.state["model.func.allegro.extra.weight"] = next(iter(opened.state.values()))
    with pytest.raises(CheckpointImportError, match=r"unknown tensors allegro\.extra\.weight"):
        build_model(opened)


def test_modules_attributes_and_tensors_that_no_model_has_are_named_in_a_compiled_one(tmp_path: Path) -> None:
    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "unknown tensors allegro.extra": lambda found: found["allegro"].state.update(extra=np.ones(3)),
        "allegro (allegro.nn._allegro.Allegro_Module) has self_interaction = True": (
            lambda found: found["allegro"].state.update(self_interaction=True)
        ),
        "allegro.drop (torch.nn.modules.dropout.Dropout) is none": (
            lambda found: found["allegro"].state.update(drop=scripted("torch.nn.modules.dropout.Dropout"))
        ),
        "my.Norm": lambda found: found["edge_readout"].state.update(norm=scripted("my.Norm")),
        "more (allegro.nn.More) is not supported": lambda found: found.update(more=scripted("allegro.nn.More")),
        "has constant = 2.0": lambda found: found["total_energy_sum"].state.update(constant=2.0),
        "SimpleLennardJones', which is not supported": (
            lambda found: found.update(pair_potential=scripted("nequip.nn.pair_potential.SimpleLennardJones"))
        ),
    }
    for words, change in changes.items():
        top, texts = read_scripted(FOLDER / "zbl_metal.nequip.pth")
        change(top.state["model"].state["func"].state)
        assert words in refusal(write_scripted(tmp_path / "changed.nequip.pth", top, texts)), words


@pytest.mark.parametrize("ending", [".nequip.zip", ".nequip.pth"])
def test_options_that_a_form_has_no_use_for_are_refused(ending: str) -> None:
    path = FOLDER / f"zbl_metal{ending}"
    with pytest.raises(InputError, match="--raw-weights"):
        load(path, raw_weights=True)
    assert "coach" in refusal(path, model_name="coach")


def other_models(folder: Path) -> dict[str, Path]:
    """Files of other programs and of upstream's other models: words of the message -> file."""
    gnn = {"_target_": "nequip.model.NequIPGNNModel", "seed": 1}
    tensors = {"model.sole_model.model.func.layer0.weight": np.ones(3)}
    lightning = {"state_dict": tensors, "hyper_parameters": {"model": gnn}}
    graph = module("nequip.nn.graph_model.GraphModel", model=module("nequip.nn.SequentialGraphNetwork"))
    compiled = folder / "model.pt2"
    with zipfile.ZipFile(compiled, "w") as archive:
        archive.writestr("m/data/aotinductor/model/w_metadata.json", '{"type_names": "O H"}')
        archive.writestr("m/.data/version", "3")
    folders = folder / "results"
    folders.mkdir()
    (folders / "last.ckpt").write_bytes(b"")
    return {
        "a NequIP message-passing model": write_saved(folder / "gnn.ckpt", lightning),
        "a MACE model": write_saved(folder / "mace.model", module("mace.modules.models.ScaleShiftMACE")),
        "a SchNetPack model": write_saved(folder / "s.pt", {"model": module("schnetpack.model.Potential")}),
        "the weights of another model": write_saved(folder / "plain.pt", {"fc.weight": np.ones((2, 2))}),
        "trainer.pth": write_saved(folder / "trainer.pth", {"state_dict": {}, "progress": {}, "epoch": 1}),
        "mace.calculators.lammps_mace.LAMMPS_MACE": write_scripted(
            folder / "lammps.pt", scripted("mace.calculators.lammps_mace.LAMMPS_MACE"), {}
        ),
        "is a model of nequip, not": write_scripted(
            folder / "gnn.nequip.pth",
            scripted("nequip.nn.graph_model.GraphModel", model=scripted("nequip.nn.convnetlayer.ConvNetLayer")),
            {},
        ),
        "not an Allegro model": write_package(folder / "gnn.nequip.zip", graph, "training_module: {model: {}}", "{}"),
        "cannot be read back. Import the file it was compiled from": compiled,
        "last.ckpt": folders,
    }


def test_other_models_are_named_and_said_not_to_be_allegro(tmp_path: Path) -> None:
    for words, path in other_models(tmp_path).items():
        assert words in refusal(path), words


def hostile(command: Path) -> Call:
    return Call(Named("posix", "system"), (f"touch {command}",))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_code_in_any_form_does_not_run_and_is_reported(file: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    command = f"touch {witness}".encode()
    call = b"cposix\nsystem\n(X" + len(command).to_bytes(4, "little") + command + b"tR0"

    def infect(name: str, content: bytes) -> bytes:
        return content[:2] + call + content[2:] if name.endswith(("data.pkl", "_model.pkl")) else content

    path = rewrite(file, tmp_path / file.name, infect)
    assert any("posix.system" in note for note in load(path).notes)
    assert not witness.exists()


def test_hostile_objects_and_yaml_in_forms_without_a_model_are_reported(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    files = [
        write_saved(tmp_path / "a.ckpt", {"x": hostile(witness)}),
        write_scripted(tmp_path / "b.nequip.pth", scripted("a.B", x=hostile(witness)), {}),
    ]
    for path in files:
        assert "posix.system" in refusal(path)
    legacy = tmp_path / "folder"
    legacy.mkdir()
    write_saved(legacy / "best_model.pth", {"model.func.allegro.latents.0._forward._weight_0": np.ones((2, 2))})
    text = f"chemical_symbols: [H]\nhook: !!python/object/apply:os.system ['touch {witness}']\n"
    (legacy / "config.yaml").write_text(text)
    source = open_any(legacy)
    assert source.foreign_names == ("os.system",)
    assert not witness.exists()


def test_trees_of_modules_without_end_are_refused(tmp_path: Path) -> None:
    tree, packed = scripted("a.Leaf"), module("a.Leaf")
    for _ in range(40):  # 2^40 ways to the leaf
        tree, packed = scripted("a.Node", left=tree, right=tree), module("a.Node", left=packed, right=packed)
    assert "larger than any model" in refusal(write_scripted(tmp_path / "deep.nequip.pth", tree, {}))
    models = module("torch.nn.modules.container.ModuleDict", sole_model=packed)
    path = write_package(tmp_path / "deep.nequip.zip", models, "training_module: {model: {}}", "{}")
    assert "larger than any model" in refusal(path)


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy with sound checksums and its entries changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_truncated_and_corrupted_files_are_refused_or_read_bit_for_bit(file: Path, tmp_path: Path) -> None:
    data, expected = file.read_bytes(), load(file).model
    path = tmp_path / file.name
    refused = 0
    for step in range(20):
        place = step * len(data) // 20
        path.write_bytes(data[:place])
        refusal(path)
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found = load(path).model
        except CheckpointImportError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:  # an entry that is not read, or a date in the zip's directory
            assert_same(found, expected, 0.0)
    assert refused >= 10


@pytest.mark.alone
@pytest.mark.parametrize("form", [".ckpt", pytest.param(".nequip.zip", marks=pytest.mark.slow)])
def test_a_large_checkpoint_is_imported_in_seconds_within_three_times_its_size(form: str, tmp_path: Path) -> None:
    """100 MB of float32 weights, which the model holds as 200 MB of float64."""
    content = read_saved(FOLDER / "pairwise_09.ckpt")
    hyper = content["hyper_parameters"]
    config = hyper["model"]
    while "model" in config:
        config = config["model"]
    hyper["info_dict"]["training_module"] = {"_target_": "nequip.train.NequIPLightningModule"}
    depth, width = config["allegro_mlp_hidden_layers_depth"], 2000
    assert depth == 3 and config["model_dtype"] == "float32" and config["num_layers"] == 3
    config["allegro_mlp_hidden_layers_width"] = width
    tensors = content["state_dict"]
    generator = np.random.default_rng(0)
    for name, value in tensors.items():
        if ".latents." in name:
            shape = tuple(width if size == 7 else size for size in value.shape)
            tensors[name] = generator.standard_normal(shape, dtype=np.float32)
    path = tmp_path / f"large{form}"
    if form == ".ckpt":
        write_saved(path, content)
    else:
        graph = module("nequip.nn.graph_model.GraphModel")
        for name in [name for name in tensors if name.startswith("model.")]:
            place = graph
            *above, last = name.removeprefix("model.sole_model.").split(".")
            for part in above:
                place = place.state["_modules"].setdefault(part, module("torch.nn.Module"))
            place.state["_parameters"][last] = tensors[name]
        text = json.dumps({"training_module": {"model": config}})
        write_package(path, module("torch.nn.ModuleDict", sole_model=graph), text, '{"versions": {"nequip": "0.19.1"}}')
    assert_cheap(path)


@pytest.mark.slow
@pytest.mark.alone
def test_a_large_compiled_model_is_imported_in_seconds_within_three_times_its_size(tmp_path: Path) -> None:
    top, texts = read_scripted(FOLDER / "pairwise_12.nequip.pth")
    mlp, width = top.state["model"].state["func"].state["allegro"].state["latents"].state["0"], 5000
    mlp.state["dims"] = [width if size == 7 else size for size in mlp.state["dims"]]
    for linear in (
        part for part in mlp.state["mlp"].state.values() if isinstance(part, Call) and "weight" in part.state
    ):
        state, before = linear.state, linear.state["in_features"]
        for name in ("in_features", "out_features"):
            state[name] = width if state[name] == 7 else state[name]
        state["alpha"] = state["alpha"] * np.float32(before / state["in_features"]) ** np.float32(0.5)
        shape = state["in_features"], state["out_features"]
        state["weight"] = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    assert_cheap(write_scripted(tmp_path / "large.nequip.pth", top, texts))


def assert_cheap(path: Path) -> None:
    size = path.stat().st_size
    assert size > 5e7
    assert_cheap_import(path, size, path.with_suffix(".h5"))
