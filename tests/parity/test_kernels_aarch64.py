"""The C++ kernels, cross-compiled for aarch64 (NEON, what a Jetson runs) and run under qemu-user, against NumPy."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import TOLERANCES

from edgead.kernels import reference
from edgead.kernels.tables import heatmap_table, resize_table

pytestmark = pytest.mark.aarch64

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ROOT / "csrc"
CPU = ("heatmap_cpu.cc", "kmeans_assign_cpu.cc", "resize_cpu.cc", "topk_neighbours_cpu.cc")
F32 = TOLERANCES["kernel_f32"]
# As in csrc/CMakeLists.txt.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
)

Run = Callable[..., bytes]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run an op on aarch64: its sizes, its arrays, its thread count -> the bytes of its outputs."""
    folder = tmp_path_factory.mktemp("aarch64")
    program, arguments = folder / "driver", folder / "arguments"
    compiled = subprocess.run(
        ["aarch64-linux-gnu-g++", *FLAGS, "-DEDGEAD_ISA=baseline", "-Wall", "-Wextra", "-Werror", "-static", "-pthread",
         f"-I{SOURCES}", str(ROOT / "tests" / "aarch64" / "driver.cc"),
         *(str(SOURCES / name) for name in (*CPU, "dispatch.cc", "thread_pool.cc")), "-o", str(program)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr

    def start(op: str, sizes: tuple[int, ...], *arrays: np.ndarray, threads: int = 1) -> bytes:
        blocks = [np.array([len(sizes), *sizes], np.int64).tobytes()]
        for array in arrays:
            data = np.ascontiguousarray(array).tobytes()
            blocks += [np.array([len(data)], np.int64).tobytes(), data]
        arguments.write_bytes(b"".join(blocks))
        done = subprocess.run(
            ["qemu-aarch64", str(program), op, str(arguments), str(threads)],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return start


def split(data: bytes, *parts: tuple[Any, tuple[int, ...]]) -> list[np.ndarray]:
    arrays = []
    for dtype, shape in parts:
        length = int(np.prod(shape)) * np.dtype(dtype).itemsize
        arrays.append(np.frombuffer(data[:length], dtype).reshape(shape))
        data = data[length:]
    assert not data
    return arrays


@pytest.mark.parametrize(("n", "k", "d"), [(1, 1, 1), (19, 99, 65), (99, 19, 989), (300, 530, 33)])
@pytest.mark.parametrize("threads", [1, 3])
def test_kmeans_assign(
    run: Run, rng: np.random.Generator, n: int, k: int, d: int, threads: int
) -> None:
    x, c = (rng.standard_normal((rows, d), dtype=np.float32) for rows in (n, k))
    if n == 99:
        x[5, 3] = np.nan
    index, distance = split(
        run("kmeans_assign", (n, k, d), x, c, threads=threads), (np.int32, (n,)), (np.float32, (n,))
    )
    wanted = reference.kmeans_assign(x, c)
    np.testing.assert_array_equal(index, wanted[0])
    np.testing.assert_allclose(distance, wanted[1], rtol=F32.rtol, atol=F32.atol)


@pytest.mark.parametrize(
    ("b", "n", "c", "k"), [(1, 1, 1, 1), (2, 19, 5, 9), (1, 99, 65, 40), (1, 1100, 17, 9)]
)
def test_topk_neighbours(
    run: Run, rng: np.random.Generator, b: int, n: int, c: int, k: int
) -> None:
    f, g = rng.standard_normal((2, b, n, c), dtype=np.float32)
    position = rng.random((n, n), dtype=np.float32)
    (index,) = split(run("topk_neighbours", (b, n, c, k), f, g, position), (np.int32, (b, n, k)))
    similarity = np.stack(
        [
            reference._unit_rows(one) @ reference._unit_rows(two).T - position
            for one, two in zip(f, g, strict=True)
        ]
    )
    wanted = np.take_along_axis(similarity, reference.topk_neighbours(f, g, position, k), 2)
    np.testing.assert_allclose(
        np.take_along_axis(similarity, index, 2), wanted, rtol=F32.rtol, atol=F32.atol
    )


@pytest.mark.parametrize(
    ("shape", "size", "sigma"),
    [((1, 1, 1), (1, 1), 0.0), ((2, 36, 28), (256, 301), 4.0), ((1, 40, 64), (9, 7), 1.5)],
)
@pytest.mark.parametrize("value", [0.5, np.nan])
def test_heatmap(
    run: Run,
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    size: tuple[int, int],
    sigma: float,
    value: float,
) -> None:
    given = rng.random(shape, dtype=np.float32)
    given[-1, 0, -1] = value
    rows, columns = heatmap_table(shape[1], size[0], sigma), heatmap_table(shape[2], size[1], sigma)
    full = (shape[0], *size)
    data = run(
        "heatmap", (*shape, *size, rows.weights.shape[1], columns.spread.shape[1]),
        given, rows.band, rows.weights, columns.band, columns.spread,
    )  # fmt: skip
    out, peak, mask = split(data, (np.float32, full), (np.float32, shape[:1]), (np.uint8, full))
    wanted = np.empty(full, np.float32)
    reference.heatmap(given, rows, columns, 0.5, wanted)
    np.testing.assert_allclose(out, wanted, rtol=F32.rtol, atol=F32.atol)
    np.testing.assert_array_equal(peak, out.max(axis=(1, 2)))
    np.testing.assert_array_equal(mask, ~(out <= np.float32(0.5)))


@pytest.mark.parametrize(("channels", "order"), [(1, (0, 0, 0)), (3, (2, 1, 0)), (4, (2, 1, 0, 3))])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 1), (1, 1)), ((19, 99), (7, 5)), ((512, 512), (256, 256)), ((9, 989), (101, 37))],
)
def test_resize_is_bit_equal(
    run: Run, rng: np.random.Generator, channels: int, order: tuple[int, ...],
    shape: tuple[int, int], size: tuple[int, int],
) -> None:  # fmt: skip
    frame = rng.integers(0, 256, (*shape, channels), dtype=np.uint8)
    rows, columns = resize_table(shape[0], size[0]), resize_table(shape[1], size[1])
    sizes = (*frame.shape, *size, rows.weights.shape[1], columns.weights.shape[1], *order)
    data = run(
        "resize", sizes, frame, rows.start, rows.weights, columns.start, columns.weights, threads=2
    )
    (out,) = split(data, (np.uint8, (*size, len(order))))
    np.testing.assert_array_equal(out, reference.resize(frame, rows, columns, order))
