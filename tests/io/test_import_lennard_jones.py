"""Pair potentials that no release of nequip evaluates in an Allegro model: imported when asked for, and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.golden import FOLDER

from allegro_sim.errors import CheckpointImportError, InputError
from allegro_sim.model.caveats import jump_warnings
from allegro_sim.model.description import LennardJones
from allegro_sim.model.weight_file import load_model, read_provenance
from allegro_sim.tools.golden_models import LENNARD_JONES
from allegro_sim.tools.importing.build import build_model
from allegro_sim.tools.importing.source import open_source
from allegro_sim.tools.main import main


def test_a_lennard_jones_term_is_imported_when_its_mending_is_asked_for() -> None:
    for name in LENNARD_JONES:
        source = open_source(FOLDER / f"{name}.ckpt")
        with pytest.raises(
            CheckpointImportError, match=r"not supported: nequip .* --mend-lennard-jones imports the model"
        ):
            build_model(source)
        built = build_model(source, mend_lennard_jones=True)
        assert isinstance(built.model.pair_term, LennardJones)
        assert any("no release of nequip evaluates" in note for note in built.notes)
    notes = build_model(open_source(FOLDER / "lj_tables.ckpt"), mend_lennard_jones=True).notes
    assert sum("is negative for pairs of types: it is 0 there" in note for note in notes) == 2
    with pytest.raises(InputError, match=r"--mend-lennard-jones: .*zbl_metal\.ckpt has no Lennard-Jones term"):
        build_model(open_source(FOLDER / "zbl_metal.ckpt"), mend_lennard_jones=True)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("lj_tables", {"lj_style": "mie"}, "lj_style is 'mie'; lj, lj_repulsive_only, repulsive are known"),
        ("lj_tables", {"lj_exponent": -6.0}, "lj_exponent is -6; a positive number"),
        ("lj_tables", {"lj_epsilon": None}, "lj_epsilon is null, with which the term has no energy"),
        ("lj_tables", {"lj_per_type": False}, "lj_per_type is false"),
        ("lj_tables", {"lj_sigma_trainable": "yes"}, "lj_sigma_trainable is 'yes'; a flag"),
        ("lj_tables", {"lj_delta": 0.1}, "lj_delta is 0.1, and not what the file holds"),
        ("lj_tables", {"lj_delta": [[0.1, "x"]]}, "lj_delta is .*a number or a table of 3 x 3"),
        ("lj_tables", {"lj_style": "repulsive", "lj_alpha": 1.0}, "unknown option model.pair_potential.lj_alpha"),
        ("lj_repulsive_only", {"lj_sigma": 0.9}, "lj_sigma is 0.9, and not"),
        ("lj_simple", {"lj_sigma": None}, "lj_sigma is missing"),
        ("lj_simple", {"lj_use_cutoff": False}, "unknown option model.pair_potential.lj_use_cutoff"),
    ],
)
def test_options_of_a_lennard_jones_term_that_do_not_fit_are_named(name: str, changes: dict, message: str) -> None:
    source = open_source(FOLDER / f"{name}.ckpt")
    source.config["pair_potential"].update(changes)
    with pytest.raises(CheckpointImportError, match=message):
        build_model(source, mend_lennard_jones=True)


def test_cutoffs_of_lennard_jones_follow_the_version_of_nequip() -> None:
    source = open_source(FOLDER / "lj_tables.ckpt")
    simple = open_source(FOLDER / "lj_simple.ckpt")
    for version, exponents in (("0.16.2", (6.0, 6.0)), ("0.17.1", (8.0, 7.0))):
        source.versions["nequip"] = simple.versions["nequip"] = version
        simple.config["pair_potential"].pop("lj_use_cutoff", None)
        if version == "0.16.2":
            with pytest.raises(CheckpointImportError, match="lj_use_cutoff is false, and pairs of types"):
                build_model(simple, mend_lennard_jones=True)
            simple.config["pair_potential"]["lj_use_cutoff"] = True
        terms = [build_model(one, mend_lennard_jones=True).model.pair_term for one in (source, simple)]
        assert tuple(term.cutoff_exponent for term in terms if term is not None) == exponents, version


def test_parameters_are_the_upper_triangle_and_zero_where_negative() -> None:
    term = build_model(open_source(FOLDER / "lj_tables.ckpt"), mend_lennard_jones=True).model.pair_term
    assert isinstance(term, LennardJones)
    np.testing.assert_array_equal(term.sigma, LENNARD_JONES["lj_tables"]["pair_potential"]["lj_sigma"])
    np.testing.assert_array_equal(term.epsilon, [[0.08, 0.05, 0.06], [0.05, 0.1, 0.0], [0.06, 0.0, 0.07]])
    # A pair without a strength has no pole, and needs no delta.
    np.testing.assert_array_equal(term.delta, [[0.1, 0.0, 0.2], [0.0, 0.0, 0.0], [0.2, 0.0, 0.15]])


def test_import_and_info_say_what_the_term_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, checkpoint = tmp_path / "model.h5", str(FOLDER / "lj_repulsive_only.ckpt")
    assert main(["import", checkpoint, "-o", str(path)]) == 2
    assert "--mend-lennard-jones imports the model with the term's formula" in capsys.readouterr().err
    assert main(["import", checkpoint, "-o", str(path), "--mend-lennard-jones"]) == 0
    printed = capsys.readouterr().out
    assert main(["info", str(path)]) == 0
    for text in (printed, capsys.readouterr().out):
        for fact in (
            "(lj_style lj_repulsive_only), n = 4.5, cutoff exponent 6",
            "epsilon         0.2 eV",
            "no release of nequip evaluates the Lennard-Jones term",
            "ends 1.16653 Å beyond delta (at 1.57 Å), where the energy of a pair of atoms jumps by 0.212 eV",
            "infinite where two atoms are delta apart (lj_delta: 0.4 Å); closer than that its formula gives no number",
        ):
            assert fact in text, fact
    assert "--mend-lennard-jones" in read_provenance(path)["notes"]
    assert jump_warnings(load_model(path))
