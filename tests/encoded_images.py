"""Image files of every layout that is read, and of some that are refused, made by three libraries."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

_DRAW = np.random.default_rng(9)
GREY = cv2.GaussianBlur(_DRAW.integers(0, 256, (60, 83), dtype=np.uint8), (5, 5), 2)
COLOUR = cv2.GaussianBlur(_DRAW.integers(0, 256, (60, 83, 3), dtype=np.uint8), (5, 5), 2)  # BGR
_RGB = np.ascontiguousarray(COLOUR[:, :, ::-1])


def by_opencv(pixels: Any, suffix: str, options: list[int] | None = None) -> bytes:
    return bytes(cv2.imencode(suffix, pixels, options or [])[1])


def by_pillow(pixels: Any, kind: str, mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def by_tifffile(pixels: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def rotated() -> Any:
    """EXIF data with orientation 6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@lru_cache(maxsize=1)
def readable() -> dict[str, tuple[bytes, Any]]:
    """Name -> (file, the pixels it must decode to, or None where the coding is lossy)."""
    wide_grey, wide = GREY.astype(np.uint16) * 257, COLOUR.astype(np.uint16) * 257
    rgb = {"photometric": "rgb"}
    return {
        "png grey": (by_opencv(GREY, ".png"), GREY),
        "png colour": (by_opencv(COLOUR, ".png"), COLOUR),
        "png grey 16": (by_opencv(wide_grey, ".png"), wide_grey),
        "png colour 16": (by_opencv(wide, ".png"), wide),
        "png palette": (by_pillow(_RGB, "PNG", "P"), None),
        "png 1 bit": (by_pillow(GREY, "PNG", "1"), None),
        "png opaque alpha": (by_pillow(_RGB, "PNG", "RGBA"), COLOUR),
        "png grey, opaque alpha": (by_pillow(GREY, "PNG", "LA"), GREY),
        "jpeg grey": (by_opencv(GREY, ".jpg"), None),
        "jpeg colour": (by_opencv(COLOUR, ".jpg"), None),
        "jpeg grey in colour": (by_opencv(cv2.merge([GREY] * 3), ".jpg"), None),
        "jpeg progressive": (by_pillow(_RGB, "JPEG", progressive=True), None),
        "jpeg restarts": (by_opencv(COLOUR, ".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]), None),
        "bmp grey": (by_opencv(GREY, ".bmp"), GREY),
        "bmp colour": (by_opencv(COLOUR, ".bmp"), COLOUR),
        "bmp palette": (by_pillow(_RGB, "BMP", "P"), None),
        "bmp 32": (by_pillow(_RGB, "BMP", "RGBA"), COLOUR),
        "tiff grey": (by_opencv(GREY, ".tiff"), GREY),
        "tiff colour": (by_opencv(COLOUR, ".tiff"), COLOUR),
        "tiff colour 16": (by_opencv(wide, ".tiff"), wide),
        "tiff lzw": (by_pillow(_RGB, "TIFF", compression="tiff_lzw"), COLOUR),
        "tiff deflate": (by_pillow(_RGB, "TIFF", compression="tiff_adobe_deflate"), COLOUR),
        "tiff packbits": (by_pillow(_RGB, "TIFF", compression="packbits"), COLOUR),
        "tiff tiles": (by_tifffile(_RGB, tile=(32, 32), **rgb), COLOUR),
        "tiff big-endian": (by_tifffile(_RGB, byteorder=">", **rgb), COLOUR),
        "tiff 16": (by_tifffile(wide_grey), wide_grey),
    }


def pages(count: int = 3) -> bytes:
    """A TIFF whose page k is the colour image rolled down by k rows."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for shift in range(count):
            writer.write(np.roll(_RGB, shift, axis=0), photometric="rgb")
    return buffer.getvalue()


@lru_cache(maxsize=1)
def refused() -> dict[str, tuple[bytes, str]]:
    """Name -> (file, the full text of its refusal)."""
    rgb = {"photometric": "rgb"}
    tiff_grey = "want grey (black is zero) or RGB, interleaved. Convert the file."
    moving = io.BytesIO()
    frames = [Image.fromarray(_RGB), Image.fromarray(_RGB[::-1].copy())]
    frames[0].save(moving, "PNG", save_all=True, append_images=frames[1:])
    planes = np.moveaxis(_RGB, 2, 0).copy()
    none_of = "not PNG, JPEG, BMP or TIFF. Convert it to one of these; the ending of the name does"
    return {
        "empty": (
            b"",
            "[IMAGE_EMPTY] a.png is 0 bytes (disk full when it was written?). Write it again.",
        ),
        "text": (
            b"hello world",
            f"[IMAGE_FORMAT] a.png starts with 'hello wo'; {none_of} not matter.",
        ),
        "gif": (
            by_pillow(_RGB, "GIF"),
            f"[IMAGE_FORMAT] a.png starts with 'GIF87aS\\x00'; {none_of} not matter.",
        ),
        "cmyk": (
            by_pillow(_RGB, "JPEG", "CMYK"),
            "[IMAGE_FORMAT] a.png: JPEG of 4 components (CMYK?); want grey or colour. "
            "Convert the file.",
        ),
        "transparent": (
            by_opencv(np.dstack([COLOUR, GREY]), ".png"),
            "[IMAGE_ALPHA] a.png has transparent pixels; their colour is not defined. "
            "Save it without an alpha channel.",
        ),
        "animated": (
            moving.getvalue(),
            "[IMAGE_PAGES] a.png is an animated PNG. Save one image a file.",
        ),
        "pages": (pages(), "[IMAGE_PAGES] a.png has 3 pages. Pass page=0..2."),
        "float": (
            by_tifffile(GREY.astype(np.float32)),
            "[IMAGE_FORMAT] a.png: TIFF of [32] bits a channel; want 8 or 16. Convert the file.",
        ),
        "tiff in jpeg": (
            by_pillow(_RGB, "TIFF", compression="jpeg"),
            "[IMAGE_FORMAT] a.png: TIFF compression 7; want none, LZW, Deflate or PackBits. "
            "Convert the file.",
        ),
        "planes": (
            by_tifffile(planes, planarconfig="separate", **rgb),
            f"[IMAGE_FORMAT] a.png: TIFF of photometric 2, 3 samples, layout 2; {tiff_grey}",
        ),
        "white is zero": (
            by_tifffile(GREY, photometric="miniswhite"),
            f"[IMAGE_FORMAT] a.png: TIFF of photometric 0, 1 samples, layout 1; {tiff_grey}",
        ),
        "bmp 1 bit": (
            by_pillow(GREY, "BMP", "1"),
            "[IMAGE_FORMAT] a.png: BMP of 1 bits a pixel, compression 0; "
            "want 8, 24 or 32 bits, uncompressed. Convert the file.",
        ),
    }
