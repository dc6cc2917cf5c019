"""Devices: what they are called, how an absent GPU is told, and where arrays cross."""

import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Device, array_module, to_host
from halrp_np.backend import device as device_room
from halrp_np.errors import DeviceError
from strict import StrictArray, StrictDevice

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that answers as CuPy with two GPUs does; tests change its answers."""
    chosen: list[int] = []

    class Gpu:
        def __init__(self, number: int) -> None:
            self.number = number

        def use(self) -> None:
            chosen.append(self.number)

    module = types.ModuleType("cupy")
    module.chosen = chosen
    module.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=lambda: 2), Device=Gpu)
    monkeypatch.setitem(sys.modules, "cupy", module)
    device_room.import_cupy.cache_clear()
    yield module
    device_room.import_cupy.cache_clear()


def fail(error: Exception) -> Any:
    def function() -> int:
        raise error

    return function


def test_the_cpu_is_the_default() -> None:
    device = Device()
    assert (device.name, device.note, device.index) == ("cpu", "", 0)
    assert device.xp is np
    assert repr(device) == "Device('cpu')"
    device.synchronize()
    assert device.memory() > 2**20  # Python and NumPy alone take more


@pytest.mark.parametrize("name", ["", "cuda", "CPU", "cpu:0", "auto:1", "gpu:x", "gpu:-1", "gpu 1"])
def test_an_unknown_name_is_an_error(name: str) -> None:
    with pytest.raises(DeviceError, match=r"--device: expected cpu, gpu, gpu:N or auto, received '") as caught:
        Device(name)
    assert repr(name) in str(caught.value)
    assert caught.value.exit_code == 2


def test_gpus_by_number(cupy: Any) -> None:
    assert [Device(name).name for name in ("gpu", "gpu:0", "gpu:1", "auto")] == ["gpu:0", "gpu:0", "gpu:1", "gpu:0"]
    assert cupy.chosen == [0, 0, 1, 0]
    assert Device("gpu:1").xp is cupy
    assert Device("gpu:1").index == 1
    assert Device("auto").note == ""
    with pytest.raises(DeviceError, match=r"--device gpu:2: expected a number below 2, received 2\. Use gpu:0"):
        Device("gpu:2")


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (lambda: 0, "CuPy finds no CUDA device"),
        (fail(RuntimeError("no driver")), r"CuPy finds no CUDA driver or device \(no driver\)"),
    ],
)
def test_without_a_gpu_auto_falls_back_and_says_so_and_gpu_does_not(cupy: Any, count: Any, reason: str) -> None:
    cupy.cuda.runtime.getDeviceCount = count
    device = Device("auto")
    assert (device.name, device.xp) == ("cpu", np)
    with pytest.raises(DeviceError, match=reason) as caught:
        Device("gpu")
    assert "pip install 'halrp_np[cuda12]'" in str(caught.value)
    assert device.note.startswith("no GPU is used: CuPy finds no CUDA")


@pytest.mark.parametrize("error", [ImportError("no module"), OSError("libcuda.so.1"), RuntimeError("wrong version")])
def test_a_cupy_that_cannot_be_imported_is_told_with_its_reason(
    error: Exception, cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Any:
        raise error

    monkeypatch.setattr(device_room.importlib, "import_module", refuse)
    told = rf"CuPy cannot be imported \({type(error).__name__}: {error}\)"
    with pytest.raises(DeviceError, match=told):
        Device("gpu")
    assert str(error) in Device("auto").note


def test_the_probe_is_made_once(cupy: Any) -> None:
    calls = []
    cupy.cuda.runtime.getDeviceCount = lambda: calls.append(1) or 0
    for _ in range(3):
        Device("auto")
    assert len(calls) == 1


def test_naming_the_cpu_imports_no_gpu_and_no_compiler() -> None:
    program = (
        "import sys\nfrom halrp_np.backend import Device\nDevice('cpu')\n"
        "print(sorted({'cupy', 'numba', 'threadpoolctl', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=60, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


DTYPES = [np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_]


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_a_round_trip_keeps_values_and_type(kind: Any, shape: Any, device_name: str, rng: np.random.Generator) -> None:
    device = Device(device_name)
    host = rng.integers(0, 2, size=shape).astype(kind)
    there = device.to_device(host)
    assert array_module(there) is device.xp
    assert (there.dtype, there.shape) == (host.dtype, host.shape)
    again = device.to_device(there)
    assert again is there or again.data.ptr == there.data.ptr
    back = device.to_host(there)
    assert isinstance(back, np.ndarray)
    assert back.dtype == host.dtype
    np.testing.assert_array_equal(back, host)


def test_views_cross_by_value(device_name: str, rng: np.random.Generator) -> None:
    device, host = Device(device_name), rng.normal(size=(6, 8))
    view = host.T[::-2, 1::2]
    np.testing.assert_array_equal(device.to_host(device.to_device(view)), view)
    np.testing.assert_array_equal(to_host(device.to_device(host).T[::-2, 1::2]), view)


def test_the_cpu_takes_arrays_of_other_devices() -> None:
    there, before = StrictDevice().to_device(np.arange(3)), StrictArray.gets
    np.testing.assert_array_equal(Device("cpu").to_device(there), [0, 1, 2])
    assert StrictArray.gets == before + 1


def test_the_module_of_an_array() -> None:
    assert array_module(np.zeros(2)) is np
    assert array_module(np.float32(1)) is np
    strict = StrictDevice()
    assert array_module(strict.to_device(np.zeros(2))) is strict.xp
    for other in ([1.0], 1.0, None):
        with pytest.raises(DeviceError, match=f"expected an array, received {type(other).__name__}"):
            array_module(other)


@pytest.mark.gpu
def test_memory_of_a_gpu_counts_its_arrays() -> None:
    device = Device("gpu")
    before = device.memory()
    array = device.xp.zeros(2**20, dtype=np.float64)
    device.synchronize()
    assert device.memory() - before >= array.nbytes


def test_reading_numbers_of_numpy() -> None:
    assert to_host(np.float32(1.5)) == 1.5
    assert to_host(np.float32(1.5)).dtype == np.float32
