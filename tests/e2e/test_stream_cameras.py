"""Real cameras' stand-ins: RTSP and video give what the files gave, and come back after a loss."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgead import Detector, images
from edgead.errors import SourceError
from edgead.stream import Judge, Stream, open_source, run
from edgead.stream.sources.reconnect import Reconnecting, ReconnectLimits
from edgead.testing import FakeJudge, detection_of
from edgead.testing.audit import Resources
from edgead.testing.servers import RtspServer, SilentServer
from edgead.testing.tiny import tiny_bundle
from edgead.types import Detection, Frame, Outcome

cv2 = pytest.importorskip("cv2")
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = Resources.now()
    yield
    until = time.monotonic() + 3
    while any(v > 0 for v in Resources.now().gained(before).values()) and time.monotonic() < until:
        time.sleep(0.05)
    assert Resources.now().gained(before) == {"fds": 0, "threads": 0, "processes": 0}


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    rng = np.random.default_rng(5)
    base = cv2.GaussianBlur(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8), (0, 0), 2)
    shifted = [np.roll(base, 5 * n, 1) for n in range(30)]
    return [cv2.imencode(".jpg", picture)[1].tobytes() for picture in shifted]


@pytest.fixture(scope="module")
def detector() -> Iterator[Detector]:
    """Opened before handles are counted: engines keep some for the process."""
    pytest.importorskip("openvino")
    with Detector(tiny_bundle(), backend="openvino", check_ranges=False) as opened:
        yield opened


def judge(frame: Frame) -> Detection:
    """A score that changes with any bit of the frame."""
    digest = hashlib.sha256(frame.pixels.tobytes()).digest()
    return detection_of(frame, int.from_bytes(digest[:6], "big") / 2**48)


def score(outcome: Outcome) -> float | str:
    return outcome.detection.score if outcome.detection is not None else outcome.reason


def first(stream: Stream, count: int) -> list[Outcome]:
    found = []
    for outcome in stream:
        found.append(outcome)
        if len(found) == count:
            break
    return found


def alike_by_every_way(judge: Judge, folder: Path, pictures: list[bytes]) -> None:
    """A video file, a folder of its frames and a camera that sends them by RTSP: the same scores."""
    video = folder / "line.mjpeg"
    video.write_bytes(b"".join(pictures))
    (folder / "frames").mkdir()
    source = open_source(video)
    for number in range(len(pictures)):
        frame = source.read(1)
        assert isinstance(frame, Frame)
        images.save_image(folder / "frames" / f"{number:04d}.png", frame.pixels)
    source.close()
    scores = [score(o) for o in run(judge, video)]
    assert len(set(scores)) == len(pictures)
    assert [score(o) for o in run(judge, folder / "frames")] == scores
    with RtspServer(pictures, fps=60, loops=True) as server:
        outcomes = first(run(judge, server.url, policy="every"), len(pictures))
    # By the number of the frame: on a busy machine some are lost before edgead, and counted.
    places = [o.block_id % len(pictures) for o in outcomes if o.block_id is not None]
    assert [score(o) for o in outcomes] == [scores[place] for place in places]
    assert len(set(places)) > 2  # on a busy machine every second one may be lost
    assert not any(o.is_simulated for o in outcomes)


def test_video_rtsp_and_folder_give_the_same_bits(tmp_path: Path, pictures: list[bytes]) -> None:
    alike_by_every_way(judge, tmp_path, pictures)


def test_video_rtsp_and_folder_give_the_same_scores(tmp_path: Path, detector: Detector) -> None:
    steps = np.repeat(np.uint8([20, 40]), 8)[:, None, None]  # one colour would be refused
    levels = [np.broadcast_to(steps + np.uint8(6 * n), (16, 16, 3)) for n in range(30)]
    pictures = [cv2.imencode(".jpg", level)[1].tobytes() for level in levels]
    alike_by_every_way(detector, tmp_path, pictures)


def test_a_lost_rtsp_camera_comes_back_in_the_same_colours(
    tmp_path: Path, pictures: list[bytes]
) -> None:
    video = tmp_path / "line.mjpeg"
    video.write_bytes(b"".join(pictures))
    expected = {score(o) for o in run(judge, video)}
    with RtspServer(pictures, fps=200) as server:  # ends after 30 pictures: a disconnect each time
        stream = run(judge, server.url, policy="every")
        source = next(iter(stream._sources.values()))
        assert isinstance(source, Reconnecting)
        seen = []
        for outcome in stream:
            seen.append(score(outcome))
            # On a busy machine some are lost before edgead: until enough different ones have come.
            if source.disconnects >= 2 and len(set(seen)) > len(pictures) // 2:
                break
    assert set(seen) <= expected  # bit by bit the same


def test_a_camera_that_falls_silent_is_found_and_opened_again(pictures: list[bytes]) -> None:
    with RtspServer(pictures, fps=200, falls_silent_after=40) as server:
        source = open_source(server.url)
        assert isinstance(source, Reconnecting)
        source._limits = ReconnectLimits(stall_s=0.5, first_wait_s=0.05)
        outcomes = first(Stream(FakeJudge(), {"cam": source}, policy="every"), 80)
    assert source.stalls + source.disconnects >= 1
    assert all(o.accept for o in outcomes)
    blocks = [o.block_id for o in outcomes if o.block_id is not None]
    assert blocks == sorted(set(blocks))
    assert len(blocks) == 80


def test_a_wrong_password_is_told_without_the_password(pictures: list[bytes]) -> None:
    with RtspServer(pictures, password="right") as server:
        url = server.url.replace("rtsp://", "rtsp://user:wr0ngsecret@")
        server._password = "x"
        refuse = SilentAuth(server)
        with pytest.raises(SourceError) as caught:
            list(run(FakeJudge(), url))
        refuse.restore()
    assert caught.value.code == "SOURCE_AUTH"
    assert "wr0ngsecret" not in str(caught.value)
    assert "wr0ngsecret" not in repr(caught.value.__cause__)


class SilentAuth:
    """Let the server refuse every password."""

    def __init__(self, server: RtspServer) -> None:
        self._server = server
        self._serve = server._serve
        server._serve = self._refuse  # type: ignore[method-assign]

    def _refuse(self, connection: socket.socket) -> None:
        data = connection.recv(4096)
        while data:
            number = data.decode().lower().split("cseq:")[1].split("\r\n")[0].strip()
            head = f"RTSP/1.0 401 Unauthorized\r\nCSeq: {number}\r\n"
            connection.sendall((head + 'WWW-Authenticate: Basic realm="x"\r\n\r\n').encode())
            data = connection.recv(4096)

    def restore(self) -> None:
        self._server._serve = self._serve  # type: ignore[method-assign]


@pytest.mark.parametrize("describes", [False, True])
def test_a_black_hole_is_left_within_a_second(describes: bool) -> None:
    with SilentServer(describes=describes) as server:
        stream = run(FakeJudge(), f"rtsp://127.0.0.1:{server.port}/x")
        until = time.monotonic() + 5
        while server.connections == 0 and time.monotonic() < until:
            time.sleep(0.02)
        assert server.connections == 1
        start = time.monotonic()
        stream.close()
        assert time.monotonic() - start < 15  # the time limits of capture are longer
    assert stream.counts.received == 0


def http_camera(pictures: list[bytes]) -> tuple[str, threading.Thread, socket.socket]:
    """A camera that sends ``pictures`` to whoever asks, as browsers show them."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(4096)
        head = "HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n"
        connection.sendall(head.encode())
        try:
            for picture in pictures:
                about = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                connection.sendall(about.encode() + picture + b"\r\n")
        except OSError:
            pass
        connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/video", thread, listener


