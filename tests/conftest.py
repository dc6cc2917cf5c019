"""What every test shares: seeds, device and layout parameters, skips that say why, and a cache away from the user's."""

import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
_CACHE = pytest.StashKey[Path]()

# No deadline: the first call of a Numba kernel compiles it. In CI every run draws the same examples.
hypothesis.settings.register_profile("halrp_np", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("halrp_np")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="a skipped gpu test counts as failed")


def pytest_configure(config: pytest.Config) -> None:
    """Point the data cache to a fresh folder, for this process and those it starts."""
    config.stash[_CACHE] = Path(tempfile.mkdtemp(prefix="halrp_np-tests-"))
    os.environ["HALRP_NP_CACHE"] = str(config.stash[_CACHE])


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_CACHE], ignore_errors=True)


@lru_cache(maxsize=1)
def _no_gpu_because() -> str | None:
    """The reason that gpu tests cannot run here, or None."""
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except ImportError as error:
        return f"CuPy cannot be imported: {error}"
    except Exception as error:  # the driver's own error types live in cupy
        return f"CUDA does not answer: {error}"
    return None if count else "CuPy sees no CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Look for a GPU now if any test needs one: later a stand-in may have taken CuPy's place (host_cuda.py)."""
    if any(item.get_closest_marker("gpu") for item in items):
        _no_gpu_because()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (reason := _no_gpu_because()):
        pytest.skip(f"needs a GPU: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn every skip of a gpu test into a failure when --require-gpu asks for it."""
    report: Any = yield
    if report.skipped and item.config.getoption("--require-gpu") and item.get_closest_marker("gpu"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome, report.longrepr = "failed", f"--require-gpu: {reason}"
    return report


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Fix the global generators, for third-party code that draws from them."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator of the test's own, seeded by its name: adding a test moves no other test's numbers."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device_name(request: pytest.FixtureRequest) -> str:
    """Each device name in turn, for `Device(device_name)`."""
    return str(request.param)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Any:
    """Each floating type in turn."""
    return request.param


def strided(array: np.ndarray) -> np.ndarray:
    """The same values in memory that is contiguous along no axis."""
    wide = np.zeros(tuple(2 * n for n in array.shape[::-1]), dtype=array.dtype)
    view = wide.transpose()[(..., *(slice(None, None, 2) for _ in array.shape))]
    view[...] = array
    return view


@pytest.fixture(params=[np.ascontiguousarray, strided], ids=["C-order", "strided"])
def layout(request: pytest.FixtureRequest) -> Callable[[np.ndarray], np.ndarray]:
    """Each memory layout in turn, as a function from an array to the same values laid out so."""
    function: Callable[[np.ndarray], np.ndarray] = request.param
    return function


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference traces and real data beside the repository, where there is one."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"no folder {path.name}/ with reference traces and real data beside the repository")
    return path
