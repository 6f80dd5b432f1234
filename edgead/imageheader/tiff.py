"""TIFF: every directory, out-of-line value, strip and tile. Source: TIFF 6.0."""

from __future__ import annotations

import struct
from collections.abc import Callable

from edgead.errors import FrameError
from edgead.imageheader.base import EncodedFile, ImageHeader

__all__ = ["inspect_tiff"]


_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_COMPRESSION = {1, 5, 8, 32773, 32946}  # none, LZW, Deflate, PackBits, old Deflate
_MAX_PAGES = 4096
#: Directory entries and strip positions of all pages together: 64 Mpx in strips of one row fit.
_MAX_VALUES = 1 << 20
_READ = {256, 257, 258, 259, 262, 273, 274, 277, 279, 284, 324, 325, 339}  # tags looked at below
_Tags = dict[int, tuple[int, list[int]]]  # tag -> (byte offset of its entry, values)


def inspect_tiff(file: EncodedFile, page: int | None) -> ImageHeader:
    """Every directory, every out-of-line value and every strip or tile, of all pages."""
    order = "<" if file.data.startswith(b"II") else ">"
    (offset,) = struct.unpack_from(order + "I", file.data, 4)
    headers: list[ImageHeader] = []
    seen: set[int] = set()
    left = _MAX_VALUES
    while offset:
        if offset in seen or len(headers) >= _MAX_PAGES:
            file.corrupt(f"its directories form a loop or number over {_MAX_PAGES}")
        seen.add(offset)
        tags, following = _directory(file, order, offset, left)
        left -= sum(1 + len(values) for _, values in tags.values())
        wanted = len(headers) == (page or 0)
        headers.append(_page(file, tags, offset, wanted=wanted))
        offset = following
    if not headers:
        file.corrupt("it holds no image")
    if len(headers) > 1 and page is None:
        raise FrameError(
            "IMAGE_PAGES",
            f"{file.name} has {len(headers)} pages.",
            f"Pass page=0..{len(headers) - 1}.",
        )
    if not 0 <= (page or 0) < len(headers):
        raise FrameError("IMAGE_PAGES", f"{file.name} has {len(headers)} pages; got page={page}.")
    chosen = headers[page or 0]
    return ImageHeader(**{**vars(chosen), "pages": len(headers)})


def _directory(file: EncodedFile, order: str, offset: int, left: int) -> tuple[_Tags, int]:
    """Integer tags of one directory, at most ``left`` values, and the offset of the next one."""
    data = file.data
    if offset + 2 > len(data):
        file.truncated(f"before the directory at byte {offset}")
    (count,) = struct.unpack_from(order + "H", data, offset)
    end = offset + 2 + 12 * count
    if end + 4 > len(data):
        file.truncated(f"inside the directory at byte {offset}")
    tags: _Tags = {}
    for entry in range(offset + 2, end, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
        size = _BYTES.get(kind, 1) * number
        place = entry + 8
        if size > 4:
            (place,) = struct.unpack_from(order + "I", data, place)
        if place + size > len(data):
            file.truncated(f"before the value of tag {tag} at byte {place}")
        if kind in (3, 4) and tag in _READ:
            left -= 1 + number
            if left < 0 or tag in tags:
                file.corrupt(f"its directories repeat tags or hold over {_MAX_VALUES} values")
            letter = "H" if kind == 3 else "I"
            values = list(struct.unpack_from(f"{order}{number}{letter}", data, place))
            tags[tag] = (entry, values)
    return tags, int(struct.unpack_from(order + "I", data, end)[0])


def _page(file: EncodedFile, tags: _Tags, offset: int, *, wanted: bool) -> ImageHeader:
    """Check one page's layout and that its pixel data lies inside the file."""

    def one(tag: int, default: int) -> int:
        values = tags.get(tag, (0, [default]))[1]
        return values[0] if values else default

    width, height, samples = one(256, 0), one(257, 0), one(277, 1)
    if wanted:
        file.sized(width, height)
        _layout(file, tags, one, samples)
    starts = tags.get(273, tags.get(324, (0, [])))[1]
    counts = tags.get(279, tags.get(325, (0, [])))[1]
    if not starts or len(starts) != len(counts):
        file.corrupt(f"{len(starts)} strip offsets for {len(counts)} strip sizes")
    for begin, count in zip(starts, counts, strict=True):
        if begin + count > len(file.data):
            file.truncated(f"inside a strip that ends at byte {begin + count}")
    bits = one(258, 1)
    if one(259, 1) == 1 and 324 not in tags:
        needed = (width * samples * bits + 7) // 8 * height
        if sum(counts) < needed:
            file.corrupt(f"its strips hold {sum(counts)} bytes; {width}x{height} needs {needed}")
    orientation = one(274, 1)
    return ImageHeader(
        "TIFF",
        height,
        width,
        3 if samples >= 3 else 1,
        16 if bits == 16 else 8,
        has_alpha=samples in (2, 4),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        page_offset=offset,
        orientation_offset=tags[274][0] + 8 if 274 in tags else 0,
    )


def _layout(file: EncodedFile, tags: _Tags, one: Callable[[int, int], int], samples: int) -> None:
    """Refuse the layouts that a camera does not write and decoders disagree on."""
    bits = set(tags.get(258, (0, [1]))[1])
    if bits not in ({8}, {16}):
        file.unsupported(f"TIFF of {sorted(bits)} bits a channel", "want 8 or 16")
    if one(339, 1) != 1:
        file.unsupported("TIFF of signed or floating-point samples", "want unsigned integers")
    if one(259, 1) not in _COMPRESSION:
        file.unsupported(f"TIFF compression {one(259, 1)}", "want none, LZW, Deflate or PackBits")
    if (one(262, 1), samples) not in {(1, 1), (1, 2), (2, 3), (2, 4)} or one(284, 1) != 1:
        file.unsupported(
            f"TIFF of photometric {one(262, 1)}, {samples} samples, layout {one(284, 1)}",
            "want grey (black is zero) or RGB, interleaved",
        )
