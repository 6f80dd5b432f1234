"""What an image file says about itself, read before any decoder sees a byte.

PNG, JPEG, BMP and TIFF: size, depth and channels from the header, then a walk over the whole file
that finds a cut wherever it lies. A decoder alone does not: OpenCV answers a cut TIFF or BMP, and
on some paths a cut JPEG, with an image whose missing rows are made up.

What no walk can find is a changed byte inside JPEG, BMP or TIFF pixel data: only a hash does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from edgead.errors import FrameError
from edgead.imageheader.base import EncodedFile, ImageHeader
from edgead.imageheader.bmp import inspect_bmp
from edgead.imageheader.jpeg import inspect_jpeg
from edgead.imageheader.png import inspect_png
from edgead.imageheader.tiff import inspect_tiff

__all__ = ["ImageHeader", "inspect"]

_PARSERS: dict[bytes, Callable[[EncodedFile, int | None], ImageHeader]] = {
    b"\x89PNG\r\n\x1a\n": inspect_png,
    b"\xff\xd8\xff": inspect_jpeg,
    b"BM": inspect_bmp,
    b"II*\0": inspect_tiff,
    b"MM\0*": inspect_tiff,
}


def inspect(data: bytes, name: str, *, max_pixels: int, page: int | None = None) -> ImageHeader:
    """Read the header, refuse what is too large, then check that the file is whole.

    Args:
        data: The encoded file.
        name: What error texts call it.
        max_pixels: Largest H * W; checked before the rest of the file is looked at.
        page: Which image of a TIFF with several; None when there is one.

    Raises:
        FrameError: IMAGE_EMPTY, IMAGE_FORMAT, IMAGE_TRUNCATED, IMAGE_TOO_LARGE, IMAGE_PAGES or
            IMAGE_CORRUPT.
    """
    if not data:
        raise FrameError(
            "IMAGE_EMPTY", f"{name} is 0 bytes (disk full when it was written?).", "Write it again."
        )
    for magic, parse in _PARSERS.items():
        if data.startswith(magic):
            try:
                return parse(EncodedFile(data, name, max_pixels), page)
            except struct.error:
                EncodedFile(data, name, max_pixels).truncated("inside its header")
    start = data[:8].decode("ascii", "replace").encode("ascii", "backslashreplace").decode()
    raise FrameError(
        "IMAGE_FORMAT",
        f"{name} starts with {start!r}; not PNG, JPEG, BMP or TIFF.",
        "Convert it to one of these; the ending of the name does not matter.",
    )
