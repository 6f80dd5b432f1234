"""Image metrics at the calibrated threshold, with exact intervals; the figures of `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgead.errors import CalibrationError
from edgead.evaluate.curves import Curve, Ranking, rank
from edgead.evaluate.regions import SPRO_LIMIT, Map, Mask, Region, pixel_metrics, spro_curve
from edgead.evaluate.threshold import clopper_pearson

__all__ = [
    "classification",
    "evaluate_scores",
    "image_ap",
    "image_auroc",
    "per_defect",
    "roc_curve",
    "worst_and_mean",
]


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> Curve | None:
    """ROC over image scores; None unless there are good images and defects.

    Args:
        scores: Larger is more anomalous. [N], finite.
        labels: True for a defect. [N]

    Raises:
        CalibrationError: SCORES_COUNT or SCORES_NOT_FINITE.
    """
    ranking = _ranked(scores, labels)
    return None if ranking is None else ranking.curve()


def image_auroc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Area under the ROC curve over image scores, equal scores counting half; see `roc_curve`."""
    ranking = _ranked(scores, labels)
    return None if ranking is None else ranking.curve().area()


def image_ap(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Average precision over image scores; see `roc_curve`."""
    ranking = _ranked(scores, labels)
    return None if ranking is None else ranking.average_precision()


def classification(scores: ArrayLike, labels: ArrayLike, threshold: float) -> dict[str, Any]:
    """What the verdicts at the threshold get right and wrong; a defect is ``score > threshold``.

    Returns:
        ``precision_score recall f1 false_reject_rate missed_defect_rate`` and the exact 95 %
        intervals ``false_reject_interval missed_defect_interval`` as [low, high]; None where the
        images do not define a figure (no good ones, no defects, nothing rejected).
    """
    values, is_defect = _checked(scores, labels)
    rejected = values > threshold
    good, defects = int((~is_defect).sum()), int(is_defect.sum())
    found = int((rejected & is_defect).sum())
    false_rejects = int(rejected.sum()) - found
    missed = defects - found
    wrong = false_rejects + missed
    return {
        "precision_score": _ratio(found, found + false_rejects),
        "recall": _ratio(found, defects),
        "f1": _ratio(2 * found, 2 * found + wrong) if defects else None,
        "false_reject_rate": _ratio(false_rejects, good),
        "false_reject_interval": _interval(false_rejects, good),
        "missed_defect_rate": _ratio(missed, defects),
        "missed_defect_interval": _interval(missed, defects),
    }


def per_defect(
    scores: ArrayLike, defects: Sequence[str], threshold: float
) -> dict[str, dict[str, Any]]:
    """Every class of ``defects`` against the good images.

    Args:
        scores: Image scores; NaN where the verdict was UNKNOWN. [N]
        defects: Class of each image, ``good`` for good ones. [N]
        threshold: Image threshold.

    Returns:
        Class -> ``frames unknown image_auroc missed missed_defect_rate missed_defect_interval``; for
        good ``frames unknown false_rejects false_reject_rate false_reject_interval``. Unknown frames
        count in the first two only.
    """
    values, names = np.asarray(scores, dtype=np.float64), np.asarray(defects)
    good = values[(names == "good") & np.isfinite(values)]
    table: dict[str, dict[str, Any]] = {}
    for name in sorted(set(defects), key=lambda one: (one != "good", one)):
        frames = values[names == name]
        judged = frames[np.isfinite(frames)]
        counts = {"frames": frames.size, "unknown": frames.size - judged.size}
        rejected = int((judged > threshold).sum())
        if name == "good":
            table[name] = {
                **counts,
                "false_rejects": rejected,
                "false_reject_rate": _ratio(rejected, judged.size),
                "false_reject_interval": _interval(rejected, judged.size),
            }
            continue
        missed = judged.size - rejected
        both = np.concatenate((good, judged))
        table[name] = {
            **counts,
            "image_auroc": image_auroc(both, np.arange(both.size) >= good.size),
            "missed": missed,
            "missed_defect_rate": _ratio(missed, judged.size),
            "missed_defect_interval": _interval(missed, judged.size),
        }
    return table


def evaluate_scores(
    scores: ArrayLike,
    defects: Sequence[str],
    *,
    threshold: float,
    pixel_threshold: float,
    backend: str,
    precision: str,
    maps: Sequence[Map] | None = None,
    masks: Sequence[Mask | None] | None = None,
    regions: Sequence[Sequence[Region]] | None = None,
) -> dict[str, Any]:
    """Everything that ``edgead evaluate --json`` prints.

    Args:
        scores: Image scores; NaN where the verdict was UNKNOWN. [N]
        defects: Class of each image, ``good`` for good ones. [N]
        threshold: Image threshold of the bundle.
        pixel_threshold: Pixel threshold of the bundle.
        backend: Back end that ran.
        precision: Precision that ran.
        maps: Anomaly maps of the images, or None for image metrics only. [N] of (h, w)
        masks: Ground truth at the maps' size; None for a defect that has none, which is then left
            out of the pixel metrics. [N]
        regions: Regions with saturation, for LOCO AD; empty for good images. [N]

    Returns:
        Plain values. Unknown frames count in ``frames`` and ``unknown_rate`` only: they are never
        accepted, so they are no missed defects, and a line without verdict is no false reject.
    """
    values = np.asarray(scores, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values)).tolist()
    judged, is_defect = values[known], (np.asarray(defects) != "good")[known]
    saturated = None
    if maps is not None and regions is not None:
        saturated = spro_curve([maps[i] for i in known], [regions[i] for i in known])
    return {
        "image_auroc": image_auroc(judged, is_defect),
        "image_ap": image_ap(judged, is_defect),
        **_pixels(known, maps, masks),
        "spro": None if saturated is None else saturated.area(limit=SPRO_LIMIT),
        **classification(judged, is_defect, threshold),
        "threshold": float(threshold),
        "pixel_threshold": float(pixel_threshold),
        "unknown_rate": _ratio(values.size - len(known), values.size),
        "frames": int(values.size),
        "per_defect": per_defect(values, defects, threshold),
        "backend": backend,
        "precision": precision,
    }


def worst_and_mean(table: Mapping[str, Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Worst and mean image AUROC over the defect classes of `per_defect`."""
    found = [row["image_auroc"] for row in table.values() if row.get("image_auroc") is not None]
    return (min(found), sum(found) / len(found)) if found else (None, None)


def _pixels(
    known: Sequence[int], maps: Sequence[Map] | None, masks: Sequence[Mask | None] | None
) -> dict[str, float | None]:
    """Pixel metrics of the judged images that have ground truth; None each without any."""
    pairs = []
    if maps is not None and masks is not None:
        pairs = [(maps[i], mask) for i in known if (mask := masks[i]) is not None]
    return pixel_metrics([one for one, _ in pairs], [mask for _, mask in pairs])


def _ranked(scores: ArrayLike, labels: ArrayLike) -> Ranking | None:
    values, is_defect = _checked(scores, labels)
    return rank(values[is_defect], [values[~is_defect]])


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    if values.shape != flags.shape or values.ndim != 1:
        raise CalibrationError(
            "SCORES_COUNT",
            f"scores have shape {values.shape}, labels {flags.shape}; expected one label a score.",
        )
    if not np.isfinite(values).all():
        raise CalibrationError(
            "SCORES_NOT_FINITE",
            f"{int((~np.isfinite(values)).sum())} of {values.size} scores are NaN or infinite.",
            "Their verdicts are UNKNOWN: leave them out and count them.",
        )
    return values, flags


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _interval(part: int, whole: int) -> list[float] | None:
    return list(clopper_pearson(part, whole)) if whole else None
