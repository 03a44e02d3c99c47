"""What runs a plan on a GPU gives the driver, cuBLAS and Numba the right pointers, numbers and orders.

The executor is the real one; behind its calls stands a CPU (support.cupy_stand_in). Where CuPy is installed, no GPU is
needed to see that the calls are CuPy's.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import cupy_stand_in as stand_in
from support.cuda_harness import cuda_potential
from support.device_motion import advance, assert_same_bits, make, periodic_case, state
from support.potential import make_system
from support.random_models import random_model, random_structure
from support.stage_reference import over_bounds, replay

from allegro_sim.dynamics.guard import Limits
from allegro_sim.errors import DeviceError
from allegro_sim.gpu.module import KERNELS, module_source
from allegro_sim.kernels.cpu.fixed_point import words_to_float
from allegro_sim.kernels.numba_cuda.compilation import flat_arguments
from allegro_sim.potential.cuda.device import Device
from allegro_sim.potential.cuda.plan import Product
from allegro_sim.potential.cuda.potential import CudaPotential
from allegro_sim.potential.cuda.products import WORKSPACES, load_cublas

pytestmark = pytest.mark.simulator

DEVICE = Device("a stand-in", (9, 0), 2**34, 4)


def a_model(path):
    wide = {"hidden_width": 264, "l_max": 1, "num_layers": 2}
    return random_model(4, **(wide if path == "wide" else {"zbl": True, "per_pair_cutoffs": True, "hidden_width": 20}))


def results(potential, system, neighbors):
    potential.compute(system, neighbors, want_virial=True, want_atom_virials=True)
    assert len(system.bad_centres) == 0
    local = system.num_local
    return [
        system.forces[:local].copy(),
        system.energies[: system.num_owned].copy(),
        system.virial_words.copy(),
        system.atom_virials[:local].copy(),
    ]


@pytest.mark.parametrize(
    ("path", "precision"), [("fused", "mixed"), ("fused", "double"), ("wide", "mixed"), ("wide", "single")]
)
def test_the_bits_are_those_of_the_plan(path, precision, monkeypatch):
    """Several chunks, twice, so that numbers change between launches; a new list; and atoms without neighbours."""
    model = a_model(path)
    module = stand_in.load_executor(monkeypatch)
    found = CudaPotential(model, precision=precision, chunk_edges=128, executor=module.CudaExecutor(DEVICE))
    wanted = cuda_potential(model, precision, chunk_edges=128, optimize="-O0")
    for seed, atoms in ((2, 12), (2, 12), (5, 7), (6, 1)):
        system, neighbors = make_system(model, random_structure(seed, model, num_atoms=atoms), 0.3)
        for a, b in zip(results(found, system, neighbors), results(wanted, system, neighbors), strict=True):
            assert np.array_equal(a, b)
        assert found.engine.table.num_chunks == wanted.engine.table.num_chunks
        plan = found.engine.plan
        launches = [operation.kernel for operation in plan.chunk if not isinstance(operation, Product)]
        assert stand_in.launched[-len(launches) :] == launches
        assert any(isinstance(operation, Product) for operation in plan.chunk) == (path == "wide")


def test_stages_can_be_looked_at_on_a_gpu_as_on_a_cpu(monkeypatch):
    """What gpu_report.py does in its phase accuracy."""
    model = a_model("fused")
    module = stand_in.load_executor(monkeypatch)
    potential = CudaPotential(model, precision="mixed", chunk_edges=128, executor=module.CudaExecutor(DEVICE))
    potential.compute(*make_system(model, random_structure(2, model, num_atoms=12), 0.3))
    deviations = replay(potential)
    assert len(deviations) > 30
    assert not over_bounds(deviations, "mixed")


KEPT = ("ids", "positions", "velocities", "forces")


@pytest.mark.parametrize("bath", [False, True], ids=["nve", "langevin"])
def test_a_step_on_the_device_is_that_of_the_plan(bath, monkeypatch):
    """Everything of a run: new lists, ghosts that travel or are copied, steps ahead, graphs, sums, copies down."""
    module = stand_in.load_executor(monkeypatch)
    runs = []
    for executor in (module.CudaExecutor(DEVICE), None):
        limits = Limits(1.0, force=1e3, distances=np.full((2, 2), 0.1))
        graphs = "on" if bath and executor else "off"
        options = {"images_travel": not bath, "graphs": graphs}
        motion = make(periodic_case(), bath=bath, limits=limits, executor=executor, **options)
        advance(motion, 3)
        kept = [{name: motion.rows.owned(name).copy() for name in KEPT}]
        snapshots = [motion.snapshot(KEPT[1:])]
        advance(motion, 2)
        kept.append({name: motion.rows.owned(name).copy() for name in KEPT})
        snapshots.append(motion.snapshot(KEPT[1:]))
        runs.append(state(motion))
        advance(motion, 1)
        with ThreadPoolExecutor(1) as pool:  # from another thread, as the writer's, and after the atoms have moved on
            for expected, found in zip(kept, pool.map(lambda snapshot: snapshot.wait(), snapshots), strict=True):
                assert found.keys() == expected.keys()
                assert all(np.array_equal(found[name], values) for name, values in expected.items())
        assert not np.array_equal(kept[0]["positions"], kept[1]["positions"])
        assert motion.neighbors.num_builds > 1
        assert motion.neighbors.closest_pair()[0] > 0.0
        assert stand_in.launched.count("graph") == motion.graph.num_launches or not executor
        assert (motion.graph.num_launches > 0) == (graphs == "on")
    assert_same_bits(runs[0], runs[1])


def test_arguments_of_a_numba_kernel_are_those_of_its_signature():
    values, ids = np.zeros((4, 3), np.int64), np.zeros(4, np.int64)
    good = [np.zeros(16, np.int64), np.zeros(8, np.int32), values, ids.astype(np.int32), values, np.ones(1, np.int32)]
    assert len(flat_arguments("add_forces", good, lambda array: 1)) == 4 * 7 + 2 * 9
    for number, bad in ((0, np.zeros(16, np.int32)), (2, values[0]), (4, np.zeros((3, 4), np.int64).T)):
        with pytest.raises(TypeError, match=f"argument {number} of add_forces"):
            flat_arguments("add_forces", [*good[:number], bad, *good[number + 1 :]], lambda array: 1)


def test_a_launch_that_is_kept_takes_other_numbers_and_arrays(monkeypatch):
    """Sums of the first atoms of an array: so many, fewer, of another array, and of more blocks than before."""
    executor = stand_in.load_executor(monkeypatch).CudaExecutor(DEVICE)
    executor.load_module(module_source(), KERNELS)
    sums = executor.allocate(2 * 12, np.dtype(np.int64)).reshape(12, 2)
    arrays = [executor.allocate(300, np.dtype(np.float64)) for _ in range(2)]
    for array, first in zip(arrays, (1.0, 1000.0), strict=True):
        executor.upload(array, first + np.arange(300.0))
    prepared = []
    launcher = executor._launcher
    monkeypatch.setattr(executor, "_launcher", lambda *given: (prepared.append(given[0]), launcher(*given))[1])
    for array, count, preparations in ((0, 4, 1), (0, 2, 1), (0, 300, 1), (1, 300, 2), (1, 1, 2)):
        sums[...] = 0
        executor.launch("energy_sum", count, sums, arrays[array], np.int32(count))
        assert words_to_float(executor.download(sums)[1]) == arrays[array][:count].sum()
        assert len(prepared) == preparations


def test_a_graph_keeps_numbers_of_its_capture_and_nothing_else_may_happen_meanwhile(monkeypatch):
    executor = stand_in.load_executor(monkeypatch).CudaExecutor(DEVICE)
    executor.load_module(module_source(), KERNELS)
    sums, energies = executor.allocate(2 * 12, np.dtype(np.int64)), executor.allocate(4, np.dtype(np.float64))
    sums = sums.reshape(12, 2)
    executor.upload(energies, np.arange(4.0))
    number = np.int32(3)
    call = executor.call("energy_sum", 3, sums, energies, number)
    graph = executor.capture(call)
    assert not executor.download(sums).any()
    graph.launch()
    once = executor.download(sums).copy()
    assert once.any()
    for forbidden in (
        lambda: executor.allocate(1, np.dtype(np.int64)),
        lambda: executor.upload(energies, np.zeros(4)),
        lambda: executor.download(sums),
        executor.release,
        lambda: executor.arrays.cumsum(energies),
    ):
        with pytest.raises(DeviceError, match=r"a stand-in .* refuses a step as one CUDA graph"):
            executor.capture(forbidden)
        executor.download(sums)  # the capture is over


def test_products_of_cublas_are_part_of_a_graph(monkeypatch):
    model = a_model("wide")
    module = stand_in.load_executor(monkeypatch)
    potential = CudaPotential(model, precision="mixed", executor=module.CudaExecutor(DEVICE))
    system, neighbors = make_system(model, random_structure(2, model, num_atoms=12), 0.3)
    wanted = results(potential, system, neighbors)[0]
    engine = potential.engine
    graph = engine.executor.capture(engine.launch)
    engine.executor.upload(engine.arrays["forces"], np.zeros_like(wanted))
    graph.launch()
    assert np.array_equal(engine.executor.download(engine.arrays["forces"]), wanted)


def test_no_atoms_at_all_are_no_launches_on_null_pointers(monkeypatch):
    model = a_model("fused")
    module = stand_in.load_executor(monkeypatch)
    potential = CudaPotential(model, precision="single", executor=module.CudaExecutor(DEVICE))
    nothing = (np.zeros((0, 3)), None, np.zeros(3, bool), np.zeros(0, np.int64))
    assert len(results(potential, *make_system(model, nothing, 0.0))[1]) == 0


def test_cublas_that_fails_is_said_with_its_status(monkeypatch):
    module = stand_in.load_executor(monkeypatch)
    stand_in.cublas.status = 1
    potential = CudaPotential(a_model("wide"), precision="mixed", executor=module.CudaExecutor(DEVICE))
    with pytest.raises(DeviceError, match="cuBLAS's cublasCreate failed with status 1"):
        potential.prepare()


@pytest.mark.parametrize("failing", ["the driver", "cuBLAS"])
def test_memory_that_runs_out_in_a_library_is_said_as_in_the_pool(failing, monkeypatch):
    module = stand_in.load_executor(monkeypatch)

    def fail(*_):
        raise stand_in.CUDADriverError(2)

    if failing == "the driver":
        monkeypatch.setattr(stand_in.Module, "load", fail)
    else:
        stand_in.cublas.status = 3
    potential = CudaPotential(a_model("wide"), precision="mixed", executor=module.CudaExecutor(DEVICE))
    with pytest.raises(DeviceError, match="out of memory: the model's weights need"):
        potential.prepare()


def test_chunks_shrink_when_the_pool_has_no_more(monkeypatch):
    module = stand_in.load_executor(monkeypatch)
    model = a_model("fused")
    structure = random_structure(2, model, num_atoms=12)
    wanted = results(cuda_potential(model, "single", chunk_edges=None), *make_system(model, structure, 0))
    potential = CudaPotential(model, precision="single", chunk_edges=2**16, executor=module.CudaExecutor(DEVICE))
    monkeypatch.setattr("allegro_sim.potential.cuda.engine.MIN_ROWS", 128)
    potential.prepare()
    stand_in.memory_limit[0] = 30_000
    found = results(potential, *make_system(model, structure, 0))
    assert potential.engine.max_rows < 2**16
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


# ------------------------------------------------------------------------------------------- where CuPy is installed

CHECKED = {
    "driver": ("launchKernel", "funcSetAttribute"),
    "runtime": ("memsetAsync", "getDevice"),
}


needs_cupy = pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="needs CuPy")


@needs_cupy
@pytest.mark.parametrize("module", CHECKED)
def test_signatures_are_cupys(module):
    """CuPy's compiled functions state theirs in the first line of their documentation."""
    from cupy import cuda

    for name in CHECKED[module]:
        stated = re.match(r"(\w+)\((.*?)\)", getattr(getattr(cuda, module), name).__doc__)
        assert stated is not None
        real = [part.split()[-1].split("=")[0] for part in stated[2].split(",") if part.strip()]
        assert list(inspect.signature(getattr(stand_in, name)).parameters) == real, name


