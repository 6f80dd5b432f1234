"""A stream on an injected clock: the same lanes, no threads, a million frames a minute.

Discrete events in the order of time: a frame arrives, a judge ends, a deadline passes. What threads
would do between them takes no time, so every run with the same script is the same.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

from edgead.errors import EdgeadError
from edgead.frame import Frame
from edgead.stream.checks import DetectionCheck, FrameCheck
from edgead.stream.lane import Deadline, Lane
from edgead.stream.ledger import Ticket
from edgead.stream.pipeline import Judge
from edgead.stream.policies import parse_policy
from edgead.stream.service import ServiceTime
from edgead.stream.sources.base import EndOfSource, Source
from edgead.testing.clock import FakeClock
from edgead.types import LedgerCounts, Outcome

__all__ = ["Simulation"]

ServiceOf: TypeAlias = Callable[[Frame], int]


class Simulation:
    """One source on one or more simulated workers.

    Args:
        judge: Called when a frame's service time has passed.
        source: Read when its next frame is due.
        clock: The clock that both may look at; moved by `run`.
        period_ns: Time between two frames of the source, ns.
        service_ns: Frame -> how long it is judged, ns.
        policy: As of `edgead.stream.run`.
        workers: Frames judged at the same time.
        deadline: None when verdicts have no deadline.
    """

    def __init__(
        self,
        judge: Judge,
        source: Source,
        clock: FakeClock,
        *,
        period_ns: int,
        service_ns: ServiceOf,
        policy: str = "auto",
        workers: int = 1,
        deadline: Deadline | None = None,
    ) -> None:
        self.clock = clock
        self._judge = judge
        self._source = source
        self._period_ns = period_ns
        self._service_ns = service_ns
        self._workers = workers
        self._check = DetectionCheck()
        self._frame_check = FrameCheck(0 if source.kind == "file" else 5)
        self._out: deque[Outcome] = deque()
        self._busy: list[tuple[int, int, Ticket]] = []
        self.lane = Lane(
            source.source_id,
            parse_policy(policy, kind=source.kind),
            clock=clock,
            lock=threading.RLock(),
            emit=lambda outcome, _: self._out.append(outcome),
            service=ServiceTime(),
            workers=workers,
            deadline=deadline,
        )

    @property
    def counts(self) -> LedgerCounts:
        """The books, checked."""
        return self.lane.ledger.snapshot()

    def run(self) -> Iterator[Outcome]:
        """Every outcome in the order of ``seq``, at the simulated moment that it is settled."""
        arrival: int | None = self.clock()
        while arrival is not None or self._busy or self.lane.queue:
            can_arrive = arrival is not None and self.lane.has_room
            moments = [
                arrival if can_arrive else None,
                self._busy[0][0] if self._busy else None,
                self.lane.next_due_ns,
            ]
            self.clock.advance_to(min(m for m in moments if m is not None))
            self._end_judging()
            self.lane.expire()
            if can_arrive and arrival is not None and arrival <= self.clock():
                arrival = self._arrive()
            self._begin_judging()
            while self._out:
                yield self._out.popleft()

    def _arrive(self) -> int | None:
        try:
            item = self._source.read(0.0)
        except EndOfSource:
            return None
        if item is not None:
            error = self._frame_check(item) if isinstance(item, Frame) else None
            self.lane.receive(item, error)
        return self.clock() + self._period_ns

    def _begin_judging(self) -> None:
        while len(self._busy) < self._workers and (ticket := self.lane.take()) is not None:
            assert ticket.frame is not None
            end = self.clock() + self._service_ns(ticket.frame)
            heapq.heappush(self._busy, (end, ticket.seq, ticket))

    def _end_judging(self) -> None:
        while self._busy and self._busy[0][0] <= self.clock():
            ticket = heapq.heappop(self._busy)[2]
            if ticket.frame is None:  # settled at its deadline: only the books still want it
                self.lane.finish_late(ticket)
                continue
            try:
                detection = self._judge(ticket.frame)
                error = self._check(detection)
            except EdgeadError as failure:
                error = failure
            except Exception as failure:
                error = EdgeadError("BACKEND_ERROR", str(failure))
            if error is None:
                self.lane.finish(ticket, detection)
            else:
                self.lane.finish_failed(ticket, error.code, str(error))
