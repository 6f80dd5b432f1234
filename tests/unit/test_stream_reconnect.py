"""Cameras that fall silent, end or cannot be opened, on the injected clock."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from edgead.errors import SourceError
from edgead.stream.sources import EndOfSource
from edgead.stream.sources.reach import look_of
from edgead.stream.sources.reconnect import Reconnecting, ReconnectLimits
from edgead.stream.watchdog import State
from edgead.testing import FakeClock, textured
from edgead.testing.chaos_cameras import freezes, lost_blocks, outages
from edgead.types import Frame
from edgead.urls import SourceUrl


class Camera:
    """Connections that hand over what they are given: a frame's block id, a pause, an error."""

    def __init__(self, clock: FakeClock, *connections: list[int | float | Exception]) -> None:
        self.clock = clock
        self.closed = 0
        self.opened: list[float] = []
        self._connections = list(connections)
        self._items: list[int | float | Exception] = []

    def connect(self) -> Camera:
        self.opened.append(self.clock() / 1e9)
        self._items = list(self._connections.pop(0)) if self._connections else []
        if self._items and isinstance(self._items[0], SourceError):
            raise self._items[0]
        return self

    def read(self, timeout_s: float) -> Frame | None:
        if not self._items:
            self.clock.advance(timeout_s)
            return None
        item = self._items.pop(0)
        if isinstance(item, Exception):
            raise item
        if isinstance(item, float):
            self.clock.advance(item)
            return None
        return Frame(textured(item), t_mono_ns=self.clock(), block_id=item)

    def close(self) -> None:
        self.closed += 1


def source_of(camera: Camera, is_reachable: Callable[[], bool] | None = None) -> Reconnecting:
    return Reconnecting(
        camera.connect,
        source_id="cam",
        clock=camera.clock,
        wait=camera.clock.advance,
        jitter=lambda: 1.0,
        limits=ReconnectLimits(),
        is_reachable=is_reachable,
    )


def blocks(source: Reconnecting, reads: int) -> list[int | None]:
    found = [source.read(0.1) for _ in range(reads)]
    return [item.block_id for item in found if isinstance(item, Frame)]


def test_a_stall_is_seen_after_two_seconds_and_the_source_comes_back() -> None:
    camera = Camera(FakeClock(), [0, 1, 2], [0, 1])
    source = source_of(camera)
    assert blocks(source, 3) == [0, 1, 2]
    assert source.state is State.RUNNING
    start = camera.clock()
    while source.stalls == 0:
        source.read(0.1)
    assert 2.0 <= (camera.clock() - start) / 1e9 <= 2.25
    assert (source.state, camera.closed) == (State.STALLED, 1)
    assert blocks(source, 10) == [3, 4]  # numbers go on, and none is repeated
    assert source.state is State.RUNNING
    assert source.longest_gap_s > 2


def test_a_pause_below_the_limit_is_no_stall() -> None:
    camera = Camera(FakeClock(), [0, 1.9, 1, 1.9, 2])
    source = source_of(camera)
    assert blocks(source, 5) == [0, 1, 2]
    assert (source.stalls, len(camera.opened)) == (0, 1)


def test_back_off_doubles_to_its_bound_and_starts_over() -> None:
    refused = SourceError("SOURCE_REFUSED", "no")
    camera = Camera(FakeClock(0), *[[refused]] * 10, [0])
    source = source_of(camera)
    while not isinstance(source.read(100), Frame):
        pass
    waits = [round(b - a, 2) for a, b in zip(camera.opened, camera.opened[1:], strict=False)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]
    assert (source.failed_opens, source.disconnects) == (10, 0)


def test_a_camera_that_can_be_reached_again_is_tried_at_once() -> None:
    refused = SourceError("SOURCE_REFUSED", "no")
    clock = FakeClock(0)
    camera = Camera(clock, *[[refused]] * 10, [0])
    source = source_of(camera, lambda: not 0.5 < clock() / 1e9 < 40.0)
    while not isinstance(source.read(0.1), Frame):
        pass
    # Attempts at 25.5 and then not before 51.1: it was seen at 40, and answered when it was ready.
    assert [at for at in camera.opened if 12.7 < at < 40.0] == [pytest.approx(25.5, abs=0.2)]
    assert camera.opened[-2] == pytest.approx(40.2, abs=0.5)
    assert camera.opened[-1] - camera.opened[-2] == pytest.approx(0.1, abs=0.05)


