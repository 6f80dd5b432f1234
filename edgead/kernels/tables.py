"""Weight tables of the separable operations, made in one place for every implementation.

NumPy, C++ and CUDA all read these arrays, so no two of them can round a weight differently. `resize` tables are
made with integers only and therefore hold the same bits on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

WEIGHT_BITS = 14
"""Fixed-point position of the resize weights: the weights of one output pixel sum to exactly 2**14."""

TRUNCATE = 4.0
"""The Gaussian of `heatmap` is cut at this many standard deviations, as in SciPy."""


@dataclass(frozen=True)
class ResizeTable:
    """One axis of `resize`: output i is the sum over t of weights[i, t] * source[start[i] + t]."""

    start: npt.NDArray[np.int32]  # [n_out], start + taps never passes the end of the source
    weights: npt.NDArray[np.int16]  # [n_out, taps], each row sums to 2**WEIGHT_BITS


@dataclass(frozen=True)
class HeatmapTable:
    """One axis of `heatmap`: up-sampling and smoothing folded into one banded matrix A [n_out, n_in]."""

    band: npt.NDArray[np.int32]  # [n_out, 2], inputs [lo, hi) of an output
    weights: npt.NDArray[np.float32]  # [n_out, taps], taps = the widest band; zeros after hi - lo
    reach: npt.NDArray[np.int32]  # [n_in, 2], outputs [lo, hi) that an input touches
    spread: npt.NDArray[np.float32]  # [n_in, n_out rounded up to 16], A transposed and dense


def _frozen(array: npt.NDArray[np.generic]) -> None:
    array.setflags(write=False)


@lru_cache(maxsize=64)
def resize_table(n_in: int, n_out: int) -> ResizeTable:
    """Triangle filter from n_in to n_out samples, widened by the scale when it shrinks (antialiasing).

    The geometry is that of Pillow's BILINEAR: half-pixel centres, support of one source pixel times
    max(n_in / n_out, 1), cut at the edges and normalised again. Distances are counted in units of 1 / (2 n_out) source
    pixels, which makes them integers; weights are rounded to 1 / 2**14 by the largest remainder method.
    """
    half_width = 2 * max(n_in, n_out)
    outputs = np.arange(n_out, dtype=np.int64)[:, None]
    centre = (2 * outputs + 1) * n_in
    # samples j with |(2 j + 1) n_out - centre| < half_width
    first = np.maximum((centre - half_width - n_out) // (2 * n_out) + 1, 0)
    stop = np.minimum(-((n_out - centre - half_width) // (2 * n_out)), n_in)
    taps = int((stop - first).max())
    first = np.minimum(first, n_in - taps)
    sample = first + np.arange(taps, dtype=np.int64)[None, :]
    raw = np.maximum(half_width - np.abs((2 * sample + 1) * n_out - centre), 0)
    total = raw.sum(axis=1, keepdims=True)
    scaled = raw << WEIGHT_BITS
    weights = scaled // total
    short = (1 << WEIGHT_BITS) - weights.sum(axis=1)
    order = np.argsort(-(scaled - weights * total), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    weights += rank < short[:, None]
    table = ResizeTable(first[:, 0].astype(np.int32), np.ascontiguousarray(weights, dtype=np.int16))
    _frozen(table.start)
    _frozen(table.weights)
    return table


def bilinear_matrix(n_in: int, n_out: int) -> npt.NDArray[np.float64]:
    """Bilinear interpolation with half-pixel centres and clamped edges, as a matrix [n_out, n_in]."""
    position = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    low = np.minimum(position.astype(np.int64), max(n_in - 2, 0))
    fraction = position - low
    matrix = np.zeros((n_out, n_in))
    rows = np.arange(n_out)
    matrix[rows, low] = 1 - fraction
    matrix[rows, np.minimum(low + 1, n_in - 1)] += fraction
    return matrix


def gaussian_kernel(sigma: float) -> npt.NDArray[np.float64]:
    """Normalised Gaussian of radius round(TRUNCATE * sigma) samples; [1.0] for sigma 0."""
    radius = int(TRUNCATE * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(kernel / kernel.sum(), dtype=np.float64)


def reflect_101(index: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Mirror indices at the border without repeating the edge: -1 -> 1, n -> n - 2."""
    if n == 1:
        return np.zeros_like(index)
    period = 2 * (n - 1)
    index = np.abs(index) % period
    return np.minimum(index, period - index)


@lru_cache(maxsize=64)
def heatmap_table(n_in: int, n_out: int, sigma: float) -> HeatmapTable:
    """Up-sampling n_in -> n_out, then smoothing with sigma output pixels: G U, rounded once to float32."""
    upsample = bilinear_matrix(n_in, n_out)
    kernel = gaussian_kernel(sigma)
    radius = len(kernel) // 2
    dense = np.zeros((n_out, n_in))
    outputs = np.arange(n_out, dtype=np.int64)
    for offset, weight in enumerate(kernel, start=-radius):
        dense += weight * upsample[reflect_101(outputs + offset, n_out)]
    band, reach = _bounds(dense.astype(np.bool_)), _bounds(dense.T.astype(np.bool_))
    taps = int((band[:, 1] - band[:, 0]).max())
    columns = band[:, :1] + np.arange(taps)
    inside = columns < band[:, 1:]
    weights = np.take_along_axis(dense, np.minimum(columns, n_in - 1), axis=1) * inside
    spread = np.zeros((n_in, -(-n_out // 16) * 16), np.float32)
    spread[:, :n_out] = dense.T
    table = HeatmapTable(band, weights.astype(np.float32), reach, spread)
    for array in (table.band, table.weights, table.reach, table.spread):
        _frozen(array)
    return table


def _bounds(used: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """First and past-the-last True of each row; (0, 0) for a row without any."""
    lo, hi = used.argmax(axis=1), used.shape[1] - used[:, ::-1].argmax(axis=1)
    bounds = np.stack([lo, hi], axis=1) * used.any(axis=1, keepdims=True)
    return np.ascontiguousarray(bounds, dtype=np.int32)
