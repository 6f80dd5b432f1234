"""Image files to frames and back: nothing is guessed, nothing is made up, nothing fails silently.

Always decoded from bytes that were inspected first (`edgead.imageheader`), never from a path:
``cv2.imread`` returns an image for a JPEG cut at 30 % and says nothing.

Rules, all decided by what the file declares and never by what its pixels look like:

* A colour file is BGR8 and a grey file MONO8, also where a colour file happens to show grey.
* 16-bit PNG and TIFF stay 16-bit (BGR16, MONO16, depth 16).
* EXIF orientation is not applied: a camera's frame and its file must agree. It is said once.
* An alpha channel that is opaque everywhere is dropped; one that hides pixels is refused.
* A TIFF with several pages needs ``page``; animated PNG is refused.
"""

from __future__ import annotations

import errno
import importlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgead import files
from edgead.errors import BackendError, ConfigError, FrameError, StorageError
from edgead.frame import Frame, PixelFormat
from edgead.imageheader import ImageHeader, inspect

__all__ = [
    "ImageLimits",
    "ImageWarning",
    "decode",
    "encode_png",
    "opencv",
    "read",
    "read_encoded",
    "save_image",
    "size_of",
]


class ImageWarning(UserWarning):
    """Something about an image file that is ignored on purpose, e.g. its EXIF orientation."""


@dataclass(frozen=True)
class ImageLimits:
    """What an image file may cost, checked before anything is decoded.

    Attributes:
        max_pixels: Largest H * W.
        max_bytes: Largest encoded file: 64 Mpx of 16-bit colour, uncompressed, fit.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = 400_000_000


_LIMITS = ImageLimits()


def read(path: str | Path, *, limits: ImageLimits = _LIMITS, page: int | None = None) -> Frame:
    """Read an image file as a frame; ``source_id`` is the path and ``is_simulated`` is True.

    Args:
        path: PNG, JPEG, BMP or TIFF; the first bytes decide which, the name's ending does not.
        limits: Refused above these sizes, before decoding.
        page: Which image of a TIFF with several.

    Raises:
        FrameError: IMAGE_MISSING, IMAGE_IS_FOLDER, IMAGE_UNREADABLE, or as `decode`.
    """
    return decode(_read_bytes(Path(path), limits), name=str(path), limits=limits, page=page)


def read_encoded(path: str | Path, *, limits: ImageLimits = _LIMITS) -> bytes:
    """The bytes of an image file, not yet looked at: for who also hashes them.

    Raises:
        FrameError: IMAGE_MISSING, IMAGE_IS_FOLDER, IMAGE_UNREADABLE, IMAGE_TOO_LARGE.
    """
    return _read_bytes(Path(path), limits)


def decode(
    data: bytes, *, name: str = "image", limits: ImageLimits = _LIMITS, page: int | None = None
) -> Frame:
    """Decode an encoded image held in memory.

    Args:
        data: The whole file.
        name: What error texts and ``Frame.source_id`` call it.
        limits: Refused above these sizes, before decoding.
        page: Which image of a TIFF with several.

    Returns:
        BGR8 (H, W, 3) or MONO8 (H, W) uint8; BGR16 or MONO16 uint16 for 16-bit files.

    Raises:
        FrameError: IMAGE_EMPTY, IMAGE_FORMAT, IMAGE_TRUNCATED, IMAGE_CORRUPT, IMAGE_TOO_LARGE,
            IMAGE_PAGES or IMAGE_ALPHA.
        BackendError: OPENCV_MISSING.
    """
    _check_bytes(len(data), name, limits)
    header = inspect(data, name, max_pixels=limits.max_pixels, page=page)
    if header.orientation != 1:
        # One text for all files, so that the warnings filter says it once.
        warnings.warn(
            f"[IMAGE_EXIF] orientation {header.orientation} ignored: pixels are used as they lie "
            "in the file.",
            ImageWarning,
            stacklevel=2,
        )
    if header.kind == "TIFF":
        data = _single_upright_page(data, header)
    pixels = _opaque(_decoded(data, name), header, name)
    expected = (header.height, header.width) + ((3,) if header.channels == 3 else ())
    if pixels.shape != expected or pixels.dtype.itemsize * 8 != header.depth:
        raise _undecodable(
            name, f"decoded to {pixels.dtype} {pixels.shape}; its header says {expected}"
        )
    wide = header.depth == 16
    if header.channels == 3:
        layout = PixelFormat.BGR16 if wide else PixelFormat.BGR8
    else:
        layout = PixelFormat.MONO16 if wide else PixelFormat.MONO8
    return Frame(pixels, layout, source_id=name, depth=header.depth, is_simulated=True)


def size_of(data: bytes, *, name: str = "image", limits: ImageLimits = _LIMITS) -> tuple[int, int]:
    """(H, W) of an encoded image, read from its header; the file is checked, nothing is decoded.

    Raises:
        FrameError: As `decode`.
    """
    _check_bytes(len(data), name, limits)
    header = inspect(data, name, max_pixels=limits.max_pixels, page=0)
    return header.height, header.width


def encode_png(pixels: NDArray[Any]) -> bytes:
    """Encode grey (H, W) or BGR (H, W, 3) pixels, uint8 or uint16, as PNG, lossless.

    A boolean mask (H, W) is written as 0 and 255.

    Raises:
        ConfigError: IMAGE_PIXELS for any other array.
        StorageError: IMAGE_ENCODE when the encoder refuses.
        BackendError: OPENCV_MISSING.
    """
    return _encoded(pixels, ".png")


def save_image(path: str | Path, pixels: NDArray[Any]) -> None:
    """Write pixels as an image file, atomically; the name's ending (.png .jpg .bmp .tiff) decides.

    Args:
        path: Target; its folder must exist.
        pixels: As for `encode_png`; 16-bit only as PNG or TIFF.

    Raises:
        ConfigError: IMAGE_SUFFIX or IMAGE_PIXELS.
        StorageError: As `edgead.files.atomic_writer`; the old file, if any, is unchanged.
        BackendError: OPENCV_MISSING.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(
            "IMAGE_SUFFIX",
            f"cannot tell the image format from {str(path)!r}; want one of {', '.join(_SUFFIXES)}.",
        )
    files.write_bytes(path, _encoded(pixels, suffix))


