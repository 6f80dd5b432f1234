"""Exact curves over pixels that keep only the defect pixels in memory.

A curve of true-positive weight against false-positive rate changes its height only at scores of
positives. So all positives are sorted once, and negatives, which are many, are only counted between
them, one map at a time. Nothing is binned: every curve equals the one over all sorted pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "area", "average_precision", "curve"]

Floats = NDArray[np.float64]


class Curve(NamedTuple):
    """A monotone curve from (0, 0) to (1, 1) and the counts behind it.

    Attributes:
        fpr: False-positive rate at each point. [2 K + 2]
        tpr: Share of the positives' weight found. [2 K + 2]
        false_positives: Negatives at or above the k-th distinct positive score, falling. [K]
        true_positives: Positives at or above it. [K]
    """

    fpr: Floats
    tpr: Floats
    false_positives: NDArray[np.int64]
    true_positives: NDArray[np.int64]


def curve(
    positives: NDArray[Any],
    negatives: Iterable[NDArray[Any]],
    *,
    weights: NDArray[Any] | None = None,
) -> Curve | None:
    """Curve of all thresholds, ties joined by a straight line (the trapezoid of equal scores).

    Args:
        positives: Scores of positives. [P], finite.
        negatives: Scores of negatives in pieces of any shape, each read once.
        weights: Of the positives; None weighs all alike. [P]

    Returns:
        The curve, or None without positives or without negatives.
    """
    if not positives.size:
        return None
    share = np.ones(positives.size) if weights is None else np.asarray(weights, dtype=np.float64)
    levels, level = np.unique(positives, return_inverse=True)
    found = np.bincount(level, weights=share)[::-1]
    hits = np.bincount(level)[::-1]
    # Slot 2 i holds negatives between levels, slot 2 i + 1 those equal to level i.
    slots = np.zeros(2 * levels.size + 1, dtype=np.int64)
    for piece in negatives:
        ordered = np.sort(piece, axis=None)  # sorted queries keep the search in cache
        left = np.searchsorted(levels, ordered, side="left")
        right = np.searchsorted(levels, ordered, side="right")
        slots += np.bincount(left + right, minlength=slots.size)
    total = int(slots.sum())
    if not total:
        return None
    over = np.cumsum(
        slots[::-1]
    )  # over[2 i]: above the i-th level from the top; [2 i + 1]: or equal
    false_rate = np.append(0.0, over / total)
    heights = np.append(0.0, np.cumsum(found) / found.sum())
    return Curve(false_rate, np.repeat(heights, 2), over[1::2], np.cumsum(hits))


def area(curve: Curve, *, limit: float = 1.0) -> float:
    """Area under the curve up to a false-positive rate, divided by that rate: 0..1."""
    end = int(np.searchsorted(curve.fpr, limit, side="right"))
    height = float(np.interp(limit, curve.fpr, curve.tpr))
    fpr, tpr = np.append(curve.fpr[:end], limit), np.append(curve.tpr[:end], height)
    return float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1])) / 2 / limit)


def average_precision(curve: Curve) -> float:
    """Mean precision weighted by the rise in recall; the curve must be unweighted."""
    precision = curve.true_positives / (curve.true_positives + curve.false_positives)
    rise = np.diff(curve.true_positives, prepend=0) / curve.true_positives[-1]
    return float(np.sum(precision * rise))
