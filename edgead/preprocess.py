"""Camera frame -> engine input: the only pre-processing there is, at training and at run time.

Crop, resize (our own fixed-point op, the same bits everywhere), BGR order. Scaling and normalisation
are inside the graph. Nothing is guessed from pixel values and nothing depends on OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead import kernels
from edgead.bundle import Bundle
from edgead.errors import FrameError
from edgead.frame import Frame, PixelFormat
from edgead.manifest import FrameSpec, InputRanges, InputSpec, View
from edgead.types import Placement
from edgead.view import Layout, ignore_pixels, lay_out

__all__ = ["Preprocess", "as_bgr", "frame_statistics", "is_one_colour"]

_Crop = tuple[int, int, int, int]
_Convert = Callable[[NDArray[Any], tuple[int, int], _Crop], NDArray[np.uint8]]

#: Statistics are taken from every fourth pixel and line: a twentieth of a millisecond.
_SAMPLE = slice(None, None, 4)
#: Of a frame whose size is not commissioned: what an image file may have, too.
_MAX_PIXELS = 64_000_000
#: Where frames come in any size: layouts that are kept.
_MAX_LAYOUTS = 64


class Preprocess:
    """Turns frames into engine inputs.

    Args:
        frame: The frame that the bundle was commissioned on; another format or size is an error.
        input: Engine input.
        view: What of the frame is looked at.
        ranges: Commissioned ranges of frame statistics; None checks only that a frame is not
            constant.
        mask: What the view's mask image says, see `edgead.view.ignore_pixels`.
    """

    def __init__(
        self,
        frame: FrameSpec,
        input: InputSpec,
        view: View | None = None,
        ranges: InputRanges | None = None,
        *,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        self._frame = frame
        self._size = input.size
        self._view = view or View()
        self._ranges = ranges
        self._mask = mask
        self._layouts: dict[tuple[int, int], Layout] = {}

    @classmethod
    def of(
        cls, bundle: Bundle, frame: FrameSpec | None = None, *, check_ranges: bool = False
    ) -> Preprocess:
        """A bundle's own, with its view.

        Args:
            bundle: Where everything comes from.
            frame: Another frame than it was commissioned on.
            check_ranges: True refuses frames outside the commissioned ranges.

        Raises:
            BundleError: VIEW_MASK.
        """
        manifest = bundle.manifest
        ranges = manifest.input_ranges if check_ranges else None
        frame = frame or manifest.frame
        mask = ignore_pixels(bundle)
        return cls(frame, manifest.input, manifest.view, ranges, mask=mask)

    def __call__(
        self, frame: Frame, *, check_ranges: bool = True
    ) -> tuple[NDArray[np.uint8], Placement]:
        """One frame -> ((1, h, w, 3) uint8 BGR, where it lies in the frame).

        With tiles it is the picture that they are cut from, see `edgead.tiles`.

        Args:
            frame: A frame of the commissioned format and size.
            check_ranges: False takes any brightness and sharpness: a golden image with a simulated
                defect need not look like a good one.

        Raises:
            FrameError: As of `prepare` and `check_picture`.
        """
        tensor, placement = self.prepare(frame)
        self.check_picture(tensor[0], check_ranges=check_ranges)
        return tensor, placement

    def prepare(self, frame: Frame) -> tuple[NDArray[np.uint8], Placement]:
        """What a call does but for `check_picture`, which then may run while the engine is at work.

        Raises:
            FrameError: FRAME_FORMAT, FRAME_SIZE, FRAME_TOO_LARGE, FRAME_RANGE or FRAME_ON_GPU.
        """
        layout = self.begin(frame)
        if not isinstance(frame.pixels, np.ndarray):
            raise FrameError(
                "FRAME_ON_GPU",
                "the frame is on a GPU; this detector prepares its frames on the CPU.",
                "Hand over a NumPy array; detector.choice.why says why it is so.",
            )
        tensor = _CONVERT[frame.format](_to_8_bit(frame), layout.size, layout.crop)
        layout.paint(tensor)
        return tensor[None], layout.placement

    def begin(self, frame: Frame) -> Layout:
        """Check a frame's format and size, and lay the view over it; pixels are not looked at.

        Raises:
            FrameError: FRAME_FORMAT, FRAME_SIZE or FRAME_TOO_LARGE.
        """
        self._check(frame)
        return self._layouts.get(frame.size) or self.layout(frame)

    def check_picture(self, picture: NDArray[np.uint8], *, check_ranges: bool = True) -> None:
        """Refuse a resized and painted picture (h, w, 3) that must not be judged.

        Raises:
            FrameError: FRAME_CONSTANT or FRAME_EXPOSURE.
        """
        _check_not_constant(picture)
        if check_ranges:
            self._check_ranges(picture)

    def layout(self, frame: Frame) -> Layout:
        """The view laid over frames of this size.

        Raises:
            FrameError: FRAME_SIZE when they are too small for it, VIEW_TILES.
            BundleError: VIEW_EMPTY, VIEW_MASK.
        """
        if self._view.roi is not None:
            _check_crop(self._view.roi, frame)
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        layout = lay_out(self._view, self._size, frame.size, frame.format, self._mask)
        self._layouts[frame.size] = layout
        return layout

    def _check(self, frame: Frame) -> None:
        want = self._frame
        if frame.format is not want.format or frame.depth != want.depth:
            raise FrameError(
                "FRAME_FORMAT",
                f"camera sends {_describe(frame.format, frame.depth)}; the bundle was commissioned "
                f"on {_describe(want.format, want.depth)}.",
                "Set the camera's pixel format, or commission the bundle on this one.",
            )
        if want.size is not None and frame.size != tuple(want.size):
            raise FrameError(
                "FRAME_SIZE",
                f"frame is {frame.size[1]}x{frame.size[0]}; the bundle was commissioned at "
                f"{want.size[1]}x{want.size[0]}.",
                "Set the camera's resolution, or commission the bundle on this one.",
            )
        if want.size is None and frame.size[0] * frame.size[1] > _MAX_PIXELS:
            raise FrameError(
                "FRAME_TOO_LARGE",
                f"frame is {frame.size[1]}x{frame.size[0]} "
                f"({frame.size[0] * frame.size[1] / 1e6:.1f} Mpx); a bundle for any size takes "
                f"{_MAX_PIXELS / 1e6:.0f} Mpx.",
                "Commission the bundle on this camera's size.",
            )

    def _check_ranges(self, tensor: NDArray[np.uint8]) -> None:
        if self._ranges is None:
            return
        for name, value in frame_statistics(tensor).items():
            low, high = getattr(self._ranges, name)
            if not low <= value <= high:
                raise FrameError(
                    "FRAME_EXPOSURE",
                    f"{name} of the picture is {value:.1f}; commissioned range {low:.1f}..{high:.1f}.",
                    "Check light, exposure and focus, or commission the bundle again.",
                )


def _check_crop(crop: _Crop, frame: Frame) -> None:
    """Where images of several sizes were commissioned, one may be too small for the region."""
    height, width = frame.size
    if crop[2] > width or crop[3] > height:
        raise FrameError(
            "FRAME_SIZE",
            f"frame is {width}x{height}; the region of interest {crop} does not lie inside it.",
            "Set the camera's resolution, or commission the bundle on this one.",
        )


def _check_not_constant(tensor: NDArray[np.uint8]) -> None:
    """Refuse one colour everywhere, be it black, white or the blue of a camera without signal."""
    if is_one_colour(tensor):
        blue, green, red = (int(value) for value in tensor[0, 0])
        what = str(blue) if blue == green == red else f"B {blue} G {green} R {red}"
        raise FrameError(
            "FRAME_CONSTANT", f"every pixel is {what}.", "Lens cap, light or trigger fault?"
        )


def is_one_colour(picture: NDArray[np.uint8]) -> bool:
    """Whether all pixels of (h, w, 3) are alike."""
    first = picture[0, 0]
    # Few pictures get beyond the sample: it costs a hundredth of looking at every pixel.
    return bool((picture[::16, ::16] == first).all()) and bool((picture == first).all())


def frame_statistics(tensor: NDArray[np.uint8]) -> dict[str, float]:
    """Brightness, contrast and sharpness of an engine input (h, w, 3), in grey levels.

    ``mean`` and ``std`` over a sample of the pixels; ``sharpness`` is the mean absolute difference
    of horizontal neighbours in sampled lines.
    """
    lines = tensor[_SAMPLE, :, 1].astype(np.int16)
    sample = lines[:, _SAMPLE].astype(np.float64).ravel()
    mean = float(sample.sum()) / sample.size
    # Whole numbers below 2^53: both sums are exact.
    variance = float(np.square(sample).sum()) / sample.size - mean * mean
    steps = lines[:, 1:] - lines[:, :-1]
    return {
        "mean": mean,
        "std": math.sqrt(max(variance, 0.0)),
        "sharpness": float(np.abs(steps, out=steps).sum(dtype=np.int64)) / max(steps.size, 1),
    }


def as_bgr(frame: Frame, *, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """A frame of any format as a picture to look at or draw on, (H, W, 3) uint8 BGR.

    Args:
        frame: The frame.
        size: (height, width) of the picture; the frame's own by default.
    """
    height, width = frame.size
    return _CONVERT[frame.format](_to_8_bit(frame), size or frame.size, (0, 0, width, height))


def _describe(fmt: PixelFormat, depth: int) -> str:
    return fmt.value if depth == 8 else f"{fmt.value} with {depth} bits"


def _to_8_bit(frame: Frame) -> NDArray[Any]:
    """16-bit containers are shifted to 8 bits by their declared depth; nothing is stretched."""
    if frame.depth == 8:
        return frame.pixels
    largest = int(frame.pixels.max())
    if largest >> frame.depth:
        raise FrameError(
            "FRAME_RANGE",
            f"a pixel is {largest}; {frame.depth} bits hold at most {(1 << frame.depth) - 1}.",
            "Declare the camera's real depth.",
        )
    return (frame.pixels >> (frame.depth - 8)).astype(np.uint8)


def _reordered(channels: tuple[int, int, int]) -> _Convert:
    def convert(pixels: NDArray[Any], size: tuple[int, int], crop: _Crop) -> NDArray[np.uint8]:
        frame = pixels if pixels.ndim == 3 else pixels[:, :, None]
        return kernels.resize(frame, size, crop=crop, channels=channels)

    return convert


def _from_nv12(pixels: NDArray[Any], size: tuple[int, int], crop: _Crop) -> NDArray[np.uint8]:
    """Both planes are resized first, so that colours are computed for few pixels (BT.601, video)."""
    rows = pixels.shape[0] * 2 // 3
    x0, y0, x1, y1 = crop
    chroma = pixels[rows:].reshape(rows // 2, -1, 2)
    half = (x0 // 2, y0 // 2, -(-x1 // 2), -(-y1 // 2))
    luma = kernels.resize(pixels[:rows, :, None], size, crop=crop)[:, :, 0].astype(np.int32)
    u, v = (
        kernels.resize(np.ascontiguousarray(chroma[:, :, i : i + 1]), size, crop=half)[:, :, 0]
        for i in (0, 1)
    )
    y = 298 * (luma - 16) + 128  # BT.601 limited range in 8 fraction bits
    d, e = u.astype(np.int32) - 128, v.astype(np.int32) - 128
    bgr = np.stack([y + 516 * d, y - 100 * d - 208 * e, y + 409 * e], axis=2) >> 8
    clipped: NDArray[np.uint8] = np.clip(bgr, 0, 255).astype(np.uint8)
    return clipped


def _from_bayer(pixels: NDArray[Any], size: tuple[int, int], crop: _Crop) -> NDArray[np.uint8]:
    """Each 2x2 cell R G / G B becomes one pixel: exact colours at half the resolution."""
    rows, columns = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    cells = pixels[:rows, :columns]
    green = (cells[0::2, 1::2].astype(np.uint16) + cells[1::2, 0::2] + 1) >> 1
    bgr = np.stack([cells[1::2, 1::2], green.astype(np.uint8), cells[0::2, 0::2]], axis=2)
    x0, y0, x1, y1 = (edge // 2 for edge in crop)
    half = (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))
    return kernels.resize(bgr, size, crop=half)


_CONVERT: dict[PixelFormat, _Convert] = {
    PixelFormat.BGR8: _reordered((0, 1, 2)),
    PixelFormat.RGB8: _reordered((2, 1, 0)),
    PixelFormat.MONO8: _reordered((0, 0, 0)),
    PixelFormat.BGRX8: _reordered((0, 1, 2)),
    PixelFormat.NV12: _from_nv12,
    PixelFormat.BAYER_RG8: _from_bayer,
    PixelFormat.MONO16: _reordered((0, 0, 0)),
    PixelFormat.BGR16: _reordered((0, 1, 2)),
    PixelFormat.RGB16: _reordered((2, 1, 0)),
}
