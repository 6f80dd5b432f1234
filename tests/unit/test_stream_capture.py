"""The program of the capture child against a recorded OpenCV, and USB cameras that do not open."""

from __future__ import annotations

import json
import mmap
import os
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgead.errors import FrameError, SourceError
from edgead.stream import open_source, run
from edgead.stream.child import Child, shared_memory_fd
from edgead.stream.sources import capture_child
from edgead.stream.sources.packets import decode_packet
from edgead.stream.sources.v4l2 import why_not
from edgead.testing import FakeJudge, textured


class FakeOpenCv(SimpleNamespace):
    """What the child uses of OpenCV, recorded."""

    def __init__(self, frames: list[np.ndarray], *, opens: bool = True, takes: bool = True) -> None:
        names = [
            *("CAP_PROP_OPEN_TIMEOUT_MSEC", "CAP_PROP_READ_TIMEOUT_MSEC", "CAP_FFMPEG", "CAP_V4L2"),
            *("CAP_GSTREAMER", "CAP_PROP_FRAME_WIDTH", "CAP_PROP_FRAME_HEIGHT", "CAP_PROP_FPS"),
            *("CAP_PROP_FOURCC", "CAP_PROP_ORIENTATION_AUTO", "CAP_PROP_BUFFERSIZE"),
        ]
        super().__init__(**{name: name for name in names})
        self.calls: list[tuple[Any, ...]] = []
        self._frames = iter(frames)
        self._now: np.ndarray | None = None
        self._opens, self._takes = opens, takes
        self._values: dict[str, float] = {}

    def VideoCapture(self, *args: Any) -> FakeOpenCv:
        self.calls.append(args)
        return self

    def VideoWriter_fourcc(self, *letters: str) -> str:
        return "".join(letters)

    def isOpened(self) -> bool:
        return self._opens

    def set(self, name: str, value: Any) -> None:
        self.calls.append((name, value))
        if self._takes:
            self._values[name] = value

    def get(self, name: str) -> float:
        return self._values.get(name, 8)

    def grab(self) -> bool:
        self._now = next(self._frames, None)
        return self._now is not None

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        return True, self._now


def config_of(api: str = "FFMPEG", **changes: Any) -> dict[str, Any]:
    return {
        "target": "rtsp://x",
        "api": api,
        "open_ms": 5000,
        "read_ms": 2000,
        "slots": 4,
        "settings": {},
        **changes,
    }


def frames_of(cv2: FakeOpenCv, config: dict[str, Any]) -> Iterator[Any]:
    return capture_child._opencv_frames(cv2, config)


@pytest.mark.parametrize("api", ["FFMPEG", "GSTREAMER"])
def test_both_time_limits_and_the_back_end_are_always_set(api: str) -> None:
    cv2 = FakeOpenCv([textured(1)])
    t_ns, decode = next(frames_of(cv2, config_of(api)))
    assert cv2.calls[0] == (
        "rtsp://x",
        f"CAP_{api}",
        ["CAP_PROP_OPEN_TIMEOUT_MSEC", 5000, "CAP_PROP_READ_TIMEOUT_MSEC", 2000],
    )
    assert ("CAP_PROP_ORIENTATION_AUTO", 0) in cv2.calls
    assert np.array_equal(decode(), textured(1))
    assert abs(time.monotonic_ns() - t_ns) < 5e9


def test_a_usb_camera_is_set_and_must_take_it() -> None:
    settings = {"width": 640, "height": 480, "fps": 30, "fourcc": "MJPG"}
    cv2 = FakeOpenCv([textured(1)])
    next(frames_of(cv2, config_of("V4L2", target="/dev/video0", settings=settings)))
    assert cv2.calls[0] == ("/dev/video0", "CAP_V4L2", [])
    assert ("CAP_PROP_FOURCC", "MJPG") in cv2.calls
    assert ("CAP_PROP_FRAME_WIDTH", 640) in cv2.calls
    stubborn = FakeOpenCv([textured(1)], takes=False)
    with pytest.raises(capture_child._CaptureError) as caught:
        next(frames_of(stubborn, config_of("V4L2", settings={"width": 640})))
    assert (caught.value.code, caught.value.text) == (
        "SOURCE_FORMAT",
        "asked for {'width': 640}, the camera gives {'width': 8}.",
    )


def test_frames_above_the_limit_are_refused() -> None:
    cv2 = FakeOpenCv([])
    cv2._values = {"CAP_PROP_FRAME_WIDTH": 10_000, "CAP_PROP_FRAME_HEIGHT": 10_000}
    with pytest.raises(capture_child._CaptureError) as caught:
        next(frames_of(cv2, config_of()))
    assert caught.value.text == "frames have 100 Mpx; limit 64 Mpx."


def test_the_ring_gives_back_what_went_in_and_numbers_what_had_no_room() -> None:
    ours, theirs = Pipe()
    memory = shared_memory_fd()
    ring = capture_child._Ring(theirs, memory, 2)
    sent = [textured(n) for n in range(3)]
    slots = []
    for number, pixels in enumerate(sent[:2]):
        slot = ring.free_slot()
        assert slot is not None
        ring.put(slot, pixels, 100 + number, number)
        slots.append(slot)
    assert ring.free_slot() is None  # a third frame would be skipped, its number not
    for number in range(2):
        message = json.loads(ours.recv_bytes())
        with mmap.mmap(memory, os.fstat(memory).st_size, prot=mmap.PROT_READ) as view:
            raw = view[message["offset"] : message["offset"] + message["bytes"]]
        assert raw == sent[number].tobytes()
        assert (message["number"], message["t"]) == (number, 100 + number)
    ours.send_bytes(bytes(slots[:1]))
    assert ring.free_slot() == slots[0]
    for end in (ours, theirs):
        end.close()
    os.close(memory)


