"""JPEG: every marker segment and scan. Source: ITU-T T.81, annex B."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from edgead.imageheader.base import EncodedFile, ImageHeader, exif_orientation

__all__ = ["inspect_jpeg"]


_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # not stuffed, not a restart, not fill
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODABLE = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive; Huffman coded
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FILL = re.compile(rb"\xff+")
_EOI = 0xD9
_MAX_SEGMENTS = 4096  # a camera writes tens; more is a file made to burn time
_MAX_SCANS = 32  # an encoder writes about 10; each costs a pass over the whole image


def inspect_jpeg(file: EncodedFile, page: int | None) -> ImageHeader:
    """Every marker segment and every entropy-coded scan up to EOI."""
    data, position = file.data, 2
    frame: _Frame | None = None
    orientation, scans, segments, interval = 1, 0, 0, 0
    file.single(page)
    while True:
        segments += 1
        if segments > _MAX_SEGMENTS:
            file.corrupt(f"it has more than {_MAX_SEGMENTS} segments")
        marker, body, end = _segment(file, position)
        if marker == _EOI:
            if frame is None or not scans:
                file.corrupt("it ends without pixel data")
            return ImageHeader(
                "JPEG", frame.height, frame.width, frame.components, orientation=orientation
            )
        if marker in _FRAMES:
            frame = _frame(file, marker, body, frame)
        elif marker == 0xDD:
            (interval,) = struct.unpack_from(">H", body)
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = exif_orientation(body[6:])
        elif marker == 0xDA:
            if frame is None:
                file.corrupt("a scan stands before the frame header")
            found = _MARKER.search(data, end)
            if found is None:
                file.truncated("inside its entropy-coded data (no end marker)")
            if found.start() == end:
                file.corrupt(f"the scan at byte {position} is empty")
            (components,) = struct.unpack_from(">B", body)
            if interval and components == frame.components and frame.is_sequential:
                _check_restarts(file, frame, interval, data[end : found.start()])
            scans, end = scans + 1, found.start()
            if scans > _MAX_SCANS:
                file.corrupt(f"it has more than {_MAX_SCANS} scans")
        position = end


def _segment(file: EncodedFile, position: int) -> tuple[int, bytes, int]:
    """Marker, body and end of the segment at ``position``, fill bytes before it skipped."""
    data = file.data
    fill = _FILL.match(data, position)
    if position >= len(data) or (fill and fill.end() == len(data)):
        file.truncated("before its end marker (EOI)")
    if fill is None:
        file.corrupt(f"byte {position} is 0x{data[position]:02x}, not a JPEG marker")
    start = fill.end() + 1
    marker = data[start - 1]
    if marker == _EOI:
        return marker, b"", start
    if start + 2 > len(data):
        file.truncated("before its end marker (EOI)")
    length = int.from_bytes(data[start : start + 2], "big")
    if length < 2:
        file.corrupt(f"the segment at byte {start - 2} has length {length}")
    if start + length > len(data):
        file.truncated("inside a marker segment")
    return marker, data[start + 2 : start + length], start + length


@dataclass(frozen=True)
class _Frame:
    """What the frame header says; ``mcus`` is the number of minimum coded units of a whole scan."""

    height: int
    width: int
    components: int
    is_sequential: bool
    mcus: int


def _frame(file: EncodedFile, marker: int, body: bytes, before: _Frame | None) -> _Frame:
    """Read a frame header (SOFn)."""
    if before is not None:
        file.corrupt("it has two frame headers")
    bits, height, width, components = struct.unpack_from(">BHHB", body)
    if marker not in _DECODABLE:
        file.unsupported(
            f"lossless, hierarchical or arithmetic JPEG (SOF{marker - 0xC0})",
            "want baseline or progressive",
        )
    if bits != 8:
        file.unsupported(f"{bits}-bit JPEG", "want 8 bits a channel")
    if components not in (1, 3):
        file.unsupported(f"JPEG of {components} components (CMYK?)", "want grey or colour")
    if len(body) != 6 + 3 * components:
        file.corrupt("its frame header has the wrong length")
    file.sized(width, height)
    factors = body[7::3]  # horizontal and vertical sampling, four bits each
    # T.81, A.2: a scan of one component is coded block by block, whatever its factors.
    side_x = 8 * (max(f >> 4 for f in factors) if components > 1 else 1)
    side_y = 8 * (max(f & 15 for f in factors) if components > 1 else 1)
    if not side_x or not side_y:
        file.corrupt("a sampling factor is 0")
    mcus = -(-width // side_x) * -(-height // side_y)
    return _Frame(height, width, components, marker != 0xC2, mcus)


def _check_restarts(file: EncodedFile, frame: _Frame, interval: int, scan: bytes) -> None:
    """Hold a scan to its restart markers: a decoder makes up what lies between two that are far."""
    found = [marker[0][1] - 0xD0 for marker in _RESTART.finditer(scan)]
    wanted = -(-frame.mcus // interval) - 1
    if len(found) != wanted or any(n != k % 8 for k, n in enumerate(found)):
        file.corrupt(f"a scan has {len(found)} of {wanted} restart markers, or not in order")
