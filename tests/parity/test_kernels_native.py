"""The C++ kernels against `edgead.kernels.reference`, on every instruction set that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tolerances import TOLERANCES

from edgead import kernels
from edgead.kernels import reference
from edgead.kernels._native import native
from edgead.kernels.tables import bilinear_matrix, gaussian_kernel, heatmap_table, resize_table

ODD_SIZES = (1, 19, 99, 989)
F32 = TOLERANCES["kernel_f32"]
KEEP = {1: (0,), 3: (0, 1, 2), 4: (0, 1, 2, 3)}

module = native()
pytestmark = pytest.mark.skipif(module is None, reason="edgead._C is not built")


@pytest.fixture(params=[] if module is None else module.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on this instruction set."""
    assert module is not None
    before = module.instruction_set()
    module.use_instruction_set(request.param)
    yield request.param
    module.use_instruction_set(before)


def close(given: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(given, wanted, rtol=F32.rtol, atol=F32.atol, equal_nan=True)


@pytest.mark.parametrize("n", ODD_SIZES)
@pytest.mark.parametrize(("k", "d"), [(1, 1), (19, 99), (99, 19), (33, 64), (600, 65), (31, 989)])
def test_kmeans_assign(rng: np.random.Generator, n: int, k: int, d: int) -> None:
    patches = rng.standard_normal((n, d), dtype=np.float32)
    centroids = rng.standard_normal((k, d), dtype=np.float32)
    index, distance = kernels.kmeans_assign(patches, centroids)
    expected_index, expected = reference.kmeans_assign(patches, centroids)
    close(distance, expected)
    # Where the order of summation decides between two centroids, both are nearest.
    differ = np.flatnonzero(index != expected_index)
    close(np.linalg.norm(patches[differ] - centroids[index[differ]], axis=1), expected[differ])
    assert len(differ) <= n // 100


@pytest.mark.parametrize("shift", [0.0, 30.0, 1e4])
def test_kmeans_is_the_same_on_every_instruction_set(
    rng: np.random.Generator, shift: float
) -> None:
    """The first pass in bfloat16 may only choose candidates: index and distance are bit-equal to brute force."""
    assert module is not None
    centroids = rng.standard_normal((300, 200), dtype=np.float32) + np.float32(shift)
    patches = centroids[rng.integers(0, 300, 500)]
    patches = patches + rng.standard_normal(patches.shape, dtype=np.float32) * np.float32(1.5)
    given = kernels.kmeans_assign(patches, centroids)
    wider = next(name for name in reversed(module.instruction_sets()) if name != "baseline")
    module.use_instruction_set(wider)
    wanted = kernels.kmeans_assign(patches, centroids)
    np.testing.assert_array_equal(given[0], wanted[0])
    close(given[1], wanted[1])


def test_kmeans_takes_the_lowest_of_equal_centroids(rng: np.random.Generator) -> None:
    centroids = np.repeat(rng.standard_normal((5, 70), dtype=np.float32), 40, axis=0)
    index, distance = kernels.kmeans_assign(centroids.copy(), centroids)
    np.testing.assert_array_equal(index, np.arange(200) // 40 * 40)
    np.testing.assert_array_equal(distance, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 3e38, 1e-30, 1e-42, 0.0])
@pytest.mark.parametrize("where", ["patch", "centroid", "both"])
@pytest.mark.parametrize("k", [37, 700])
def test_kmeans_extreme_values(rng: np.random.Generator, value: float, where: str, k: int) -> None:
    patches = rng.standard_normal((23, 70), dtype=np.float32)
    centroids = rng.standard_normal((k, 70), dtype=np.float32)
    if where in ("patch", "both"):
        patches[7, 33] = value
    if where in ("centroid", "both"):
        centroids[11, 33] = value
    with np.errstate(all="ignore"):
        index, distance = kernels.kmeans_assign(patches, centroids)
        expected_index, expected = reference.kmeans_assign(patches, centroids)
    np.testing.assert_array_equal(index, expected_index)
    close(distance, expected)


def test_kmeans_tiny_values_all_underflow() -> None:
    patches = np.full((3, 40), 1e-30, np.float32)
    centroids = np.array([[2e-30], [1e-30], [3e-30]], np.float32) * np.ones(40, np.float32)
    index, distance = kernels.kmeans_assign(patches, centroids)
    np.testing.assert_array_equal(index, 0)  # every square underflows to 0, so all tie
    np.testing.assert_array_equal(distance, 0)


@pytest.mark.parametrize("nodes", [1, 9, 19, 99, 989])
@pytest.mark.parametrize(("channels", "k"), [(1, 1), (19, 9), (64, 19), (99, 99)])
@pytest.mark.parametrize("with_position", [False, True])
def test_topk_neighbours(
    rng: np.random.Generator, nodes: int, channels: int, k: int, with_position: bool
) -> None:
    k = min(k, nodes)
    f, g = rng.standard_normal((2, 2, nodes, channels), dtype=np.float32)
    position = rng.standard_normal((nodes, nodes), dtype=np.float32) if with_position else None
    index = kernels.topk_neighbours(f, g, position, k)
    expected = reference.topk_neighbours(f, g, position, k)
    similarity = np.stack(
        [reference._unit_rows(a) @ reference._unit_rows(b).T for a, b in zip(f, g, strict=True)]
    )
    if position is not None:
        similarity -= position
    close(np.take_along_axis(similarity, index, 2), np.take_along_axis(similarity, expected, 2))
    assert all(len(set(row)) == k for row in index.reshape(-1, k))


@pytest.mark.parametrize("k", [1, 9, 16, 17, 40])
def test_topk_ties_go_to_the_lower_index(k: int) -> None:
    f = np.ones((1, 50, 3), np.float32)
    index = kernels.topk_neighbours(f, f, None, k)
    np.testing.assert_array_equal(index[0], np.tile(np.arange(k), (50, 1)))


@pytest.mark.parametrize("k", [3, 20])
def test_topk_puts_nan_first_and_takes_infinite_positions(rng: np.random.Generator, k: int) -> None:
    f, g = rng.standard_normal((2, 1, 60, 8), dtype=np.float32)
    g[0, 17] = np.nan
    g[0, 41, 2] = np.inf
    position = np.zeros((60, 60), np.float32)
    position[:, ::2] = np.inf
    index = kernels.topk_neighbours(f, g, position, k)
    np.testing.assert_array_equal(index, reference.topk_neighbours(f, g, position, k))
    assert (index[0, :, :2] == [17, 41]).all()


@pytest.mark.parametrize("size", [(1, 1), (19, 99), (256, 256), (5, 300)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 36, 28), (1, 64, 3), (3, 1, 19)])
@pytest.mark.parametrize("sigma", [0.0, 0.7, 4.0, 40.0])
def test_heatmap(
    rng: np.random.Generator, size: tuple[int, int], shape: tuple[int, int, int], sigma: float
) -> None:
    given = rng.standard_normal(shape, dtype=np.float32)
    result = kernels.heatmap(given, size, sigma=sigma, threshold=0.1)
    tables = heatmap_table(shape[1], size[0], sigma), heatmap_table(shape[2], size[1], sigma)
    expected = np.empty_like(result.map)
    reference.heatmap(given, *tables, 0.1, expected)
    close(result.map, expected)
    np.testing.assert_array_equal(result.peak, result.map.max(axis=(1, 2)))
    np.testing.assert_array_equal(result.mask, result.map > np.float32(0.1))


