"""The program of the capture child: open, read, put frames into shared memory.

A frame is numbered whether or not there was room for it, so that the parent sees every gap. Time is
taken when a frame has arrived, not before the wait for it.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import FrameError
from edgead.stream.sources.packets import MAX_PIXELS, decode_packet, takes_packets
from edgead.stream.sources.v4l2 import why_not

__all__ = ["main"]

#: Time of arrival, and a function that decodes the frame (None: it was damaged).
_Grabbed = tuple[int, Callable[[], "NDArray[np.uint8] | None"]]


def main(control: Connection, memory_fd: int) -> None:
    """Read the configuration, then send frames until the parent or the camera ends it."""
    config = json.loads(control.recv_bytes())
    ring = _Ring(control, memory_fd, config["slots"])
    try:
        for number, (t_ns, decode) in enumerate(_open(config)):
            slot = ring.free_slot()
            if slot is None:
                continue
            pixels = decode()
            if pixels is not None:
                ring.put(slot, pixels, t_ns, number)
        raise _CaptureError("SOURCE_LOST", "the stream ended.")
    except _CaptureError as error:
        control.send_bytes(json.dumps({"error": error.code, "text": error.text}).encode())
    time.sleep(10)  # the parent reads the message and ends this process


class _CaptureError(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class _Ring:
    """Slots in shared memory; the parent gives each back when it has copied the frame."""

    def __init__(self, control: Connection, memory_fd: int, slots: int) -> None:
        self._control = control
        self._fd = memory_fd
        self._all = slots
        self._free = list(range(slots))
        self._slot_bytes = 0
        self._memory: mmap.mmap | None = None

    def free_slot(self) -> int | None:
        while self._control.poll(0):
            self._free.extend(self._control.recv_bytes())
        return self._free.pop() if self._free else None

    def put(self, slot: int, pixels: NDArray[np.uint8], t_ns: int, number: int) -> None:
        if pixels.nbytes > self._slot_bytes:
            self._enlarge(pixels.nbytes)
        assert self._memory is not None
        offset = slot * self._slot_bytes
        self._memory[offset : offset + pixels.nbytes] = np.ascontiguousarray(pixels).data.cast("B")
        message = {
            "slot": slot,
            "offset": offset,
            "bytes": pixels.nbytes,
            "shape": list(pixels.shape),
            "t": t_ns,
            "number": number,
        }
        self._control.send_bytes(json.dumps(message).encode())

    def _enlarge(self, frame_bytes: int) -> None:
        """Offsets change: wait until the parent has copied everything that lies at the old ones."""
        while len(self._free) < self._all - 1:
            self._free.extend(self._control.recv_bytes())
        self._slot_bytes = -(-frame_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        os.ftruncate(self._fd, self._slot_bytes * self._all)
        if self._memory is not None:
            self._memory.close()
        self._memory = mmap.mmap(self._fd, self._slot_bytes * self._all)


def _open(config: dict[str, Any]) -> Iterator[_Grabbed]:
    try:
        import cv2
    except ImportError as error:
        raise _CaptureError("SOURCE_BACKEND", f"OpenCV cannot be imported: {error}") from error
    if config["api"] == "GSTREAMER" and "GStreamer:                   YES" not in _build(cv2):
        from edgead.stream.sources.gst_child import pipeline_frames

        try:
            yield from pipeline_frames(config["target"], config["read_ms"])
        except ImportError as error:
            text = f"neither OpenCV's GStreamer nor PyGObject is there ({error})."
            raise _CaptureError("SOURCE_BACKEND", text) from error
        except RuntimeError as error:
            raise _CaptureError("SOURCE_LOST", f"the pipeline failed: {error}") from error
        return
    yield from _opencv_frames(cv2, config)


def _build(cv2: Any) -> str:
    return str(cv2.getBuildInformation())


def _opencv_frames(cv2: Any, config: dict[str, Any]) -> Iterator[_Grabbed]:
    api, target = config["api"], config["target"]
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        config["open_ms"],
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        config["read_ms"],
    ]
    opened = cv2.VideoCapture(
        target,
        getattr(cv2, f"CAP_{api}"),
        limits if api in ("FFMPEG", "GSTREAMER") else [],
    )
    if not opened.isOpened() and api == "V4L2":
        raise _CaptureError(*why_not(target))
    if not opened.isOpened():
        raise _CaptureError(
            "SOURCE_TIMEOUT", f"it cannot be opened (limit {config['open_ms']} ms)."
        )
    size = opened.get(cv2.CAP_PROP_FRAME_WIDTH) * opened.get(cv2.CAP_PROP_FRAME_HEIGHT)
    if size > MAX_PIXELS:
        raise _CaptureError("SOURCE_CODEC", f"frames have {size / 1e6:.0f} Mpx; limit 64 Mpx.")
    opened.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    if api == "V4L2":
        opened.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        _apply(cv2, opened, config["settings"])

    packets = api == "FFMPEG" and takes_packets(cv2, opened)

    def decode() -> NDArray[np.uint8] | None:
        found, pixels = opened.retrieve()
        if not found or not packets:
            return pixels if found else None
        try:
            return decode_packet(cv2, pixels)
        except FrameError:
            return None

    while opened.grab():
        yield time.monotonic_ns(), decode
    raise _CaptureError("SOURCE_LOST", f"no frame came within {config['read_ms']} ms, or it ended.")


def _apply(cv2: Any, opened: Any, settings: dict[str, int | str]) -> None:
    """Set what was asked for; a camera that does not take it is refused, not used as it is."""
    if "fourcc" in settings:
        opened.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*str(settings["fourcc"])))
    names = {
        "width": cv2.CAP_PROP_FRAME_WIDTH,
        "height": cv2.CAP_PROP_FRAME_HEIGHT,
        "fps": cv2.CAP_PROP_FPS,
    }
    wanted = {name: int(value) for name, value in settings.items() if name in names}
    for name, value in wanted.items():
        opened.set(names[name], value)
    got = {name: round(opened.get(names[name])) for name in wanted}
    if got != wanted:
        raise _CaptureError("SOURCE_FORMAT", f"asked for {wanted}, the camera gives {got}.")
