"""Pictures of the report: the camera image beside its anomaly map, as data URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgead.errors import StorageError
from edgead.evaluate.textures import Image
from edgead.images import opencv

__all__ = [
    "Case",
    "HeatScale",
    "camera_picture",
    "data_uri",
    "heat_scale",
    "overlay_picture",
]

MAX_SIDE = 440
_TRUTH = (80, 200, 60)  # BGR


@dataclass(frozen=True, eq=False)
class Case:
    """One image to show.

    Attributes:
        name: What to call it, e.g. its file name.
        defect: Its class, ``good`` for a good image.
        score: Image score.
        image: Camera image. (H, W, 3) BGR or (H, W) grey, uint8
        anomaly_map: Smoothed map, or None when there is none. (h, w)
        truth: Ground truth over the whole image, any size, or None. (H', W') bool
        box_xyxy: Where the map lies in the image, pixels; None for all of it.
    """

    name: str
    defect: str
    score: float
    image: Image
    anomaly_map: NDArray[np.floating] | None = None
    truth: NDArray[np.bool_] | None = None
    box_xyxy: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class HeatScale:
    """Map values that the colours run between; the pixel threshold lies in the middle."""

    low: float
    high: float
    pixel_threshold: float


def heat_scale(cases: list[Case], pixel_threshold: float) -> HeatScale:
    """One scale for all pictures, so that colours compare: the usual level of a map to twice as far."""
    medians = [float(np.median(c.anomaly_map)) for c in cases if c.anomaly_map is not None]
    low = min(medians, default=pixel_threshold - 1.0)
    if low >= pixel_threshold:
        low = pixel_threshold - max(abs(pixel_threshold), 1.0)
    return HeatScale(low, 2 * pixel_threshold - low, pixel_threshold)


def camera_picture(case: Case) -> Image:
    """The camera image, the ground truth outlined. (h, w, 3) BGR, longer side <= 440."""
    picture = _small(case.image)
    if case.truth is not None and case.truth.any():
        cv2 = opencv()
        size = (picture.shape[1], picture.shape[0])
        truth = cv2.resize(case.truth.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
        _outline(picture, truth > 127, _TRUTH)
    return picture


def overlay_picture(case: Case, scale: HeatScale) -> Image:
    """The map laid over the grey camera image, what exceeds the pixel threshold outlined."""
    cv2 = opencv()
    picture = _small(case.image)
    if case.anomaly_map is None:
        return picture
    height, width = picture.shape[:2]
    ratio = np.array((width, height) * 2) / np.array(case.image.shape[1::-1] * 2)
    box = np.array(case.box_xyxy or (0, 0, case.image.shape[1], case.image.shape[0])) * ratio
    x0, y0 = np.clip(np.round(box[:2]), 0, (width - 1, height - 1)).astype(int)
    x1, y1 = np.clip(np.round(box[2:]), (x0 + 1, y0 + 1), (width, height)).astype(int)
    source = np.ascontiguousarray(case.anomaly_map, dtype=np.float32)
    field = cv2.resize(source, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_LINEAR)
    heat = np.clip((field - scale.low) / (scale.high - scale.low), 0, 1)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    alpha = 0.25 + 0.5 * heat[:, :, None]
    view = grey[y0:y1, x0:x1]
    grey[y0:y1, x0:x1] = np.round((1 - alpha) * view + alpha * colours).astype(np.uint8)
    marked = np.zeros((height, width), dtype=bool)
    marked[y0:y1, x0:x1] = field > scale.pixel_threshold
    _outline(grey, marked, (255, 255, 255))
    result: Image = grey
    return result


def data_uri(picture: Image) -> str:
    """The picture as a JPEG data URI.

    Raises:
        StorageError: IMAGE_ENCODE when the encoder refuses.
    """
    cv2 = opencv()
    done, encoded = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 88))
    if not done:
        raise StorageError("IMAGE_ENCODE", f"OpenCV cannot encode a picture {picture.shape}.")
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _small(image: Image) -> Image:
    """A BGR copy whose longer side is at most 440 pixels; smaller ones are enlarged to 220."""
    cv2 = opencv()
    colour = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image
    longer = max(colour.shape[:2])
    factor = min(MAX_SIDE / longer, max(1.0, MAX_SIDE / 2 / longer))
    size = tuple(max(1, round(n * factor)) for n in colour.shape[1::-1])
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    result: Image = cv2.resize(colour, size, interpolation=way).copy()
    return result


def _outline(picture: Image, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    """A bright line on a dark one, readable on any background; drawn in place."""
    cv2 = opencv()
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, found, -1, (0, 0, 0), 5, cv2.LINE_AA)
    cv2.drawContours(picture, found, -1, colour, 2, cv2.LINE_AA)
