"""Pixel metrics over a set of maps: AUROC, average precision, per-region and saturated overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import CalibrationError
from edgead.evaluate.curves import Curve, Ranking, rank
from edgead.images import opencv

__all__ = [
    "PRO_LIMIT",
    "SPRO_LIMIT",
    "Region",
    "connected_regions",
    "pixel_metrics",
    "pro_curve",
    "spro_curve",
]

PRO_LIMIT = 0.3
SPRO_LIMIT = 0.05
Map = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Region:
    """One ground-truth region of LOCO AD.

    Attributes:
        mask: True on every pixel where marking is right. (h, w) bool
        saturation_px: Pixels of it that suffice, at least 1: a missing screw may be marked anywhere
            it could lie, and marking its area once is enough.
    """

    mask: Mask
    saturation_px: float


def pixel_metrics(maps: Sequence[Map], masks: Sequence[Mask]) -> dict[str, float | None]:
    """``pixel_auroc``, ``pixel_ap`` and ``pro``, exact; None without defect or good pixels.

    Args:
        maps: Anomaly maps. [n] of (h, w)
        masks: Ground truth of each; good images have an empty one. [n] of (h, w) bool

    Memory: the maps given, the scores of the defect pixels, and one map more.

    Raises:
        CalibrationError: MAPS_COUNT, MAPS_NOT_FINITE or MASK_SIZE.
    """
    _check(maps, masks)
    ranking, weights = _ranked(maps, masks)
    if ranking is None:
        return {"pixel_auroc": None, "pixel_ap": None, "pro": None}
    return {
        "pixel_auroc": ranking.curve().area(),
        "pixel_ap": ranking.average_precision(),
        "pro": ranking.curve(weights).area(limit=PRO_LIMIT),
    }


def pro_curve(maps: Sequence[Map], masks: Sequence[Mask]) -> Curve | None:
    """Mean overlap with the connected ground-truth regions over the false-positive rate.

    Args and Raises: as `pixel_metrics`.

    Source: Bergmann et al., IJCV 129 (2021), section 5.2: regions are 8-connected and weigh alike,
    false positives are counted over all pixels outside them.
    """
    _check(maps, masks)
    ranking, weights = _ranked(maps, masks)
    return None if ranking is None else ranking.curve(weights)


def spro_curve(maps: Sequence[Map], regions: Sequence[Sequence[Region]]) -> Curve | None:
    """Mean saturated overlap with the regions of LOCO AD over the false-positive rate.

    The overlap of a region is min(found pixels / saturation, 1): with its pixels in falling order
    of score the first ``saturation_px`` count one share each and the rest nothing.

    Args:
        maps: Anomaly maps. [n] of (h, w)
        regions: Of each map; empty for good images. [n]

    Raises:
        CalibrationError: MAPS_COUNT, MAPS_NOT_FINITE or MASK_SIZE.

    Source: Bergmann et al., IJCV 130 (2022), section 4.
    """
    unions = [
        np.any([region.mask for region in found], axis=0) if found else np.zeros(one.shape, bool)
        for one, found in zip(maps, regions, strict=False)
    ]
    _check(maps, unions)
    scores, weights = [], []
    for one, found in zip(maps, regions, strict=True):
        for region in found:
            inside = np.sort(one[region.mask])[::-1]
            saturation = min(max(region.saturation_px, 1.0), max(inside.size, 1))
            scores.append(inside)
            weights.append(np.clip(saturation - np.arange(inside.size), 0, 1) / saturation)
    ranking = rank(_joined(scores), _outside(maps, unions))
    return None if ranking is None else ranking.curve(_joined(weights))


def connected_regions(mask: Mask) -> NDArray[np.int32]:
    """Label of the 8-connected region of each pixel, 0 outside: (h, w) int32.

    Raises:
        BackendError: OPENCV_MISSING.
    """
    cv2 = opencv()
    _, labels = cv2.connectedComponents(np.ascontiguousarray(mask, dtype=np.uint8), connectivity=8)
    result: NDArray[np.int32] = labels
    return result


def _ranked(
    maps: Sequence[Map], masks: Sequence[Mask]
) -> tuple[Ranking | None, NDArray[np.float64]]:
    """All pixels, and the weight of each defect pixel: one over the area of its region."""
    scores, weights = [], []
    for one, mask in zip(maps, masks, strict=True):
        if mask.any():
            label = connected_regions(mask)[mask]
            scores.append(one[mask])
            weights.append(1.0 / np.bincount(label)[label])
    return rank(_joined(scores), _outside(maps, masks)), _joined(weights)


def _outside(maps: Sequence[Map], masks: Sequence[Mask]) -> Iterator[Map]:
    return (one[~mask] for one, mask in zip(maps, masks, strict=True))


def _joined(pieces: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(pieces) if pieces else np.empty(0)


def _check(maps: Sequence[Map], masks: Sequence[Mask]) -> None:
    if len(maps) != len(masks):
        raise CalibrationError(
            "MAPS_COUNT",
            f"{len(maps)} anomaly maps and {len(masks)} masks; expected one mask a map.",
        )
    for index, (one, mask) in enumerate(zip(maps, masks, strict=True)):
        if one.ndim != 2 or not np.isfinite(one).all():
            what = f"has shape {one.shape}" if one.ndim != 2 else "holds NaN or infinity"
            raise CalibrationError(
                "MAPS_NOT_FINITE", f"anomaly map {index} {what}; expected finite values (h, w)."
            )
        if one.shape != mask.shape:
            raise CalibrationError(
                "MASK_SIZE",
                f"mask {index} is {mask.shape}, its anomaly map {one.shape}; expected one size.",
                "Load masks at the map's size: load_mask(sample, anomaly_map.shape).",
            )
