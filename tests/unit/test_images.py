"""What an image file decodes to is decided by the file alone; what cannot be trusted is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from encoded_images import COLOUR, GREY, by_opencv, by_pillow, by_tifffile, pages, readable, refused

from edgead import files, images
from edgead.errors import BackendError, ConfigError, FrameError, StorageError
from edgead.types import PixelFormat


def _refusal(data: bytes, **options: Any) -> str:
    with pytest.raises(FrameError) as error:
        images.decode(data, name="a.png", **options)
    return str(error.value)


@pytest.mark.parametrize("kind", readable())
def test_layout_and_pixels_are_those_of_the_file(kind: str) -> None:
    data, pixels = readable()[kind]
    frame = images.decode(data, name=kind)
    assert frame.size == (60, 83) == images.size_of(data)
    grey, wide = "grey" in kind or kind in ("png 1 bit", "tiff 16"), "16" in kind
    if kind == "jpeg grey in colour":
        grey = False
    assert (
        frame.format
        is {
            (True, False): PixelFormat.MONO8,
            (False, False): PixelFormat.BGR8,
            (True, True): PixelFormat.MONO16,
            (False, True): PixelFormat.BGR16,
        }[grey, wide]
    )
    assert frame.depth == (16 if wide else 8)
    assert frame.is_simulated
    assert frame.source_id == kind
    if pixels is not None:
        np.testing.assert_array_equal(frame.pixels, pixels)
    else:
        flags = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
        np.testing.assert_array_equal(
            frame.pixels, cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        )


@pytest.mark.parametrize("kind", refused())
def test_refusals_in_full(kind: str) -> None:
    data, message = refused()[kind]
    assert _refusal(data) == message


@pytest.mark.parametrize("kind", readable())
def test_a_cut_anywhere_is_refused(kind: str) -> None:
    """At every 1 % and at each of the last 1,000 bytes."""
    data, _ = readable()[kind]
    cuts = {len(data) * percent // 100 for percent in range(100)}
    cuts |= set(range(max(0, len(data) - 1000), len(data)))
    for cut in sorted(cuts):
        text = _refusal(data[:cut])
        assert text.startswith(("[IMAGE_TRUNCATED]", "[IMAGE_EMPTY]", "[IMAGE_FORMAT]")), text
        assert cut <= 8 or text.startswith("[IMAGE_TRUNCATED]"), (cut, text)


def test_truncated_in_full() -> None:
    data = by_opencv(COLOUR, ".jpg")
    assert _refusal(data[:2000]) == (
        "[IMAGE_TRUNCATED] a.png ends after 2000 bytes, inside its entropy-coded data "
        "(no end marker). Copy or record it again; no pixel of it is used."
    )
    png = by_opencv(COLOUR, ".png")
    assert _refusal(png[:2000]) == (
        "[IMAGE_TRUNCATED] a.png ends after 2000 bytes, inside a 'IDAT' chunk. "
        "Copy or record it again; no pixel of it is used."
    )


@pytest.mark.parametrize("interval", [1, 2, 7, 500])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_a_jpeg_is_held_to_its_restart_markers(interval: int, pixels: Any) -> None:
    data = by_opencv(pixels, ".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, interval])
    assert images.decode(data).size == (60, 83)
    scan = data.index(b"\xff\xda") + 14
    markers = [at for at in range(scan, len(data) - 2) if data[at : at + 2] == b"\xff\xd1"]
    if not markers:
        return
    # An end marker behind a cut, and a piece lost in the middle: OpenCV decodes both.
    for damaged in (data[: markers[0]] + b"\xff\xd9", data[: markers[0]] + data[markers[0] + 9 :]):
        assert "restart markers" in _refusal(damaged)


@pytest.mark.parametrize("kind", [name for name in readable() if name.startswith("png")])
def test_every_bit_of_a_png_counts(kind: str) -> None:
    data, _ = readable()[kind]
    for index in range(0, len(data), 7):
        changed = bytearray(data)
        changed[index] ^= 0x10
        with pytest.raises(FrameError):
            images.decode(bytes(changed))


def test_pages_are_asked_for() -> None:
    data = pages()
    for page in range(3):
        frame = images.decode(data, page=page)
        np.testing.assert_array_equal(frame.pixels, np.roll(COLOUR, page, axis=0))
    assert _refusal(data, page=3) == "[IMAGE_PAGES] a.png has 3 pages; got page=3."
    assert _refusal(data, page=-1) == "[IMAGE_PAGES] a.png has 3 pages; got page=-1."
    assert _refusal(by_opencv(GREY, ".png"), page=1) == (
        "[IMAGE_PAGES] a.png has 1 page; got page=1."
    )
    assert images.decode(by_opencv(GREY, ".png"), page=0).size == (60, 83)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_orientation_is_not_applied_and_said_once(kind: str) -> None:
    from encoded_images import rotated

    rgb = np.ascontiguousarray(COLOUR[:, :, ::-1])
    if kind == "TIFF":
        data = by_tifffile(rgb, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    else:
        data = by_pillow(rgb, kind, exif=rotated())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            frame = images.decode(data)
    assert [str(warning.message) for warning in caught] == [
        "[IMAGE_EXIF] orientation 6 ignored: pixels are used as they lie in the file."
    ]
    assert frame.size == (60, 83)
    if kind != "JPEG":
        np.testing.assert_array_equal(frame.pixels, COLOUR)


def test_limits() -> None:
    data = by_opencv(COLOUR, ".png")
    assert _refusal(data, limits=images.ImageLimits(max_pixels=4979)) == (
        "[IMAGE_TOO_LARGE] a.png: header says 83x60 (0 Mpx); limit 0 Mpx. Nothing was decoded. "
        "Raise ImageLimits.max_pixels if this size is meant."
    )
    assert images.decode(data, limits=images.ImageLimits(max_pixels=4980)).size == (60, 83)
    assert _refusal(data, limits=images.ImageLimits(max_bytes=100)) == (
        "[IMAGE_TOO_LARGE] a.png is over 0 MB encoded. Nothing was decoded. "
        "Raise ImageLimits.max_bytes if this size is meant."
    )


def test_read_names_what_is_wrong_with_the_path(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "large.png").write_bytes(b"x" * 101)
    limits = images.ImageLimits(max_bytes=100)
    for name, message in [
        ("no.png", f"[IMAGE_MISSING] {tmp_path}/no.png does not exist. Check the path."),
        (
            "",
            f"[IMAGE_IS_FOLDER] {tmp_path} is a folder; want an image file. Give a file name.",
        ),
        (
            "pipe.png",
            f"[IMAGE_UNREADABLE] cannot read '{tmp_path}/pipe.png': it is not a regular file. "
            "Check that it is a file that you may read.",
        ),
        (
            "large.png",
            f"[IMAGE_TOO_LARGE] {tmp_path}/large.png is over 0 MB encoded. Nothing was decoded. "
            "Raise ImageLimits.max_bytes if this size is meant.",
        ),
    ]:
        with pytest.raises(FrameError) as error:
            images.read(tmp_path / name, limits=limits)
        assert str(error.value) == message
    with pytest.raises(FrameError) as error:
        images.read("a\0b.png")
    assert error.value.code == "IMAGE_UNREADABLE"


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR, GREY[::2, ::-1], np.asfortranarray(COLOUR)])
def test_saved_pixels_come_back(tmp_path: Path, suffix: str, pixels: Any) -> None:
    path = tmp_path / f"a{suffix}"
    images.save_image(path, pixels)
    np.testing.assert_array_equal(images.read(path).pixels, pixels)


def test_encode_png_keeps_depth_and_masks() -> None:
    wide = GREY.astype(np.uint16) * 3
    np.testing.assert_array_equal(images.decode(images.encode_png(wide)).pixels, wide)
    mask = GREY > 100
    np.testing.assert_array_equal(images.decode(images.encode_png(mask)).pixels == 255, mask)


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        (
            "a.gif",
            GREY,
            "[IMAGE_SUFFIX] cannot tell the image format from 'a.gif'; "
            "want one of .png, .jpg, .jpeg, .bmp, .tif, .tiff.",
        ),
        (
            "a.png",
            GREY.astype(np.float32),
            "[IMAGE_PIXELS] cannot write float32 pixels (60, 83) as .png; "
            "want (H, W) or (H, W, 3) uint8, or uint16 for PNG and TIFF.",
        ),
        (
            "a.jpg",
            GREY.astype(np.uint16),
            "[IMAGE_PIXELS] cannot write uint16 pixels (60, 83) as .jpg; "
            "want (H, W) or (H, W, 3) uint8, or uint16 for PNG and TIFF.",
        ),
        (
            "a.png",
            np.zeros((0, 4), np.uint8),
            "[IMAGE_PIXELS] cannot write uint8 pixels (0, 4) as .png; "
            "want (H, W) or (H, W, 3) uint8, or uint16 for PNG and TIFF.",
        ),
    ],
)
def test_what_cannot_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, pixels: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        images.save_image(name, pixels)
    assert str(error.value) == message
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "map.png"
    images.save_image(path, GREY)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError) as error:
        images.save_image(path, GREY)
    assert str(error.value) == (
        f"[DISK_FULL] cannot write {path}: no space left; the old file is unchanged. "
        "Free some space and repeat the command."
    )
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_encoder_that_says_no_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(StorageError) as error:
        images.encode_png(GREY)
    assert str(error.value) == (
        "[IMAGE_ENCODE] OpenCV cannot encode uint8 pixels (60, 83) as .png; nothing was written."
    )


def test_a_decoder_that_fails_or_lies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = by_opencv(GREY, ".png")

    def fails(*_: Any) -> None:
        raise cv2.error("native text")

    monkeypatch.setattr(cv2, "imdecode", fails)
    assert _refusal(data) == (
        "[IMAGE_CORRUPT] a.png: OpenCV cannot decode it. Copy or record it again."
    )
    monkeypatch.setattr(cv2, "imdecode", lambda *_: GREY[:10])
    assert _refusal(data) == (
        "[IMAGE_CORRUPT] a.png: decoded to uint8 (10, 83); its header says (60, 83). "
        "Copy or record it again."
    )


def test_opencv_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(BackendError) as error:
        images.decode(by_opencv(GREY, ".png"))
    assert str(error.value) == (
        "[OPENCV_MISSING] image files need OpenCV, which does not import "
        "(import of cv2 halted; None in sys.modules). "
        "pip install 'edgead[cpu]'; on a Jetson use the OpenCV of JetPack."
    )
    assert images.size_of(by_opencv(GREY, ".png")) == (60, 83)  # needs no decoder


def test_importing_images_does_not_import_opencv() -> None:
    code = "import sys, edgead.images; sys.exit('cv2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