def test_http_mjpeg(pictures: list[bytes]) -> None:
    url, thread, listener = http_camera(pictures * 20)
    outcomes = first(run(judge, url, policy="every"), 10)
    listener.close()
    thread.join(5)
    assert all(o.detection is not None for o in outcomes)
    places = {o.block_id % len(pictures) for o in outcomes if o.block_id is not None}
    assert len({score(o) for o in outcomes}) == len(places) > 1


def test_a_camera_that_changes_its_size_is_told_and_accepts_nothing(pictures: list[bytes]) -> None:
    """OpenCV alone scales the later frames to the size of the first."""
    large = [cv2.resize(cv2.imdecode(np.frombuffer(p, np.uint8), 1), (400, 300)) for p in pictures]
    encoded = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in large]
    url, thread, listener = http_camera(pictures + encoded * 40)
    changed = []
    stream = run(judge, url, policy="every")
    for outcome in stream:
        if outcome.reason == "FRAME_SHAPE_CHANGED":
            changed.append(outcome)
        if len(changed) == 5:
            break
    stream.close()
    listener.close()
    thread.join(5)
    assert not any(outcome.accept for outcome in changed)


def test_without_opencv_a_video_is_read_by_pyav(tmp_path: Path, pictures: list[bytes]) -> None:
    pytest.importorskip("av")
    from edgead.stream.sources.video import _pyav_frames

    path = tmp_path / "line.mjpeg"
    path.write_bytes(b"".join(pictures))
    source = open_source(path)
    count = 0
    for pixels in _pyav_frames(path):
        frame = source.read(1)
        assert isinstance(frame, Frame)
        difference = np.abs(pixels.astype(int) - frame.pixels)
        assert difference.mean() < 2  # the two convert YUV with their own arithmetic
        count += 1
    source.close()
    assert count == len(pictures)
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(SourceError) as caught:
        list(_pyav_frames(tmp_path / "bad.mp4"))
    assert caught.value.code == "SOURCE_CODEC"