@pytest.mark.parametrize("sigma", [0.0, 1.5, 4.0])
@pytest.mark.parametrize(
    ("shape", "size"), [((36, 28), (256, 301)), ((9, 5), (7, 4)), ((3, 2), (5, 2))]
)
def test_heatmap_equals_the_two_steps(
    rng: np.random.Generator, shape: tuple[int, int], size: tuple[int, int], sigma: float
) -> None:
    """Bilinear up-sampling, then np.pad's reflection and a convolution: nothing of the folded tables in it."""
    given = rng.random(shape, dtype=np.float32)
    step = bilinear_matrix(shape[0], size[0]) @ given @ bilinear_matrix(shape[1], size[1]).T
    kernel = gaussian_kernel(sigma)
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (len(kernel) // 2,) * 2
        step = np.apply_along_axis(
            np.convolve, axis, np.pad(step, pad, mode="reflect"), kernel, "valid"
        )
    close(kernels.heatmap(given[None], size, sigma=sigma).map[0], step)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_heatmap_shows_what_is_not_finite(rng: np.random.Generator, value: float) -> None:
    given = rng.random((2, 28, 28), dtype=np.float32)
    given[1, 5, 9] = value
    with np.errstate(invalid="ignore"):
        result = kernels.heatmap(given, (256, 200), sigma=4.0, threshold=9.0)
        expected = np.empty_like(result.map)
        table = heatmap_table(28, 256, 4.0), heatmap_table(28, 200, 4.0)
        peak, mask = reference.heatmap(given, *table, 9.0, expected)
    close(result.map, expected)
    np.testing.assert_allclose(result.peak, peak, rtol=F32.rtol)
    np.testing.assert_array_equal(result.mask, mask)
    assert np.isfinite(result.map[0]).all()
    assert result.mask is not None
    assert (result.mask[1].max() == 1) == (value != -np.inf)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 1), (1, 1)), ((19, 99), (7, 5)), ((99, 19), (101, 99)), ((512, 512), (256, 256)),
        ((37, 989), (19, 31)), ((5, 2000), (5, 9)), ((640, 64), (10, 100)), ((3, 3), (300, 300)),
        ((64, 989), (64, 989)),
    ],
)  # fmt: skip
def test_resize_is_bit_equal(
    rng: np.random.Generator, channels: int, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    frame = rng.integers(0, 256, (*shape, channels), dtype=np.uint8)
    tables = resize_table(shape[0], size[0]), resize_table(shape[1], size[1])
    expected = reference.resize(frame, *tables, KEEP[channels])
    np.testing.assert_array_equal(kernels.resize(frame, size), expected)


@pytest.mark.parametrize(
    ("channels", "order"),
    [(1, (0, 0, 0)), (3, (2, 1, 0)), (4, (2, 1, 0)), (3, (1,)), (4, (3, 3, 0, 1))],
)
def test_resize_crops_and_orders(
    rng: np.random.Generator, channels: int, order: tuple[int, ...]
) -> None:
    frame = rng.integers(0, 256, (99, 120, channels), dtype=np.uint8)
    cut = np.ascontiguousarray(frame[3:90, 10:113])
    given = kernels.resize(frame, (41, 55), crop=(10, 3, 113, 90), channels=order)
    np.testing.assert_array_equal(given, kernels.resize(cut, (41, 55))[:, :, list(order)])


def test_strided_and_read_only_inputs(rng: np.random.Generator) -> None:
    frame = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    frame.setflags(write=False)
    for view in (
        frame[::2],
        frame[::-1],
        frame[:, ::-1],
        frame[:, :, ::-1],
        frame.transpose(1, 0, 2),
    ):
        np.testing.assert_array_equal(
            kernels.resize(view, (23, 29)), kernels.resize(np.ascontiguousarray(view), (23, 29))
        )
    x = rng.standard_normal((40, 60), dtype=np.float32)
    x.setflags(write=False)
    for view in (x[::2], x[:, ::3], x.T):
        np.testing.assert_array_equal(
            kernels.kmeans_assign(view, view[:5])[1],
            kernels.kmeans_assign(view.copy(), view[:5].copy())[1],
        )
    maps = x.reshape(2, 30, 40)[:, ::-1, ::2]
    np.testing.assert_array_equal(
        kernels.heatmap(maps, (64, 64), sigma=2).map,
        kernels.heatmap(maps.copy(), (64, 64), sigma=2).map,
    )
    nodes = x.reshape(2, 20, 60)[:, :, ::2]
    np.testing.assert_array_equal(
        kernels.topk_neighbours(nodes, nodes, None, 3),
        kernels.topk_neighbours(nodes.copy(), nodes.copy(), None, 3),
    )


def test_empty_inputs() -> None:
    index, distance = kernels.kmeans_assign(
        np.empty((0, 7), np.float32), np.ones((2, 7), np.float32)
    )
    assert index.shape == distance.shape == (0,)
    none = np.empty((0, 9, 4), np.float32)
    assert kernels.topk_neighbours(none, none, None, 2).shape == (0, 9, 2)
    result = kernels.heatmap(np.empty((0, 4, 4), np.float32), (8, 8), sigma=1, threshold=0)
    assert (result.map.shape, result.peak.shape) == ((0, 8, 8), (0,))
    index, distance = kernels.kmeans_assign(
        np.ones((3, 0), np.float32), np.ones((2, 0), np.float32)
    )
    np.testing.assert_array_equal((index, distance), np.zeros((2, 3)))


def test_thread_count_changes_nothing(rng: np.random.Generator) -> None:
    x = rng.standard_normal((900, 300), dtype=np.float32)
    maps = rng.random((3, 64, 64), dtype=np.float32)
    frame = rng.integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    f = x.reshape(3, 300, 300)
    runs = [
        (
            *kernels.kmeans_assign(x, x[:200] + 1, threads=threads),
            kernels.topk_neighbours(f, f, None, 9, threads=threads),
            *kernels.heatmap(maps, (1024, 999), sigma=4, threshold=0.5, threads=threads),
            kernels.resize(frame, (511, 513), threads=threads),
        )
        for threads in (1, 2, 3, 7, 0)
    ]
    for run in runs[1:]:
        for given, wanted in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(given, wanted)