@needs_cupy
def test_constants_and_classes_are_cupys():
    import cupy

    for name, value in stand_in.constants.items():
        assert int(getattr(cupy.cuda.cublas, name)) == value, name
    assert int(cupy.cuda.runtime.streamCaptureModeThreadLocal) == stand_in.CAPTURE_THREAD_LOCAL
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    for of, name in (("driver", "CUDADriverError"), ("runtime", "CUDARuntimeError")):
        assert issubclass(getattr(getattr(cupy.cuda, of), name), RuntimeError)
    for text, method in (
        ("arr, stream=None", cupy.ndarray.set),
        ("stream=None, order='C', out=None, blocking=True", cupy.ndarray.get),
        ("null=False, non_blocking=False", cupy.cuda.Stream.__init__),
        ("block=False, disable_timing=False, interprocess=False", cupy.cuda.Event.__init__),
        ("(self, stream=None)", cupy.cuda.Event.record),
        ("(self)", cupy.cuda.Event.synchronize),
        ("(self)", cupy.cuda.Device.use),
        ("(size_t size) -> PinnedMemoryPointer", cupy.cuda.alloc_pinned_memory),
        ("begin_capture(self, mode=None)", cupy.cuda.Stream.begin_capture),
        ("end_capture(self)", cupy.cuda.Stream.end_capture),
        ("launch(self, stream=None)", cupy.cuda.Graph.launch),
    ):
        assert text in method.__doc__
    # What gpu_report_device.py calls besides.
    for name in ("Event", "get_elapsed_time", "get_current_stream", "Device"):
        assert hasattr(cupy.cuda, name)
    assert {"load", "get_function"} <= set(dir(cupy.cuda.function.Module))
    for name in ("getDeviceProperties", "driverGetVersion", "runtimeGetVersion", "memGetInfo", "deviceGetPCIBusId"):
        assert callable(getattr(cupy.cuda.runtime, name))


