"""The files of the legacy generation: deployed models and training folders, honest, damaged and hostile."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.golden import FOLDER as FOLDER_OF_CURRENT
from support.import_costs import assert_cheap_import
from support.legacy import StoredArray, legacy_model, legacy_source
from support.torch_files import Call, Named, scripted, write_saved, write_scripted

from allegro_sim.errors import CheckpointImportError, InputError
from allegro_sim.model.consistency import named_arrays
from allegro_sim.model.weight_file import read_provenance
from allegro_sim.tools.importing.build import build_model
from allegro_sim.tools.importing.legacy_source import DEPLOYED, FOLDER, LegacySource
from allegro_sim.tools.importing.source import open_any
from allegro_sim.tools.main import main

NAMES = ("zbl_02", "uuup_self_edge")
OUTER = ("scale_by", "shift_by")  # of the rescaling, outside the module of the gradients


def write_folder(folder: Path, source: LegacySource | str, weights: str = "best_model.pth") -> Path:
    """A training folder with a model, by its name a golden one, as nequip 0.6 writes it."""
    source = legacy_source(source) if isinstance(source, str) else source
    folder.mkdir(exist_ok=True)
    names = {key: f"model.{key}" if key in OUTER else f"model.model.func.{key}" for key in source.tensors}
    write_saved(folder / weights, {names[key]: tensor.numpy() for key, tensor in source.tensors.items()})
    (folder / "config.yaml").write_text(yaml.safe_dump(source.config))
    return folder


def write_deployed(path: Path, source: LegacySource | str, **extra: object) -> Path:
    """A deployed model: the tree of modules, and the configuration beside it."""
    source = legacy_source(source) if isinstance(source, str) else source
    network = scripted("nequip.nn._graph_mixin.SequentialGraphNetwork")
    rescale = scripted(
        "nequip.nn._rescale.RescaleOutput",
        **{key: source.tensors[key].numpy() for key in OUTER if key in source.tensors},
        model=scripted("nequip.nn._grad_output.GradientOutput", func=network),
    )
    for key, tensor in source.tensors.items():
        place, (*above, last) = network, key.split(".")
        for part in above if key not in OUTER else ():
            place = place.state.setdefault(part, scripted("torch.nn.modules.container.Module"))
        if key not in OUTER:
            place.state[last] = tensor.numpy()
    texts = {**{k: str(v) for k, v in source.metadata.items()}, "config": json.dumps(source.config)}
    return write_scripted(path, scripted("nequip.nn._graph_model.GraphModel", model=rescale, **extra), texts)


def files(folder: Path, source: LegacySource | str) -> dict[str, Path]:
    """A model in both forms, by its name a golden one."""
    return {FOLDER: write_folder(folder / "run", source), DEPLOYED: write_deployed(folder / "deployed.pth", source)}


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_give_the_golden_model(name: str, tmp_path: Path) -> None:
    expected = legacy_source(name)
    for form, path in files(tmp_path, name).items():
        source = open_any(path)
        assert isinstance(source, LegacySource) and source.form == form and source.foreign_names == ()
        assert set(source.tensors) == set(expected.tensors)
        for key, tensor in expected.tensors.items():
            np.testing.assert_array_equal(source.tensors[key].numpy(), tensor.numpy(), err_msg=key)
        assert source.metadata["type_names"] == expected.metadata["type_names"]
        model = build_model(source).model
        for (array_name, found, _), (_, wanted, _) in zip(
            named_arrays(model), named_arrays(legacy_model(name)), strict=True
        ):
            np.testing.assert_array_equal(found, wanted, err_msg=array_name)


def test_a_training_folder_is_imported_by_its_name_or_that_of_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "run", NAMES[0])
    for number, path in enumerate((folder, folder / "best_model.pth")):
        assert main(["import", str(path), "-o", str(tmp_path / f"{number}.h5")]) == 0
        assert "legacy training folder" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "0.h5")]) == 0
    assert "Allegro model, legacy generation" in capsys.readouterr().out
    (folder / "best_model.pth").rename(folder / "last_model.pth")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "use_ema": True, "my_own_note": 1}))
    notes = build_model(open_any(folder)).notes
    assert any("raw weights of the last step" in note for note in notes) and "my_own_note" in notes[-1]
    assert main(["import", str(folder), "-o", str(tmp_path / "noted.h5")]) == 0
    printed = capsys.readouterr().out
    assert all(f"warning: {note}" in printed for note in notes)
    assert read_provenance(tmp_path / "noted.h5")["notes"].splitlines() == list(notes)
    assert main(["info", str(tmp_path / "noted.h5")]) == 0
    assert capsys.readouterr().out.count("noted at import: ") == len(notes)
    assert "notes" not in read_provenance(tmp_path / "0.h5")
    (folder / "config.yaml").rename(folder / "other.yaml")
    with pytest.raises(CheckpointImportError, match=r"config\.yaml of its training is needed"):
        open_any(folder / "last_model.pth")


def test_yaml_of_nequip_is_read_and_other_objects_in_it_are_reported(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    folder = write_folder(tmp_path / "run", NAMES[0])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    text = json.dumps(config)[:-1] + (
        ", torch_version: !!python/object/new:torch.torch_version.TorchVersion ['1.11.0'],"
        " _jit_fusion_strategy: [!!python/tuple [DYNAMIC, 3]]}\n"
    )
    (folder / "config.yaml").write_text(text)
    source = open_any(folder)
    assert isinstance(source, LegacySource) and source.foreign_names == ()
    assert source.config["_jit_fusion_strategy"] == [["DYNAMIC", 3]]
    (folder / "config.yaml").write_text(
        text[:-2] + f", hook: !!python/object/apply:os.system ['touch {witness}'], "
        f"more: !!python/object/apply:subprocess.check_output {{args: ['touch', '{witness}']}}}}\n"
    )
    assert open_any(folder).foreign_names == ("os.system", "subprocess.check_output")
    (folder / "config.yaml").write_text("a: &a [*a\n")
    with pytest.raises(CheckpointImportError, match=r"config\.yaml cannot be read"):
        open_any(folder)
    assert not witness.exists()


def test_options_that_have_no_use_here_are_refused(tmp_path: Path) -> None:
    for path in files(tmp_path, NAMES[0]).values():
        with pytest.raises(InputError, match=r"--raw-weights.*last_model\.pth"):
            build_model(open_any(path), raw_weights=True)
        with pytest.raises(CheckpointImportError, match="leave --model coach out"):
            open_any(path, "coach")


def test_a_shift_of_the_total_energy_is_dropped_only_when_told(tmp_path: Path) -> None:
    plain = legacy_source(NAMES[0])
    shifted = dataclasses.replace(plain, tensors={**plain.tensors, "shift_by": StoredArray(np.array(-7.25))})
    for path in files(tmp_path, shifted).values():
        with pytest.raises(CheckpointImportError, match="belongs to no atom"):
            build_model(open_any(path))
        built = build_model(open_any(path), without_total_shift=True)
        assert any("-7.25 eV" in note for note in built.notes)
        for (name, found, _), (_, wanted, _) in zip(
            named_arrays(built.model), named_arrays(legacy_model(NAMES[0])), strict=True
        ):
            np.testing.assert_array_equal(found, wanted, err_msg=name)
    arguments = ["import", str(tmp_path / "run"), "-o", str(tmp_path / "m.h5")]
    assert main(arguments) == 2 and main([*arguments, "--drop-total-energy-shift"]) == 0
    assert "-7.25" in read_provenance(tmp_path / "m.h5")["notes"]
    for path in (write_folder(tmp_path / "none", plain), FOLDER_OF_CURRENT / "zbl_metal.ckpt"):
        with pytest.raises(InputError, match="--drop-total-energy-shift"):
            build_model(open_any(path), without_total_shift=True)


def test_message_passing_models_of_that_time_are_named(tmp_path: Path) -> None:
    builders = ["SimpleIrrepsConfig", "EnergyModel", "PerSpeciesRescale"]
    config = {"chemical_symbols": ["H", "O"], "model_builders": builders}
    layer = scripted("nequip.nn._convnetlayer.ConvNetLayer", weight=np.ones(3))
    top = scripted("nequip.nn._graph_model.GraphModel", model=scripted("nequip.nn.Sequential", layer0_convnet=layer))
    deployed = write_scripted(tmp_path / "gnn.pth", top, {"config": json.dumps(config)})
    with pytest.raises(CheckpointImportError, match=r"layer0_convnet, built by .*EnergyModel.*not an Allegro model"):
        build_model(open_any(deployed))
    write_saved(tmp_path / "best_model.pth", {"model.model.func.layer0_convnet.weight": np.ones(3)})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(CheckpointImportError, match="not an Allegro model: its modules are layer0_convnet"):
        open_any(tmp_path)


def test_code_in_a_deployed_model_does_not_run_and_is_reported(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    call = Call(Named("posix", "system"), (f"touch {witness}",))
    notes = build_model(open_any(write_deployed(tmp_path / "hostile.pth", NAMES[0], hook=call))).notes
    assert any("posix.system" in note for note in notes) and not witness.exists()


def test_code_in_a_training_folder_does_not_run_and_is_reported(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    folder = write_folder(tmp_path / "run", NAMES[0])
    weights = folder / "best_model.pth"
    command = f"touch {witness}".encode()
    call = b"cposix\nsystem\n(X" + len(command).to_bytes(4, "little") + command + b"tR0"
    with zipfile.ZipFile(weights) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(weights, "w") as new:
        for name, content in entries.items():
            new.writestr(name, content[:2] + call + content[2:] if name.endswith("data.pkl") else content)
    notes = build_model(open_any(folder)).notes
    assert any("posix.system" in note for note in notes) and not witness.exists()


def test_truncated_and_corrupted_files_are_refused_or_read_bit_for_bit(tmp_path: Path) -> None:
    for path in files(tmp_path, NAMES[0]).values():
        target = path / "best_model.pth" if path.is_dir() else path
        data = target.read_bytes()
        expected = build_model(open_any(path)).model
        refused = 0
        for step in range(20):
            place = step * len(data) // 20
            target.write_bytes(data[:place])
            with pytest.raises(CheckpointImportError):
                build_model(open_any(path))
            damaged = bytearray(data)
            damaged[place] ^= 0xFF
            target.write_bytes(damaged)
            try:
                found = build_model(open_any(path)).model
            except CheckpointImportError as error:
                assert str(target) in str(error) and "\n" not in str(error)
                refused += 1
            else:
                for (key, array, _), (_, wanted, _) in zip(named_arrays(found), named_arrays(expected), strict=True):
                    np.testing.assert_array_equal(array, wanted, err_msg=key)
        assert refused >= 15


@pytest.mark.parametrize("name", ["five_layers", "one_layer"])
def test_a_truncated_configuration_is_refused_or_says_the_same(name: str, tmp_path: Path) -> None:
    """It has no checksum. What an option was cut to may be another option: `latent_mlp_nonlinearity:` is null."""
    folder = write_folder(tmp_path / "run", name)
    whole, expected = (folder / "config.yaml").read_text(), legacy_model(name)
    ends = [*range(0, len(whole), len(whole) // 20), *(n + 1 for n, c in enumerate(whole) if c == "\n"), len(whole) - 8]
    for end in ends:
        (folder / "config.yaml").write_text(whole[:end])
        try:
            found = build_model(open_any(folder)).model
        except CheckpointImportError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
        else:  # what is behind are options of the training
            for (key, array, _), (_, wanted, _) in zip(named_arrays(found), named_arrays(expected), strict=True):
                np.testing.assert_array_equal(array, wanted, err_msg=key)
    with pytest.raises(CheckpointImportError, match="ends in the middle of a line"):
        (folder / "config.yaml").write_text(whole[:-1])
        open_any(folder)


def test_a_configuration_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/constants.pkl", b"\x80\x02).")
        archive.writestr("model/data.pkl", b"\x80\x02).")
        archive.writestr("model/extra/config", bytes(2**27))
    with pytest.raises(CheckpointImportError, match="claims to expand"):
        open_any(path)


@pytest.mark.slow
@pytest.mark.alone
def test_large_files_are_imported_in_seconds_within_three_times_their_size(tmp_path: Path) -> None:
    """The SC'23 model with latents of 1,900 in place of 1,024: 98 MB of float32, which the model holds as float64."""
    source, width, rng = legacy_source("sc23_shape"), 1900, np.random.default_rng(0)
    config = {
        key: [width if size == 1024 else size for size in value] if isinstance(value, list) else value
        for key, value in source.config.items()
    }
    tensors = {}
    for key, tensor in source.tensors.items():
        array = tensor.numpy()
        wider = tuple(size + width - 1024 if size >= 1024 else size for size in array.shape)
        if "_weight_" in key and wider != array.shape:
            array = rng.standard_normal(wider, np.float32)
        tensors[key] = StoredArray(array.astype(np.float32) if array.dtype == np.float64 else array)
    large = dataclasses.replace(source, tensors=tensors, config=config)
    for form, path in files(tmp_path, large).items():
        weights = path / "best_model.pth" if path.is_dir() else path
        size = weights.stat().st_size
        assert size > 9e7
        assert_cheap_import(path, size, tmp_path / f"{form}.h5")