def test_a_larger_frame_waits_until_the_old_ones_were_copied() -> None:
    ours, theirs = Pipe()
    memory = shared_memory_fd()
    ring = capture_child._Ring(theirs, memory, 2)
    slot = ring.free_slot()
    assert slot is not None
    ring.put(slot, textured(1), 0, 0)
    large = textured(2, 100, 100)
    other = ring.free_slot()
    assert other is not None
    thread = threading.Thread(target=ring.put, args=(other, large, 1, 1))
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()  # the first frame still lies at its old place
    ours.recv_bytes()
    ours.send_bytes(bytes([slot]))
    thread.join(5)
    message = json.loads(ours.recv_bytes())
    with mmap.mmap(memory, os.fstat(memory).st_size, prot=mmap.PROT_READ) as view:
        raw = view[message["offset"] : message["offset"] + message["bytes"]]
    assert raw == large.tobytes()
    for end in (ours, theirs):
        end.close()
    os.close(memory)


def test_the_log_of_a_child_is_bounded() -> None:
    child = Child("tests_child_that_is_not_there:main", keep_log=True)
    child.wait()
    assert "ModuleNotFoundError" in child.last_words()
    for _ in range(40):
        os.write(child._log, b"x" * 4000)
        child.trim_log()
        assert os.fstat(child._log).st_size <= 70_000
    os.write(child._log, b"the last words")
    assert child.last_words().endswith("the last words")
    child.close()
    child.close()


def test_why_a_device_does_not_open(tmp_path: Path) -> None:
    device = tmp_path / "video0"
    assert why_not(str(device)) == (
        "SOURCE_NOT_FOUND",
        f"{device} is not there; is the camera plugged in?",
    )
    device.write_text("")
    processes = tmp_path / "proc"
    (processes / "812" / "fd").mkdir(parents=True)
    (processes / "812" / "comm").write_text("guvcview\n")
    assert why_not(str(device), processes=processes) == (
        "SOURCE_FAILED",
        f"{device} cannot be opened as a camera.",
    )
    (processes / "812" / "fd" / "7").symlink_to(device)
    assert why_not(str(device), processes=processes) == (
        "SOURCE_BUSY",
        f"{device} is in use by pid 812 (guvcview).",
    )


def test_a_missing_usb_camera_is_tried_again_and_says_why() -> None:
    pytest.importorskip("cv2")
    source = open_source("/dev/video97")
    with run(FakeJudge(), source) as stream:
        until = time.monotonic() + 20
        while source.last_error is None and time.monotonic() < until:
            time.sleep(0.02)
        assert stream.counts.received == 0
    error = source.last_error
    assert isinstance(error, SourceError)
    assert str(error) == (
        "[SOURCE_NOT_FOUND] /dev/video97: /dev/video97 is not there; is the camera plugged in? "
        "Check the address and the path."
    )


def test_motion_jpeg_of_cameras_that_send_no_huffman_tables_and_of_grey_ones() -> None:
    """Those of UVC cameras and AVI files leave the standard tables out."""
    cv2 = pytest.importorskip("cv2")
    picture = cv2.GaussianBlur(textured(1, 48, 64), (0, 0), 2)
    whole = bytes(cv2.imencode(".jpg", picture)[1])
    bare, position = b"", 0
    while (at := whole.find(b"\xff\xc4", position)) >= 0:
        bare += whole[position:at]
        position = at + 2 + int.from_bytes(whole[at + 2 : at + 4], "big")
    bare += whole[position:]
    assert len(bare) < len(whole)
    expected = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)
    padded = np.frombuffer(bare + bytes(7), np.uint8)  # and packets are filled up
    assert np.array_equal(decode_packet(cv2, padded), expected)
    grey = cv2.imencode(".jpg", picture[:, :, 0])[1].ravel()
    assert decode_packet(cv2, grey).shape == (48, 64, 3)


def test_a_packet_that_promises_too_much_or_holds_too_little() -> None:
    cv2 = pytest.importorskip("cv2")
    packet = bytearray(cv2.imencode(".jpg", textured(1, 48, 64))[1])
    with pytest.raises(FrameError) as error:
        decode_packet(cv2, np.frombuffer(packet[:-40], np.uint8))
    assert str(error.value) == (
        f"[IMAGE_TRUNCATED] a frame of Motion JPEG ends after {len(packet) - 40} bytes, inside its "
        "entropy-coded data (no end marker). Copy or record it again; no pixel of it is used."
    )
    at = packet.index(b"\xff\xc0") + 5
    packet[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(FrameError) as error:
        decode_packet(cv2, np.frombuffer(packet, np.uint8))
    assert error.value.code == "IMAGE_TOO_LARGE"


def test_what_the_decoder_refuses_is_a_damaged_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")
    packet = cv2.imencode(".jpg", textured(1, 48, 64))[1].ravel()

    def fails(*_: Any) -> None:
        raise cv2.error("no")

    for answer in (fails, lambda *_: None, lambda *_: np.zeros((8, 8, 3), np.uint8)):
        monkeypatch.setattr(cv2, "imdecode", answer)
        with pytest.raises(FrameError) as error:
            decode_packet(cv2, packet)
        assert str(error.value) == ("[IMAGE_CORRUPT] a frame of Motion JPEG cannot be decoded.")