@needs_cupy
def test_nccls_calls_are_cupys():
    from cupy.cuda import nccl

    if not nccl.available:
        pytest.skip("CuPy has NCCL's calls only where NCCL is installed")
    assert {"get_unique_id", "groupStart", "groupEnd", "NCCL_INT64", "NCCL_MAX", "available"} <= set(dir(nccl))
    for name in ("send", "recv", "allReduce"):
        stated = re.search(r"\((.*)\)", getattr(nccl.NcclCommunicator, name).__doc__)
        assert stated is not None
        assert [part.split()[-1] for part in stated[1].split(",")][1:] in (
            ["sendbuf", "count", "datatype", "peer", "stream"],
            ["recvbuf", "count", "datatype", "peer", "stream"],
            ["sendbuf", "recvbuf", "count", "datatype", "op", "stream"],
        )


def test_cublas_itself_takes_these_calls():
    """The library needs no GPU to find that a handle is none, after it has taken all arguments."""
    try:
        library = load_cublas()
    except DeviceError as error:
        assert re.fullmatch(r"cuBLAS cannot be loaded \([^\n]*\), .*install the extra .*", str(error))
        assert "nvidia-cublas" not in {distribution.name for distribution in importlib.metadata.distributions()}
        pytest.skip("needs cuBLAS, which the tests' environment does not ask for")
    not_initialized, one = 1, np.ones(1, np.float32)
    assert library.cublasSetStream_v2(None, 2**40) == not_initialized
    assert library.cublasSetWorkspace_v2(None, 2**40, WORKSPACES[0]) == not_initialized
    multiply = [
        None,
        0,
        0,
        64,
        64,
        64,
        one.ctypes.data,
        2**40,
        0,
        64,
        2**40,
        0,
        64,
        one.ctypes.data,
        2**40,
        0,
        64,
        77,
        -1,
    ]
    assert library.cublasGemmEx(*multiply) == not_initialized


