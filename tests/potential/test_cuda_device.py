"""Every way in which there is no GPU that can be used has its own message, and `auto` then takes the CPU."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest
from support.random_models import random_model

from allegro_sim.errors import DeviceError
from allegro_sim.potential import create_potential, pick_device
from allegro_sim.potential.cuda import device
from allegro_sim.potential.cuda.center_header import center_defines, edge_specs
from allegro_sim.potential.cuda.compile import FOLDER_VARIABLE, compile_module, load_or_compile, module_name
from allegro_sim.potential.cuda.source import assemble

KERNEL = 'extern "C" __global__ void scale(float* x, float a) { x[threadIdx.x] *= a; }'


class Driver:
    """The three functions of libcuda that are asked first."""

    def __init__(self, status: int = 0, count: int = 1, version: int = 13000) -> None:
        self.status, self.count, self.version = status, count, version

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, pointer):
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int))[0] = self.count
        return self.status

    def cuDriverGetVersion(self, pointer):
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int))[0] = self.version
        return 0


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (None, "no NVIDIA driver"),
        (Driver(status=100), "finds no GPU"),
        (Driver(count=0), "finds no GPU"),
        (Driver(status=803), "CUDA error 803"),
    ],
)
def test_no_driver_or_no_gpu(driver, message, monkeypatch):
    monkeypatch.setattr(device, "_load_driver", lambda: driver)
    with pytest.raises(DeviceError, match=message):
        device.find_device()
    with pytest.raises(DeviceError, match=f'"cuda" was asked for, but .*{message}'):
        pick_device("cuda")
    chosen, reason = pick_device("auto")
    assert chosen == "cpu"
    assert message in reason
    assert message in create_potential(random_model(1)).description


def test_driver_too_old_for_the_build_of_cupy():
    device.check_driver(12040, 12090)  # minor versions are compatible
    device.check_driver(13000, 12090)
    with pytest.raises(DeviceError, match=r"supports CUDA 12\.4.*built for CUDA 13\.0.*\[cuda12\]"):
        device.check_driver(12040, 13000)


def test_gpu_too_old():
    device.check_capability(device.Device("A100", (8, 0), 1, 108))
    with pytest.raises(DeviceError, match=r"V100 .*7\.0.*8\.0"):
        device.check_capability(device.Device("V100", (7, 0), 1, 80))


def test_no_cupy(monkeypatch):
    monkeypatch.setattr(device, "_load_driver", Driver)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"cannot be loaded.*\[?cuda13"):
        device.find_device()


def test_a_usable_gpu_is_taken(monkeypatch):
    properties = {"name": b"Some GPU", "major": 9, "minor": 0, "totalGlobalMem": 2**37, "multiProcessorCount": 132}
    runtime = SimpleNamespace(
        runtimeGetVersion=lambda: 13000,
        getDeviceProperties=lambda n: properties,
        CUDARuntimeError=RuntimeError,
        getDeviceCount=lambda: 2,
        deviceGetPCIBusId=lambda n: f"0000:0{n + 3}:00.0",
    )
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, Device=lambda n: SimpleNamespace(use=lambda: None)))
    monkeypatch.setattr(device, "_load_driver", Driver)
    monkeypatch.setattr(device, "_load_cupy", lambda: cupy)
    assert pick_device("cuda") == ("cuda", "")
    assert pick_device("auto")[0] == "cuda"
    assert "Some GPU (compute capability 9.0)" in pick_device("auto")[1]
    # Ranks of a node take the GPUs that are visible in turn; the bus tells which are the same.
    found = [device.find_device(rank) for rank in range(4)]
    assert [gpu.identity.split()[-1] for gpu in found] == ["0000:03:00.0", "0000:04:00.0"] * 2
    assert "GPU 1 (128 GiB)" in found[3].place


def test_cpu_is_taken_without_looking_for_a_gpu(monkeypatch):
    monkeypatch.setattr(device, "_load_driver", lambda: pytest.fail("looked"))
    assert pick_device("cpu") == ("cpu", "")


def test_modules_are_found_under_their_names(tmp_path, monkeypatch):
    """Code made beforehand for an older minor version of the same architecture is taken; nothing is compiled."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / module_name(KERNEL, "sm_80")).write_bytes(b"code for 8.0")
    assert load_or_compile(KERNEL, (8, 6)) == b"code for 8.0"
    (tmp_path / module_name(KERNEL, "sm_86")).write_bytes(b"code for 8.6")
    assert load_or_compile(KERNEL, (8, 6)) == b"code for 8.6"
    code = load_or_compile(KERNEL, (9, 0))  # not there: compiled
    assert code.startswith(b"\x7fELF")
    assert load_or_compile(KERNEL, (9, 0)) == code


def test_a_device_newer_than_the_compiler_gets_ptx():
    assert b".target" in load_or_compile(KERNEL, (99, 0))


def test_a_kernel_that_does_not_compile_is_an_error_with_the_compilers_words():
    with pytest.raises(DeviceError, match='identifier "y" is undefined'):
        compile_module(KERNEL.replace("x[thr", "y[thr"), "sm_90")


def test_nothing_flushes_subnormal_numbers_or_fuses_unasked():
    text, _ = compile_module('extern "C" __global__ void f(float* x) { x[0] = x[1] * x[2] + x[3]; }', "compute_90")
    assert b"mul.rn.f32" in text or b"mul.f32" in text
    assert b"fma" not in text
    assert b".ftz" not in text


def test_index_kernels_fuse_nothing():
    """Whether a pair is an edge is decided by the same bits as on the CPU."""
    model = random_model(0)
    defines = center_defines(model, "double")
    index = assemble(
        "".join(f"#define {name} {value}\n" for name, value in defines.items()),
        "index.cu",
        *(edge_specs()[name].entry_point() for name in ("count_edges", "fill_edges")),
    )
    text, _ = compile_module(index, "compute_90")
    assert b"mul.rn.f64" in text
    assert b"fma" not in text
