"""Small pictures of a judged frame: the camera image, the anomaly map as grey levels, both in one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import StorageError
from edgead.evaluate.pictures import Case, HeatScale, overlay_picture
from edgead.frame import Frame
from edgead.images import opencv
from edgead.preprocess import as_bgr
from edgead.types import Outcome, Region

__all__ = ["HeatLevels", "Seen", "encode_jpeg", "heat_levels", "meta_of", "overlay", "picture"]

MAX_SIDE = 640  # longer side of what is sent; more would cost the line, not help the eye
_QUALITY = 82
_MOST_REGIONS, _MOST_POINTS = 12, 48


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame with what was said about it."""

    outcome: Outcome
    frame: Frame


class HeatLevels:
    """Map values to 0..1, the pixel threshold in the middle; one scale for all pictures of a run.

    The lower end is the lowest median of a map that was shown, as in the report.

    Args:
        pixel_threshold: Map value above which a pixel is marked.
    """

    def __init__(self, pixel_threshold: float) -> None:
        self._threshold = pixel_threshold
        self._low = pixel_threshold - max(abs(pixel_threshold), 1e-6)
        self._is_new = True

    def scale_for(self, anomaly_map: NDArray[np.floating]) -> HeatScale:
        """The scale, after this map was taken into account."""
        median = float(np.median(anomaly_map))
        if median < self._threshold and (self._is_new or median < self._low):
            self._low, self._is_new = median, False
        return HeatScale(self._low, 2 * self._threshold - self._low, self._threshold)


def picture(frame: Frame, longest: int = MAX_SIDE) -> NDArray[np.uint8]:
    """The camera image, (h, w, 3) BGR, at most ``longest`` pixels a side."""
    if not isinstance(frame.pixels, np.ndarray):
        frame = replace(frame, pixels=frame.pixels.get())  # a frame on the GPU
    height, width = frame.size
    factor = min(1.0, longest / max(height, width))
    return as_bgr(frame, size=(max(1, round(height * factor)), max(1, round(width * factor))))


def heat_levels(anomaly_map: NDArray[np.floating], scale: HeatScale) -> NDArray[np.uint8]:
    """(h, w) grey levels: 0 as usual, 128 at the pixel threshold, 255 far off."""
    level = (anomaly_map - scale.low) * (255.0 / (scale.high - scale.low))
    grey: NDArray[np.uint8] = np.clip(level, 0, 255).astype(np.uint8)
    return grey


def overlay(seen: Seen, levels: HeatLevels, longest: int = MAX_SIDE) -> NDArray[np.uint8]:
    """The anomaly map over the grey camera image; the camera image alone where there is no map."""
    small = picture(seen.frame, longest)
    found = seen.outcome.detection
    if found is None or found.anomaly_map is None:
        return small
    box = _map_box(seen)
    height, width = seen.frame.size
    shrink = np.array((small.shape[1] / width, small.shape[0] / height) * 2)
    case = Case(
        name="",
        defect="",
        score=found.score,
        image=small,
        anomaly_map=found.anomaly_map,
        box_xyxy=tuple((np.array(box) * shrink).tolist()),
    )
    drawn: NDArray[np.uint8] = overlay_picture(case, levels.scale_for(found.anomaly_map))
    return drawn


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """(h, w) or (h, w, 3) as JPEG.

    Raises:
        StorageError: IMAGE_ENCODE when the encoder refuses.
    """
    cv2 = opencv()
    done, data = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    if not done:
        raise StorageError("IMAGE_ENCODE", f"OpenCV cannot encode a picture {pixels.shape}.")
    return bytes(data)


def meta_of(seen: Seen) -> str:
    """What belongs to a picture, as one line of ASCII JSON: its frame, verdict, map box and regions."""
    outcome, (height, width) = seen.outcome, seen.frame.size
    found = outcome.detection
    about: dict[str, Any] = {
        "frame_id": outcome.frame_id,
        "seq": outcome.seq,
        "verdict": outcome.verdict.name,
        "reason": outcome.reason,
        "size": [height, width],
        "box": _map_box(seen),
        "regions": [] if found is None else [_outline(r) for r in found.regions[:_MOST_REGIONS]],
    }
    return json.dumps(about, separators=(",", ":"))


def _map_box(seen: Seen) -> list[float]:
    """x0, y0, x1, y1 of the anomaly map in the frame, pixels."""
    height, width = seen.frame.size
    found = seen.outcome.detection
    place = None if found is None else found.placement
    if found is None or place is None or found.anomaly_map is None:
        return [0.0, 0.0, float(width), float(height)]
    (x, y), (sx, sy), (h, w) = place.offset_xy, place.scale_xy, found.anomaly_map.shape
    return [x, y, x + sx * w, y + sy * h]


def _outline(region: Region) -> list[list[float]]:
    step = max(1, len(region.contour) // _MOST_POINTS)
    points: list[list[float]] = np.round(region.contour[::step].astype(float), 1).tolist()
    return points
