"""A live source that comes back: stalls are seen, and it is opened again for ever.

Nothing is made up in a gap: no black frame, no repeated one. The frames after it carry on the count.

Attempts begin at once and become rarer. While they wait, a cheap look twice a second finds the camera
that is back, so that one that was switched off for an hour does not wait for half a minute more.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from edgead.errors import SourceError
from edgead.frame import Frame
from edgead.stream.sources.base import Captured, EndOfSource, SourceKind
from edgead.stream.watchdog import State

__all__ = ["Connection", "ReconnectLimits", "Reconnecting"]

_log = logging.getLogger("edgead.stream")

#: Trying again does not help when the very first attempt says one of these.
_FINAL = frozenset({"SOURCE_AUTH", "SOURCE_BACKEND", "SOURCE_CODEC", "SOURCE_FORMAT", "SOURCE_URL"})


class Connection(Protocol):
    """One opened camera, as long as it lasts."""

    def read(self, timeout_s: float) -> Captured:
        """As of `edgead.stream.sources.base.Source`."""
        ...

    def close(self) -> None:
        """Free it; never blocks for longer than a read."""
        ...


@dataclass(frozen=True)
class ReconnectLimits:
    """When a source counts as lost, and how it is opened again.

    Attributes:
        open_s: Longest wait for the first frame of a connection.
        stall_s: Longest wait for a further frame.
        first_wait_s: Wait after the first failure; doubled with each further one, with jitter.
        longest_wait_s: Bound of that.
        settled_s: Frames must have come for so long before a further failure counts as a first one.
        look_s: Time between two looks whether the camera can be reached.
    """

    open_s: float = 10.0
    stall_s: float = 2.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 30.0
    settled_s: float = 5.0
    look_s: float = 0.5


class Reconnecting:
    """A live source over connections that may be lost.

    Args:
        connect: Opens one connection, without waiting for its first frame.
        source_id: Name of the source.
        kind: live or triggered.
        limits: Time limits.
        clock: Monotonic time, ns.
        wait: Waits so many seconds, or until the source is closed.
        jitter: Uniform random number in 0..1.
        is_reachable: A cheap look whether an attempt could succeed, None where there is none.

    Attributes:
        state: INITIALISING, RUNNING or STALLED.
        stalls: Connections that fell silent.
        disconnects: Connections that ended or raised after their first frame.
        failed_opens: Connections that gave no first frame.
        longest_gap_s: Longest time without a frame, once there was one.
    """

    is_simulated = False

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        source_id: str,
        kind: SourceKind = "live",
        limits: ReconnectLimits | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        wait: Callable[[float], object] | None = None,
        jitter: Callable[[], float] = random.random,
        is_reachable: Callable[[], bool] | None = None,
    ) -> None:
        self.source_id = source_id
        self.kind: SourceKind = kind
        self.state = State.INITIALISING
        self.stalls = self.disconnects = self.failed_opens = 0
        self.longest_gap_s = 0.0
        self.last_error: SourceError | None = None
        self._connect = connect
        self._limits = limits or ReconnectLimits()
        self._clock = clock
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self._jitter = jitter
        self._connection: Connection | None = None
        self._is_reachable = is_reachable
        self._has_frame = False
        self._progress_ns = 0
        self._first_frame_ns = 0
        self._next_try_ns = 0
        self._next_look_ns = 0
        self._is_away = False
        self._failures = 0
        self._last_frame_ns: int | None = None
        self._last_block = -1
        self._block_offset: int | None = None

    def read(self, timeout_s: float) -> Captured:
        """The next frame, or None while there is none.

        Raises:
            EndOfSource: After `close`.
            SourceError: The first attempt said that trying again cannot help.
        """
        if self._closed.is_set():
            raise EndOfSource
        if self._connection is None and not self._open(timeout_s):
            return None
        connection = self._connection
        assert connection is not None
        try:
            item = connection.read(timeout_s)
        except EndOfSource:
            self._lose(SourceError("SOURCE_LOST", f"{self.source_id} ended its stream."))
            return None
        except SourceError as error:
            self._lose(error)
            return None
        if item is None:
            self._look_for_stall()
            return None
        return self._passed_on(item)

    def close(self) -> None:
        """Close the connection; safe from any thread, and twice."""
        self._closed.set()
        connection = self._connection
        if connection is not None:
            connection.close()

    def _open(self, timeout_s: float) -> bool:
        now = self._clock()
        if now < self._next_try_ns and not self._is_back(now):
            self._wait(min(timeout_s, (self._next_try_ns - now) / 1e9))
            return False
        self._has_frame = False
        self._block_offset = None
        self._progress_ns = now
        try:
            self._connection = self._connect()
        except SourceError as error:
            self._lose(error)
            return False
        if self._closed.is_set():  # closed while it was being opened
            self._connection.close()
        return True

    def _is_back(self, now: int) -> bool:
        """Whether a camera that could not be reached can be again; then the back-off starts over."""
        if self._is_reachable is None or now < self._next_look_ns:
            return False
        self._next_look_ns = now + int(self._limits.look_s * 1e9)
        was_away, self._is_away = self._is_away, not self._is_reachable()
        if not was_away or self._is_away:
            return False
        self._failures = 0
        return True

    def _look_for_stall(self) -> None:
        limit = self._limits.stall_s if self._has_frame else self._limits.open_s
        silent_s = (self._clock() - self._progress_ns) / 1e9
        if silent_s < limit:
            return
        text = f"{self.source_id} sent nothing for {silent_s:.1f} s."
        self._lose(SourceError("SOURCE_TIMEOUT", text), is_stall=True)

    def _lose(self, error: SourceError, *, is_stall: bool = False) -> None:
        """Close the connection and plan the next one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._closed.is_set():
            return
        if self._last_frame_ns is None and error.code in _FINAL:
            raise error
        self.last_error = error
        if not self._has_frame:
            self.failed_opens += 1
        elif is_stall:
            self.stalls += 1
        else:
            self.disconnects += 1
        if self._last_frame_ns is not None:
            self.state = State.STALLED
        wait_s = min(
            self._limits.longest_wait_s, self._limits.first_wait_s * 2.0 ** min(self._failures, 20)
        )
        wait_s *= 0.5 + 0.5 * self._jitter()  # many cameras behind one switch do not come at once
        self._failures += 1
        self._next_try_ns = self._clock() + int(wait_s * 1e9)
        level = logging.WARNING if self._failures == 1 else logging.DEBUG  # once an outage
        _log.log(level, "%s; next attempt in %.2f s", error, wait_s)

    def _passed_on(self, item: Frame | Exception) -> Captured:
        now = self._clock()
        if self._last_frame_ns is not None:
            gap_s = (now - self._last_frame_ns) / 1e9
            self.longest_gap_s = max(self.longest_gap_s, gap_s)
        if not self._has_frame:
            self._first_frame_ns = now
            if self._failures:
                _log.info("source %s is back after %d attempts", self.source_id, self._failures)
        if now - self._first_frame_ns >= self._limits.settled_s * 1e9:
            self._failures = 0  # not before: one that keeps failing after a frame is no sound one
        self._has_frame = True
        self._progress_ns = self._last_frame_ns = now
        self.state = State.RUNNING
        if not isinstance(item, Frame) or item.block_id is None:
            return item  # type: ignore[return-value]
        if self._block_offset is None:
            # A new connection counts from its own start: what was lost in the gap is not known,
            # and is not made up either.
            self._block_offset = self._last_block + 1 - item.block_id
        self._last_block = item.block_id + self._block_offset
        return replace(item, block_id=self._last_block)
