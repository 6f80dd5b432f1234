"""The pipeline: a capture thread a source, workers that judge, a timer; every outcome is read.

Decoding, judging and the reader's own work overlap, because native code releases the GIL. Each
source has its own queue and books, and the workers take turns, so that a slow or dead camera never
slows another.

Whatever changes more than one thing is done by the stream's own threads, for a signal's handler may
raise anywhere in a caller's (see `edgead.stream.interrupts`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from types import TracebackType
from typing import TypeVar

from edgead.errors import ConfigError, SourceError, StateError
from edgead.stream.checks import FrameCheck
from edgead.stream.crew import Crew, Judge
from edgead.stream.drift import Drift
from edgead.stream.intake import Intake
from edgead.stream.interrupts import Changed, Clerk, undisturbed
from edgead.stream.journal import Journal
from edgead.stream.lane import Deadline, Lane
from edgead.stream.ledger import Ticket
from edgead.stream.limits import Limits, deadline_of
from edgead.stream.outbox import Outbox
from edgead.stream.policies import parse_policy
from edgead.stream.replay import Rejects
from edgead.stream.service import ServiceTime
from edgead.stream.sources.base import Source
from edgead.stream.watchdog import Health, Heartbeat, State
from edgead.types import Detection, Frame, LedgerCounts, Outcome

__all__ = ["Judge", "Stream"]

S = TypeVar("S", bound="Stream")

_log = logging.getLogger("edgead.stream")


class Stream:
    """Every outcome of one or more sources: an iterator and a context manager.

    Leaving a ``for`` loop over a stream, by its end, ``break`` or an exception, closes the stream.

    Args:
        judge: Called with each frame, from ``workers`` threads; closed by its owner. Its method
            ``drift_reference``, where it has one, says what ``drift`` compares frames with.
        sources: Source name -> source. The stream closes them.
        policy: See `edgead.stream.policies.parse_policy`.
        deadline_ms: A verdict leaves within so many milliseconds of capture, UNKNOWN if need be.
        workers: Frames judged at the same time.
        limits: Bounds.
        journal: Gets every outcome; closed with the stream.
        rejects: Saves rejected frames; closed with the stream.
        on_frame: Called with each outcome and its frame (None for a buffer that was none) as soon as
            it is settled, under the stream's lock: it keeps a reference and returns.
    """

    _is_ordered = True

    def __init__(
        self,
        judge: Judge,
        sources: Mapping[str, Source],
        *,
        policy: str = "auto",
        deadline_ms: float | None = None,
        workers: int = 1,
        limits: Limits | None = None,
        journal: Journal | None = None,
        rejects: Rejects | None = None,
        on_frame: Callable[[Outcome, Frame | None], None] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.journal = journal
        self.rejects = rejects
        self._on_frame = on_frame
        self.drift = Drift(getattr(judge, "drift_reference", lambda _: None))
        self._clock = time.monotonic_ns
        self._changed = Changed()
        self._lock = self._changed.lock  # what callers take
        self._sources = dict(sources)
        self._is_stopping = False
        self._is_closed = False  # no outcome is handed over any more
        self._has_ended = False  # and nothing is left to do
        self._pid = os.getpid()
        self._heartbeat = Heartbeat(self._clock)
        self._clerk = Clerk("edgead clerk")
        guard_ns = int(self.limits.guard_ms * 1e6)
        self._outbox = Outbox(self._changed, self._clerk, journal, self._clock, guard_ns)
        start = partial(self._start, judge, policy, deadline_ms, workers)
        undisturbed(start, lambda _: self.close())

    def _start(self, judge: Judge, policy: str, deadline_ms: float | None, workers: int) -> None:
        try:
            self._prepare(judge, policy, deadline_ms, workers)
        except BaseException:
            for owned in (*self._sources.values(), self.journal, self.rejects):
                if owned is not None:
                    owned.close()
            raise
        self._clerk.thread.start()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _prepare(self, judge: Judge, policy: str, deadline_ms: float | None, workers: int) -> None:
        self.lanes = self._make_lanes(policy, deadline_of(deadline_ms, self.limits), workers)
        self._crew = Crew(
            judge,
            self.lanes.values(),
            size=workers,
            changed=self._changed,
            clock=self._clock,
            hang_s=self.limits.hang_s,
            # Results hold maps, and a result that waits grows old: judge no further ahead.
            may_judge=lambda: self._outbox.results < workers + 2,
        )
        self._timer = threading.Thread(target=self._keep_time, name="edgead timer", daemon=True)
        self._intakes = {name: self._make_intake(name) for name in self._sources}

    def _begin(self) -> None:
        _log.info("policy %s", self.policy)
        if self.journal is not None:
            kinds = {source.kind for source in self._sources.values()}
            kind = "triggered" if "triggered" in kinds else "live"
            self.journal.begin(kind=kind, policy=self.policy)
        self._crew.start()
        for intake in self._intakes.values():
            intake.thread.start()
        self._timer.start()

    @property
    def policy(self) -> str:
        """The policy in use; of several sources, each one's after its name."""
        if len(self.lanes) == 1:
            return str(next(iter(self.lanes.values())).policy)
        return ", ".join(f"{name}: {lane.policy}" for name, lane in self.lanes.items())

    @property
    def errors(self) -> dict[str, SourceError]:
        """Sources that were lost, and why."""
        return {name: i.error for name, i in self._intakes.items() if i.error is not None}

    @property
    def ended(self) -> frozenset[str]:
        """Sources that hand over nothing more: ended, lost, or closed."""
        return frozenset(name for name, one in self._intakes.items() if one.is_over)

    @property
    def counts_by_source(self) -> dict[str, LedgerCounts]:
        """The books of each source, checked."""
        with self._lock:
            return {name: lane.ledger.snapshot() for name, lane in self.lanes.items()}

    @property
    def counts(self) -> LedgerCounts:
        """The books of all sources together, checked.

        Raises:
            StateError: LEDGER when they do not balance.
        """
        each = self.counts_by_source.values()
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

    @property
    def health(self) -> Health:
        """State of the whole stream with its reasons; the worst source counts."""
        with self._lock:
            found = [getattr(s, "state", State.RUNNING) for s in self._sources.values()]
            reasons = [f"SOURCE_LOST {name}" for name in self.errors]
            if self._crew.fatal is not None:
                return Health(State.FAILED, (self._crew.fatal.code,))
            if self._crew.restarts.total:
                reasons.append("JUDGE_RESTARTED")
            if self._crew.throttle.is_throttled:
                reasons.append("THROTTLED")
            if self.journal is not None and self.journal.is_degraded:
                reasons.append("JOURNAL_DEGRADED")
            if self.rejects is not None and self.rejects.saves_failed:
                reasons.append("REJECTS_NOT_SAVED")
            if len(self._outbox) >= self.limits.unread:
                reasons.append("READER_SLOW")
            reasons += self.drift.reasons()
            is_new = not any(lane.ledger.received for lane in self.lanes.values())
            if self._is_closed or self._is_finished():
                state = State.FAILED if self.errors else State.ENDED
            elif State.STALLED in found:
                state = State.STALLED
            elif reasons:
                state = State.DEGRADED
            else:
                state = State.INITIALISING if is_new else State.RUNNING
        return Health(state, tuple(reasons))

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
            SourceError: The only source was lost; everything before it was handed out.
            BackendError: The judge hung too often; everything before it was handed out.
            StateError: FORKED.
        """
        self._check_process()
        outcome = self._outbox.take(lambda: self._is_closed or self._is_finished())
        if outcome is None:
            self._raise_lost()
            raise StopIteration
        self._heartbeat.beat()
        return outcome

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading, wait ``drain_s`` for frames being judged, drop the rest; safe twice."""
        if self._has_ended or os.getpid() != self._pid:  # a forked child has none of the threads
            return
        if self._changed.is_mine or threading.current_thread() is self._clerk.thread:
            self._clerk.ask(self._close)  # the garbage collector calls, in the middle of our work
            return
        self._clerk.do(self._close)
        self._clerk.thread.join()

    def _close(self) -> None:
        """The clerk's work: a caller that is interrupted and closes again only waits for it again."""
        if self._has_ended:
            return
        with self._changed:
            self._stop()
            self._changed.notify_all()
        with contextlib.ExitStack() as steps:  # each is done, whatever another one raises
            steps.callback(self._end)
            steps.callback(self._close_records)
            steps.callback(self._drain)
            for source in self._sources.values():
                steps.callback(source.close)

    def _drain(self) -> None:
        with self._changed:
            until = time.monotonic() + self.limits.drain_s
            while self._crew.is_busy and time.monotonic() < until:
                self._changed.wait(0.05)
            self._crew.abandon()
            self._is_closed = True
            self._changed.notify_all()

    def _end(self) -> None:
        until = time.monotonic() + 0.5
        threads = [intake.thread for intake in self._intakes.values()]
        for thread in [*threads, self._timer, *self._crew.threads]:
            if thread.ident is not None:  # it was started
                thread.join(max(0.0, until - time.monotonic()))
        self._has_ended = True
        self._clerk.end()

    def _close_records(self) -> None:
        self._outbox.clear()
        counts = self.counts  # the closing check of the books
        if counts.in_flight:
            raise StateError("LEDGER", f"{counts.in_flight} frames are in flight after closing.")
        if self.rejects is not None:
            self.rejects.close()
        if self.journal is not None:
            self.journal.close(asdict(counts))

    def _make_lanes(self, policy: str, deadline: Deadline | None, workers: int) -> dict[str, Lane]:
        if workers < 1:
            raise ConfigError("WORKERS", f"workers is {workers}; want 1 or more.")
        service = ServiceTime()
        return {
            name: Lane(
                name,
                parse_policy(policy, kind=source.kind),
                clock=self._clock,
                lock=self._lock,
                emit=self._emit,
                service=service,
                workers=workers,
                deadline=deadline,
                on_frame=self._offer_frame,
                on_late=self._note_late,
                is_ordered=self._is_ordered,
                is_simulated=source.is_simulated,
            )
            for name, source in self._sources.items()
        }

    def _make_intake(self, name: str) -> Intake:
        source = self._sources[name]
        frozen_after = 0 if source.kind == "file" else self.limits.frozen_after
        return Intake(
            source,
            self.lanes[name],
            FrameCheck(frozen_after),
            self._changed,
            lambda: len(self._outbox) < self.limits.unread,
        )

    def _emit(self, outcome: Outcome, ticket: Ticket) -> None:
        self._outbox.add(outcome, ticket)

    def _offer_frame(self, outcome: Outcome, frame: Frame | None) -> None:
        self.drift.observe(outcome)
        if self.rejects is not None:
            self.rejects.offer(outcome, frame)
        if self._on_frame is not None:
            self._on_frame(outcome, frame)

    def _note_late(self, ticket: Ticket, detection: Detection) -> None:
        if self.journal is not None:
            self.journal.write_late(ticket.ledger.source_id, ticket.seq, detection)

    def _is_finished(self) -> bool:
        is_over = all(intake.is_over for intake in self._intakes.values())
        return is_over and not any(lane.ledger.in_flight for lane in self.lanes.values())

    def _raise_lost(self) -> None:
        if self._crew.fatal is not None:
            raise self._crew.fatal
        if len(self.lanes) == 1 and self.errors and not self._is_stopping:
            raise next(iter(self.errors.values()))

    def _keep_time(self) -> None:
        """Settle frames at their deadline, also while every judge hangs; replace hung workers."""
        with self._changed:
            while not (self._is_closed or self._is_finished()):
                due = [t for lane in self.lanes.values() if (t := lane.next_due_ns) is not None]
                wait_s = min(0.2, (min(due) - self._clock()) / 1e9) if due else 0.2
                if wait_s > 0:
                    self._changed.wait(wait_s)
                for lane in self.lanes.values():
                    lane.expire()
                self._crew.give_up_hung()
                self._tick()
                if self._crew.fatal is not None and not self._is_stopping:
                    self._stop()  # nothing can be judged any more
                    self._crew.abandon()

    def _tick(self) -> None:
        """A turn of the timer, five a second or more."""

    def _stop(self) -> None:
        """Take in nothing more and drop what waits. Called under the lock."""
        self._is_stopping = True
        self._crew.stop()
        for intake in self._intakes.values():
            intake.stop()
        for lane in self.lanes.values():
            lane.shut_down()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise StateError(
                "FORKED",
                f"this stream was opened in process {self._pid}, you are in {os.getpid()}.",
                "Open it after the fork.",
            )
