"""PNG: every chunk with its CRC. Source: PNG specification, third edition (W3C)."""

from __future__ import annotations

import struct
import zlib

from edgead.errors import FrameError
from edgead.imageheader.base import EncodedFile, ImageHeader, exif_orientation

__all__ = ["inspect_png"]


_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
_MAX_CHUNKS = 1 << 17  # 8 kB data chunks carry 1 GB; more is a file made to burn time


def inspect_png(file: EncodedFile, page: int | None) -> ImageHeader:
    """IHDR, then every chunk with its CRC up to IEND."""
    data = file.data
    length, tag, width, height, bits, colour = struct.unpack_from(">I4sIIBB", data, 8)
    if tag != b"IHDR" or length != 13 or colour not in _CHANNELS:
        file.corrupt("its first chunk is not a valid IHDR")
    file.sized(width, height)
    file.single(page)
    has_alpha, orientation, position, has_pixels = colour in (4, 6), 1, 8, False
    chunks = 0
    while True:
        chunks += 1
        if chunks > _MAX_CHUNKS:
            file.corrupt(f"it has more than {_MAX_CHUNKS} chunks")
        if position + 12 > len(data):
            file.truncated("before its IEND chunk")
        length, tag = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            file.truncated(f"inside a {tag.decode('latin-1')!r} chunk")
        body = memoryview(data)[position + 4 : end - 4]
        if zlib.crc32(body) != int.from_bytes(data[end - 4 : end], "big"):
            file.corrupt(f"the {tag.decode('latin-1')!r} chunk at byte {position} fails its CRC")
        if tag == b"IEND":
            if not has_pixels:
                file.corrupt("it has no pixel data (no IDAT chunk)")
            depth = 16 if bits == 16 else 8
            return ImageHeader(
                "PNG", height, width, _CHANNELS[colour], depth, has_alpha, 1, orientation
            )
        if tag == b"acTL":
            raise FrameError(
                "IMAGE_PAGES", f"{file.name} is an animated PNG.", "Save one image a file."
            )
        has_pixels |= tag == b"IDAT"
        has_alpha |= tag == b"tRNS"
        if tag == b"eXIf":
            orientation = exif_orientation(bytes(body[4:]))
        position = end
