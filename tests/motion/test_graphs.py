"""Steps as CUDA graphs: when one is captured, what it may not hold, and that it stops where steps one by one stop."""

from __future__ import annotations

import numpy as np
import pytest
from support.cuda_harness import HostExecutor
from support.device_motion import Case, advance, assert_same_bits, make, periodic_case, small_model, state

from allegro_sim.dynamics.guard import Limits
from allegro_sim.errors import DeviceError
from allegro_sim.gpu.graphs import StepGraph, obstacle_to_graphs
from allegro_sim.potential.cuda.chunks import ChunkTable

pytestmark = pytest.mark.simulator

ALONE = (None, np.zeros(3, bool), np.array([0, 1, 0]))
"""Three atoms, no ghosts: a step takes next to nothing."""


def test_a_step_is_captured_anew_exactly_when_what_it_launches_has_changed(monkeypatch):
    """Not by a new list of atoms and ghosts that have room in the arrays there are."""
    motion = make(periodic_case(5), skin=0.0, graphs="on")
    advance(motion, 2, measure=False)  # the second step of a kind is captured; with this skin each makes a list
    assert motion.graph.num_captures == 1
    builds = motion.neighbors.num_builds
    advance(motion, 2, measure=False)
    assert (motion.neighbors.num_builds, motion.graph.num_captures) == (builds + 2, 1)
    rebuild, engine = motion._rebuild, motion.potential.engine
    # Each of these comes with another array, or another number that a launch keeps.
    for change in (
        lambda: motion.rows.reserve(2 * len(motion.rows.positions), 1),
        lambda: setattr(motion.bricks, "_rows", motion.bricks._rows[:0]),
        lambda: engine._take(engine.table),
    ):
        monkeypatch.setattr(motion, "_rebuild", lambda change=change: (change(), rebuild()))
        captures = motion.graph.num_captures
        advance(motion, 1, measure=False)  # the change is made in the middle of this one
        monkeypatch.setattr(motion, "_rebuild", rebuild)
        advance(motion, 2, measure=False)
        assert motion.graph.num_captures == captures + 1
    motion.executor.check_guards()
    expected = make(periodic_case(5), skin=0.6, graphs="off")
    advance(expected, motion.step, measure=False)
    assert_same_bits(state(motion), state(expected))


def test_an_overflow_in_a_graph_is_made_good_before_any_atom_moves(monkeypatch):
    """An atom comes within the cutoff of another, and there is room for exactly the edges that were."""
    runs, cutoff = [], small_model().cutoffs[0, 0]
    positions = np.array([[0.0, 0, 0], [0.0, 1.2, 0], [cutoff + 0.055, 0, 0]])
    for graphs in ("off", "on"):
        motion = make(Case(small_model(), positions, *ALONE, speed=0.0), graphs=graphs, steps_ahead=9, skin=2.0)
        motion.rows.velocities[int(np.flatnonzero(motion.rows.ids[:3] == 2)[0])] = [-0.01, 0.0, 0.0]
        if graphs == "on":
            engine, recovered = motion.potential.engine, []

            def recover(motion=motion, found=recovered, recover=engine.recover):
                found.append((motion.step, motion.graph.num_launches))
                recover()

            monkeypatch.setattr(engine, "recover", recover)
            table = engine.table
            engine._take(ChunkTable(table.centers, table.edges, table.max_centers, table.edges))
        advance(motion, 12, measure=False)
        runs.append(state(motion))
    ((step, launched),) = recovered
    assert step >= 3 and launched > 0 and motion.graph.num_captures == 2
    assert_same_bits(runs[1], runs[0])


def test_a_guard_stops_steps_of_a_graph_where_it_stops_steps_one_by_one():
    """The distance of two atoms that fly at each other, and the bits with which they are left."""
    found, positions = [], np.array([[0.0, 0, 0], [1.1, 0.1, 0], [0.2, 1.3, 0.2]])
    for graphs in ("off", "on"):
        limits = Limits(displacement=1.0, distances=np.full((2, 2), 1.0))
        motion = make(
            Case(small_model(), positions, *ALONE, speed=0.0), limits=limits, steps_ahead=9, skin=2.0, graphs=graphs
        )
        first, second = (int(np.flatnonzero(motion.rows.ids[:3] == atom)[0]) for atom in (0, 1))
        motion.rows.velocities[[first, second]] = [[0.01, 0.0, 0.0], [-0.01, 0.0, 0.0]]
        advances = [motion.advance(12, measure=False, asked=lambda: 0.0)]
        while not advances[-1].between:
            advances.append(motion.advance(12 - motion.step, measure=False, asked=lambda: 0.0))
        system = motion.atoms()
        found.append((advances[-1].step, advances[-1].broken.tolist(), system.positions[:3].tolist()))
    assert found[0] == found[1]
    assert found[1][0] > 2 and motion.graph.num_launches > 0  # it was a graph that stopped


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ranks": 2, "images_travel": False}, "several ranks"),
        ({"ranks": 1, "images_travel": True}, "gpu.images_travel"),
    ],
)
def test_where_no_graph_can_be_it_is_said_and_refused(options, reason):
    obstacle = obstacle_to_graphs(**options)
    assert reason in obstacle and reason in StepGraph(HostExecutor(), "auto", obstacle).fact(1)
    with pytest.raises(DeviceError, match=rf'gpu.graphs = "on" is not possible: .*{reason}.*; use "auto" or "off"'):
        StepGraph(HostExecutor(), "on", obstacle)


def test_graphs_are_for_a_single_chunk_unless_asked_for():
    executor = HostExecutor()
    assert "all edges are one chunk" in StepGraph(executor, "auto").fact(1)
    assert StepGraph(executor, "auto").fact(3) == "none: 3 chunks keep the GPU busy"
    assert 'gpu.graphs = "on"' in StepGraph(executor, "on").fact(3)
    assert StepGraph(executor, "off").fact(1) == 'none: gpu.graphs = "off"'
    assert obstacle_to_graphs(ranks=1, images_travel=False) == ""
    with pytest.raises(DeviceError, match="unknown"):
        StepGraph(executor, "perhaps")


@pytest.mark.parametrize("what", ["download", "upload", "allocate", "working", "a kernel that was never run"])
def test_a_capture_that_fails_names_the_setting(what):
    executor = HostExecutor()
    array = executor.allocate(1, np.int64)
    step = {
        "download": lambda: executor.download(array),
        "upload": lambda: executor.upload(array, np.zeros(1, np.int64)),
        "allocate": lambda: executor.allocate(1, np.int64),
        "working": executor.working,
        "a kernel that was never run": executor.call("key_atoms", 1, array),
    }[what]
    graph, parts = StepGraph(executor, "on"), (object(),)
    if not what.startswith("a kernel"):
        graph.launch(step, parts, 1)  # launch by launch it is as good as ever
    else:
        graph.launch(lambda: None, parts, 1)
    with pytest.raises(DeviceError, match=r'refuses a step as one CUDA graph .* start the run with gpu.graphs = "off"'):
        graph.launch(step, parts, 1)
    assert executor.download(array).size  # the capture is over
