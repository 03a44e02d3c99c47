"""Files that are damaged, hostile or something else: one clear message, and nothing in them ever runs."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.golden import FOLDER

from allegro_sim.errors import CheckpointImportError
from allegro_sim.tools.importing.build import build_model
from allegro_sim.tools.importing.source import Source, open_source

CHECKPOINT = FOLDER / "zbl_metal.ckpt"


def rewrite(target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of the checkpoint with sound checksums, its entries replaced, or left out where `change` gives None."""
    with zipfile.ZipFile(CHECKPOINT) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def write_saved(target: Path, content: bytes) -> Path:
    """An archive as torch.save writes it, with the given pickle."""
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    return target


def refusal(path: Path) -> str:
    """The message with which a file is refused."""
    with pytest.raises(CheckpointImportError) as caught:
        build_model(open_source(path))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


class Touch:
    """Pickled, a call that makes a file."""

    def __init__(self, path: Path, how: str) -> None:
        self.path, self.how = path, how

    def __reduce__(self):
        if self.how == "eval":
            return eval, (f"open({str(self.path)!r}, 'w').close()",)
        return Path.touch, (self.path,)


def hostile_prefixes(witness: Path) -> dict[str, bytes]:
    """Pickle code that would make the file `witness`, to be put before an honest pickle: opcodes of several kinds."""
    command = f"touch {witness}".encode()
    text = b"X" + len(command).to_bytes(4, "little") + command
    return {
        "REDUCE": b"cposix\nsystem\n(" + text + b"tR0",
        "INST": b"(" + text + b"iposix\nsystem\n0",
        "OBJ": b"(cposix\nsystem\n" + text + b"o0",
        "NEWOBJ": b"cposix\nsystem\n(" + text + b"t\x810",
        "nested": b"c__builtin__\ngetattr\n(cposix\n__dict__\nX\x06\x00\x00\x00systemtR(" + text + b"tR0",
        "BUILD": b"ctorch._utils\n_rebuild_parameter\n}X\x08\x00\x00\x00__code__cposix\nsystem\nsb0",
        "setstate": b"cposix\nsystem\n)\x81}X\x0c\x00\x00\x00__setstate__cposix\nsystem\nsb" + text + b"b0",
    }


