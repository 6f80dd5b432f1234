"""Chaos with cameras: stalls, disconnects, failed opens, freezes, lost blocks, black holes."""

from __future__ import annotations

import random
import socket
import statistics
import threading
import time
from typing import Any

import numpy as np

from edgead.errors import SourceError
from edgead.frame import Frame
from edgead.stream.lane import Lane
from edgead.stream.pipeline import Stream
from edgead.stream.policies import parse_policy
from edgead.stream.service import ServiceTime
from edgead.stream.sources import EndOfSource, SourceKind, open_source
from edgead.stream.sources.reconnect import Reconnecting
from edgead.testing.clock import FakeClock
from edgead.testing.fakes import FakeJudge
from edgead.testing.servers import SilentServer
from edgead.testing.sources import textured

__all__ = ["black_holes", "freezes", "lost_blocks", "outages"]

_PERIOD_NS = 33_000_000


class _Camera:
    """A scripted camera: up, silent or refusing, by the injected clock.

    Args:
        clock: Moved by waiting for frames.
        outages: (start, end, refuses), ns, in order. A silent camera keeps its connections and sends
            nothing; one that refuses cuts them and fails each attempt.
    """

    def __init__(self, clock: FakeClock, outages: list[tuple[int, int, bool]]) -> None:
        self.clock = clock
        self.sent: list[int] = []
        self._outages = outages

    def connect(self) -> _CameraConnection:
        outage = self.outage()
        if outage is not None and outage[2]:
            self.clock.advance(0.01)
            raise SourceError("SOURCE_REFUSED", "camera: connection refused.")
        return _CameraConnection(self)

    def is_reachable(self) -> bool:
        outage = self.outage()
        return outage is None or not outage[2]

    def outage(self) -> tuple[int, int, bool] | None:
        while self._outages and self._outages[0][1] <= self.clock():
            self._outages.pop(0)
        found = self._outages[0] if self._outages else None
        return found if found is not None and found[0] <= self.clock() else None


class _CameraConnection:
    def __init__(self, camera: _Camera) -> None:
        self._camera = camera
        self._block = 0

    def read(self, timeout_s: float) -> Frame | None:
        camera = self._camera
        outage = camera.outage()
        if outage is not None:
            if outage[2]:
                raise SourceError("SOURCE_LOST", "camera: connection reset.")
            camera.clock.advance(timeout_s)
            return None
        camera.clock.advance_to(camera.clock() + _PERIOD_NS)
        number = len(camera.sent)
        camera.sent.append(camera.clock())
        self._block += 1
        return Frame(textured(number % 251), t_mono_ns=camera.clock(), block_id=self._block - 1)

    def close(self) -> None:
        return


def outages(seed: int, *, stalls: int, disconnects: int, failed_opens: int) -> dict[str, Any]:
    """Silent and refusing cameras on the injected clock.

    Returns:
        What was planted, seen and recovered; frames handed over that the camera never sent
        (``invented``); how long after a camera's return its frames came, median, seconds.
    """
    draw = random.Random(f"{seed} outages")
    silent = _outage_run(draw, stalls, refuses=False)
    refused = _outage_run(draw, disconnects, refuses=True)
    clock = FakeClock()
    camera = _Camera(clock, [(0, 2**62, True)])
    source = _source(camera)
    while source.failed_opens < failed_opens:
        source.read(0.1)
    return {
        "stalls": stalls,
        "stalls_seen": silent["stalls_seen"],
        "stalls_recovered": silent["recovered"],
        "stall_recovery_median_s": silent["recovery_median_s"],
        "stall_seen_after_max_s": silent["seen_after_max_s"],
        "disconnects": disconnects,
        "disconnects_seen": refused["disconnects_seen"],
        "disconnects_recovered": refused["recovered"],
        "disconnect_recovery_median_s": refused["recovery_median_s"],
        "failed_opens": source.failed_opens,
        "invented": silent["invented"] + refused["invented"],
        "repeated_ids": silent["repeated_ids"] + refused["repeated_ids"],
    }


def _source(camera: _Camera) -> Reconnecting:
    return Reconnecting(
        camera.connect,
        source_id="camera",
        clock=camera.clock,
        wait=lambda s: camera.clock.advance(max(s, 1e-3)),
        jitter=random.Random(1).random,
        is_reachable=camera.is_reachable,
    )


