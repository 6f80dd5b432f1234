"""Pixel metrics over a set of maps: AUROC, average precision, per-region and saturated overlap."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import BackendError, CalibrationError
from edgead.evaluate.curves import Curve, area, average_precision, curve

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
    """
    _check(maps, [mask.shape for mask in masks])
    plain = curve(_inside(maps, masks), _outside(maps, masks))
    overlap = pro_curve(maps, masks)
    return {
        "pixel_auroc": None if plain is None else area(plain),
        "pixel_ap": None if plain is None else average_precision(plain),
        "pro": None if overlap is None else area(overlap, limit=PRO_LIMIT),
    }


def pro_curve(maps: Sequence[Map], masks: Sequence[Mask]) -> Curve | None:
    """Mean overlap with the connected ground-truth regions against the false-positive rate.

    Source: Bergmann et al., IJCV 129 (2021), section 5.2: regions are 8-connected and weigh alike,
    false positives are counted over all pixels outside them.
    """
    _check(maps, [mask.shape for mask in masks])
    scores, weights = [], []
    for one, mask in zip(maps, masks, strict=True):
        if mask.any():
            labels = connected_regions(mask)[mask]  # [P] region of each defect pixel
            scores.append(one[mask])
            weights.append(1.0 / np.bincount(labels)[labels])
    return curve(_joined(scores), _outside(maps, masks), weights=_joined(weights))


def spro_curve(maps: Sequence[Map], regions: Sequence[Sequence[Region]]) -> Curve | None:
    """Mean saturated overlap with the regions of LOCO AD against the false-positive rate.

    The overlap of a region is min(found pixels / saturation, 1): with its pixels in falling order
    of score the first ``saturation_px`` count one share each and the rest nothing.

    Source: Bergmann et al., IJCV 130 (2022), section 4.
    """
    shapes = [region.mask.shape for found in regions for region in found]
    _check(maps, [], count=len(regions))
    _check_shapes(
        [one.shape for one, found in zip(maps, regions, strict=True) for _ in found], shapes
    )
    scores, weights, unions = [], [], []
    for one, found in zip(maps, regions, strict=True):
        union = np.zeros(one.shape, dtype=bool)
        for region in found:
            inside = np.sort(one[region.mask])[::-1]
            union |= region.mask
            scores.append(inside)
            saturation = min(max(region.saturation_px, 1.0), max(inside.size, 1))
            weights.append(np.clip(saturation - np.arange(inside.size), 0, 1) / saturation)
        unions.append(union)
    return curve(_joined(scores), _outside(maps, unions), weights=_joined(weights))


def connected_regions(mask: Mask) -> NDArray[np.int32]:
    """Label of the 8-connected region of each pixel, 0 outside: (h, w) int32.

    Raises:
        BackendError: OPENCV_MISSING.
    """
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise BackendError(
            "OPENCV_MISSING",
            f"connected regions need OpenCV, which does not import ({error}).",
            "pip install 'edgead[cpu]'.",
        ) from error
    _, labels = cv2.connectedComponents(np.ascontiguousarray(mask, dtype=np.uint8), connectivity=8)
    result: NDArray[np.int32] = labels
    return result


def _inside(maps: Sequence[Map], masks: Sequence[Mask]) -> Map:
    return _joined([one[mask] for one, mask in zip(maps, masks, strict=True)])


def _outside(maps: Sequence[Map], masks: Sequence[Mask]) -> Iterator[Map]:
    return (one[~mask] for one, mask in zip(maps, masks, strict=True))


def _joined(pieces: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(pieces) if pieces else np.empty(0)


def _check(
    maps: Sequence[Map], shapes: Sequence[tuple[int, ...]], count: int | None = None
) -> None:
    wanted = len(shapes) if count is None else count
    if len(maps) != wanted:
        raise CalibrationError(
            "MAPS_COUNT", f"{len(maps)} anomaly maps and {wanted} masks; expected one mask a map."
        )
    for index, one in enumerate(maps):
        if one.ndim != 2 or not np.isfinite(one).all():
            what = f"has shape {one.shape}" if one.ndim != 2 else "holds NaN or infinity"
            raise CalibrationError(
                "MAPS_NOT_FINITE", f"anomaly map {index} {what}; expected finite values (h, w)."
            )
    if count is None:
        _check_shapes([one.shape for one in maps], shapes)


def _check_shapes(maps: Sequence[tuple[int, ...]], masks: Sequence[tuple[int, ...]]) -> None:
    for index, (one, mask) in enumerate(zip(maps, masks, strict=True)):
        if one != mask:
            raise CalibrationError(
                "MASK_SIZE",
                f"mask {index} is {mask}, its anomaly map {one}; expected the same size.",
                "Load masks at the map's size: load_mask(sample, anomaly_map.shape).",
            )
