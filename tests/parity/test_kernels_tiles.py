"""The AMX first pass of kmeans_assign, with tiles kept in arrays, against the module's own result: the same bits."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgead import kernels
from edgead.kernels._native import native

ROOT = Path(__file__).resolve().parent.parent.parent
EMULATION, SOURCES = ROOT / "tests" / "emulation", ROOT / "csrc"
FLAGS = (
    "-mavx2",
    "-mfma",
    "-mf16c",
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mavx512dq",
    "-mavx512bf16",
)

module = native()
pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++"),
    pytest.mark.skipif(
        module is None or "avx512_bf16" not in module.instruction_sets(),
        reason="no AVX-512 with bfloat16 here",
    ),
]


class Args(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("patches", "centroids")]
        + [(name, ctypes.c_int64) for name in ("count", "clusters", "depth")]
        + [(name, ctypes.c_void_p) for name in ("index", "distance")]
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("tiles") / "tiles.so"
    done = subprocess.run(
        ["g++", "-std=c++17", "-O2", "-shared", "-fPIC", "-pthread", *FLAGS, "-fno-math-errno", "-fno-trapping-math",
         "-ffp-contract=fast", "-Wno-psabi", "-DEDGEAD_TILES", "-DEDGEAD_TILES_ON_HOST", "-DEDGEAD_ISA=amx",
         f"-I{SOURCES}", f"-I{EMULATION}", str(EMULATION / "tiles_driver.cc"),
         str(SOURCES / "kmeans_assign_cpu.cc"), str(SOURCES / "thread_pool.cc"), "-o", str(target)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target))


@pytest.mark.parametrize(
    ("n", "k", "d"), [(1, 1, 1), (19, 99, 65), (99, 600, 31), (150, 33, 989), (3, 2, 0)]
)
@pytest.mark.parametrize("value", [0.5, np.nan])
def test_kmeans_assign(
    library: ctypes.CDLL, rng: np.random.Generator, n: int, k: int, d: int, value: float
) -> None:
    x, c = (rng.standard_normal((rows, d), dtype=np.float32) for rows in (n, k))
    x[n // 2, d // 2 : d // 2 + 1] = value
    index, distance = np.full(n, -7, np.int32), np.full(n, -7, np.float32)
    addresses = (
        [array.ctypes.data for array in (x, c)],
        [array.ctypes.data for array in (index, distance)],
    )
    library.run_kmeans_assign(ctypes.byref(Args(*addresses[0], n, k, d, *addresses[1])), 2)
    wanted = kernels.kmeans_assign(x, c)
    np.testing.assert_array_equal(index, wanted[0])
    np.testing.assert_array_equal(distance, wanted[1])
