"""Thresholds from good images only, with what they prove.

The verdict is DEFECT where ``score > threshold``. With the threshold at the k-th smallest of n
held-out good scores, the true false-reject rate 1 - F(s_(k)) of any continuous score follows
Beta(n - k + 1, k) whatever the scores' distribution; equal scores only make it smaller. Its upper
quantile is the one-sided bound of Clopper and Pearson (Biometrika 26, 1934) for n - k rejects of n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgead.confidence import finite_scores
from edgead.errors import CalibrationError, ConfigError

__all__ = [
    "Threshold",
    "clopper_pearson",
    "learn_pixel_threshold",
    "learn_threshold",
    "promise_sentence",
    "score_scale",
    "upper_bound",
]


@dataclass(frozen=True)
class Threshold:
    """A threshold and what it promises.

    Attributes:
        threshold: Score above which an image is a defect; one of the held-out good scores.
        bound: The false-reject rate is at most this, with ``confidence``.
        confidence: Probability, over draws of the good images, that the bound holds.
        images: Held-out good images that it was learnt from.
        needed: Held-out good images that prove ``false_reject_rate``, at the least.
        false_reject_rate: What was asked for.
        rank: The threshold is the ``rank``-th smallest score, 1..images.
        message: All of this in one sentence.
    """

    threshold: float
    bound: float
    confidence: float
    images: int
    needed: int
    false_reject_rate: float
    rank: int
    message: str

    @property
    def is_proven(self) -> bool:
        """True when the rate asked for is proven."""
        return self.bound <= self.false_reject_rate


def learn_threshold(
    scores: ArrayLike, *, false_reject_rate: float, confidence: float = 0.95
) -> Threshold:
    """Lowest threshold whose false-reject rate is proven to be at most the one asked for.

    With too few images the threshold is the largest score, and ``bound`` says what that proves.

    Args:
        scores: Scores of good images that touched neither training nor epoch choice. [N], N >= 1.
        false_reject_rate: Share of good parts that may be rejected, 0 < rate < 0.5.
        confidence: How often, over repeated draws of the images, the bound shall hold; 0.5..1.

    Raises:
        CalibrationError: SCORES_EMPTY or SCORES_NOT_FINITE.
        ConfigError: FALSE_REJECT_RATE or CONFIDENCE out of range.
    """
    _check_share("FALSE_REJECT_RATE", "false_reject_rate", false_reject_rate, 0.0, 0.5)
    _check_share("CONFIDENCE", "confidence", confidence, 0.5, 1.0)
    ordered = np.sort(finite_scores(scores))
    count = ordered.size
    needed = math.ceil(math.log1p(-confidence) / math.log1p(-false_reject_rate))
    rejects = _most_rejects(count, false_reject_rate, confidence)
    rank = count - rejects
    bound = upper_bound(rejects, count, confidence=confidence)
    return Threshold(
        threshold=float(ordered[rank - 1]),
        bound=bound,
        confidence=confidence,
        images=count,
        needed=needed,
        false_reject_rate=false_reject_rate,
        rank=rank,
        message=promise_sentence(count, bound, confidence, false_reject_rate, needed),
    )


def learn_pixel_threshold(
    maps: Iterable[NDArray[np.floating]],
    *,
    false_reject_rate: float,
    confidence: float = 0.95,
    pixel_share: float = 0.005,
) -> Threshold:
    """Level of the smoothed map that good images keep under, with the same promise as for scores.

    Every good image gives the level that ``pixel_share`` of its own pixels exceed; neighbouring
    pixels are not independent, images are, so the order statistic is taken over images. The
    promise: the share of good images with more than ``pixel_share`` of their pixels marked is at
    most ``bound``.

    Args:
        maps: Smoothed anomaly maps of held-out good images, each (h, w), or the values of those of
            their pixels that are looked at; read once, one at a time.
        false_reject_rate: Share of good images that may have more pixels marked than that.
        confidence: As in `learn_threshold`.
        pixel_share: Share of a good image's pixels that may be marked; 0 takes the map's maximum.

    Raises:
        CalibrationError: As in `learn_threshold`.
        ConfigError: As in `learn_threshold`, and PIXEL_SHARE out of range.
    """
    if not 0 <= pixel_share < 1:
        raise ConfigError("PIXEL_SHARE", f"pixel_share is {pixel_share}; expected 0 <= share < 1.")
    levels = [_level(np.asarray(one), pixel_share) for one in maps]
    return learn_threshold(levels, false_reject_rate=false_reject_rate, confidence=confidence)


def score_scale(threshold: float, scores: ArrayLike) -> float:
    """Threshold minus median held-out good score: the unit of every score tolerance.

    Where half of the scores lie at the threshold that difference is (next to) 0, and the range of
    the scores stands in.

    Raises:
        CalibrationError: SCORES_EQUAL when all scores are one value, which is what a dead model
            gives; SCORES_EMPTY or SCORES_NOT_FINITE.
    """
    values = finite_scores(scores)
    if np.ptp(values) == 0:
        raise CalibrationError(
            "SCORES_EQUAL",
            f"all {values.size} held-out good scores are {values[0]:.6g}; expected them to vary.",
            "Use images of different parts; if they are, the model has learnt nothing.",
        )
    scale, spread = float(threshold) - float(np.median(values)), float(np.ptp(values))
    return scale if scale > 1e-6 * spread else spread


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval of a binomial share, k of n.

    Returns:
        Lower and upper end; (0, 1) for n = 0.

    Raises:
        ConfigError: COUNT or CONFIDENCE out of range.

    Source: Clopper and Pearson, Biometrika 26, 1934.
    """
    tail = (1 - confidence) / 2
    upper = upper_bound(k, n, confidence=1 - tail)
    if k == 0:
        return 0.0, upper
    if k == n:
        return math.exp(math.log(tail) / n), upper
    return _bisect(lambda share: _incomplete_beta(k, n - k + 1, share) - tail), upper