def test_a_camera_that_answers_and_sends_nothing_is_tried_ever_more_rarely() -> None:
    clock = FakeClock(0)
    camera = Camera(clock)
    source = source_of(camera, lambda: True)
    while clock() < 200e9:
        source.read(0.1)
    waits = [b - a - 10.0 for a, b in zip(camera.opened, camera.opened[1:], strict=False)]
    assert waits == sorted(waits)
    assert waits[-1] > 10


def test_one_that_fails_after_every_frame_is_tried_ever_more_rarely() -> None:
    sound = [0, 1.5, 1, 1.5, 2, 1.5, 3, 1.5, 4, EndOfSource()]
    camera = Camera(FakeClock(0), *[[0, EndOfSource()]] * 6, sound, [0])
    source = source_of(camera)
    assert len(blocks(source, 200)) == 12
    waits = [round(b - a, 1) for a, b in zip(camera.opened, camera.opened[1:], strict=False)]
    assert waits[:7] == [
        0.1,
        0.2,
        0.4,
        0.8,
        1.6,
        3.2,
        6.1,
    ]  # six sound seconds: from the start


def test_a_look_at_a_camera() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        look = look_of(str(SourceUrl(f"rtsp://admin:s3cret@127.0.0.1:{port}/ch1")))
        assert look is not None
        assert look()
    assert not look()
    there, away = look_of("/dev/null"), look_of("/dev/video987")
    assert there is not None
    assert there()
    assert away is not None
    assert not away()
    hidden = str(SourceUrl("rtsp://admin:a/b@camera/x"))  # which part is the host?
    for shown in ("videotestsrc ! appsink", "rtsp://camera:99999999/x", "0", "rtsp://[x", hidden):
        assert look_of(shown) is None


def test_an_ended_or_broken_connection_is_a_disconnect() -> None:
    camera = Camera(FakeClock(), [0, EndOfSource()], [0, SourceError("SOURCE_LOST", "x")], [0])
    source = source_of(camera)
    assert blocks(source, 20) == [0, 1, 2]
    assert source.disconnects == 2


def test_a_wrong_password_at_the_first_attempt_is_final() -> None:
    camera = Camera(FakeClock(), [SourceError("SOURCE_AUTH", "wrong password")])
    with pytest.raises(SourceError, match="wrong password"):
        source_of(camera).read(0.1)


def test_a_wrong_password_later_is_not() -> None:
    camera = Camera(FakeClock(), [0, 3.0], [SourceError("SOURCE_AUTH", "x")], [0])
    source = source_of(camera)
    assert blocks(source, 20) == [0, 1]


def test_after_close_it_ends() -> None:
    source = source_of(Camera(FakeClock(), [0]))
    source.close()
    with pytest.raises(EndOfSource):
        source.read(0.1)


def test_an_outage_campaign() -> None:
    found = outages(1, stalls=10, disconnects=10, failed_opens=30)
    assert found["stalls_seen"] == found["stalls_recovered"] == 10
    assert found["disconnects_seen"] == found["disconnects_recovered"] == 10
    assert found["stall_seen_after_max_s"] <= 2.25
    assert found["stall_recovery_median_s"] < 1
    assert found["disconnect_recovery_median_s"] < 1
    assert (found["invented"], found["repeated_ids"], found["failed_opens"]) == (0, 0, 30)


def test_freezes_and_lost_blocks() -> None:
    found = freezes(1, 6)
    assert (found["found_at_once"], found["false_accepts"], found["false_alarms"]) == (6, 0, 0)
    assert lost_blocks(1, 50)["found"] == {"16": 50, "32": 50, "64": 50}
