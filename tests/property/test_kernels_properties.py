"""Properties of the kernels that hold for any input, on whatever implementation is installed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tolerances import TOLERANCES

from edgead import kernels
from edgead.kernels.tables import heatmap_table, resize_table

F32 = TOLERANCES["kernel_f32"]
numbers = st.floats(-100, 100, width=32)
sides = st.integers(1, 40)


def floats(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.float32, shape, elements=numbers)


@given(st.data(), st.integers(1, 20), st.integers(1, 20), st.integers(1, 70))
def test_no_centroid_is_nearer_than_the_nearest(
    data: st.DataObject, n: int, k: int, d: int
) -> None:
    x, c = data.draw(floats(n, d)), data.draw(floats(k, d))
    index, distance = kernels.kmeans_assign(x, c)
    exact = np.sqrt(np.square(x[:, None].astype(np.float64) - c).sum(axis=2))
    chosen = exact[np.arange(n), index]
    np.testing.assert_allclose(distance, chosen, rtol=F32.rtol, atol=F32.atol)
    np.testing.assert_allclose(chosen, exact.min(axis=1), rtol=F32.rtol, atol=F32.atol)


@given(st.data(), st.integers(1, 12), st.integers(1, 12), st.integers(1, 40))
def test_a_centroid_more_never_raises_a_distance(
    data: st.DataObject, n: int, k: int, d: int
) -> None:
    x, c = data.draw(floats(n, d)), data.draw(floats(k + 1, d))
    assert (kernels.kmeans_assign(x, c)[1] <= kernels.kmeans_assign(x, c[:k])[1]).all()


@given(st.data(), st.integers(1, 40), st.integers(1, 20))
def test_fewer_neighbours_are_the_first_of_more(data: st.DataObject, n: int, c: int) -> None:
    f, g = data.draw(floats(1, n, c)), data.draw(floats(1, n, c))
    every = kernels.topk_neighbours(f, g, None, n)
    k = data.draw(st.integers(1, n))
    np.testing.assert_array_equal(kernels.topk_neighbours(f, g, None, k), every[:, :, :k])
    np.testing.assert_array_equal(
        np.sort(every, axis=2), np.broadcast_to(np.arange(n), every.shape)
    )


@given(st.data(), sides, sides, sides, sides, st.floats(0, 12))
def test_heatmap_is_an_average(
    data: st.DataObject, h: int, w: int, height: int, width: int, sigma: float
) -> None:
    """It never leaves the range of the map, and a constant stays that constant."""
    x = data.draw(floats(1, h, w))
    smoothed = kernels.heatmap(x, (height, width), sigma=sigma).map
    slack = F32.rtol * np.abs(x).max() + F32.atol
    assert x.min() - slack <= smoothed.min() <= smoothed.max() <= x.max() + slack
    constant = kernels.heatmap(np.full_like(x, 7), (height, width), sigma=sigma).map
    np.testing.assert_allclose(constant, 7, rtol=F32.rtol)


@given(st.data(), sides, sides, numbers, numbers)
def test_a_higher_threshold_never_adds_to_the_mask(
    data: st.DataObject, h: int, w: int, one: float, other: float
) -> None:
    x = data.draw(floats(1, h, w))
    low, high = (
        kernels.heatmap(x, (32, 32), sigma=2, threshold=t).mask for t in sorted((one, other))
    )
    assert low is not None
    assert high is not None
    assert (high <= low).all()


@given(st.data(), sides, sides, sides, sides, st.sampled_from([1, 3, 4]))
def test_resize_stays_in_range_and_keeps_constants(
    data: st.DataObject, h: int, w: int, height: int, width: int, channels: int
) -> None:
    frame = data.draw(arrays.arrays(np.uint8, (h, w, channels)))
    resized = kernels.resize(frame, (height, width))
    assert (resized.min(axis=(0, 1)) >= frame.min(axis=(0, 1))).all()
    assert (resized.max(axis=(0, 1)) <= frame.max(axis=(0, 1))).all()
    value = data.draw(st.integers(0, 255))
    assert (kernels.resize(np.full_like(frame, value), (height, width)) == value).all()


@given(sides, sides, sides, sides)
def test_resize_commutes_with_flips(h: int, w: int, height: int, width: int) -> None:
    """Up to the rounding of a weight's last bit, which may fall to the other side: one grey level."""
    frame = np.random.default_rng(h * w).integers(0, 256, (h, w, 3), dtype=np.uint8)
    flipped = kernels.resize(frame[::-1, ::-1], (height, width))[::-1, ::-1]
    straight = kernels.resize(frame, (height, width))
    assert np.abs(flipped.astype(int) - straight).max() <= 1


@given(st.integers(1, 5000), st.integers(1, 600))
def test_resize_weights_sum_to_one_inside_the_source(n_in: int, n_out: int) -> None:
    table = resize_table(n_in, n_out)
    assert (table.weights.sum(axis=1, dtype=int) == 1 << 14).all()
    assert (table.weights >= 0).all()
    assert table.start.min() >= 0
    assert table.start.max() + table.weights.shape[1] <= n_in


@given(st.integers(1, 80), st.integers(1, 300), st.floats(0, 20))
def test_heatmap_weights_sum_to_one(n_in: int, n_out: int, sigma: float) -> None:
    table = heatmap_table(n_in, n_out, sigma)
    np.testing.assert_allclose(table.weights.sum(axis=1), 1, rtol=F32.rtol)
    np.testing.assert_allclose(table.spread.sum(axis=0)[:n_out], 1, rtol=F32.rtol)
    assert (table.spread[:, n_out:] == 0).all()
    lo, hi = table.band.T
    assert ((lo >= 0) & (lo < hi) & (hi <= n_in)).all()