def _outage_run(draw: random.Random, count: int, *, refuses: bool) -> dict[str, Any]:
    clock = FakeClock()
    plan, start = [], clock() + 5_000_000_000
    for _ in range(count):
        # A silence shorter than the limit is no stall; it is drawn too and must not be counted.
        end = start + int(draw.uniform(0.1 if refuses else 2.3, 60.0) * 1e9)
        plan.append((start, end, refuses))
        start = end + int(draw.uniform(35.0, 60.0) * 1e9)
    camera = _Camera(clock, list(plan))
    source = _source(camera)
    received: list[int] = []
    ids: list[int | None] = []
    seen_after: list[float] = []
    seen = 0
    while clock() < start:
        item = source.read(0.1)
        if isinstance(item, Frame):
            received.append(item.t_mono_ns)
            ids.append(item.block_id)
        if source.stalls > seen:
            seen = source.stalls
            seen_after.append((clock() - received[-1]) / 1e9)
    moments = np.asarray(received)
    # The first frame at or after the end of each outage, and before the next one begins.
    recovery = []
    for (_, end, _), limit in zip(plan, [p[0] for p in plan[1:]] + [start], strict=True):
        place = int(np.searchsorted(moments, end))
        if place < len(moments) and moments[place] < limit:
            recovery.append((int(moments[place]) - end) / 1e9)
    return {
        "stalls_seen": source.stalls,
        "disconnects_seen": source.disconnects,
        "recovered": len(recovery),
        "recovery_median_s": round(statistics.median(recovery), 3) if recovery else None,
        "seen_after_max_s": round(max(seen_after), 3) if seen_after else None,
        "invented": len(set(received) - set(camera.sent)) + len(received) - len(set(received)),
        "repeated_ids": len(ids) - len(set(ids)),
    }


def freezes(seed: int, count: int) -> dict[str, Any]:
    """A sensor that repeats its picture, with new block ids or with the same one.

    New ids: found at the fifth identical frame. The same id: found at the second.
    """
    draw = random.Random(f"{seed} freezes")
    frames: list[Frame] = []
    must_fail: set[int] = set()
    first_found: list[int] = []
    for number in range(count):
        for _ in range(draw.randrange(5, 20)):
            frames.append(Frame(textured(len(frames) % 251), block_id=len(frames)))
        same_id = number % 2 == 0
        length = draw.randrange(2 if same_id else 5, 501)
        frozen = frames[-1]
        for repeat in range(1, length):
            block = frozen.block_id if same_id else len(frames)
            if same_id or repeat >= 4:
                must_fail.add(len(frames))
                if repeat == (1 if same_id else 4):
                    first_found.append(len(frames))
            frames.append(Frame(frozen.pixels, block_id=block))
    accepted_frozen = 0
    found = set()
    false_alarms = 0
    stream = Stream(FakeJudge(), {"camera": _Listed(frames)}, policy="every")
    for outcome in stream:
        is_found = outcome.reason == "FROZEN_SOURCE"
        accepted_frozen += outcome.accept and outcome.seq in must_fail
        false_alarms += is_found and outcome.seq not in must_fail
        if is_found:
            found.add(outcome.seq)
    return {
        "freezes": count,
        "found_at_once": sum(seq in found for seq in first_found),
        "frozen_frames": len(must_fail),
        "false_accepts": accepted_frozen,
        "false_alarms": false_alarms,
        "frames": len(frames),
    }


class _Listed:
    """A live camera that hands over a list of frames."""

    kind: SourceKind = "live"
    is_simulated = False

    def __init__(self, frames: list[Frame]) -> None:
        self.source_id = "camera"
        self._frames = iter(frames)

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002 - a list never waits
        try:
            return next(self._frames)
        except StopIteration:
            raise EndOfSource from None

    def close(self) -> None:
        return


def lost_blocks(seed: int, deleted: int) -> dict[str, Any]:
    """Deleted block ids with wraps at 16 bit, and at 32 and 64 bit: counted exactly."""
    draw = random.Random(f"{seed} blocks")
    found = {}
    for bits in (16, 32, 64):
        start = 0 if bits == 16 else (1 << bits) - 50 * deleted
        total = 100 * deleted
        gone = set(draw.sample(range(1, total - 1), deleted))
        clock = FakeClock()
        lane = Lane(
            "camera",
            parse_policy("latest"),
            clock=clock,
            lock=threading.RLock(),
            emit=lambda *_: None,
            service=ServiceTime(),
        )
        picture = textured(1)
        for number in range(total):
            if number not in gone:
                lane.receive(Frame(picture, t_mono_ns=clock(), block_id=(start + number) % 2**bits))
        found[str(bits)] = lane.ledger.lost_upstream
    return {"deleted": deleted, "found": found}


def black_holes(count: int) -> dict[str, Any]:
    """Open RTSP streams at servers that say nothing, and close them while they hang.

    A third accept and say nothing, a third answer DESCRIBE and then nothing, a third never accept.
    """
    half_open = socket.create_server(("127.0.0.1", 0), backlog=1)
    waiting = [_connect(half_open) for _ in range(3)]  # the backlog is full: SYNs go unanswered
    closing: list[float] = []
    frames = 0
    with SilentServer() as silent, SilentServer(describes=True) as describing:
        ports = (silent.port, describing.port, half_open.getsockname()[1])
        for number in range(count):
            source = open_source(f"rtsp://user:secret@127.0.0.1:{ports[number % 3]}/x")
            stream = Stream(FakeJudge(), {"camera": source})
            time.sleep(0.4)  # long enough for the child to hang in the open
            start = time.monotonic()
            stream.close()
            closing.append(time.monotonic() - start)
            frames += stream.counts.received
    for connection in [*waiting, half_open]:
        connection.close()
    return {
        "opens": count,
        "closed_within_1_s": sum(s < 1.0 for s in closing),
        "close_max_s": round(max(closing), 3),
        "frames": frames,
    }


def _connect(listener: socket.socket) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex(listener.getsockname())
    return connection
