"""What a bundle was commissioned on, as limits that a rolling median is held against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgead.appearance import FIGURES, LOOKS, decode_looks
from edgead.bundle import Bundle

__all__ = [
    "CHANCE",
    "NEEDED",
    "WINDOW",
    "DriftReference",
    "Limit",
    "Spread",
    "chance_beyond",
    "limit_of",
]

#: Frames in a rolling window: odd, so that the median is one of them.
WINDOW = 63
#: Of one unchanged median beyond one limit, where there are images enough.
CHANCE = 1e-8
#: And at the most.
MOST_CHANCE = 1e-6
#: With fewer good images a figure is not watched: their outermost value is passed more often.
NEEDED = 25
#: Name -> the smallest change that matters: share of the commissioned median, and absolute.
_SMALLEST = {
    "brightness": (0.03, 2.0),  # grey levels
    "contrast": (0.05, 0.0),
    "sharpness": (0.05, 0.0),
    "red": (0.0, 0.01),
    "blue": (0.0, 0.01),
    "likeness": (0.0, 0.05),
}
#: Of score_scale.
_SMALLEST_SCORE = 0.25


@dataclass(frozen=True)
class Spread:
    """5 %, 50 % and 95 % quantile."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Limit:
    """One figure's commissioned values.

    Attributes:
        then: Their quantiles.
        low: A median below is out.
        high: A median above is out; infinite for a figure that can only fall.
        chance: Of an unchanged median beyond one of them, at one evaluation.
    """

    then: Spread
    low: float
    high: float
    chance: float

    def is_out(self, median: float, *, was_out: bool) -> bool:
        """Whether a median is out; one that was stays so until it is back half of the way."""
        if not was_out:
            return not self.low <= median <= self.high
        middle = self.then.median
        back_low = (self.low + middle) / 2
        back_high = (self.high + middle) / 2
        return not back_low <= median <= back_high


@dataclass(frozen=True, eq=False)
class DriftReference:
    """What a bundle was commissioned on.

    Attributes:
        limits: Figure -> limit; figures that cannot be watched are missing.
        layout: Mean layout of the good pictures, or None.
        images: Good pictures that were measured, 0 for a bundle that keeps none.
    """

    limits: Mapping[str, Limit]
    layout: NDArray[np.float32] | None
    images: int

    @staticmethod
    def of(bundle: Bundle) -> DriftReference:
        """Limits from a bundle: its member ``appearance.json`` and its good scores.

        Scores of a cross-fitted bundle are of other models than the one that runs, and are not
        watched until it is commissioned.

        Raises:
            BundleError: APPEARANCE.
        """
        limits: dict[str, Limit] = {}
        layout: NDArray[np.float32] | None = None
        images = 0
        if LOOKS in bundle.members:
            looks = decode_looks(bundle.members[LOOKS])
            layout, images = np.array(looks.layout, dtype=np.float32), looks.images
            for name in FIGURES:
                share, absolute = _SMALLEST[name]
                values = looks.figures[name]
                smallest = max(share * abs(values[len(values) // 2]), absolute)
                found = limit_of(values, smallest, only_low=name == "likeness")
                if found is not None:
                    limits[name] = found
        learnt = bundle.manifest.thresholds
        if learnt.how != "cross_fitted":
            found = limit_of(learnt.good_scores, _SMALLEST_SCORE * learnt.score_scale)
            if found is not None:
                limits["score"] = found
        return DriftReference(limits, layout, images)


def limit_of(values: Sequence[float], smallest: float, *, only_low: bool = False) -> Limit | None:
    """Limits for a rolling median from commissioned values; None with too few of them.

    Args:
        values: One for each good image.
        smallest: Change of the median that matters.
        only_low: The figure can only fall.
    """
    ordered = sorted(values)
    count = len(ordered)
    rank = _rank(count)
    if rank is None:
        return None
    low5, median, high95 = (float(v) for v in np.quantile(ordered, (0.05, 0.5, 0.95)))
    return Limit(
        then=Spread(low5, median, high95),
        low=min(ordered[count - rank], median - smallest),
        high=math.inf if only_low else max(ordered[rank - 1], median + smallest),
        chance=chance_beyond(count, rank),
    )


def chance_beyond(count: int, rank: int, window: int = WINDOW) -> float:
    """P(the median of ``window`` new values > the ``rank``-th smallest of ``count`` old ones).

    All independent and of one continuous distribution; ties make it smaller. How many new values
    exceed that order statistic is beta-binomial with a = count - rank + 1 and b = rank.

    Source: David and Nagaraja, Order Statistics, 3rd ed. 2003, section 7.3 (prediction intervals).
    """
    a, b = count - rank + 1, rank
    return sum(
        math.exp(
            math.lgamma(window + 1)
            - math.lgamma(c + 1)
            - math.lgamma(window - c + 1)
            + _log_beta(c + a, window - c + b)
            - _log_beta(a, b)
        )
        for c in range(window // 2 + 1, window + 1)
    )


@lru_cache(maxsize=64)
def _rank(count: int) -> int | None:
    """The innermost order statistic that keeps to `CHANCE`, or the outermost if `MOST_CHANCE`."""
    if count < NEEDED:
        return None
    low, high = 1, count  # the chance falls with the rank: search by halving
    while low < high:
        middle = (low + high) // 2
        if chance_beyond(count, middle) <= CHANCE:
            high = middle
        else:
            low = middle + 1
    return low


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
