"""BMP: headers, palette and rows. Source: Microsoft's BITMAPINFOHEADER reference."""

from __future__ import annotations

import struct

from edgead.imageheader.base import EncodedFile, ImageHeader

__all__ = ["inspect_bmp"]


def inspect_bmp(file: EncodedFile, page: int | None) -> ImageHeader:
    """File header, bitmap header, palette and rows."""
    data = file.data
    total, start, size = struct.unpack_from("<I4xII", data, 2)
    if size not in (40, 52, 56, 108, 124):
        file.unsupported(f"bitmap header of {size} bytes", "want 40 to 124 (Windows 3 or later)")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    (colours,) = struct.unpack_from("<I", data, 46)
    file.sized(width, abs(height))  # negative: rows from the top down
    file.single(page)
    if (bits, compression) not in {(8, 0), (24, 0), (32, 0), (32, 3)}:
        file.unsupported(
            f"BMP of {bits} bits a pixel, compression {compression}",
            "want 8, 24 or 32 bits, uncompressed",
        )
    palette_end = 14 + size + (4 * min(colours or 256, 256) if bits == 8 else 0)
    if start < palette_end:
        file.corrupt(f"its pixels start at byte {start}, inside the headers")
    row = (width * bits + 31) // 32 * 4
    needed = start + row * abs(height)
    if max(needed, total) > len(data):
        file.truncated(f"its header promises {max(needed, total)}")
    channels = 3 if bits > 8 or _has_colour(data[14 + size : palette_end]) else 1
    has_alpha = size >= 56 and bits == 32 and struct.unpack_from("<I", data, 66)[0] != 0
    return ImageHeader("BMP", abs(height), width, channels, 8, has_alpha)


def _has_colour(palette: bytes) -> bool:
    """Whether any entry (blue, green, red, 0) is not grey."""
    return palette[0::4] != palette[1::4] or palette[1::4] != palette[2::4]
