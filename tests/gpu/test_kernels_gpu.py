"""The CUDA kernels on a GPU, through CuPy, torch and pycuda, against the NumPy references.

EDGEAD_REQUIRE_GPU=1 turns a missing GPU, library or CUDA build into a failure.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tolerances import TOLERANCES

from edgead import kernels
from edgead.kernels import reference
from edgead.kernels._native import native
from edgead.kernels.tables import heatmap_table, resize_table

pytestmark = pytest.mark.gpu


def tolerance(dtype: Any) -> dict[str, float]:
    name = "kernel_f16" if np.dtype(dtype) == np.float16 else "kernel_f32"
    return {"rtol": TOLERANCES[name].rtol, "atol": TOLERANCES[name].atol}


def library(name: str) -> ModuleType:
    """Import a library; without it skip, or fail where skipping is forbidden."""
    if os.environ.get("EDGEAD_REQUIRE_GPU") == "1":
        return __import__(name)
    return pytest.importorskip(name)


@pytest.fixture(autouse=True)
def _built_with_cuda() -> None:
    module = native()
    if module is None or not module.built_with_cuda():
        message = "edgead._C was built without CUDA"
        pytest.fail(message) if os.environ.get("EDGEAD_REQUIRE_GPU") == "1" else pytest.skip(
            message
        )


@pytest.fixture
def cupy() -> ModuleType:
    return library("cupy")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("n", "k", "d"), [(0, 3, 5), (1, 1, 1), (19, 99, 65), (989, 100, 99), (5000, 530, 64)]
)
def test_kmeans_assign(
    cupy: Any, rng: np.random.Generator, dtype: Any, n: int, k: int, d: int
) -> None:
    x, c = (rng.standard_normal((rows, d)).astype(dtype) for rows in (n, k))
    index, distance = kernels.kmeans_assign(cupy.asarray(x), cupy.asarray(c))
    assert isinstance(index, cupy.ndarray)
    wanted = reference.kmeans_assign(x.astype(np.float32), c.astype(np.float32))
    assert (index.get() != wanted[0]).sum() <= n // 100
    np.testing.assert_allclose(distance.get(), wanted[1], **tolerance(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_kmeans_extreme_values(cupy: Any, rng: np.random.Generator, value: float) -> None:
    x, c = (rng.standard_normal((rows, 70), dtype=np.float32) for rows in (300, 99))
    x[7, 3] = value
    c[50, 2] = value
    index, distance = kernels.kmeans_assign(cupy.asarray(x), cupy.asarray(c))
    with np.errstate(all="ignore"):
        wanted = reference.kmeans_assign(x, c)
    np.testing.assert_array_equal(index.get(), wanted[0])
    np.testing.assert_allclose(distance.get(), wanted[1], **tolerance(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("b", "n", "c", "k"), [(1, 1, 1, 1), (2, 19, 5, 9), (16, 64, 64, 9), (1, 989, 99, 40)]
)
def test_topk_neighbours(
    cupy: Any, rng: np.random.Generator, dtype: Any, b: int, n: int, c: int, k: int
) -> None:
    f, g = rng.standard_normal((2, b, n, c)).astype(dtype)
    position = rng.random((n, n)).astype(dtype)
    index = kernels.topk_neighbours(
        cupy.asarray(f), cupy.asarray(g), cupy.asarray(position), k
    ).get()
    f, g, position = (array.astype(np.float32) for array in (f, g, position))
    similarity = np.stack(
        [
            reference._unit_rows(p) @ reference._unit_rows(q).T - position
            for p, q in zip(f, g, strict=True)
        ]
    )
    wanted = np.take_along_axis(similarity, reference.topk_neighbours(f, g, position, k), 2)
    np.testing.assert_allclose(
        np.take_along_axis(similarity, index, 2), wanted, **tolerance(np.float32)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("shape", "size", "sigma"),
    [((1, 1, 1), (1, 1), 0.0), ((16, 36, 36), (512, 512), 4.0), ((2, 99, 19), (301, 57), 9.0)],
)
@pytest.mark.parametrize("value", [0.5, np.nan])
def test_heatmap(
    cupy: Any, rng: np.random.Generator, dtype: Any, shape: tuple[int, int, int], size: tuple[int, int],
    sigma: float, value: float,
) -> None:  # fmt: skip
    given = rng.standard_normal(shape).astype(dtype)
    given[-1, 0, -1] = value
    result = kernels.heatmap(cupy.asarray(given), size, sigma=sigma, threshold=0.1)
    tables = heatmap_table(shape[1], size[0], sigma), heatmap_table(shape[2], size[1], sigma)
    wanted = np.empty((shape[0], *size), np.float32)
    reference.heatmap(given.astype(np.float32), *tables, 0.1, wanted)
    np.testing.assert_allclose(result.map.get(), wanted, **tolerance(np.float32))
    np.testing.assert_array_equal(result.peak.get(), result.map.get().max(axis=(1, 2)))
    np.testing.assert_array_equal(result.mask.get(), ~(result.map.get() <= np.float32(0.1)))


@pytest.mark.parametrize(("channels", "order"), [(1, (0, 0, 0)), (3, (2, 1, 0)), (4, (2, 1, 0, 3))])
@pytest.mark.parametrize(
    ("shape", "size"), [((1, 1), (1, 1)), ((1080, 1920), (512, 512)), ((9, 989), (101, 37))]
)
def test_resize_is_bit_equal(
    cupy: Any, rng: np.random.Generator, channels: int, order: tuple[int, ...],
    shape: tuple[int, int], size: tuple[int, int],
) -> None:  # fmt: skip
    frame = rng.integers(0, 256, (*shape, channels), dtype=np.uint8)
    given = kernels.resize(cupy.asarray(frame), size, channels=order)
    tables = resize_table(shape[0], size[0]), resize_table(shape[1], size[1])
    np.testing.assert_array_equal(given.get(), reference.resize(frame, *tables, order))


def test_a_stream_of_the_caller_and_given_outputs(cupy: Any, rng: np.random.Generator) -> None:
    maps = cupy.asarray(rng.random((2, 28, 28), dtype=np.float32))
    out = kernels.Heatmap(
        cupy.empty((2, 99, 99), np.float32),
        cupy.empty(2, np.float32),
        cupy.empty((2, 99, 99), np.uint8),
    )
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.wait_event(cupy.cuda.get_current_stream().record())
    given = kernels.heatmap(maps, (99, 99), sigma=4, threshold=0.5, out=out, stream=stream)
    stream.synchronize()
    assert given.map is out.map
    assert given.peak is out.peak
    assert given.mask is out.mask
    cupy.testing.assert_array_equal(given.map, kernels.heatmap(maps, (99, 99), sigma=4).map)


def test_no_allocation_in_the_steady_state(cupy: Any, rng: np.random.Generator) -> None:
    """With outputs given, calls leave the free memory of the device as it is."""
    maps = cupy.asarray(rng.random((1, 28, 28), dtype=np.float32))
    out = kernels.Heatmap(cupy.empty((1, 256, 256), np.float32), cupy.empty(1, np.float32), None)
    kernels.heatmap(maps, (256, 256), sigma=4, out=out)
    cupy.cuda.runtime.deviceSynchronize()
    free = cupy.cuda.runtime.memGetInfo()[0]
    for _ in range(100_000):
        kernels.heatmap(maps, (256, 256), sigma=4, out=out)
    cupy.cuda.runtime.deviceSynchronize()
    assert cupy.cuda.runtime.memGetInfo()[0] >= free - (4 << 20)


def test_torch_beside_cupy(cupy: Any, rng: np.random.Generator) -> None:
    torch = library("torch")
    x = rng.standard_normal((99, 65), dtype=np.float32)
    index, distance = kernels.kmeans_assign(
        torch.from_numpy(x).cuda(), torch.from_numpy(x[:20] + 1).cuda()
    )
    assert isinstance(index, torch.Tensor)
    other = kernels.kmeans_assign(cupy.asarray(x), cupy.asarray(x[:20] + 1))
    np.testing.assert_array_equal(index.cpu().numpy(), other[0].get())
    cupy.testing.assert_array_equal(cupy.from_dlpack(distance), other[1])


def test_pycuda_on_the_primary_context(cupy: Any, rng: np.random.Generator) -> None:
    library("pycuda")
    import pycuda.driver as driver

    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    try:
        from pycuda import gpuarray

        frame = rng.integers(0, 256, (99, 101, 3), dtype=np.uint8)
        given = kernels.resize(gpuarray.to_gpu(frame), (40, 50), stream=driver.Stream())
        context.synchronize()
        np.testing.assert_array_equal(given.get(), kernels.resize(frame, (40, 50)))
        cupy.testing.assert_array_equal(cupy.asarray(given), cupy.asarray(given.get()))
    finally:
        context.pop()


def test_what_does_not_fit_is_refused_and_nothing_written(cupy: Any) -> None:
    maps = cupy.zeros((1, 8, 8), np.float32)
    out = cupy.full((1, 9, 9), 7, np.float32)
    with pytest.raises(ValueError, match=r"^map has shape \(1, 9, 9\); expected \(1, 16, 16\)\.$"):
        kernels.heatmap(maps, (16, 16), sigma=1, out=out)
    with pytest.raises(ValueError, match=r"expected a C-contiguous CUDA array"):
        kernels.heatmap(maps[:, :, ::2], (16, 16), sigma=1)
    with pytest.raises(
        TypeError, match=r"^centroids is a ndarray in host memory beside CUDA arrays"
    ):
        kernels.kmeans_assign(maps[0], np.zeros((2, 8), np.float32))
    assert (out == 7).all()