def upper_bound(k: int, n: int, *, confidence: float = 0.95) -> float:
    """One-sided exact upper bound of a binomial share, k of n: quantile of Beta(k + 1, n - k).

    Args:
        k: Events seen, 0..n.
        n: Trials; 0 proves nothing and gives 1.
        confidence: Of the one-sided bound, 0 < confidence < 1.

    Raises:
        ConfigError: COUNT or CONFIDENCE out of range.
    """
    _check_share("CONFIDENCE", "confidence", confidence, 0.0, 1.0)
    if not 0 <= k <= n:
        raise ConfigError("COUNT", f"{k} events in {n} trials; expected 0 <= events <= trials.")
    if k == n:
        return 1.0
    if k == 0:
        return -math.expm1(math.log1p(-confidence) / n)
    return _bisect(lambda share: _incomplete_beta(k + 1, n - k, share) - confidence)


def _most_rejects(count: int, rate: float, confidence: float) -> int:
    """Largest number of the good images that may lie above the threshold; 0 when none is proven."""
    low, high = 0, count - 1  # the bound rises with the rejects: search by halving
    while low < high:
        middle = (low + high + 1) // 2
        if upper_bound(middle, count, confidence=confidence) <= rate:
            low = middle
        else:
            high = middle - 1
    return low


def _level(anomaly_map: NDArray[np.floating], share: float) -> float:
    """Smallest value of the map that at most ``share`` of its pixels exceed; NaN stays NaN."""
    values = anomaly_map.ravel()
    if not values.size or not np.isfinite(values).all():
        return math.nan
    place = values.size - 1 - int(share * values.size)
    return float(np.partition(values, place)[place])


def promise_sentence(count: int, bound: float, confidence: float, rate: float, needed: int) -> str:
    """What a threshold from ``count`` good images proves, and what the rate asked for needs."""
    """What ``count`` held-out good images prove, and how many the asked rate needs."""
    who = f"{count} held-out good images prove" if count > 1 else "1 held-out good image proves"
    proof = f"{who} at most {_percent(bound)} false rejects at {confidence * 100:g} % confidence"
    if bound <= rate:
        return f"{proof}; {_percent(rate)} was asked for."
    return f"{proof}; the {_percent(rate)} asked for needs {needed}."


def _percent(share: float) -> str:
    """Rounded up in the second digit shown, so that a bound never reads lower than it is."""
    digits = max(0, 1 - math.floor(math.log10(share * 100)))
    rounded = math.ceil(round(share * 100 * 10**digits, 6)) / 10**digits
    return f"{rounded:g} %"


def _check_share(code: str, name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:  # also refuses NaN
        raise ConfigError(code, f"{name} is {value}; expected {low:g} < {name} < {high:g}.")


def _bisect(rising: Callable[[float], float]) -> float:
    """Root in 0..1 of a rising function, to the last bit."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return high
        if rising(middle) < 0:
            low = middle
        else:
            high = middle


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, b): continued fraction 26.5.8, modified Lentz.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.5.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # converges fast only on this side
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = a * math.log(x) + b * math.log1p(-x) - math.log(a)
    front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, 10_000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / ((1 + step * d) or tiny)
            c = (1 + step / c) or tiny
            result *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return math.exp(front) * result
