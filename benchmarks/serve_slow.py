"""What serving costs the inspection loop: nobody watches, a page is open, 200 slow connections.

    python benchmarks/serve_slow.py part.edgead --json

The same frames through the same detector, the candidates in turn: a plain stream; served, nobody watching; served
with one page open (numbers and pictures, read by another process); served with slow connections (a third send half a
request, a third watch numbers and a third pictures and read nothing). Throughput is of a saturated loop, p99 of frames
that come at a pace, and the processor time of the threads that serve stands beside them: it is the figure that a busy
machine does not spoil. Each ratio is made within a turn, its median over the turns is given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import harness
import numpy as np
from stream import frames_for

from edgead import Detector
from edgead.frame import Frame
from edgead.integrations.serve import serve
from edgead.stream import run
from edgead.stream.sources.base import Captured, EndOfSource
from edgead.types import Outcome

CANDIDATES = ("plain", "served", "page", "slow")
LIVE = "GET /api/v1/live HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
PICTURES = "GET /api/v1/pictures.mjpg HTTP/1.1\r\nHost: {host}\r\n\r\n"
HALF = "POST /api/v1/detect HTTP/1.1\r\nHost: {host}\r\nContent-Le"


class Pace:
    """A live source: ``count`` frames, one every ``period_s``; 0 as fast as they are taken."""

    source_id = "camera"
    is_simulated = False

    def __init__(self, frames: list[Frame], count: int, period_s: float) -> None:
        self.kind = "live" if period_s else "file"
        self._frames, self._left, self._period_s = frames, count, period_s
        self._due = 0.0
        self._started = threading.Event()

    def start(self) -> None:
        """Everybody is connected, and outcomes are read."""
        self._due = time.perf_counter()
        self._started.set()

    def read(self, timeout_s: float) -> Captured:
        """The next frame when it is due."""
        if not self._started.wait(timeout_s):
            return None
        if not self._left:
            raise EndOfSource
        if self._period_s:
            time.sleep(max(0.0, min(self._due - time.perf_counter(), timeout_s)))
            if self._due > time.perf_counter():
                return None
            self._due += self._period_s
        self._left -= 1
        frame = self._frames[self._left % len(self._frames)]
        return Frame(frame.pixels, frame.format, depth=frame.depth)

    def close(self) -> None:
        """Nothing is held."""


@contextlib.contextmanager
def clients(kind: str, url: str, count: int) -> Iterator[None]:
    """Another process that watches."""
    if kind in ("plain", "served"):
        yield
        return
    arguments = [sys.executable, __file__, "--clients", kind, url, str(count)]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def be_clients(kind: str, url: str, count: int) -> None:
    """What that process does: connect, say so, and read (a page) or not (the slow)."""
    host = urlsplit(url).netloc
    asks = [LIVE + KEY, PICTURES] if kind == "page" else [HALF, LIVE + KEY, PICTURES]
    held = []

    def connect(ask: str) -> socket.socket:
        made = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port))
        if kind != "page":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.sendall(ask.format(host=host).encode())
        return made

    for number in range(2 if kind == "page" else count):
        held.append(connect(asks[number % len(asks)]))
    print("ready", flush=True)
    if kind == "page":
        for one in held:
            threading.Thread(
                target=lambda one=one: [0 for _ in iter(lambda: one.recv(65536), b"")]
            ).start()
    while True:  # who is let go comes again, as an attacker would
        time.sleep(0.5)
        for index, one in enumerate(held):
            if kind != "page" and is_closed(one):
                with contextlib.suppress(OSError):
                    held[index] = connect(asks[index % len(asks)])


def is_closed(one: socket.socket) -> bool:
    """Whether the server has let it go; what it sent stays unread but for a look."""
    one.setblocking(False)
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def outcomes_of(
    kind: str, detector: Detector, source: Pace, count: int
) -> tuple[list[Outcome], float]:
    """Everything that the loop hands over, and the processor seconds of the threads that serve."""
    if kind == "plain":
        stream = run(detector, source, policy="every(4)")
        source.start()
        return list(stream), 0.0
    with (
        serve(detector, {"camera": source}, port=0, policy="every(4)") as served,
        clients(kind, served.url, count),
    ):
        before = serving_s()
        source.start()
        return list(served), serving_s() - before


def serving_s() -> float:
    """Processor seconds of the web server's and the pictures' threads so far. Source: proc(5), stat."""
    total = 0.0
    for thread in threading.enumerate():
        if thread.name in ("edgead web", "edgead pictures"):
            stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
            user, system = stat.rpartition(")")[2].split()[11:13]
            total += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return total


def turn(
    kind: str, detector: Detector, frames: list[Frame], arguments: argparse.Namespace
) -> dict[str, float]:
    """Frames a second of a saturated loop, and p99 of a paced one."""
    source = Pace(frames, arguments.frames, 0)
    found, _ = outcomes_of(kind, detector, source, arguments.connections)
    settled = [one.settled_mono_ns for one in found if one.detection is not None]
    fps = (len(settled) - 1) / ((settled[-1] - settled[0]) / 1e9)
    source = Pace(frames, arguments.frames, arguments.period_ms / 1e3)
    started = time.perf_counter()
    paced, spent_s = outcomes_of(kind, detector, source, arguments.connections)
    share = spent_s / (time.perf_counter() - started)
    late = [one.latency_ms for one in paced if one.detection is not None]
    return {
        "fps": fps,
        "p50_ms": float(np.median(late)),
        "p99_ms": float(np.percentile(late, 99)),
        "serving_core_share": share,
    }


def main() -> None:
    if "--clients" in sys.argv:
        be_clients(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--json", action="store_true", help="print the figures on stdout")
    parser.add_argument("--save", action="store_true", help="keep them in benchmarks/results")
    parser.add_argument("--frames", type=int, default=400, help="of each turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (%(default)s)")
    parser.add_argument("--period-ms", type=float, default=25.0, help="of the pace (%(default)s)")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="of the engine (%(default)s)")
    arguments = parser.parse_args()
    sys.setswitchinterval(0.0005)  # as edgead serve does
    turns: list[dict[str, dict[str, float]]] = []
    with Detector(arguments.bundle, threads=arguments.threads, check_ranges=False) as detector:
        frames = frames_for(detector, 16)
        for number in range(arguments.rounds):
            # The order is turned, so that none always comes after the same other.
            order = CANDIDATES[number % 4 :] + CANDIDATES[: number % 4]
            turns.append({kind: turn(kind, detector, frames, arguments) for kind in order})
            print(turns[-1], file=sys.stderr)
        about = repr(detector)
    body = {"detector": about, "frames": arguments.frames, "rounds": arguments.rounds,
            "period_ms": arguments.period_ms, "connections": arguments.connections,
            "load_at_start": round(os.getloadavg()[1], 2), **summary(turns)}  # fmt: skip
    if arguments.save:
        harness.save("serve_slow", "python benchmarks/serve_slow.py BUNDLE --save", body)
    if arguments.json:
        print(json.dumps(body))


def summary(turns: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Medians, and ratios within a turn."""
    figures = ("fps", "p50_ms", "p99_ms")
    medians = {
        kind: {
            f: round(statistics.median(t[kind][f] for t in turns), 4)
            for f in (*figures, "serving_core_share")
        }
        for kind in CANDIDATES
    }
    pairs = [("served", "plain"), ("page", "served"), ("slow", "served"), ("page", "plain")]
    ratios = {
        f"{a} / {b}": {
            f: round(statistics.median(t[a][f] / t[b][f] for t in turns), 3) for f in figures
        }
        for a, b in pairs
    }
    return {"medians": medians, "ratios": ratios}


if __name__ == "__main__":
    main()
