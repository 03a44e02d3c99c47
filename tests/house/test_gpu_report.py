"""The GPU report: it resumes, keeps every result, counts right and refuses clearly. No GPU is asked."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.random_models import random_model, random_structure

from allegro_sim.errors import DeviceError, OutputError
from allegro_sim.model.reference import evaluate_structure
from allegro_sim.potential import folding
from allegro_sim.potential.cuda import probe
from allegro_sim.potential.cuda.layout import Layout
from allegro_sim.potential.cuda.mlp_chain import SHARED_BYTES
from allegro_sim.potential.cuda.plan import system_buffers
from allegro_sim.tools import gpu_report, gpu_report_device, gpu_report_prepare, gpu_report_tiles, roofline
from allegro_sim.tools.benchmark_legacy import many_types_model
from allegro_sim.tools.benchmark_models import benchmark_model, count_weights

FACTS = {"date": "2000-01-01", "commit": "abc", "gpu": "none, a test", "driver": "1"}
CEILINGS = {"copy": [1e12, 3e12, 2e12], "tf32": [4e14], "float32": [5e13], "float64": [2e13]}
CEILINGS |= {"float64_product": [4e13], "special": [3e12]}


class FakeCase:
    """Answers with numbers of its own; every kernel takes a millisecond an evaluation."""

    def __init__(self, model: str, precision: str, atoms: int) -> None:
        self._model, self._precision = model, precision
        self.facts = {"atoms": atoms, "edges": 9 * atoms, "path": "fused"}

    def seconds(self, repeats: int) -> list[float]:
        return [0.02 + 0.001 * n for n in range(repeats)]

    def works(self) -> dict[str, roofline.Work]:
        return {work.name: work.per_edge(9.0) for work in roofline.kernel_works(benchmark_model("bundled"), "mixed")}

    def kernel_seconds(self, repeats: int) -> dict[str, list[float]]:
        return {name: [1e-3] * repeats for name in self.works()}

    def results(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(self.facts["atoms"]), np.ones((self.facts["atoms"], 3))

    def stages(self) -> dict[str, float]:
        return {"update_0_forward: s_0": 1e-3} if "legacy" in self._model else {"readout: ds_0": 1e-6}

    def memory(self) -> dict[str, int]:
        return {"held_bytes": 1}


class FakeGpu:
    def __init__(self, fail_at: int = -1) -> None:
        self.asked: list[tuple] = []
        self._fail_at = fail_at

    def ceilings(self) -> dict[str, list[float]]:
        return CEILINGS

    def case(self, model, precision, structure, *, max_rows=None) -> FakeCase:
        self.asked.append((model, precision, structure if isinstance(structure, int) else len(structure[0])))
        if len(self.asked) == self._fail_at:
            raise DeviceError("out of memory")
        return FakeCase(model, precision, self.asked[-1][2])


@pytest.fixture
def record(tmp_path: Path) -> gpu_report.Record:
    return gpu_report.Record(tmp_path / "record.json", FACTS)


def ticking(step: float):
    """A clock that goes on by `step` seconds each time it is read."""
    now = iter(np.arange(0.0, 1e6, step))
    return lambda: float(next(now))


def test_a_phase_stops_in_time_and_goes_on_where_it_stopped(record):
    gpu = FakeGpu()
    left = gpu_report.run_items(gpu_report.smoke_items(gpu), record, 5.5, ticking(1.0))
    assert left == 5 and gpu.asked == [("bundled", "mixed", 192)]
    again = gpu_report.Record(record.path, FACTS)
    assert gpu_report.run_items(gpu_report.smoke_items(gpu), again, 100.0, ticking(1.0)) == 0
    assert gpu.asked == [
        ("bundled", "mixed", 192), ("bundled", "single", 192), ("bundled", "double", 192), ("sc23", "mixed", 192),
        ("legacy", "mixed", 192), ("sc23_legacy", "mixed", 192),
    ]  # fmt: skip
    kept = json.loads(record.path.read_text())
    assert list(kept["results"]) == ["smoke/ceilings", *(f"smoke/{m}/{p}" for m, p, _ in gpu.asked)]
    assert kept["results"]["smoke/ceilings"]["copy"] == CEILINGS["copy"]  # raw, in the order of measurement
    assert {name: kept[name] for name in FACTS} == FACTS


def test_every_result_is_on_disk_before_the_next_begins(record):
    def items():
        yield gpu_report.Item("one", lambda: {"value": 1.0})
        assert json.loads(record.path.read_text())["results"]["one"]["value"] == 1.0
        yield gpu_report.Item("two", stopped)

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpu_report.run_items(items(), record, 100.0)
    assert list(json.loads(record.path.read_text())["results"]) == ["one"]


def test_results_are_chosen_by_their_keys(record):
    gpu = FakeGpu()
    chosen = ("smoke/*/double", "smoke/sc23/*")
    assert gpu_report.run_items(gpu_report.smoke_items(gpu), record, 100.0, only=chosen) == 0
    assert gpu.asked == [("bundled", "double", 192), ("sc23", "mixed", 192)]


def test_a_failed_measurement_is_recorded_and_the_next_goes_on(record):
    gpu = FakeGpu(fail_at=1)
    assert gpu_report.run_items(gpu_report.smoke_items(gpu), record, 100.0, ticking(0.01)) == 0
    assert record["smoke/bundled/mixed"]["error"] == "DeviceError: out of memory"
    assert record["smoke/bundled/single"]["finite"]


def test_any_failure_is_recorded_with_where_it_happened(record):
    items = iter([gpu_report.Item("one", lambda: 1 / 0), gpu_report.Item("two", lambda: {"value": 1.0})])
    assert gpu_report.run_items(items, record, 100.0) == 0
    assert record["one"]["error"] == "ZeroDivisionError: division by zero"
    assert record["one"]["traceback"][-1] == record["one"]["error"] and record["two"]["value"] == 1.0


@pytest.mark.parametrize("name", ["commit", "gpu", "driver"], ids="other_{}".format)
def test_a_record_of_another_commit_gpu_or_driver_is_not_continued(record, name):
    record.add("one", {})
    with pytest.raises(OutputError, match=f"made with {name}"):
        gpu_report.Record(record.path, FACTS | {name: "other"})


def test_speed_says_rates_by_this_runs_own_ceilings(record):
    items = list(gpu_report.speed_items(FakeGpu(), record))
    sizes = [int(item.key.rsplit("/", 1)[1]) for item in items[2:]]
    models = len(gpu_report.SPEED_MODELS)
    assert sizes[: 2 * models] == [24_000] * models + [192_000] * models and sorted(set(sizes)) == [
        192,
        3072,
        24_000,
        192_000,
        1_536_000,
    ]
    assert gpu_report.run_items(iter(items), record, 1e9) == 0
    result = record["speed/bundled/mixed/24000"]
    assert len(result["evaluation_seconds"]) == gpu_report.REPEATS
    assert result["atom_steps_per_second"] == pytest.approx(24_000 / np.median(result["evaluation_seconds"]))
    kernel = result["kernels"]["latent_0_forward"]
    work = FakeCase("bundled", "mixed", 1).works()["latent_0_forward"]
    edges = 9 * 24_000
    assert kernel["bytes_per_second"] == pytest.approx(edges * work.bytes / 1e-3)
    assert kernel["limit"] == "bytes"
    assert kernel["fraction_of_roof"] == pytest.approx(edges * work.bytes / 2e12 / 1e-3)  # the median of the copies


@pytest.mark.parametrize("name", ["bundled", "sc23", "legacy", "sc23_legacy"])
def test_every_operation_of_a_plan_has_its_counts(name):
    layout = Layout(benchmark_model(name), "mixed")
    plan = layout.plan(1024, 64, system_buffers(rows=100, owned=60, listed=1000, chunks=1, atom_virials=False))
    works = gpu_report_device.plan_works(layout, plan, 540, 60)
    assert set(works) == {gpu_report_device.operation_name(operation) for operation in plan.operations}
    counted = sum(work.per_edge(9.0).products for work in roofline.kernel_works(layout.model, "mixed"))
    # Products of the plan are of padded matrices.
    assert counted <= sum(work.products for work in works.values()) <= 1.05 * counted
    expected = roofline.works_by_name(roofline.kernel_works(layout.model, "mixed"))["clear_and_count"]
    assert works["clear_and_count"].bytes == pytest.approx(expected.edge.bytes + expected.center.bytes * 60 / 540)


def test_the_sc23_model_is_what_it_claims():
    counts = gpu_report.sc23_counts(FakeGpu())
    assert counts["weights"] == count_weights(benchmark_model("sc23")) == pytest.approx(7.86e6, rel=1e-3)
    assert counts["flops_as_written"] == pytest.approx(31.4e6, rel=2e-3)
    assert counts["legacy_weights"] == pytest.approx(7.85e6, rel=1e-3)


@pytest.mark.parametrize(("model", "variant"), list(gpu_report_tiles.cases()), ids=str)
def test_other_tiles_and_blocks_are_possible_and_change_what_they_should(model, variant):
    usual = Layout(benchmark_model(model), "mixed").source
    with variant.taken():
        layout = Layout(benchmark_model(model), "mixed")
        source, rows = layout.source, probe.most_units(132)
        found = gpu_report_tiles.measure(FakeGpu(), model, variant)
        assert max(kernel.shared_bytes for kernel in layout.kernels.values()) <= SHARED_BYTES
    is_usual = variant == gpu_report_tiles.TRIED[model][0]
    if isinstance(variant, gpu_report_tiles.RowBlocks):
        assert source == usual and rows == variant.units
        assert (rows == probe.most_units(132)) == is_usual
    else:
        assert (source == usual) == is_usual
        assert layout.kernels["latent_0_forward"].block == 32 * variant.tile[1] * variant.tile[2]
        if variant.slabs:
            assert f"SLAB = {variant.slabs[0]};" in source and f"STAGES = {variant.slabs[1]};" in source
    assert found["median_seconds"] > 0.0


def test_deviations_hold_each_precision_to_its_own_bounds():
    rng = np.random.default_rng(0)
    forces = rng.standard_normal((50, 3))
    zeros = np.zeros(50)
    structure = (np.zeros((50, 3)), None, np.zeros(3, bool), np.zeros(50, int))
    rounded = forces * (1.0 + 1e-3)
    wanted = gpu_report.Expected("bundled", structure, zeros, forces, zeros, rounded, spread=0.0)

    def holds(found, precision, energy=0.0):
        return all(gpu_report.deviations(zeros + energy, found, wanted, precision)["within_bounds"].values())

    assert holds(forces + 5e-10, "double") and not holds(forces + 5e-9, "double")
    assert holds(forces * (1 + 5e-6), "single") and not holds(forces * (1 + 2e-5), "single")
    assert holds(rounded * (1 + 5e-5), "mixed") and not holds(rounded * (1 + 2e-4), "mixed")
    assert not holds(forces, "mixed")  # exact is not what TF32 gives
    assert not holds(rounded, "mixed", energy=1e-3)
    wanted = dataclasses.replace(wanted, spread=1e-4)
    assert holds(rounded * (1 + 2e-4), "mixed") and not holds(rounded * (1 + 4e-4), "mixed")


def test_stages_of_either_generation_are_held_to_bounds(record):
    structure = (np.zeros((5, 3)), None, np.zeros(3, bool), np.zeros(5, int))
    wanted = {
        name: gpu_report.Expected(name, structure, np.zeros(5), np.ones((5, 3)), None, None, spread=0.0)
        for name in ("bundled", "legacy-zoo/zbl_02")
    }
    assert gpu_report.run_items(gpu_report.accuracy_items(FakeGpu(), wanted), record, 1e9) == 0
    assert record["accuracy/bundled/single"]["within_bounds"]["stages"] is True
    assert record["accuracy/legacy-zoo/zbl_02/single"]["within_bounds"]["stages"] is False
    assert list(record["accuracy/legacy-zoo/zbl_02/single"]["stages_over_bounds"]) == ["update_0_forward: s_0"]


def test_the_model_of_many_types_has_a_structure(tmp_path: Path, monkeypatch):
    """A narrow one here: six atoms of five elements, all within the cutoff, and no rounding reference."""
    model = many_types_model(l_max=1, num_layers=1, scalars=16, channels=4, hidden=(8,), readout=4)
    (tmp_path / "manifest.json").write_text(json.dumps({"commit": "abc", "nvrtc": "13.0"}))
    (tmp_path / "expected").mkdir()
    monkeypatch.setattr(folding, "PAIR_TABLE_BYTES", 0)
    gpu_report_prepare._expect_alloy(tmp_path / "expected", model)
    found = gpu_report_prepare.Prepared(tmp_path).expected()["many_types"]
    assert len(found.forces) == 6 and len(set(found.structure[3].tolist())) == 5
    assert np.abs(found.forces).max() > 0.0 and found.rounded_forces is None


def test_what_is_prepared_comes_back(tmp_path: Path):
    (tmp_path / "manifest.json").write_text(json.dumps({"commit": "abc", "nvrtc": "13.0"}))
    (tmp_path / "expected").mkdir()
    model = random_model(1, num_scalar_features=16, num_tensor_features=16, hidden_width=16)
    exact = {}
    for name, pbc in (("bulk", (True, True, True)), ("cluster", (False, False, False))):
        structure = random_structure(2, model, pbc=pbc)
        structure = structure if name == "bulk" else (structure[0], None, *structure[2:])
        exact[name] = (structure, evaluate_structure(model, *structure))
        gpu_report_prepare.save(tmp_path / "expected" / f"{name}.npz", "medium", model, *exact[name])
    prepared = gpu_report_prepare.Prepared(tmp_path)
    assert (prepared.commit, prepared.nvrtc) == ("abc", "13.0")
    found = prepared.expected()
    assert list(found) == ["bulk", "cluster"]
    for name, (structure, wanted) in exact.items():
        back = found[name]
        assert back.model == "medium" and (back.structure[1] is None) == (structure[1] is None)
        assert np.array_equal(back.structure[0], structure[0]) and np.array_equal(back.forces, wanted.forces)
        deviations = gpu_report.deviations(back.rounded_energies, back.rounded_forces, back, "mixed")
        assert deviations["force_rms_to_rounding_reference"] == 0.0 and all(deviations["within_bounds"].values())
        assert 0.0 < back.spread < 1e-3 and 1e-5 < deviations["force_rms"] < 4e-3


def test_a_file_is_named_by_date_and_gpu():
    path = gpu_report.default_path("NVIDIA A100-SXM4-80GB", "2026-01-02")
    assert path.parts[-3:] == ("bench", "results", "2026-01-02-gpu-nvidia-a100-sxm4-80gb.json")


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path, repository: Path):
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    (prepared / "manifest.json").write_text(json.dumps({"commit": "abc", "nvrtc": "13.0"}))
    before = sorted((repository / "bench" / "results").iterdir())
    command = [sys.executable, "tools/gpu_report.py", "--phase", "smoke", "--prepared", str(prepared)]
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("gpu_report: ") and ("driver" in done.stderr or "GPU" in done.stderr)
    assert sorted((repository / "bench" / "results").iterdir()) == before


def test_an_unprepared_folder_is_refused(tmp_path: Path, capsys):
    assert gpu_report.main(["--phase", "smoke", "--prepared", str(tmp_path)]) == 2
    assert "prepare" in capsys.readouterr().err
