"""The result of a header inspection, and the words for what can be wrong with a file."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NoReturn

from edgead.errors import FrameError

__all__ = ["EncodedFile", "ImageHeader", "exif_orientation"]


@dataclass(frozen=True)
class ImageHeader:
    """Declared properties of one image.

    Attributes:
        kind: PNG, JPEG, BMP or TIFF.
        height: H, pixels.
        width: W, pixels.
        channels: 1 grey, 3 colour; alpha not counted.
        depth: Bits a channel after decoding, 8 or 16.
        has_alpha: The file declares transparency.
        pages: Images in the file.
        orientation: EXIF orientation 1..8; 1 when none is given.
        page_offset: TIFF only: byte offset of this page's directory.
        orientation_offset: TIFF only: byte offset of the orientation value, 0 without one.
    """

    kind: str
    height: int
    width: int
    channels: int
    depth: int = 8
    has_alpha: bool = False
    pages: int = 1
    orientation: int = 1
    page_offset: int = 0
    orientation_offset: int = 0


@dataclass(frozen=True)
class EncodedFile:
    """The bytes under inspection and the words for what is wrong with them."""

    data: bytes
    name: str
    max_pixels: int

    def truncated(self, where: str) -> NoReturn:
        """Raise IMAGE_TRUNCATED: the file ends too early."""
        raise FrameError(
            "IMAGE_TRUNCATED",
            f"{self.name} ends after {len(self.data)} bytes, {where}.",
            "Copy or record it again; no pixel of it is used.",
        )

    def corrupt(self, what: str) -> NoReturn:
        """Raise IMAGE_CORRUPT: the file contradicts itself."""
        raise FrameError("IMAGE_CORRUPT", f"{self.name}: {what}.", "Copy or record it again.")

    def unsupported(self, what: str, want: str) -> NoReturn:
        """Raise IMAGE_FORMAT: a layout that is not read."""
        raise FrameError("IMAGE_FORMAT", f"{self.name}: {what}; {want}.", "Convert the file.")

    def sized(self, width: int, height: int) -> None:
        """Refuse a size of nothing or above the limit."""
        if width < 1 or height < 1:
            self.corrupt(f"header says {width}x{height} pixels")
        if width * height > self.max_pixels:
            raise FrameError(
                "IMAGE_TOO_LARGE",
                f"{self.name}: header says {width}x{height} ({width * height / 1e6:.0f} Mpx); "
                f"limit {self.max_pixels / 1e6:.0f} Mpx. Nothing was decoded.",
                "Raise ImageLimits.max_pixels if this size is meant.",
            )

    def single(self, page: int | None) -> None:
        """Refuse a page other than the only one."""
        if page not in (None, 0):
            raise FrameError("IMAGE_PAGES", f"{self.name} has 1 page; got page={page}.")


def exif_orientation(body: bytes) -> int:
    """Orientation in an EXIF block, 1 when it has none or cannot be read: it is not applied."""
    order = "<" if body.startswith(b"II") else ">"
    try:
        (offset,) = struct.unpack_from(order + "I", body, 4)
        (count,) = struct.unpack_from(order + "H", body, offset)
        for index in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", body, offset + 2 + 12 * index)
            if tag == 0x0112 and kind == 3:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