REAL_NUMBA = """
from types import SimpleNamespace
from unittest.mock import patch
import numpy as np
from numba.cuda import dispatcher
from allegro_sim.kernels.numba_cuda.catalogue import KERNELS
from allegro_sim.kernels.numba_cuda.compilation import compile_kernel, flat_arguments

def address(array):
    return array.__array_interface__["data"][0]

name = "first_kick"
with patch.object(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=(9, 0))):
    code, _ = compile_kernel(name, (9, 0))
assert b".text." + name.encode() + bytes(1) in code
arguments, of_numba = [], []
for kind in KERNELS[name][1].args:
    if hasattr(kind, "ndim"):
        array = np.zeros((3, 2)[: kind.ndim], str(kind.dtype))
        layout = SimpleNamespace(strides_in_bytes=array.strides)
        seen = SimpleNamespace(
            size=array.size, dtype=array.dtype, ptr=address(array), shape=array.shape, _layout=layout
        )
        arguments.append(array)
        of_numba.append(SimpleNamespace(to_device=lambda retr, stream, seen=seen: seen))
    else:
        arguments.append(np.dtype(str(kind)).type(3))
        of_numba.append(arguments[-1])
wanted = []
kernel = SimpleNamespace(extensions=())
with patch.object(dispatcher, "wrap_arg", lambda value: value):
    for kind, value in zip(KERNELS[name][1].args, of_numba):
        dispatcher._Kernel._prepare_args(kernel, kind, value, 0, [], wanted)
numbers = [np.dtype(str(kind)) for kind in KERNELS[name][1].args if not hasattr(kind, "ndim")]
found = [
    np.frombuffer(value.raw, numbers.pop(0))[0] if hasattr(value, "raw") else value.value or 0
    for value in flat_arguments(name, arguments, address)
]
assert found == [getattr(value, "value", value) for value in wanted], (found, wanted)
"""


def test_a_numba_kernel_is_launched_as_numba_would():
    done = subprocess.run(
        [sys.executable, "-c", REAL_NUMBA],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
