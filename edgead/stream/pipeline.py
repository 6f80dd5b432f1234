"""The pipeline: a capture thread a source, workers that judge, one timer; the reader gets every outcome.

Decoding, judging and the reader's own work overlap, because native code releases the GIL. Each source has
its own queue and books, and the workers take turns, so a slow or dead camera never slows another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from edgead.errors import EdgeadError, SourceError, StateError
from edgead.stream.checks import Checks, DetectionCheck, FrameCheck
from edgead.stream.lane import Deadline, Lane
from edgead.stream.ledger import Ticket
from edgead.stream.policies import parse_policy
from edgead.stream.reasons import FailCode
from edgead.stream.service import ServiceTime
from edgead.stream.sources.base import EndOfSource, Source
from edgead.types import Detection, Frame, LedgerCounts, Outcome

__all__ = ["Judge", "Limits", "Stream"]

Judge: TypeAlias = Callable[[Frame], Detection]

_log = logging.getLogger("edgead.stream")


@dataclass(frozen=True)
class Limits:
    """Bounds of a stream.

    Attributes:
        guard_ms: How long before its deadline a running frame is given up.
        hang_s: A judge that does not return for so long is abandoned.
        drain_s: How long `Stream.close` waits for frames that are being judged.
        unread: Outcomes that may wait for the reader before sources are read no further.
    """

    guard_ms: float = 1.0
    hang_s: float = 10.0
    drain_s: float = 2.0
    unread: int = 4096


class Stream:
    """Every outcome of one or more sources: an iterator and a context manager.

    Leaving a ``for`` loop over a stream, by its end, ``break`` or an exception, closes the stream.

    Args:
        judge: Called with each frame, from ``workers`` threads.
        sources: Source name -> source. The stream closes them.
        policy: See `edgead.stream.policies.parse_policy`.
        deadline_ms: A verdict leaves within so many milliseconds of capture, UNKNOWN if need be.
        workers: Frames judged at the same time.
        checks: Input checks.
        limits: Bounds.
        clock: Monotonic time, ns.
    """

    def __init__(
        self,
        judge: Judge,
        sources: Mapping[str, Source],
        *,
        policy: str = "auto",
        deadline_ms: float | None = None,
        workers: int = 1,
        checks: Checks | None = None,
        limits: Limits | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.limits = limits or Limits()
        self.errors: dict[str, SourceError] = {}
        self._judge = judge
        self._clock = clock
        self._check = DetectionCheck()
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._out: deque[tuple[Outcome, Ticket]] = deque()
        self._service = ServiceTime()
        self._sources = dict(sources)
        deadline = None
        if deadline_ms is not None:
            deadline = Deadline(int(deadline_ms * 1e6), int(self.limits.guard_ms * 1e6))
        self.lanes = {
            name: Lane(
                name,
                parse_policy(policy, kind=source.kind),
                clock=clock,
                lock=lock,
                emit=self._emit,
                service=self._service,
                workers=workers,
                deadline=deadline,
                is_simulated=source.is_simulated,
            )
            for name, source in self._sources.items()
        }
        self._turn = deque(self.lanes.values())
        self._open = set(self.lanes)
        self._is_stopping = False
        self._is_closed = False
        self._running: dict[threading.Thread, tuple[Lane, Ticket]] = {}
        self._threads: list[threading.Thread] = []
        _log.info("policy %s", self.policy)
        for name, source in self._sources.items():
            check = FrameCheck(checks or Checks(), is_live=source.kind != "file")
            self._start(self._capture, f"capture {name}", self.lanes[name], source, check)
        for number in range(workers):
            self._start(self._work, f"judge {number}")
        self._start(self._keep_time, "timer")

    @property
    def policy(self) -> str:
        """The policy in use; of several sources, each one's after its name."""
        if len(self.lanes) == 1:
            return str(next(iter(self.lanes.values())).policy)
        return ", ".join(f"{name}: {lane.policy}" for name, lane in self.lanes.items())

    @property
    def counts(self) -> LedgerCounts:
        """The books of all sources together, checked."""
        with self._changed:
            each = [lane.ledger.snapshot() for lane in self.lanes.values()]
        numbered = [c.lost_upstream for c in each if c.lost_upstream is not None]
        return LedgerCounts(
            sum(c.received for c in each),
            sum(c.results for c in each),
            sum(c.dropped for c in each),
            sum(c.failed for c in each),
            sum(c.in_flight for c in each),
            sum(numbered) if numbered else None,
            sum(c.late for c in each),
        )

    def __iter__(self) -> Iterator[Outcome]:
        try:
            while True:
                try:
                    outcome = next(self)
                except StopIteration:
                    return
                yield outcome
        finally:
            self.close()

    def __next__(self) -> Outcome:
        """The next outcome, in order within its source.

        Raises:
            StopIteration: Every frame of every source was accounted for, or the stream was closed.
            SourceError: The only source was lost; everything before was handed out.
        """
        with self._changed:
            while not self._out:
                if self._is_closed or self._is_finished():
                    self._raise_lost()
                    raise StopIteration
                self._changed.wait(0.5)
            outcome, ticket = self._out.popleft()
            outcome = self._hand_over(outcome, ticket)
            self._changed.notify_all()
            return outcome

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading, wait ``drain_s`` for frames being judged, drop the rest; safe to call twice."""
        with self._changed:
            if self._is_closed:
                return
            self._is_stopping = True
            for lane in self.lanes.values():
                lane.shut_down()
            self._changed.notify_all()
            until = time.monotonic() + self.limits.drain_s
            while self._running and time.monotonic() < until:
                self._changed.wait(0.05)
            for lane, ticket in self._running.values():
                lane.abandon(ticket)
            self._is_closed = True
            self._changed.notify_all()
        for source in self._sources.values():
            source.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(0.5)
        _ = self.counts  # the closing check of the books

    def _start(self, target: Callable[..., None], name: str, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name=f"edgead {name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _emit(self, outcome: Outcome, ticket: Ticket) -> None:
        self._out.append((outcome, ticket))
        self._changed.notify_all()

    def _hand_over(self, outcome: Outcome, ticket: Ticket) -> Outcome:
        """A verdict that is not taken by its deadline is UNKNOWN."""
        due = ticket.deadline_ns
        if due is None or not outcome.accept or self._clock() <= due:
            return outcome
        ledger = self.lanes[outcome.source_id].ledger
        return ledger.revoke(ticket, outcome, "It was judged in time and taken after its deadline.")

    def _is_finished(self) -> bool:
        return not self._open and not any(lane.ledger.in_flight for lane in self.lanes.values())

    def _raise_lost(self) -> None:
        if len(self.lanes) == 1 and self.errors and not self._is_stopping:
            raise next(iter(self.errors.values()))

    def _capture(self, lane: Lane, source: Source, check: FrameCheck) -> None:
        try:
            while self._wait_for_room(lane):
                item = source.read(0.1)
                if item is None:
                    continue
                error = check(item) if isinstance(item, Frame) else None
                with self._changed:
                    if self._is_stopping:
                        break
                    lane.receive(item, error)
                    self._changed.notify_all()
        except EndOfSource:
            pass
        except SourceError as error:
            self.errors[lane.ledger.source_id] = error
        except Exception as error:
            lost = SourceError("SOURCE_FAILED", f"{type(error).__name__}: {error}")
            lost.__cause__ = error
            self.errors[lane.ledger.source_id] = lost
        finally:
            source.close()
            with self._changed:
                self._open.discard(lane.ledger.source_id)
                self._changed.notify_all()

    def _wait_for_room(self, lane: Lane) -> bool:
        with self._changed:
            while not self._is_stopping:
                if lane.has_room and len(self._out) < self.limits.unread:
                    return True
                self._changed.wait(0.5)
            return False

    def _work(self) -> None:
        me = threading.current_thread()
        while (work := self._next_work(me)) is not None:
            lane, ticket = work
            frame = ticket.frame
            assert frame is not None
            failure: EdgeadError | None
            try:
                detection = self._judge(frame)
                failure = self._check(detection)
            except EdgeadError as error:
                failure = error
            except BaseException as error:
                failure = StateError(
                    FailCode.BACKEND_ERROR.value,
                    f"the judge raised {type(error).__name__}: {error}",
                )
            with self._changed:
                self._running.pop(me, None)
                if failure is None:
                    lane.finish(ticket, detection)
                else:
                    lane.finish_failed(ticket, failure.code, str(failure))
                self._changed.notify_all()
            del work, frame, ticket

    def _next_work(self, me: threading.Thread) -> tuple[Lane, Ticket] | None:
        """Wait for a frame, taking the sources in turn."""
        with self._changed:
            while True:
                if self._is_stopping or self._is_finished():
                    return None
                for _ in range(len(self._turn)):
                    lane = self._turn[0]
                    self._turn.rotate(-1)
                    ticket = lane.take()
                    if ticket is not None:
                        self._running[me] = (lane, ticket)
                        self._changed.notify_all()
                        return lane, ticket
                self._changed.wait(0.5)

    def _keep_time(self) -> None:
        """Settle frames at their deadline, also while every judge hangs."""
        with self._changed:
            while not (self._is_closed or self._is_finished()):
                due = [t for lane in self.lanes.values() if (t := lane.next_due_ns) is not None]
                wait_s = 0.5 if not due else min(0.5, max(0.0, (min(due) - self._clock()) / 1e9))
                if wait_s:
                    self._changed.wait(wait_s)
                for lane in self.lanes.values():
                    lane.expire()
