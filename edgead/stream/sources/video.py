"""Video files, decoded by OpenCV, or by PyAV where there is no OpenCV."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import FrameError, SourceError
from edgead.frame import Frame, PixelFormat
from edgead.stream.sources.base import Captured, EndOfSource, SourceKind
from edgead.stream.sources.packets import MAX_PIXELS, decode_packet, takes_packets

__all__ = ["VIDEO_SUFFIXES", "VideoSource"]

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".mjpeg", ".mjpg", ".h264", ".ts"}
)
#: FFmpeg goes by a file's content, not by its name: a playlist or a list of files that is called .mp4
#: would have it open others. So the content must be one of these from its first byte on.
_STARTS = re.compile(
    rb"....(?:ftyp|moov|mdat|free|skip|wide)"  # MP4, MOV
    rb"|RIFF....AVI "
    rb"|\x1a\x45\xdf\xa3"  # Matroska, WebM
    rb"|\xff\xd8\xff"  # Motion JPEG
    rb"|\x00{2,3}\x01"  # MPEG, H.264
    rb"|(?:G.{187}|.{4}G.{191})",  # MPEG-TS, of 188 or 192 bytes a packet
    re.DOTALL,
)


class VideoSource:
    """Every frame of a video file, in order, as BGR8; a rotation flag is not applied.

    Args:
        path: The file.
        source_id: Name of the source.

    Raises:
        SourceError: SOURCE_NOT_FOUND, SOURCE_CODEC or SOURCE_BACKEND.
    """

    is_simulated = True

    def __init__(self, path: str | Path, *, source_id: str = "") -> None:
        self.path = Path(path)
        self.source_id = source_id or self.path.name
        self.kind: SourceKind = "file"
        self._lock = threading.Lock()
        self._is_closed = False
        if not self.path.is_file():
            raise SourceError("SOURCE_NOT_FOUND", f"{self.path} does not exist.")
        _check_start(self.path)
        # Absolute: FFmpeg takes what stands before a colon in a name for a protocol.
        self._frames = _frames(self.path.absolute())
        self._first: NDArray[np.uint8] | FrameError | None = next(self._frames, None)
        if self._first is None:
            raise _cannot_decode(self.path)

    def read(self, timeout_s: float) -> Captured:  # noqa: ARG002 - decoding is bounded
        """The next frame."""
        with self._lock:
            if self._is_closed:
                raise EndOfSource
            pixels, self._first = self._first, None
            if pixels is None:
                pixels = next(self._frames, None)
        if pixels is None:
            raise EndOfSource
        if isinstance(pixels, FrameError):
            return pixels
        now = time.monotonic_ns()
        return Frame(pixels, PixelFormat.BGR8, t_mono_ns=now, is_simulated=True)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._is_closed = True
            self._frames.close()  # type: ignore[attr-defined]


def _check_start(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            start = stream.read(256)
    except OSError as error:
        raise SourceError(
            "SOURCE_NOT_FOUND", f"{path} cannot be read: {error.strerror}."
        ) from error
    if not _STARTS.match(start):
        raise SourceError(
            "SOURCE_CODEC",
            f"{path} starts with {start[:8]!r}; want a video: MP4, MOV, AVI, Matroska, WebM, MPEG, "
            "MPEG-TS, Motion JPEG or H.264.",
            "Play it elsewhere, or convert it to H.264 in MP4.",
        )


def _frames(path: Path) -> Iterator[NDArray[np.uint8] | FrameError]:
    try:
        import cv2
    except ImportError:
        return _pyav_frames(path)
    return _opencv_frames(cv2, path)


def _opencv_frames(cv2: Any, path: Path) -> Iterator[NDArray[np.uint8] | FrameError]:
    opened = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        opened.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        size = opened.get(cv2.CAP_PROP_FRAME_WIDTH) * opened.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if size > MAX_PIXELS:
            raise SourceError("SOURCE_CODEC", f"{path}: {size / 1e6:.0f} Mpx; limit 64 Mpx.")
        packets = takes_packets(cv2, opened)
        while True:
            found, pixels = opened.read()
            if not found:
                return
            try:
                yield decode_packet(cv2, pixels) if packets else pixels
            except FrameError as error:
                yield error
    finally:
        opened.release()


def _pyav_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    try:
        import av
    except ImportError as error:
        raise SourceError(
            "SOURCE_BACKEND",
            "neither OpenCV nor PyAV is installed.",
            "Install edgead[cpu] or edgead[video].",
        ) from error
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="bgr24")
    except (av.error.FFmpegError, IndexError) as error:
        raise _cannot_decode(path) from error


def _cannot_decode(path: Path) -> SourceError:
    return SourceError(
        "SOURCE_CODEC",
        f"{path} holds no video that can be decoded.",
        "Play it elsewhere, or convert it to H.264 in MP4.",
    )
