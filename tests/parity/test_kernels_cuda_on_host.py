"""The CUDA kernels, compiled as host code and run one fiber a CUDA thread, against the NumPy references.

What a machine without a GPU can hold of them: indices, arithmetic, borders, and that the order in which
threads reach a barrier does not matter. tests/gpu/ holds the rest.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import TOLERANCES

from edgead.kernels import reference
from edgead.kernels.tables import heatmap_table, resize_table

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent.parent / "csrc"
EMULATION = HERE.parent / "emulation"
OPS = ("heatmap", "kmeans_assign", "resize", "topk_neighbours")
F32 = TOLERANCES["kernel_f32"]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

POINTER, SIZE, INT32, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


def struct(*fields: tuple[str, Any]) -> type[ctypes.Structure]:
    return type("Args", (ctypes.Structure,), {"_fields_": list(fields)})


def each(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


KMEANS = struct(*each(POINTER, "patches centroids"), *each(SIZE, "count clusters depth"),
                *each(POINTER, "index distance"))  # fmt: skip
TOPK = struct(
    *each(POINTER, "f g position"), *each(SIZE, "batch nodes channels k"), *each(POINTER, "index")
)
HEATMAP = struct(
    *each(POINTER, "map"), *each(SIZE, "batch in_height in_width out_height out_width"),
    *each(POINTER, "row_band row_weights"), *each(SIZE, "row_taps"),
    *each(POINTER, "column_band column_weights"), *each(SIZE, "column_taps"),
    *each(POINTER, "column_spread"), *each(SIZE, "spread_pitch"), *each(FLOAT, "threshold"),
    *each(POINTER, "out peak mask"),
)  # fmt: skip
RESIZE = struct(
    *each(POINTER, "frame"), *each(SIZE, "row_stride in_height in_width in_channels"),
    *each(SIZE, "out_height out_width out_channels"), *each(POINTER, "row_start row_weights"),
    *each(SIZE, "row_taps"), *each(POINTER, "column_start column_weights"), *each(SIZE, "column_taps"),
    ("channels", ctypes.c_int8 * 4), *each(POINTER, "out"),
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("on_host") / "kernels_on_host.so"
    command = [
        "g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-DEDGEAD_CUDA_ON_HOST",
        f"-I{EMULATION}", f"-I{SOURCES}", "-x", "c++", str(EMULATION / "kernels_on_host.cc"),
        *(str(SOURCES / f"{op}_cuda.cu") for op in OPS), "-o", str(target),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target))


@pytest.fixture(params=["ascending", "descending"])
def library(built: ctypes.CDLL, request: pytest.FixtureRequest) -> ctypes.CDLL:
    """The kernels, with the threads of a block taken in this order."""
    built.run_in_descending_order(int(request.param == "descending"))
    return built


def run(library: ctypes.CDLL, op: str, kind: type[ctypes.Structure], *values: Any) -> None:
    plain = [value.ctypes.data if isinstance(value, np.ndarray) else value for value in values]
    assert getattr(library, f"run_{op}")(ctypes.byref(kind(*plain))) == 0


def kmeans(library: ctypes.CDLL, x: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    index, distance = np.full(len(x), -7, np.int32), np.full(len(x), -7, np.float32)
    run(library, "kmeans_assign", KMEANS, x, c, len(x), len(c), x.shape[1], index, distance)
    return index, distance


@pytest.mark.parametrize(("n", "k", "d"), [(1, 1, 1), (19, 99, 17), (99, 19, 33), (33, 65, 48)])
def test_kmeans_assign(
    library: ctypes.CDLL, rng: np.random.Generator, n: int, k: int, d: int
) -> None:
    x, c = (rng.standard_normal((rows, d), dtype=np.float32) for rows in (n, k))
    index, distance = kmeans(library, x, c)
    wanted = reference.kmeans_assign(x, c)
    np.testing.assert_array_equal(index, wanted[0])
    np.testing.assert_allclose(distance, wanted[1], rtol=F32.rtol, atol=F32.atol)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_kmeans_extreme_values_ties_and_cancellation(
    library: ctypes.CDLL, rng: np.random.Generator, value: float
) -> None:
    x, c = (rng.standard_normal((rows, 9), dtype=np.float32) for rows in (20, 70))
    x[3, 4] = value
    c[50, 2] = value
    for patches, centroids in (
        (x, c),
        (x + 1000, c[:40] + 1000),
        (np.repeat(c, 2, 0), np.repeat(c, 2, 0)),
    ):
        with np.errstate(all="ignore"):
            index, distance = kmeans(library, patches, centroids)
            wanted = reference.kmeans_assign(patches, centroids)
        np.testing.assert_array_equal(index, wanted[0])
        np.testing.assert_allclose(distance, wanted[1], rtol=F32.rtol, atol=F32.atol)


@pytest.mark.parametrize(
    ("b", "n", "c", "k"), [(1, 1, 1, 1), (2, 19, 5, 9), (1, 99, 17, 40), (1, 70, 3, 70)]
)
def test_topk_neighbours(
    library: ctypes.CDLL, rng: np.random.Generator, b: int, n: int, c: int, k: int
) -> None:
    f, g = rng.standard_normal((2, b, n, c), dtype=np.float32)
    position = rng.random((n, n), dtype=np.float32)
    if n > 50:
        g[0, 7] = np.nan
        position[:, 3] = np.inf
    index = np.full((b, n, k), -7, np.int32)
    run(library, "topk_neighbours", TOPK, f, g, position, b, n, c, k, index)
    with np.errstate(invalid="ignore"):
        wanted = reference.topk_neighbours(f, g, position, k)
    similarity = np.stack(
        [
            reference._unit_rows(one) @ reference._unit_rows(two).T - position
            for one, two in zip(f, g, strict=True)
        ]
    )
    given = np.take_along_axis(similarity, index, 2)
    np.testing.assert_allclose(
        given, np.take_along_axis(similarity, wanted, 2), rtol=F32.rtol, atol=F32.atol
    )
    np.testing.assert_array_equal(np.sort(index), np.sort(wanted))


@pytest.mark.parametrize(("shape", "size", "sigma"), [
    ((1, 1, 1), (1, 1), 0.0), ((2, 28, 36), (64, 131), 4.0), ((1, 40, 3), (9, 7), 1.5), ((1, 5, 5), (33, 150), 40.0)
])  # fmt: skip
@pytest.mark.parametrize("value", [0.5, -9.0, np.nan])
def test_heatmap(
    library: ctypes.CDLL, rng: np.random.Generator, shape: tuple[int, int, int], size: tuple[int, int],
    sigma: float, value: float,
) -> None:  # fmt: skip
    given = rng.standard_normal(shape, dtype=np.float32) - np.float32(value == -9.0) * 9
    given[-1, -1, 0] = value
    rows, columns = heatmap_table(shape[1], size[0], sigma), heatmap_table(shape[2], size[1], sigma)
    out, peak = np.empty((shape[0], *size), np.float32), np.empty(shape[0], np.float32)
    mask = np.empty(out.shape, np.uint8)
    run(library, "heatmap", HEATMAP, given, *shape, *size, rows.band, rows.weights, rows.weights.shape[1],
        columns.band, columns.weights, columns.weights.shape[1], columns.spread, columns.spread.shape[1],
        0.25, out, peak, mask)  # fmt: skip
    wanted = np.empty_like(out)
    wanted_peak, _ = reference.heatmap(given, rows, columns, 0.25, wanted)
    np.testing.assert_allclose(out, wanted, rtol=F32.rtol, atol=F32.atol)
    np.testing.assert_allclose(peak, wanted_peak, rtol=F32.rtol, atol=F32.atol)
    np.testing.assert_array_equal(mask, ~(out <= np.float32(0.25)))


@pytest.mark.parametrize(("channels", "order"), [(1, (0, 0, 0)), (3, (2, 1, 0)), (4, (2, 1, 0, 3))])
@pytest.mark.parametrize(
    ("shape", "size"), [((1, 1), (1, 1)), ((64, 99), (19, 31)), ((9, 7), (20, 40))]
)
def test_resize_is_bit_equal(
    library: ctypes.CDLL, rng: np.random.Generator, channels: int, order: tuple[int, ...],
    shape: tuple[int, int], size: tuple[int, int],
) -> None:  # fmt: skip
    frame = rng.integers(0, 256, (*shape, channels), dtype=np.uint8)
    rows, columns = resize_table(shape[0], size[0]), resize_table(shape[1], size[1])
    out = np.empty((*size, len(order)), np.uint8)
    run(library, "resize", RESIZE, frame, frame.strides[0], *shape, channels, *size, len(order), rows.start,
        rows.weights, rows.weights.shape[1], columns.start, columns.weights, columns.weights.shape[1],
        (ctypes.c_int8 * 4)(*order), out)  # fmt: skip
    np.testing.assert_array_equal(out, reference.resize(frame, rows, columns, order))
