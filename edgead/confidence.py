"""How sure it is that a score comes from no good image: the number beside a verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgead.errors import CalibrationError

__all__ = ["confidence", "finite_scores"]


def confidence(
    score: ArrayLike, good_scores: ArrayLike, score_scale: float
) -> NDArray[np.float64] | float:
    """One minus the empirical tail probability of a score among held-out good scores.

    Between the good scores the empirical distribution i / (n + 1) is interpolated. Beyond the
    largest the tail falls as ``1 / (n + 1) / (1 + excess / score_scale)``: heavier than a
    Gaussian's, so that few images never claim certainty, and still strictly falling where an
    exponential has rounded to 0. Below the smallest it does the same towards 0.

    Args:
        score: Image scores, any shape, the method's own unit.
        good_scores: Scores of held-out good images. [N], any order, N >= 1.
        score_scale: Threshold minus median good score, > 0, same unit.

    Returns:
        Confidence in (0, 1), the shape of ``score``; a float for a scalar. Strictly rising in the
        score, except between good scores that are equal.

    Raises:
        CalibrationError: SCORES_EMPTY, SCORES_NOT_FINITE or SCORE_SCALE.
    """
    good = np.sort(finite_scores(good_scores))
    if not (np.isfinite(score_scale) and score_scale > 0):
        raise CalibrationError(
            "SCORE_SCALE",
            f"score_scale is {score_scale}; expected a positive number.",
            "Learn the threshold again from good images.",
        )
    asked = np.asarray(score, dtype=np.float64)
    if not np.isfinite(asked).all():
        raise CalibrationError(
            "SCORES_NOT_FINITE",
            "a score is NaN or infinite; it has no confidence.",
            "Its verdict is UNKNOWN.",
        )
    knots, last = np.unique(good, return_index=True)
    rank = np.append(last[1:], good.size)  # how many good scores are <= each knot
    rise = 1.0 / (good.size + 1)
    result = np.interp(asked, knots, rank * rise)
    with np.errstate(over="ignore"):  # an excess beyond the largest double is a tail of 0
        excess = np.maximum(asked - knots[-1], 0) / score_scale
        deficit = np.maximum(knots[0] - asked, 0) / score_scale
    result = np.where(excess > 0, 1 - rise / (1 + excess), result)
    result = np.where(deficit > 0, rank[0] * rise / (1 + deficit), result)
    return result if asked.ndim else float(result)


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
