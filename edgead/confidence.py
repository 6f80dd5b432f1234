"""How sure it is that a score comes from no good image: the number beside a verdict."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgead.errors import CalibrationError

__all__ = ["Confidence", "finite_scores"]


class Confidence:
    """One minus the empirical tail probability of a score among held-out good scores.

    Between the good scores the empirical distribution i / (n + 1) is interpolated. Beyond the
    largest the tail falls as ``1 / (n + 1) / (1 + excess / score_scale)``: heavier than a
    Gaussian's, so that few images never claim certainty, and still strictly falling where an
    exponential has rounded to 0. Below the smallest it does the same towards 0.

    Args:
        good_scores: Scores of held-out good images. [N], any order, N >= 1.
        score_scale: Threshold minus median good score, > 0, same unit.

    Raises:
        CalibrationError: SCORES_EMPTY, SCORES_NOT_FINITE or SCORE_SCALE.
    """

    def __init__(self, good_scores: ArrayLike, score_scale: float) -> None:
        good = np.sort(finite_scores(good_scores))
        if not (math.isfinite(score_scale) and score_scale > 0):
            raise CalibrationError(
                "SCORE_SCALE",
                f"score_scale is {score_scale}; expected a positive number.",
                "Learn the threshold again from good images.",
            )
        knots, last = np.unique(good, return_index=True)
        rank = np.append(last[1:], good.size)  # how many good scores are <= each knot
        self._rise = 1.0 / (good.size + 1)
        self._knots, self._heights = knots, rank * self._rise
        self._low, self._high = float(knots[0]), float(knots[-1])
        self._scale = float(score_scale)

    def __call__(self, score: float) -> float:
        """Confidence in (0, 1) of an image score in the method's own unit.

        Strictly rising in the score, except between good scores that are equal.

        Raises:
            CalibrationError: SCORES_NOT_FINITE.
        """
        if not math.isfinite(score):
            raise CalibrationError(
                "SCORES_NOT_FINITE",
                "a score is NaN or infinite; it has no confidence.",
                "Its verdict is UNKNOWN.",
            )
        if score > self._high:
            return 1 - self._rise / (1 + (score - self._high) / self._scale)
        if score < self._low:
            return float(self._heights[0]) / (1 + (self._low - score) / self._scale)
        return float(np.interp(score, self._knots, self._heights))


def finite_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores as a float64 vector [N]; refuses none, NaN and infinity.

    Raises:
        CalibrationError: SCORES_EMPTY or SCORES_NOT_FINITE.
    """
    values: NDArray[Any] = np.asarray(scores, dtype=np.float64).ravel()
    if not values.size:
        raise CalibrationError(
            "SCORES_EMPTY", "no scores were given; expected one for each held-out good image."
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise CalibrationError(
            "SCORES_NOT_FINITE",
            f"{bad.size} of {values.size} scores are NaN or infinite, the first at index {bad[0]}.",
            "A model without finite scores on good images must not judge; train it again.",
        )
    return values
