"""Simulated defects on held-out good images: what a method that learns without defects may choose by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgead.errors import CalibrationError
from edgead.evaluate.anomalies import simulate
from edgead.evaluate.metrics import image_auroc
from edgead.images import opencv
from edgead.models.base import Images

__all__ = ["KINDS", "separation", "simulated_defects"]

#: Kinds that need no second image; each held-out image gets one of them in turn.
KINDS = ("structural", "scratch", "cutpaste", "stain", "dent", "tiles")
_MOST = 64


def simulated_defects(
    images: Images, rows: NDArray[np.integer], rng: np.random.Generator
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.bool_]]]:
    """One defect on each of some good images, at most 64.

    Args:
        images: Good images.
        rows: Which of them.
        rng: The only source of chance.

    Returns:
        Images (h, w, 3) uint8 and masks (h, w) bool.

    Raises:
        CalibrationError: ANOMALY_INVISIBLE when no image takes a defect.
    """
    defects, masks = [], []
    for turn, row in enumerate(rows[:_MOST]):
        try:
            defect, mask = simulate(images[int(row)], KINDS[turn % len(KINDS)], rng)
        except CalibrationError:  # a constant image takes no tiles, say
            continue
        defects.append(defect)
        masks.append(mask)
    if not defects:
        raise CalibrationError(
            "ANOMALY_INVISIBLE",
            f"none of {len(rows)} held-out images takes a simulated defect.",
            "Are the images empty? Leave constant ones out.",
        )
    return defects, masks


def separation(
    good: Sequence[NDArray[np.float32]],
    defects: Sequence[NDArray[np.float32]],
    masks: Sequence[NDArray[np.bool_]],
) -> float:
    """How well maps tell simulated defects from good images: mean of two AUROCs.

    Args:
        good: Maps of good images. (h', w') each
        defects: Maps of simulated defects. (h', w') each
        masks: Their masks, any size. (h, w) each

    Returns:
        Mean of the AUROC of the images' maxima and of that of the positions, of which those that a defect
        covers in part are left out. 0..1.
    """
    scores = [float(one.max()) for one in (*good, *defects)]
    labels = [False] * len(good) + [True] * len(defects)
    by_image = image_auroc(scores, labels)
    inside = [
        one[_covered(mask, one.shape) > 0.5] for one, mask in zip(defects, masks, strict=True)
    ]
    outside = [
        one[_covered(mask, one.shape) == 0] for one, mask in zip(defects, masks, strict=True)
    ]
    positions = np.concatenate([*inside, *outside, *(one.ravel() for one in good)])
    found = np.arange(len(positions)) < sum(map(len, inside))
    by_position = image_auroc(positions, found)
    known = [value for value in (by_image, by_position) if value is not None]
    return sum(known) / len(known)


def _covered(mask: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Share of each position of the map that the mask covers. (h', w')."""
    cv2 = opencv()
    share: NDArray[np.float32] = cv2.resize(
        mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA
    )
    return share
