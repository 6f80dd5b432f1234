"""Readable NumPy versions of the kernels: what the C++ and CUDA versions are tested against.

Same arguments, same results, no checks: those are made once, in `edgead.kernels`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgead.kernels.tables import WEIGHT_BITS, HeatmapTable, ResizeTable

Floats = npt.NDArray[np.float32]
INTERMEDIATE_BITS = 7
"""Fraction bits that `resize` keeps between its vertical and its horizontal pass."""


def kmeans_assign(
    patches: Floats,  # [N, D]
    centroids: Floats,  # [K, D]
) -> tuple[npt.NDArray[np.int32], Floats]:  # [N], [N]
    """Nearest centroid by sums of squared differences, which do not cancel as |x|^2 - 2xc + |c|^2 does."""
    index = np.empty(len(patches), np.int32)
    distance = np.empty(len(patches), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for n, patch in enumerate(patches):
            squared = np.square(centroids - patch).sum(axis=1, dtype=np.float32)
            index[n] = squared.argmin()  # the first NaN wins, then the lowest index
            distance[n] = np.sqrt(squared[index[n]])
    return index, distance


def topk_neighbours(
    f: Floats,  # [B, N, C]
    g: Floats,  # [B, N, C]
    position: Floats | None,  # [N, N]
    k: int,
) -> npt.NDArray[np.int32]:  # [B, N, K]
    """W_s = cos(f, g^T) - position; the K largest of each row, ties to the lower index, NaN first."""
    index = np.empty((*f.shape[:2], k), np.int32)
    for b in range(len(f)):
        similarity = _unit_rows(f[b]) @ _unit_rows(g[b]).T
        if position is not None:
            similarity = similarity - position
        descending = np.where(np.isnan(similarity), -np.inf, -similarity)
        # lexsort's last key is the first criterion: NaN before numbers, then large before small, stable in the index
        order = np.lexsort((descending, ~np.isnan(similarity)), axis=-1)
        index[b] = order[:, :k]
    return index


def heatmap(
    anomaly_map: Floats,  # [B, h, w]
    rows: HeatmapTable,
    columns: HeatmapTable,
    threshold: float | None,
    smoothed: Floats,  # [B, H, W], written
) -> tuple[Floats, npt.NDArray[np.uint8] | None]:  # [B], [B, H, W] or None
    """A_rows M A_columns^T, its maximum, and a mark on what is not at or below the threshold.

    Each input adds its share to the outputs it reaches and to no other, so a NaN covers its own reach alone. The
    maximum of a map with a NaN is NaN, and a NaN is marked.
    """
    horizontal = np.zeros((*anomaly_map.shape[:2], smoothed.shape[2]), np.float32)
    smoothed[...] = 0
    with np.errstate(invalid="ignore", over="ignore"):
        for x, (lo, hi) in enumerate(columns.reach):
            horizontal[:, :, lo:hi] += anomaly_map[:, :, x, None] * columns.spread[x, lo:hi]
        for y, (lo, hi) in enumerate(rows.reach):
            smoothed[:, lo:hi] += horizontal[:, y, None] * rows.spread[y, lo:hi, None]
        mask = (
            None if threshold is None else (~(smoothed <= np.float32(threshold))).astype(np.uint8)
        )
    return smoothed.max(axis=(1, 2)), mask


def resize(
    frame: npt.NDArray[np.uint8],  # [H, W, C], already cropped
    rows: ResizeTable,
    columns: ResizeTable,
    channels: tuple[int, ...],
) -> npt.NDArray[np.uint8]:  # [h, w, C']
    """Vertical pass to 8.7 fixed point, horizontal pass to 8 bits; each rounds once, half up.

    Every sum is exact in 32 bits (255 * 2**14 < 2**22; 255 * 2**7 * 2**14 < 2**29), so the order of summation and the
    vector width of an implementation cannot be seen in the result.
    """
    down = WEIGHT_BITS - INTERMEDIATE_BITS
    vertical = np.full((len(rows.start), *frame.shape[1:]), 1 << (down - 1), np.int32)
    for t in range(rows.weights.shape[1]):
        vertical += frame[rows.start + t].astype(np.int32) * rows.weights[:, t, None, None]
    vertical >>= down
    down = WEIGHT_BITS + INTERMEDIATE_BITS
    out = np.full((len(rows.start), len(columns.start), frame.shape[2]), 1 << (down - 1), np.int32)
    for t in range(columns.weights.shape[1]):
        out += vertical[:, columns.start + t] * columns.weights[None, :, t, None].astype(np.int32)
    return np.ascontiguousarray((out >> down).astype(np.uint8)[:, :, list(channels)])


def _unit_rows(x: Floats) -> Floats:
    """Rows scaled to unit length; a zero row stays zero and so has cosine 0 with everything."""
    with np.errstate(invalid="ignore", over="ignore"):
        norm = np.sqrt(np.square(x).sum(axis=-1, keepdims=True))
        scaled: Floats = x / np.where(norm == 0, np.float32(1), norm)
    return scaled
