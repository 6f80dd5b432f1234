"""What GenICam's pixel format names mean; anything else is refused by name, never guessed.

Source: GenICam Pixel Format Naming Convention 2.4 (EMVA), and pylon's older ``Packed`` names.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgead.errors import SourceError
from edgead.frame import Frame, PixelFormat

__all__ = ["frame_of"]

#: Name -> format, channels in the buffer, significant bits.
_FORMATS: dict[str, tuple[PixelFormat, int, int]] = {
    "Mono8": (PixelFormat.MONO8, 1, 8),
    "Mono10": (PixelFormat.MONO16, 1, 10),
    "Mono12": (PixelFormat.MONO16, 1, 12),
    "Mono16": (PixelFormat.MONO16, 1, 16),
    "BayerRG8": (PixelFormat.BAYER_RG8, 1, 8),
    "BGR8": (PixelFormat.BGR8, 3, 8),
    "BGR8Packed": (PixelFormat.BGR8, 3, 8),
    "RGB8": (PixelFormat.RGB8, 3, 8),
    "RGB8Packed": (PixelFormat.RGB8, 3, 8),
    "BGRa8": (PixelFormat.BGRX8, 4, 8),
    "BGRA8Packed": (PixelFormat.BGRX8, 4, 8),
    "RGBa8": (PixelFormat.RGB8, 4, 8),  # the alpha byte is left out
    "BGR12": (PixelFormat.BGR16, 3, 12),
    "RGB12": (PixelFormat.RGB16, 3, 12),
    "BGR16": (PixelFormat.BGR16, 3, 16),
    "RGB16": (PixelFormat.RGB16, 3, 16),
    "RGB16Packed": (PixelFormat.RGB16, 3, 16),
}


def frame_of(
    raw: NDArray[np.generic],
    name: str,
    *,
    height: int,
    width: int,
    t_mono_ns: int,
    block_id: int | None,
) -> Frame:
    """A frame that owns its pixels.

    Args:
        raw: The camera's buffer, any shape, uint8 or uint16.
        name: GenICam's name of its pixel format.
        height: Rows.
        width: Columns.
        t_mono_ns: Time of arrival, monotonic, ns.
        block_id: The camera's number of the frame.

    Raises:
        SourceError: SOURCE_FORMAT for a format that edgead does not read, e.g. a packed 12-bit one.
    """
    if name not in _FORMATS:
        raise SourceError(
            "SOURCE_FORMAT",
            f"the camera sends {name}.",
            f"Set it to one of {', '.join(_FORMATS)}.",
        )
    fmt, channels, depth = _FORMATS[name]
    dtype = np.dtype("uint8") if depth == 8 else np.dtype("uint16")
    shape = (height, width) if channels == 1 else (height, width, channels)
    pixels = np.array(raw).view(dtype).reshape(shape)
    if name == "RGBa8":
        pixels = np.ascontiguousarray(pixels[:, :, :3])
    return Frame(pixels, fmt, t_mono_ns=t_mono_ns, block_id=block_id, depth=depth)
