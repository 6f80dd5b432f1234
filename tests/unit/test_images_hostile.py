"""Files made to burn memory or time: refused from the header, before any decoder is called."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import pytest
from encoded_images import COLOUR, by_opencv

from edgead import images
from edgead.errors import FrameError
from edgead.testing.image_bombs import image_bombs


@pytest.fixture(autouse=True)
def _no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: Any) -> None:
        raise AssertionError("a decoder saw the bytes")

    monkeypatch.setattr(cv2, "imdecode", called)


@pytest.mark.parametrize("name", image_bombs())
def test_bombs_are_refused_from_the_header(name: str) -> None:
    with pytest.raises(FrameError) as error:
        images.decode(image_bombs()[name], name="a.png")
    assert error.value.code == "IMAGE_TOO_LARGE"


def test_there_are_30_bombs_and_the_text_is_whole() -> None:
    assert len(image_bombs()) >= 30
    with pytest.raises(FrameError) as error:
        images.decode(image_bombs()["png 40000x40000 grey"], name="a.png")
    assert str(error.value) == (
        "[IMAGE_TOO_LARGE] a.png: header says 40000x40000 (1600 Mpx); limit 64 Mpx. "
        "Nothing was decoded. Raise ImageLimits.max_pixels if this size is meant."
    )


def _jpeg() -> bytes:
    return by_opencv(COLOUR, ".jpg")


def _entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", tag, kind, count, value)


def _time_wasters() -> Iterator[tuple[str, bytes]]:
    jpeg, png = _jpeg(), by_opencv(COLOUR, ".png")
    yield "jpeg fill bytes", jpeg[:2] + b"\xff" * 30_000_000
    yield "jpeg fill bytes and more", jpeg[:2] + b"\xff" * 30_000_000 + jpeg[2:-2]
    yield "jpeg segments", jpeg[:2] + b"\xff\xfe\0\2" * 3_000_000 + jpeg[2:]
    scan = jpeg[jpeg.index(b"\xff\xda") : -2]
    yield "jpeg scans", jpeg[:-2] + scan * 500 + jpeg[-2:]
    empty = struct.pack(">I4sI", 0, b"aaAa", zlib.crc32(b"aaAa"))
    yield "png chunks", png[:33] + empty * 1_000_000 + png[33:]
    directories = b"".join(
        struct.pack("<H", 1) + _entry(256, 3, 1, 1) + struct.pack("<I", 8 + 18 * (k + 1))
        for k in range(100_000)
    )
    yield "tiff directories", b"II*\0" + struct.pack("<I", 8) + directories
    yield "tiff loop", b"II*\0" + struct.pack("<IHI", 8, 0, 8)
    # One directory of many entries, each with the same 8 MB of values.
    many = b"".join(_entry(273, 4, 2_000_000, 8) for _ in range(1000))
    values = bytes(8_000_000)
    head = b"II*\0" + struct.pack("<I", 8 + len(values))
    yield "tiff values", head + values + struct.pack("<H", 1000) + many + bytes(4)


@pytest.mark.parametrize(
    ("name", "data"), list(_time_wasters()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_time_wasters_end_soon(name: str, data: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(FrameError) as error:
        images.decode(data)
    assert error.value.code in ("IMAGE_CORRUPT", "IMAGE_TRUNCATED")
    # Not a speed test: without its limit each of these takes a minute or gigabytes.
    assert time.monotonic() - started < 10