_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_WIDE_SUFFIXES = (".png", ".tif", ".tiff")


def _read_bytes(path: Path, limits: ImageLimits) -> bytes:
    try:
        return files.read_bytes(path, max_bytes=limits.max_bytes)
    except FileNotFoundError as error:
        raise FrameError("IMAGE_MISSING", f"{path} does not exist.", "Check the path.") from error
    except IsADirectoryError as error:
        raise FrameError(
            "IMAGE_IS_FOLDER", f"{path} is a folder; want an image file.", "Give a file name."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if getattr(error, "errno", None) == errno.EFBIG:
            raise _too_large(str(path), limits) from error
        reason = getattr(error, "strerror", None) or str(error)
        raise FrameError(
            "IMAGE_UNREADABLE",
            f"cannot read {str(path)!r}: {reason}.",
            "Check that it is a file that you may read.",
        ) from error


def _check_bytes(count: int, name: str, limits: ImageLimits) -> None:
    if count > limits.max_bytes:
        raise _too_large(name, limits)


def _too_large(name: str, limits: ImageLimits) -> FrameError:
    return FrameError(
        "IMAGE_TOO_LARGE",
        f"{name} is over {limits.max_bytes / 1e6:.0f} MB encoded. Nothing was decoded.",
        "Raise ImageLimits.max_bytes if this size is meant.",
    )


def opencv() -> Any:
    """The ``cv2`` module, or a BackendError OPENCV_MISSING that says what to install."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise BackendError(
            "OPENCV_MISSING",
            f"image files need OpenCV, which does not import ({error}).",
            "pip install 'edgead[cpu]'; on a Jetson use the OpenCV of JetPack.",
        ) from error


def _decoded(data: bytes, name: str) -> NDArray[Any]:
    """Pixels as stored: no orientation, no change of depth or channels."""
    cv2 = opencv()
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        raise _undecodable(name, "OpenCV cannot decode it") from error
    if pixels is None:
        raise _undecodable(name, "OpenCV cannot decode it")
    return np.asarray(pixels)


def _undecodable(name: str, what: str) -> FrameError:
    return FrameError("IMAGE_CORRUPT", f"{name}: {what}.", "Copy or record it again.")


def _opaque(pixels: NDArray[Any], header: ImageHeader, name: str) -> NDArray[Any]:
    """Drop a fourth channel that says nothing; refuse one that hides pixels."""
    if pixels.ndim != 3 or pixels.shape[2] not in (2, 4):
        return pixels
    alpha = pixels[:, :, -1]
    if header.has_alpha and not (alpha == np.iinfo(alpha.dtype).max).all():
        raise FrameError(
            "IMAGE_ALPHA",
            f"{name} has transparent pixels; their colour is not defined.",
            "Save it without an alpha channel.",
        )
    colour = pixels[:, :, :3] if header.channels == 3 else pixels[:, :, 0]
    return np.ascontiguousarray(colour)


def _single_upright_page(data: bytes, header: ImageHeader) -> bytes:
    """Make the page asked for the first one, and its orientation 1: OpenCV would apply it."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    patched = bytearray(data)
    patched[4:8] = header.page_offset.to_bytes(4, order)
    if header.orientation_offset:
        place = header.orientation_offset
        patched[place : place + 2] = (1).to_bytes(2, order)
    return bytes(patched)


def _encoded(pixels: NDArray[Any], suffix: str) -> bytes:
    array = np.asarray(pixels)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    grey_or_bgr = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    wide = array.dtype == np.uint16 and suffix in _WIDE_SUFFIXES
    if not grey_or_bgr or array.size == 0 or not (wide or array.dtype == np.uint8):
        raise ConfigError(
            "IMAGE_PIXELS",
            f"cannot write {array.dtype} pixels {array.shape} as {suffix}; "
            "want (H, W) or (H, W, 3) uint8, or uint16 for PNG and TIFF.",
        )
    cv2 = opencv()
    try:
        done, buffer = cv2.imencode(suffix, np.ascontiguousarray(array))
    except cv2.error as error:
        raise _unencodable(array, suffix) from error
    if not done:
        raise _unencodable(array, suffix)
    return bytes(buffer)


def _unencodable(array: NDArray[Any], suffix: str) -> StorageError:
    return StorageError(
        "IMAGE_ENCODE",
        f"OpenCV cannot encode {array.dtype} pixels {array.shape} as {suffix}; "
        "nothing was written.",
    )
