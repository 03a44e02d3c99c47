"""The phase of the GPU report that takes whole steps, taken through the CPU runner."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from support.cuda_harness import HostExecutor
from support.device_motion import periodic_case, small_model

from allegro_sim.cell import Cell
from allegro_sim.gpu import nccl
from allegro_sim.structure import Structure
from allegro_sim.tools import gpu_report_md as report

pytestmark = pytest.mark.simulator


@pytest.fixture
def water(monkeypatch):
    """A box of ten atoms instead of water."""
    case = periodic_case()
    monkeypatch.setattr(report, "water_box", lambda atoms, model: (case.positions, case.vectors, case.types))
    monkeypatch.setattr(report, "BLOCKS", 2)
    return small_model()


def test_agreement_is_measured_against_the_cpu(water):
    size = {"atoms": 10, "steps": 2}
    expected = report.trajectory(water, **size, device="cpu")
    assert all(report.agree(water, HostExecutor, expected, **size)["within_bounds"].values())
    expected["positions"] = expected["positions"] + 2e-7
    assert not report.agree(water, HostExecutor, expected, **size)["within_bounds"]["position_largest_A"]


def test_bits_are_compared_for_every_way_of_taking_steps(water, monkeypatch):
    monkeypatch.setattr(nccl, "nccl_is_there", lambda: "it is not installed")
    variants = {name: options for name, options in report.VARIANTS.items() if name != "a narrow skin"}
    found = report.bits(water, "single", HostExecutor, atoms=10, steps=2, variants=variants)["same_bits"]
    assert "it is not installed" in found.pop("images by NCCL")
    assert found == dict.fromkeys(("one step at a time", "launch by launch", "graphs", "images by the host"), True)


def test_speed_drift_and_size_are_measured(water):
    graphs = report.Options(graphs="on")
    found = report.speed(water, 10, "langevin", HostExecutor, precision="single", block=1, options=graphs)
    assert found["graphs_captured"] > 0 and found["graphs_launched"] > 0 and "one for each step" in found["graphs"]
    assert len(found["step_seconds"]) == len(found["network_seconds"]) == 2
    assert found["steps_per_second"] == pytest.approx(1.0 / np.median(found["step_seconds"]))
    assert found["atom_and_pair_bytes"] > 0 and found["listed"] > 0
    found = report.drift(water, "double", HostExecutor, atoms=10, steps=6, every=1)
    assert len(found["energies_eV_per_atom"]) == 6 and len(found["slopes_of_quarters"]) >= 1
    assert np.ptp(found["energies_eV_per_atom"]) < 1e-2
    assert report.largest(water, 10, HostExecutor, precision="single", steps=1)["ghosts"] > 0


def test_every_result_has_a_key_of_its_own_and_dhfr_is_copied(monkeypatch):
    case = periodic_case(3)
    structure = Structure(("X",) * 3, case.types, case.positions, None, Cell(case.vectors, case.pbc))
    items = list(report.md_items(lambda name: small_model(), HostExecutor, lambda: (small_model(), structure), dict))
    assert len({item.key for item in items}) == len(items)
    assert all(item.key.startswith("md/") for item in items)
    monkeypatch.setattr(report, "DHFR_COPIES", {23_558: (1, 1, 2)})
    monkeypatch.setattr(report, "BLOCKS", 1)
    monkeypatch.setattr(report, "speed", partial(report.speed, block=1))
    (item,) = [item for item in items if item.key == "md/speed/dhfr/nve/23558"]
    assert item.measure()["atoms"] == 6
