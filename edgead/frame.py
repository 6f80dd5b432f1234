"""The camera's side: pixel formats and the frame, checked by declaration and never by content.

Times are ``time.monotonic_ns``; ``(H, W)`` is the camera frame.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import FrameError
from edgead.gpupixels import described

__all__ = ["Frame", "PixelFormat"]


class PixelFormat(str, Enum):
    """Layout of a camera frame; the 16-bit formats carry 9..16 significant bits."""

    BGR8 = "BGR8"  # (H, W, 3) uint8
    RGB8 = "RGB8"  # (H, W, 3) uint8
    MONO8 = "MONO8"  # (H, W) uint8
    BGRX8 = "BGRX8"  # (H, W, 4) uint8, the fourth byte is ignored
    NV12 = "NV12"  # (H * 3 / 2, W) uint8, luma plane over interleaved chroma
    BAYER_RG8 = "BAYER_RG8"  # (H, W) uint8 mosaic, first row R G R G
    MONO16 = "MONO16"  # (H, W) uint16
    BGR16 = "BGR16"  # (H, W, 3) uint16
    RGB16 = "RGB16"  # (H, W, 3) uint16


_CHANNELS = {
    PixelFormat.BGR8: 3,
    PixelFormat.RGB8: 3,
    PixelFormat.BGRX8: 4,
    PixelFormat.BGR16: 3,
    PixelFormat.RGB16: 3,
}
_WIDE = frozenset({PixelFormat.MONO16, PixelFormat.BGR16, PixelFormat.RGB16})


@dataclass(frozen=True, eq=False)
class Frame:
    """One camera frame with its declared format.

    Attributes:
        pixels: The pixels as the format says (`PixelFormat`). Read, never written. NumPy, or on a
            GPU: anything with ``__cuda_array_interface__``, which is not copied.
        format: Declared layout; nothing is guessed from pixel values.
        depth: Significant bits a channel: 8, or 9..16 for the 16-bit formats.
        t_mono_ns: Capture time on the monotonic clock, nanoseconds.
        source_id: Which source it came from.
        seq: Number in its source, +1 a frame, never reused.
        block_id: The camera's own frame number; gaps are frames lost before edgead.
        trigger_id: The client's id of the trigger.
        part_id: The client's id of the part.
        is_simulated: True for files and replays, which must never look like a live verdict.
    """

    pixels: NDArray[Any]
    format: PixelFormat = PixelFormat.BGR8
    t_mono_ns: int = field(default_factory=time.monotonic_ns)
    source_id: str = "array"
    seq: int = 0
    block_id: int | None = None
    trigger_id: str | None = None
    part_id: str | None = None
    depth: int = 8
    is_simulated: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", described(self.pixels))
        _check_array(self.pixels)
        _check_layout(self.pixels, self.format)
        low, high = (9, 16) if self.format in _WIDE else (8, 8)
        if not low <= self.depth <= high:
            raise FrameError(
                "FRAME_DEPTH",
                f"depth is {self.depth}; {self.format.value} carries {low}..{high} bits.",
                "Declare the camera's significant bits a channel.",
            )

    @staticmethod
    def from_array(pixels: Any) -> Frame:
        """Wrap a plain array: (H, W, 3) uint8 is BGR8; (H, W) or (H, W, 1) uint8 is MONO8.

        Raises:
            FrameError: Anything else; nothing is guessed from type, range or values.
        """
        if isinstance(pixels, Frame):
            return pixels
        pixels = described(pixels)
        _check_array(pixels)
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        mono = pixels.ndim == 2
        return Frame(pixels, PixelFormat.MONO8 if mono else PixelFormat.BGR8)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture, pixels."""
        height, width = int(self.pixels.shape[0]), int(self.pixels.shape[1])
        return (height * 2 // 3 if self.format is PixelFormat.NV12 else height), width

    @property
    def frame_id(self) -> str:
        """``source:seq``, unique in a run."""
        return f"{self.source_id}:{self.seq}"

    def __repr__(self) -> str:
        return (
            f"Frame({self.frame_id}, {self.format.value}, {self.pixels.dtype} {self.pixels.shape})"
        )


def _check_array(pixels: Any) -> None:
    """Refuse what is not an array of pixels, by type and dtype."""
    if pixels is None:
        raise FrameError(
            "FRAME_NONE",
            "frame is None; the camera returned no image.",
            "Check the return flag of cap.read().",
        )
    if isinstance(pixels, str) or hasattr(pixels, "__fspath__"):
        raise FrameError(
            "FRAME_IS_PATH",
            f"got the path {str(pixels)!r}; a frame is an array.",
            "Read it first: edgead.images.read(path).",
        )
    if not isinstance(pixels, np.ndarray) and not hasattr(pixels, "__cuda_array_interface__"):
        kind = type(pixels)
        raise FrameError(
            "FRAME_TYPE",
            f"got {kind.__module__}.{kind.__name__}; want a numpy.ndarray (H, W) or (H, W, 3).",
            "Convert it with numpy.asarray().",
        )
    if pixels.dtype.kind == "f":
        _check_float(pixels)
    if pixels.dtype not in (np.dtype("uint8"), np.dtype("uint16")):
        raise FrameError(
            "FRAME_DTYPE",
            f"dtype is {pixels.dtype.str!r}; want uint8, or native uint16 with a declared depth.",
            "Convert the frame exactly before handing it over.",
        )
    if 0 in pixels.shape:
        raise FrameError("FRAME_EMPTY", f"frame has shape {pixels.shape}: no pixels.")


def _check_float(pixels: NDArray[Any]) -> None:
    """Floating-point frames are always refused; NaN is named first, since it hides best."""
    if isinstance(pixels, np.ndarray):
        bad = np.argwhere(~np.isfinite(pixels))
        if len(bad):
            raise FrameError(
                "FRAME_NONFINITE",
                f"{len(bad)} of {pixels.size} values are NaN or infinite "
                f"(first at index {tuple(int(i) for i in bad[0])}).",
                "Such a frame is never judged; repair the source.",
            )
    raise FrameError(
        "FRAME_RANGE_UNDECLARED",
        f"dtype is {pixels.dtype} and its value range is not declared; edgead does not guess.",
        "Hand over the camera's own uint8 or uint16 pixels.",
    )


def _check_layout(pixels: NDArray[Any], fmt: PixelFormat) -> None:
    """Refuse a rank, channel count, size or dtype that the declared format does not have."""
    shape, channels = pixels.shape, _CHANNELS.get(fmt, 1)
    want_ndim = 2 if channels == 1 else 3
    if pixels.ndim not in (2, 3) or (channels == 1 and pixels.ndim == 3 and shape[2] == 1):
        raise FrameError(
            "FRAME_NDIM",
            f"frame has {pixels.ndim} dimensions {shape}; {fmt.value} has {want_ndim}.",
            "Pass one image, or use Detector.batch() for several.",
        )
    if pixels.ndim == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        raise FrameError(
            "FRAME_LAYOUT",
            f"shape {shape} looks channel-first; want (H, W, {channels}).",
            "Transpose: frame.transpose(1, 2, 0).",
        )
    got = 1 if pixels.ndim == 2 else shape[2]
    if got != channels:
        raise FrameError(
            "FRAME_CHANNELS",
            f"{got} channel{'s' if got != 1 else ''}; {fmt.value} has {channels}.",
            "Declare the camera's own format: Frame(pixels, PixelFormat.…).",
        )
    want = np.dtype("uint16") if fmt in _WIDE else np.dtype("uint8")
    if pixels.dtype != want:
        raise FrameError(
            "FRAME_DTYPE",
            f"dtype is {pixels.dtype}; {fmt.value} is {want}.",
            "For 10, 12 or 16-bit cameras declare MONO16, BGR16 or RGB16 and the depth.",
        )
    if fmt is PixelFormat.BAYER_RG8 and min(shape[:2]) < 2:
        raise FrameError("FRAME_BAYER", f"shape {shape}; BAYER_RG8 has at least 2x2 pixels.")
    if fmt is PixelFormat.NV12 and (shape[0] % 3 or shape[1] % 2):
        raise FrameError(
            "FRAME_NV12",
            f"shape {shape}; NV12 has (H * 3 / 2, W) with even H and W.",
        )