@pytest.mark.parametrize("kind", list(hostile_prefixes(Path())))
def test_code_in_a_checkpoint_does_not_run_and_is_reported(kind: str, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    prefix = hostile_prefixes(witness)[kind]

    def infect(name: str, content: bytes) -> bytes:
        return content[:2] + prefix + content[2:] if name.endswith("data.pkl") else content

    path = rewrite(tmp_path / "hostile.ckpt", infect)
    if kind == "BUILD":  # names only what is allowed, and misuses it
        assert "damaged" in refusal(path)
    else:
        built = build_model(open_source(path))
        assert any("posix" in note and "nothing of it was run" in note for note in built.notes)
    assert not witness.exists()


@pytest.mark.parametrize("how", ["eval", "touch"])
def test_a_hostile_file_that_is_no_checkpoint_is_refused_and_reported(how: str, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = write_saved(tmp_path / "hostile.ckpt", pickle.dumps({"state": Touch(witness, how)}, protocol=2))
    message = refusal(path)
    assert "nothing of that was run" in message and ("eval" in message or "pathlib" in message)
    assert not witness.exists()


def test_a_pickle_that_asks_for_huge_memory_is_refused(tmp_path: Path) -> None:
    for content in (
        b"\x80\x02}r\xff\xff\xff\x7f.",  # LONG_BINPUT: a memo of 2^31 entries
        b"\x80\x05\x96\x00\x00\x00\x00\x01\x00\x00\x00.",  # BYTEARRAY8 of 4 GiB
    ):
        assert "damaged" in refusal(write_saved(tmp_path / "huge.ckpt", content))


def test_a_missing_or_short_storage_is_refused(tmp_path: Path) -> None:
    missing = rewrite(tmp_path / "missing.ckpt", lambda name, old: None if name.endswith("data/10") else old)
    assert "data/10 is missing" in refusal(missing)
    short = rewrite(tmp_path / "short.ckpt", lambda name, old: old[:-8] if name.endswith("data/10") else old)
    assert "data/10 has" in refusal(short)


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    text = tmp_path / "input.toml"
    text.write_text("[model]\n")
    assert "not a zip archive" in refusal(text)
    assert "no such file" in refusal(tmp_path / "absent.ckpt")
    assert "folder" in refusal(tmp_path)
    weights = tmp_path / "model.h5"
    weights.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "allegro-tools info" in refusal(weights)
    plain = tmp_path / "photos.zip"
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("cat.jpg", b"")
    assert "not one of PyTorch" in refusal(plain)
    old = tmp_path / "old.pth"
    old.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.rest")
    assert "before PyTorch 1.6" in refusal(old)


def test_other_pytorch_files_are_refused_by_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    assert "holds epoch, step" in refusal(write_saved(path, pickle.dumps({"epoch": 3, "step": 7}, 2)))
    assert "holds a list" in refusal(write_saved(path, pickle.dumps([1, 2], 2)))
    lightning = {"state_dict": {}, "hyper_parameters": {"learning_rate": 0.1}}
    assert "hyper_parameters.model" in refusal(write_saved(path, pickle.dumps(lightning, 2)))
    nequip = {"state_dict": {}, "hyper_parameters": {"model": {"_target_": "nequip.model.NequIPGNNModel"}}}
    assert "without a model" in refusal(write_saved(path, pickle.dumps(nequip, 2)))


def change_and_build(change: Callable[[Source], object]) -> str:
    source = open_source(CHECKPOINT)
    change(source)
    with pytest.raises(CheckpointImportError) as caught:
        build_model(source)
    return str(caught.value)


def test_unknown_options_and_tensors_are_named() -> None:
    tensor = next(iter(open_source(CHECKPOINT).state.values()))
    changes: dict[str, Callable[[Source], object]] = {
        "model.new_option": lambda s: s.config.update(new_option=3),
        "model.l_max is missing": lambda s: s.config.pop("l_max"),
        f"model.l_max is {10**18}; 0 to 11": lambda s: s.config.update(l_max=10**18),
        "model.num_layers is -1": lambda s: s.config.update(num_layers=-1),
        "model.r_max is 0": lambda s: s.config.update(r_max=0),
        "model.avg_num_neighbors is inf": lambda s: s.config.update(avg_num_neighbors=float("inf")),
        "model.avg_num_neighbors names 1": lambda s: s.config.update(avg_num_neighbors={1: 2.0}),
        "model.num_layers": lambda s: s.config.update(num_layers="two"),
        "model.radial_chemical_embed._target_": lambda s: s.config["radial_chemical_embed"].update(_target_="my.Embed"),
        "model.radial_chemical_embed.extra": lambda s: s.config["radial_chemical_embed"].update(extra=1),
        "model.pair_potential._target_": lambda s: s.config["pair_potential"].update(_target_="nequip.nn.LennardJones"),
        "model.allegro_mlp_nonlinearity": lambda s: s.config.update(allegro_mlp_nonlinearity="relu"),
        "allegro.extra.weight": lambda s: s.state.update({"model.func.allegro.extra.weight": tensor}),
        "allegro.tps.0.weights": lambda s: s.state.pop("model.func.allegro.tps.0.weights"),
        "per_type_energy_scale_shift.shifts": lambda s: s.state.pop("model.func.per_type_energy_scale_shift.shifts"),
        "edge_norm._rmax_recip": lambda s: s.config.update(r_max=3.9),
        "allegro.latents.0.mlp.0.weight": lambda s: s.config.update(allegro_mlp_hidden_layers_width=9),
        "pair_potential._qqr2exesquare": lambda s: s.config["pair_potential"].update(units="real"),
    }
    for name, change in changes.items():
        assert name in change_and_build(change), name


def test_options_that_are_known_and_not_supported_are_named() -> None:
    def irreps(harmonics: str, allowed: str) -> Callable[[Source], object]:
        def change(source: Source) -> None:
            del source.config["l_max"], source.config["parity"]
            source.config.update(irreps_edge_sh=harmonics, tensor_track_allowed_irreps=allowed)

        return change

    pair = {"_target_": "nequip.nn.pair_potential.LennardJones", "lj_sigma": 1.0}
    simple = {"_target_": "nequip.nn.pair_potential.SimpleLennardJones", "lj_sigma": 1.0, "lj_epsilon": 0.1}
    changes: dict[str, Callable[[Source], object]] = {
        "model.pair_potential._target_ is 'nequip.nn.pair_potential.LennardJones', which is not supported": (
            lambda s: s.config.update(pair_potential=pair)
        ),
        "'nequip.nn.pair_potential.SimpleLennardJones', which is not supported: nequip cannot build": (
            lambda s: s.config.update(pair_potential=simple)
        ),
        "model.parity_setting is 'o2'": lambda s: s.config.update(parity_setting="o2"),
        "model.irreps_edge_sh has parities that": irreps("1x0e+1x1e+1x2o", "1x0e+1x1e"),
        "model.irreps_edge_sh has '2x1o'; upstream takes each irrep once in a term": irreps("1x0e+2x1o", "1x0e+1x1o"),
        "model.tensor_track_allowed_irreps has '2x0e'; upstream": irreps("1x0e+1x1o", "2x0e+1x1o"),
        "model.irreps_edge_sh starts with 1o": irreps("1x1o+1x0e", "1x0e+1x1o"),
        "model.tensor_track_allowed_irreps gives layers without 0e": irreps("1x0e+1x1o", "1x1o+1x0e"),
    }
    for words, change in changes.items():
        assert words in change_and_build(change), words


def test_wigner_symbols_that_are_not_ours_are_refused() -> None:
    def exchange(source: Source) -> None:
        weights = "model.func.allegro.tps.0.w3j"
        tensor = source.state[weights]
        swapped = (tensor.strides[0], tensor.strides[2], tensor.strides[1], tensor.strides[3])
        source.state[weights] = type(tensor)(tensor.storage, tensor.offset, tensor.shape, swapped)

    assert "allegro.tps.0.w3j" in change_and_build(exchange)


def test_modified_models_are_imported_or_named() -> None:
    plain = build_model(open_source(CHECKPOINT)).model
    source = open_source(CHECKPOINT)
    inner = source.config
    modifiers: list[dict[str, object]] = [{"modifier": "modify_PerTypeScaleShift", "shifts": {"O": 1.0}}]
    source.config = {"_target_": "nequip.model.modify", "model": inner, "modifiers": modifiers}
    np.testing.assert_array_equal(build_model(source).model.shifts, plain.shifts)
    modifiers.append({"modifier": "enable_Magic"})
    with pytest.raises(CheckpointImportError, match="enable_Magic"):
        build_model(source)
    source.config = {"_target_": "nequip.model.ModelFromPackage", "package_path": "x.nequip.zip"}
    with pytest.raises(CheckpointImportError, match="nequip-package build"):
        build_model(source)


def test_averaged_weights_are_taken_unless_raw_ones_are_asked_for() -> None:
    checkpoint = FOLDER / "l1_three_layers_float32_ema.ckpt"
    averaged, raw = build_model(open_source(checkpoint)), build_model(open_source(checkpoint), raw_weights=True)
    assert (averaged.weights_used, raw.weights_used) == ("averaged (EMA)", "raw")
    assert averaged.num_weights == raw.num_weights
    for name in ("shifts", "tensor_linear", "first_projection"):
        assert not np.array_equal(getattr(averaged.model, name), getattr(raw.model, name)), name
    np.testing.assert_array_equal(averaged.model.scales, raw.model.scales)  # not trained


def test_zbl_cutoff_follows_the_version_of_nequip() -> None:
    source = open_source(CHECKPOINT)
    for version, exponent in (("0.16.3", 4.0), ("0.17.0", 7.0), ("0.19.1", 7.0), ("0.8.0", 4.0)):
        source.versions["nequip"] = version
        zbl = build_model(source).model.pair_term
        assert zbl is not None and zbl.cutoff_exponent == exponent, version
    del source.versions["nequip"]
    with pytest.raises(CheckpointImportError, match="version of nequip"):
        build_model(source)


def test_elements_come_from_the_file_or_the_user() -> None:
    named = build_model(open_source(FOLDER / "zbl_real_spline.ckpt")).model
    assert named.type_names == ("H", "heavy", "light") and named.atomic_numbers.tolist() == [1, 14, 6]
    source = open_source(FOLDER / "per_type_energies.ckpt")
    source.config["type_names"] = ["Ow", "Hw"]
    with pytest.raises(CheckpointImportError, match="--elements Ow=SYMBOL"):
        build_model(source)
    given = build_model(source, elements={"Ow": "O", "Hw": "H"}).model
    assert given.atomic_numbers.tolist() == [8, 1] and abs(given.masses[0] - 15.999) < 1e-9
    mapper = {
        "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
        "chemical_species_to_atom_type_map": {"O": "Ow", "H": "Hw"},
    }
    source.run_config["data"] = {"transforms": [mapper]}
    assert build_model(source).model.atomic_numbers.tolist() == [8, 1]
    with pytest.raises(CheckpointImportError, match="names X"):
        build_model(source, elements={"X": "O"})


def test_tensors_of_every_type_and_stride_are_read(tmp_path: Path) -> None:
    from allegro_sim.tools.importing.archive import Archive
    from allegro_sim.tools.importing.unpickle import Storage, Tensor

    numbers = np.array([1.5, -2.0, 0.25, 3.0, -0.5, 8.0])
    bfloat16 = (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    for order in ("little", "big"):
        code = "<" if order == "little" else ">"
        with zipfile.ZipFile(tmp_path / "types.ckpt", "w") as archive:
            archive.writestr("a/data.pkl", b"")
            archive.writestr("a/byteorder", order)
            for dtype in ("f8", "f4", "f2"):
                archive.writestr(f"a/data/{dtype}", numbers.astype(code + dtype).tobytes())
            archive.writestr("a/data/bfloat16", bfloat16.astype(code + "u2").tobytes())
        opened = Archive(tmp_path / "types.ckpt")
        for dtype in ("f8", "f4", "f2", "bfloat16"):
            storage = Storage(opened, f"data/{dtype}", dtype, 6)
            np.testing.assert_array_equal(Tensor(storage, 0, (2, 3), (3, 1)).numpy(), numbers.reshape(2, 3))
            np.testing.assert_array_equal(Tensor(storage, 0, (3, 2), (1, 3)).numpy(), numbers.reshape(2, 3).T)
            np.testing.assert_array_equal(Tensor(storage, 2, (2,), (2,)).numpy(), numbers[2:6:2])
            assert Tensor(storage, 5, (), ()).numpy() == 8.0
            for beyond in (Tensor(storage, 4, (3,), (1,)), Tensor(storage, 0, (7,), (0,)), Tensor(storage, 6, (), ())):
                with pytest.raises(CheckpointImportError, match="a tensor of shape"):
                    beyond.numpy()
