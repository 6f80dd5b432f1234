"""Unknown is not good: what is checked of each frame before it is judged, and of each detection after.

Input checks go by cost and stop at the first that fails. A frame on a GPU is checked for its size only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import BackendError, EdgeadError, FrameError
from edgead.stream.reasons import FailCode
from edgead.types import Detection, Frame

__all__ = ["DetectionCheck", "FrameCheck"]

_STRIDE = 16  # every 16th row and column: 0.4 % of the pixels


class FrameCheck:
    """The input checks of one source, with what they remember. Used by one thread.

    What a single frame shows against its bundle (size, format, commissioned light and focus) is
    the judge's own check; here is what only the run of frames shows, and what no judge may miss.

    Args:
        frozen_after: The n-th byte-identical frame in a row is refused, and any repeated block id;
            0 for sources that may repeat themselves.
    """

    def __init__(self, frozen_after: int) -> None:
        self._frozen_after = frozen_after
        self._first: tuple[Any, ...] | None = None
        self._last: Frame | None = None
        self._repeats = 1

    def __call__(self, frame: Frame) -> EdgeadError | None:
        """Why this frame must not be judged, or None."""
        layout = (frame.size, frame.format, frame.depth)
        if self._first is None:
            self._first = layout
        if layout != self._first:
            return _shape_changed(frame, self._first)
        if not isinstance(frame.pixels, np.ndarray):
            return None
        error = self._frozen(frame) if self._frozen_after else None
        return error or _constant(frame.pixels)

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
            "Restart the camera; Limits(frozen_after=0) is for a source that repeats itself.",
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
