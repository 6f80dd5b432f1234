"""Native map and score -> smoothed map, mask, regions in the frame, confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead import kernels
from edgead.confidence import Confidence
from edgead.images import opencv
from edgead.manifest import HeadSpec, InputSpec, Thresholds, Units
from edgead.types import Placement, Region, Verdict

__all__ = ["Judgement", "Postprocess", "smooth"]


@dataclass(frozen=True, eq=False)
class Judgement:
    """What `Postprocess` finds out about one frame; see `edgead.types.Detection` for the fields."""

    verdict: Verdict
    score: float
    confidence: float
    anomaly_map: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None
    regions: tuple[Region, ...]


def smooth(maps: NDArray[np.float32], size: tuple[int, int], sigma: float) -> NDArray[np.float32]:
    """Native maps (n, h', w') -> smoothed maps (n, h, w): what thresholds are learnt on.

    Pixels that a view ignores (`Placement.ignored`) are no part of what is learnt.
    """
    return kernels.heatmap(maps, size, sigma=sigma).map


class Postprocess:
    """Judges frames with one pair of thresholds.

    Args:
        head: Smoothing of the map.
        input: Engine input, whose size the smoothed map has.
        thresholds: Image and pixel threshold, held-out good scores.
        units: Millimetres a pixel, and the smallest region that is reported: it never changes a
            verdict, and a DEFECT all of whose regions are smaller shows its peak.
        score_only: True computes neither map nor mask nor regions.
    """

    def __init__(
        self,
        head: HeadSpec,
        input: InputSpec,
        thresholds: Thresholds,
        units: Units,
        *,
        score_only: bool = False,
    ) -> None:
        self._sigma, self._size = head.sigma, input.size
        self._thresholds, self._units = thresholds, units
        self._confidence = Confidence(thresholds.good_scores, thresholds.score_scale)
        self._score_only = score_only
        self._cv2: Any = None if score_only else opencv()

    def __call__(
        self,
        anomaly_map: NDArray[np.float32],
        score: float,
        placement: Placement,
        heat: kernels.Heatmap | None = None,
    ) -> Judgement:
        """Judge one frame from its native map (h', w') and score.

        Args:
            anomaly_map: Native map.
            score: Image score.
            placement: Where the map lies in the frame.
            heat: What `edgead.kernels.heatmap` makes of the map, where it was made already.
        """
        limits = self._thresholds
        verdict = Verdict.DEFECT if score > limits.threshold else Verdict.GOOD
        sure = self._confidence(score)
        if self._score_only:
            return Judgement(verdict, score, sure, None, None, ())
        size = placement.size or self._size
        if heat is None:
            heat = kernels.heatmap(
                anomaly_map[None], size, sigma=self._sigma, threshold=limits.pixel_threshold
            )
        assert heat.mask is not None
        smoothed, mask = heat.map[0], heat.mask[0]
        if placement.ignored is not None:  # smoothing reaches over the outline
            smoothed[placement.ignored] = smoothed[~placement.ignored].min()
            mask[placement.ignored] = 0
        regions: tuple[Region, ...] = ()
        if heat.peak[0] > limits.pixel_threshold:
            regions = self._regions(smoothed, mask, placement)
        if verdict is Verdict.DEFECT and not regions:
            regions = (self._peak_region(smoothed, placement),)
        return Judgement(verdict, score, sure, smoothed, mask.view(np.bool_), regions)

    def _regions(
        self, smoothed: NDArray[np.float32], mask: NDArray[np.uint8], placement: Placement
    ) -> tuple[Region, ...]:
        """Connected regions of the mask, largest peak first."""
        cv2 = self._cv2
        outlines, nesting = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        if nesting is None:  # the peak is on an ignored pixel
            return ()
        outer = [outlines[i][:, 0] for i in np.flatnonzero(nesting[0, :, 3] < 0)]  # no holes
        labels = cv2.connectedComponents(mask, connectivity=8)[1] if len(outer) > 1 else mask
        found = []
        for outline in outer:
            x, y, w, h = cv2.boundingRect(outline)
            box = np.s_[y : y + h, x : x + w]
            first_x, first_y = outline[0]
            part = (labels[box] == labels[first_y, first_x]).view(np.uint8)
            sums = cv2.moments(part)  # zeros and ones; declared binary it takes three times as long
            area = sums["m00"]
            centroid = np.array([x + sums["m10"] / area, y + sums["m01"] / area])
            peak = cv2.minMaxLoc(smoothed[box], mask=part)[1]
            region = self._region(outline, (x, y, x + w, y + h), area, peak, centroid, placement)
            if region.area_px >= self._units.min_area_px:
                found.append(region)
        return tuple(sorted(found, key=lambda region: -region.peak))

    def _peak_region(self, smoothed: NDArray[np.float32], placement: Placement) -> Region:
        """The peak's own pixel: where to look when nothing exceeds the pixel threshold."""
        y, x = np.unravel_index(int(smoothed.argmax()), smoothed.shape)
        point = np.array([[x, y]])
        box = (int(x), int(y), int(x) + 1, int(y) + 1)
        return self._region(point, box, 1, float(smoothed[y, x]), point[0], placement)

    def _region(
        self,
        outline: NDArray[Any],
        box: tuple[int, int, int, int],
        area: float,
        peak: float,
        centroid: NDArray[Any],
        placement: Placement,
    ) -> Region:
        """Map one region from input to frame coordinates."""
        sx, sy = placement.scale_xy
        ox, oy = placement.offset_xy
        area_px = area * sx * sy
        mm = self._units.mm_per_px
        x, y = placement.to_frame(centroid[None])[0]
        return Region(
            box_xyxy=(
                ox + sx * box[0],
                oy + sy * box[1],
                ox + sx * box[2],
                oy + sy * box[3],
            ),
            contour=placement.to_frame(outline),
            area_px=area_px,
            area_mm2=None if mm is None else area_px * mm * mm,
            peak=peak,
            centroid=(float(x), float(y)),
        )
