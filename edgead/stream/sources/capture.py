"""Capture in a child process: a camera whose driver hangs in C can always be killed.

Network streams, USB and CSI cameras and GStreamer pipelines are read there; frames come over in
shared memory. `edgead.stream.sources.reconnect` opens them again.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np

from edgead.errors import SourceError
from edgead.frame import Frame, PixelFormat
from edgead.stream.child import Child
from edgead.stream.sources.base import Captured
from edgead.urls import SourceUrl

__all__ = ["CaptureConfig", "ChildCapture"]

_PROGRAM = "edgead.stream.sources.capture_child:main"


@dataclass(frozen=True)
class CaptureConfig:
    """What the child opens, and how.

    Attributes:
        target: Address, device number or GStreamer pipeline; may hold a password.
        api: OpenCV's back end, always named: its time limits are ignored otherwise.
        open_ms: Limit of opening, ms.
        read_ms: Limit of one read, ms.
        slots: Frames that may lie in shared memory.
        settings: width, height, fps, fourcc of a USB camera.
    """

    target: str = field(repr=False)
    api: Literal["FFMPEG", "V4L2", "GSTREAMER"]
    open_ms: int = 5000
    read_ms: int = 2000
    slots: int = 4
    settings: Mapping[str, int | str] = field(default_factory=dict)


class ChildCapture:
    """One connection to a camera. Starting it does not wait; `read` says when it failed.

    Args:
        config: What to open.
        url: The same address, for messages without its password.
    """

    def __init__(self, config: CaptureConfig, url: SourceUrl) -> None:
        # The password must reach FFmpeg over the control socket only; the transport is no secret.
        options = "rtsp_transport;tcp|protocol_whitelist;rtsp,rtsps,rtp,udp,tcp,tls,http,https"
        limits = {"OPENCV_FFMPEG_CAPTURE_OPTIONS": options} if config.api == "FFMPEG" else {}
        self._url = url
        self._child = Child(_PROGRAM, environment=limits, keep_log=True)
        self._child.control.send_bytes(json.dumps(asdict(config)).encode())
        self._memory: mmap.mmap | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def read(self, timeout_s: float) -> Captured:
        """The next frame, or None when nothing came in time.

        Raises:
            SourceError: SOURCE_AUTH, SOURCE_NOT_FOUND, SOURCE_BUSY, SOURCE_TLS, SOURCE_CODEC,
                SOURCE_TIMEOUT, SOURCE_BACKEND or SOURCE_LOST.
        """
        with self._lock:
            if self._is_closed:
                return None
            try:
                if not self._child.control.poll(timeout_s):
                    return None
                message = json.loads(self._child.control.recv_bytes())
            except (EOFError, OSError) as error:
                raise self._lost("SOURCE_LOST", "the capture process ended.") from error
            if "error" in message:
                raise self._lost(message["error"], message["text"])
            return self._frame(message)

    def close(self) -> None:
        """Kill the child; waits at most for a `read` that is running."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._child.close()
            if self._memory is not None:
                self._memory.close()

    def _frame(self, message: dict[str, int | list[int]]) -> Frame:
        self._child.trim_log()
        offset, size = int(message["offset"]), int(message["bytes"])  # type: ignore[arg-type]
        if self._memory is None or len(self._memory) < offset + size:
            if self._memory is not None:
                self._memory.close()
            length = os.fstat(self._child.memory_fd).st_size
            self._memory = mmap.mmap(self._child.memory_fd, length, prot=mmap.PROT_READ)
        raw = np.frombuffer(self._memory[offset : offset + size], np.uint8)  # a copy: slicing
        self._child.control.send_bytes(bytes([int(message["slot"])]))  # type: ignore[arg-type]
        shape: list[int] = message["shape"]  # type: ignore[assignment]
        return Frame(
            raw.reshape(shape),
            PixelFormat.MONO8 if len(shape) == 2 else PixelFormat.BGR8,
            t_mono_ns=int(message["t"]),  # type: ignore[arg-type]
            block_id=int(message["number"]),  # type: ignore[arg-type]
        )

    def _lost(self, code: str, text: str) -> SourceError:
        words = self._child.last_words()
        found = next((c for sign, c in _SIGNS if sign.search(words)), code)
        said = self._url.scrub(text)
        return SourceError(found, f"{self._url}: {said}", _HINTS.get(found, ""))


#: What FFmpeg and V4L2 say on stderr -> the code of the cause.
_SIGNS = (
    (re.compile(r"(?:failed:|error) 40[13]\b"), "SOURCE_AUTH"),
    (re.compile(r"(?:failed:|error) 404\b"), "SOURCE_NOT_FOUND"),
    (re.compile(r"Connection refused"), "SOURCE_REFUSED"),
    (
        re.compile(r"No route to host|Name or service not known|Failed to resolve"),
        "SOURCE_NOT_FOUND",
    ),
    (re.compile(r"Device or resource busy"), "SOURCE_BUSY"),
    (re.compile(r"[Cc]ertificate"), "SOURCE_TLS"),
)
_HINTS = {
    "SOURCE_AUTH": "Check the user and the password.",
    "SOURCE_NOT_FOUND": "Check the address and the path.",
    "SOURCE_REFUSED": "Is the camera's stream switched on, and the port right?",
    "SOURCE_BUSY": "Close the other program that uses the camera.",
    "SOURCE_BACKEND": "Install edgead[cpu], or use an OpenCV that has this back end.",
}
