"""Small image files whose headers promise more pixels than any machine should decode."""

from __future__ import annotations

import struct
import zlib

__all__ = ["image_bombs"]

_SIZES = ((40_000, 40_000), (65_535, 65_535), (8_001, 8_001), (1_000_000, 65))


def image_bombs() -> dict[str, bytes]:
    """Name -> file: four formats, several sizes, depths and byte orders; 30 or more."""
    bombs: dict[str, bytes] = {}
    for width, height in _SIZES:
        size = f"{width}x{height}"
        for colour, bits, kind in ((0, 8, "grey"), (2, 8, "colour"), (6, 16, "colour 16, alpha")):
            bombs[f"png {size} {kind}"] = _png(width, height, bits, colour)
        for bits in (8, 24, 32):
            bombs[f"bmp {size} {bits} bits"] = _bmp(width, height, bits)
        bombs[f"bmp {size} from the top down"] = _bmp(width, -height, 24)
        for order in "<>":
            bombs[f"tiff {size} {order}"] = _tiff(width, height, order)
        if max(width, height) < 1 << 16:
            for marker, kind in ((0xC0, "baseline"), (0xC2, "progressive")):
                bombs[f"jpeg {size} {kind}"] = _jpeg(width, height, marker)
    return bombs


def _chunk(tag: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))


def _png(width: int, height: int, bits: int, colour: int) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(bytes(1_000_000), 9))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + _chunk(b"IEND", b"")


def _bmp(width: int, height: int, bits: int) -> bytes:
    body = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
    return struct.pack("<2sIII", b"BM", 0, 0, 14 + len(body)) + body + bytes(64)


def _tiff(width: int, height: int, order: str) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, height), (279, 0xFFFF_FFFF)]
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4)


def _jpeg(width: int, height: int, marker: int) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"
    scan = b"\1\1\0\0\x3f\0"
    return (
        b"\xff\xd8"
        + struct.pack(">BBH", 0xFF, marker, 2 + len(frame))
        + frame
        + struct.pack(">BBH", 0xFF, 0xDA, 2 + len(scan))
        + scan
        + bytes(64)
        + b"\xff\xd9"
    )
