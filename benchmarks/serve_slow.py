"""What serving costs the inspection loop: nobody watches, a page is open, 200 slow connections.

    python benchmarks/serve_slow.py part.edgead --json

The same frames through the same detector, the candidates in turn: a plain stream; served, nobody watching; served
with one page open (numbers and pictures, read by another process); served with slow connections (a third send half a
request, a third watch numbers and a third pictures and read nothing; who is let go comes again within half a second).
Throughput is of a saturated loop in short turns: ratios are made within a round. Latency is of frames that come at a
pace, all turns together. The processor time of the threads that serve stands beside them: a busy machine does not
spoil it.
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
        made = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=60)
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


def saturated(
    kind: str, detector: Detector, frames: list[Frame], arguments: argparse.Namespace
) -> float:
    """Frames a second of a loop that takes them as fast as it can."""
    source = Pace(frames, arguments.frames, 0)
    found, _ = outcomes_of(kind, detector, source, arguments.connections)
    settled = [one.settled_mono_ns for one in found if one.detection is not None]
    return (len(settled) - 1) / ((settled[-1] - settled[0]) / 1e9)


def paced(
    kind: str, detector: Detector, frames: list[Frame], arguments: argparse.Namespace
) -> tuple[list[float], float]:
    """Latencies of frames that come at a pace, ms, and the share of a core that serving took."""
    source = Pace(frames, arguments.paced_frames, arguments.period_ms / 1e3)
    started = time.perf_counter()
    found, spent_s = outcomes_of(kind, detector, source, arguments.connections)
    share = spent_s / (time.perf_counter() - started)
    return [one.latency_ms for one in found if one.detection is not None], share


def main() -> None:
    if "--clients" in sys.argv:
        be_clients(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--json", action="store_true", help="print the figures on stdout")
    parser.add_argument("--save", action="store_true", help="keep them in benchmarks/results")
    parser.add_argument("--frames", type=int, default=250, help="of a saturated turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="saturated turns (%(default)s)")
    parser.add_argument(
        "--paced-frames", type=int, default=400, help="of a paced one (%(default)s)"
    )
    parser.add_argument("--paced-rounds", type=int, default=4, help="paced turns (%(default)s)")
    parser.add_argument("--period-ms", type=float, default=25.0, help="of the pace (%(default)s)")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="of the engine (%(default)s)")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    sys.setswitchinterval(0.0005)  # as edgead serve does
    fps: dict[str, list[float]] = {kind: [] for kind in CANDIDATES if kind != "slow"}
    late: dict[str, list[float]] = {kind: [] for kind in CANDIDATES}
    share: dict[str, list[float]] = {kind: [] for kind in CANDIDATES}
    with Detector(arguments.bundle, threads=arguments.threads, check_ranges=False) as detector:
        frames = frames_for(detector, 16)
        for number in range(arguments.rounds):
            for kind in turned(list(fps), number):
                fps[kind].append(saturated(kind, detector, frames, arguments))
        for number in range(arguments.paced_rounds):
            for kind in turned(list(late), number):
                found, spent = paced(kind, detector, frames, arguments)
                late[kind] += found
                share[kind].append(spent)
        about = repr(detector)
    body = {"detector": about, "frames": arguments.frames, "rounds": arguments.rounds,
            "paced_frames": len(late["plain"]), "period_ms": arguments.period_ms,
            "connections": arguments.connections, "load_at_start": round(load, 2),
            **summary(fps, late, share)}  # fmt: skip
    if arguments.save:
        harness.save("serve_slow", "python benchmarks/serve_slow.py BUNDLE --save", body)
    if arguments.json:
        print(json.dumps(body))


def turned(kinds: list[str], number: int) -> list[str]:
    """The order of a round: none always comes after the same other."""
    start = number % len(kinds)
    return kinds[start:] + kinds[:start]


def summary(
    fps: dict[str, list[float]], late: dict[str, list[float]], share: dict[str, list[float]]
) -> dict[str, Any]:
    """Throughput: ratios within a round, their median and quartiles. Latency: of all paced frames together."""
    paced_by = {}
    for kind, values in late.items():
        p50, p99 = np.percentile(values, [50, 99])
        paced_by[kind] = {
            "p50_ms": round(float(p50), 3),
            "p99_ms": round(float(p99), 3),
            "p99_interval_ms": spread_of_p99(values),
            "core_share": round(statistics.median(share[kind]), 4),
        }
    ratios = {}
    for kind in ("served", "page"):
        pairs = [a / b for a, b in zip(fps[kind], fps["plain"], strict=True)]
        low, middle, high = np.percentile(pairs, [25, 50, 75]).round(4).tolist()
        ratios[f"{kind} / plain"] = {"median": middle, "quartiles": [low, high]}
    return {
        "fps": {kind: round(statistics.median(values), 2) for kind, values in fps.items()},
        "fps_ratios": ratios,
        "paced": paced_by,
        "p99_slow_to_served": round(paced_by["slow"]["p99_ms"] / paced_by["served"]["p99_ms"], 3),
    }


def spread_of_p99(values: list[float]) -> list[float]:
    """95 % bootstrap interval, blocks of a second's frames: neighbours are late together."""
    rng = np.random.default_rng(0)
    block = 40
    blocks = np.array(values[: len(values) // block * block]).reshape(-1, block)
    draws = [
        np.percentile(blocks[rng.integers(0, len(blocks), len(blocks))], 99) for _ in range(500)
    ]
    return [round(float(one), 2) for one in np.percentile(draws, [2.5, 97.5])]


if __name__ == "__main__":
    main()
