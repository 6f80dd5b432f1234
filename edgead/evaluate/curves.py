"""Exact curves over pixels that keep only the defect pixels in memory.

A curve of true-positive weight against false-positive rate changes its height only at scores of
positives. So all positives are sorted once, and negatives, which are many, are only counted between
them, one map at a time. Nothing is binned: every curve equals the one over all sorted pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "Ranking", "rank"]


class Curve(NamedTuple):
    """A monotone curve over all thresholds; ties are joined by a straight line.

    Attributes:
        fpr: False-positive rate, rising from 0 to 1. [2 K + 2]
        tpr: Share of the positives' weight that is found, rising from 0 to 1. [2 K + 2]
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]

    def area(self, *, limit: float = 1.0) -> float:
        """Area up to a false-positive rate, divided by that rate: 0..1."""
        end = int(np.searchsorted(self.fpr, limit, side="right"))
        height = float(np.interp(limit, self.fpr, self.tpr))
        fpr, tpr = np.append(self.fpr[:end], limit), np.append(self.tpr[:end], height)
        return float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1])) / 2 / limit)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Positives sorted into levels, negatives counted against them.

    Attributes:
        level: Which distinct positive score each positive has, rising with the score. [P]
        above: Negatives above the k-th distinct positive score, k falling from the highest. [K]
        at_or_above: Negatives above or equal to it. [K]
        negatives: How many there are.
    """

    level: NDArray[np.int64]
    above: NDArray[np.int64]
    at_or_above: NDArray[np.int64]
    negatives: int

    def curve(self, weights: NDArray[Any] | None = None) -> Curve:
        """Share of the positives' weight [P] (all alike by default) over the false-positive rate."""
        found = np.bincount(self.level, weights=weights)[::-1]
        heights = np.append(0.0, np.cumsum(found) / found.sum())
        # At each level the curve comes in flat from the one above, then rises across the ties.
        steps = np.stack((self.above, self.at_or_above), axis=1).ravel()
        fpr = np.concatenate(((0,), steps, (self.negatives,))) / self.negatives
        return Curve(fpr, np.repeat(heights, 2))

    def average_precision(self) -> float:
        """Precision at each positive level, weighted by its rise in recall."""
        hits = np.bincount(self.level)[::-1]
        found = np.cumsum(hits)
        return float(np.sum(found / (found + self.at_or_above) * hits) / found[-1])


def rank(positives: NDArray[Any], negatives: Iterable[NDArray[Any]]) -> Ranking | None:
    """Sort positives and count negatives between them.

    Args:
        positives: Scores of positives. [P], finite.
        negatives: Scores of negatives in pieces of any shape, each read once.

    Returns:
        None without positives or without negatives.
    """
    if not positives.size:
        return None
    levels, level = np.unique(positives, return_inverse=True)
    # Slot 2 i holds the negatives below level i, slot 2 i + 1 those equal to it.
    slots = np.zeros(2 * levels.size + 1, dtype=np.int64)
    for piece in negatives:
        ordered = np.sort(piece, axis=None)  # sorted queries keep the search in cache
        left = np.searchsorted(levels, ordered, side="left")
        right = np.searchsorted(levels, ordered, side="right")
        slots += np.bincount(left + right, minlength=slots.size)
    over = np.cumsum(slots[::-1])
    total = int(over[-1])
    return Ranking(level, over[:-1:2], over[1::2], total) if total else None
