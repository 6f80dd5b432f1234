"""Health of a stream, and how often something may be restarted before it is given up.

Every decision goes by the monotonic clock: a step of the wall clock neither looks like a stall nor
hides one. systemd's watchdog is fed only while frames move, never by a timer.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

__all__ = ["Health", "Heartbeat", "Restarts", "State", "Throttle", "notify_systemd"]


class State(str, Enum):
    """State of a source or a stream, worst last."""

    INITIALISING = "INITIALISING"  # no frame yet
    RUNNING = "RUNNING"
    ENDED = "ENDED"  # a file's normal end, or closed
    DEGRADED = "DEGRADED"  # it runs, and something is wrong: see the reasons
    STALLED = "STALLED"  # the source sends nothing and is being opened again
    FAILED = "FAILED"  # given up


@dataclass(frozen=True)
class Health:
    """State with its reasons, e.g. ``THROTTLED``, ``JOURNAL_DEGRADED``, ``READER_SLOW``."""

    state: State
    reasons: tuple[str, ...] = ()


class Restarts:
    """At most ``limit`` restarts within ``window_s``; then it is time to give up.

    Args:
        limit: Restarts allowed in the window.
        window_s: Sliding window, seconds.
        clock: Monotonic time, ns.
    """

    def __init__(self, limit: int, window_s: float, clock: Callable[[], int]) -> None:
        self.total = 0
        self._limit = limit
        self._window_ns = int(window_s * 1e9)
        self._clock = clock
        self._recent: deque[int] = deque()

    def allow(self) -> bool:
        """Whether one more is allowed now; if so it is counted."""
        now = self._clock()
        while self._recent and now - self._recent[0] > self._window_ns:
            self._recent.popleft()
        if len(self._recent) >= self._limit:
            return False
        self._recent.append(now)
        self.total += 1
        return True


class Throttle:
    """Sees heat or a power limit slow the engine down, before deadlines are missed.

    Compares the median of the newest service times with that of the first ones after warm-up.

    Args:
        ratio: How much slower counts as throttled.
        window: Frames in each median.
    """

    def __init__(self, *, ratio: float = 1.3, window: int = 50) -> None:
        self._ratio = ratio
        self._window = window
        self._first: list[int] = []
        self._recent: deque[int] = deque(maxlen=window)

    def add(self, duration_ns: int) -> None:
        """Take one service time into account."""
        if len(self._first) < self._window:
            self._first.append(duration_ns)
        self._recent.append(duration_ns)

    @property
    def is_throttled(self) -> bool:
        """Whether the newest window is slower than the first by the ratio."""
        if len(self._first) < self._window or len(self._recent) < self._window:
            return False
        middle = self._window // 2
        return sorted(self._recent)[middle] > self._ratio * sorted(self._first)[middle]


class Heartbeat:
    """Feeds systemd's watchdog at most once a second, when told that a frame has moved."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._next_ns = 0
        self._is_wanted = bool(os.environ.get("NOTIFY_SOCKET"))

    def beat(self) -> None:
        """A frame went through."""
        if self._is_wanted and self._clock() >= self._next_ns:
            self._next_ns = self._clock() + 1_000_000_000
            notify_systemd("READY=1\nWATCHDOG=1")


def notify_systemd(message: str) -> bool:
    """Send ``READY=1``, ``WATCHDOG=1`` or ``STOPPING=1`` to systemd.

    Returns:
        False when this process was not started by systemd (NOTIFY_SOCKET is not set), or systemd
        does not take messages now.

    Source: sd_notify(3), the datagram protocol.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.setblocking(False)  # a line never waits for a service manager
        out.connect(address)
        try:
            out.sendall(message.encode())
        except BlockingIOError:
            return False
    return True
