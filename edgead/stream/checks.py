"""Unknown is not good: what is checked of each frame before it is judged, and of each detection after.

Input checks go by cost and stop at the first that fails. A frame on a GPU is checked for its size only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import BackendError, EdgeadError, FrameError
from edgead.stream.reasons import FailCode
from edgead.types import Detection, Frame

__all__ = ["Checks", "DetectionCheck", "FrameCheck"]

_STRIDE = 16  # every 16th row and column: 0.4 % of the pixels


@dataclass(frozen=True)
class Checks:
    """Which input checks run.

    Attributes:
        is_constant: Refuse a frame whose every pixel has the same value.
        frozen_after: Refuse the n-th byte-identical frame in a row and those after it, and any
            repeated block id; 0 turns it off (files do, where repeats are harmless).
        exposure: Commissioned range of the mean pixel value, None when it was not learnt.
        sharpness: Commissioned range of the mean absolute difference between neighbours in a row.
        size: (H, W) that the model was commissioned on; None takes the first frame's.
    """

    is_constant: bool = True
    frozen_after: int = 5
    exposure: tuple[float, float] | None = None
    sharpness: tuple[float, float] | None = None
    size: tuple[int, int] | None = None


class FrameCheck:
    """The input checks of one source, with what they remember. Used by its capture thread."""

    def __init__(self, checks: Checks, *, is_live: bool) -> None:
        self._checks = checks
        self._frozen_after = checks.frozen_after if is_live else 0
        self._first: tuple[Any, ...] | None = None
        self._last: Frame | None = None
        self._repeats = 1

    def __call__(self, frame: Frame) -> EdgeadError | None:
        """Why this frame must not be judged, or None."""
        layout = (frame.size, frame.format, frame.depth)
        if self._first is None:
            self._first = (self._checks.size or frame.size, frame.format, frame.depth)
        if layout != self._first:
            return _shape_changed(frame, self._first)
        if not isinstance(frame.pixels, np.ndarray):
            return None
        error = self._frozen(frame) if self._frozen_after else None
        if error is None and self._checks.is_constant:
            error = _constant(frame.pixels)
        return error or self._exposure(frame.pixels) or self._sharpness(frame.pixels)

    def _frozen(self, frame: Frame) -> EdgeadError | None:
        last, self._last = self._last, frame
        if last is None:
            return None
        if frame.block_id is not None and frame.block_id == last.block_id:
            return FrameError(
                FailCode.FROZEN_SOURCE.value,
                f"the camera sent block {frame.block_id} twice.",
                "Restart the camera.",
            )
        self._repeats = self._repeats + 1 if _same(frame.pixels, last.pixels) else 1
        if self._repeats < self._frozen_after:
            return None
        return FrameError(
            FailCode.FROZEN_SOURCE.value,
            f"{self._repeats} frames in a row are byte-identical, which a sensor never does.",
            "Restart the camera; set frozen_after=0 for a source that repeats itself.",
        )

    def _exposure(self, pixels: NDArray[Any]) -> EdgeadError | None:
        if self._checks.exposure is None:
            return None
        low, high = self._checks.exposure
        mean = float(pixels[::4, ::4].mean())
        if low <= mean <= high:
            return None
        return FrameError(
            FailCode.FRAME_EXPOSURE.value,
            f"mean pixel value is {mean:.1f}; commissioned range {low:g}..{high:g}.",
            "Check the light and the exposure time.",
        )

    def _sharpness(self, pixels: NDArray[Any]) -> EdgeadError | None:
        if self._checks.sharpness is None:
            return None
        low, high = self._checks.sharpness
        rows = pixels[::4].astype(np.int32)
        sharpness = float(np.abs(np.diff(rows, axis=1)).mean())
        if low <= sharpness <= high:
            return None
        return FrameError(
            FailCode.FRAME_SHARPNESS.value,
            f"sharpness is {sharpness:.2f}; commissioned range {low:g}..{high:g}.",
            "Check the focus and clean the lens.",
        )


class DetectionCheck:
    """The output checks of one stream: finite, not constant, the shape of the first."""

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}

    def __call__(self, detection: Detection) -> EdgeadError | None:
        """Why this detection must not be believed, or None."""
        if not isinstance(detection, Detection):
            return BackendError(
                FailCode.BACKEND_ERROR.value,
                f"the judge returned {type(detection).__name__}; want edgead.Detection.",
            )
        if not (np.isfinite(detection.score) and np.isfinite(detection.threshold)):
            return BackendError(
                FailCode.BACKEND_NONFINITE.value,
                f"score is {detection.score}, threshold is {detection.threshold}.",
                "Run `edgead verify` on this machine.",
            )
        return None if detection.anomaly_map is None else self._map(detection)

    def _map(self, detection: Detection) -> EdgeadError | None:
        found = detection.anomaly_map
        assert found is not None
        expected = self._shapes.setdefault(detection.bundle_hash, found.shape)
        if found.shape != expected or found.size == 0:
            return BackendError(
                FailCode.BACKEND_SHAPE.value,
                f"the anomaly map is {found.shape}; the first was {expected}.",
                "Run `edgead verify` on this machine.",
            )
        low, high = float(found.min()), float(found.max())
        if not (np.isfinite(low) and np.isfinite(high)):  # min and max carry any NaN
            return BackendError(
                FailCode.BACKEND_NONFINITE.value,
                "the anomaly map holds NaN or infinite values.",
                "Run `edgead verify` on this machine.",
            )
        if low == high and found.size > 1:
            return BackendError(
                FailCode.BACKEND_DEGENERATE.value,
                f"every value of the anomaly map is {low:g}.",
                "The engine is broken; run `edgead verify` on this machine.",
            )
        return None


def _shape_changed(frame: Frame, first: tuple[Any, ...]) -> EdgeadError:
    (height, width), fmt, depth = first
    return FrameError(
        FailCode.FRAME_SHAPE_CHANGED.value,
        f"frame is {frame.size[1]}x{frame.size[0]} {frame.format.value} at {frame.depth} bit; "
        f"the run began with {width}x{height} {fmt.value} at {depth} bit.",
        "Set the camera back, or start a new run.",
    )


def _constant(pixels: NDArray[Any]) -> EdgeadError | None:
    sample = pixels[::_STRIDE, ::_STRIDE]
    value = sample.flat[0]
    if not (sample == value).all() or not (pixels == value).all():
        return None
    return FrameError(
        FailCode.FRAME_CONSTANT.value,
        f"every pixel is {int(value)}.",
        "Lens cap, light or trigger fault?",
    )


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Byte-identical; the sample settles nearly all pairs at once."""
    sample = np.array_equal(a[::_STRIDE, ::_STRIDE], b[::_STRIDE, ::_STRIDE])
    return sample and np.array_equal(a, b)
