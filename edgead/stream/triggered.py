"""Triggered inspection: one frame with the line's own id in, one outcome by its deadline out."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from dataclasses import replace
from typing import Any

from edgead.errors import EdgeadError, StateError
from edgead.frame import Frame
from edgead.stream.checks import FrameCheck
from edgead.stream.crew import Judge
from edgead.stream.intake import Intake
from edgead.stream.interrupts import Bell
from edgead.stream.journal import Journal
from edgead.stream.ledger import Ticket
from edgead.stream.limits import Limits
from edgead.stream.outbox import Parcel
from edgead.stream.pipeline import Stream
from edgead.stream.reasons import DropReason
from edgead.stream.replay import Rejects
from edgead.stream.sources.base import Captured, EndOfSource, SourceKind
from edgead.types import Outcome

__all__ = ["Triggered"]

_REMEMBERED = 4096  # trigger ids that count as answered


class _Call:
    """A trigger and, once there is one, its answer."""

    def __init__(self, item: Frame | EdgeadError, trigger_id: str, part_id: str | None) -> None:
        self.item = item
        self.trigger_id = trigger_id
        self.part_id = part_id
        self.bell = Bell()
        self.is_received = False
        self.is_gone = False  # whoever waited was interrupted
        self.answer: Parcel | None = None


class _Station:
    """The place of the source: calls are put, not read."""

    kind: SourceKind = "triggered"
    is_simulated = False

    def __init__(self, source_id: str) -> None:
        self.source_id = source_id
        self.call: _Call | None = None  # the one that was read last
        self._calls: deque[_Call] = deque()
        self._bell = Bell()
        self._is_closed = False

    def put(self, call: _Call) -> None:
        self._calls.append(call)
        self._bell.ring()

    def read(self, timeout_s: float) -> Captured:
        if not self._calls:
            self._bell.wait(timeout_s)
        if self._is_closed:
            while self._calls:
                self._calls.popleft().bell.ring()
            raise EndOfSource
        self.call = self._calls.popleft() if self._calls else None
        return None if self.call is None else self.call.item

    def close(self) -> None:
        self._is_closed = True
        self._bell.ring()


class _Intake(Intake):
    """Enters calls: answered before, or to be judged."""

    source: _Station

    def __init__(self, *args: Any, calls: dict[int, _Call]) -> None:
        super().__init__(*args)
        self._calls = calls
        self._answered: OrderedDict[str, None] = OrderedDict()

    def _receive(self, item: Frame | EdgeadError, error: EdgeadError | None) -> None:
        call = self.source.call
        assert call is not None
        call.is_received = True
        self._calls[self.lane.ledger.received] = call  # the number of its ticket
        trigger_id = call.trigger_id
        if trigger_id in self._answered and isinstance(item, Frame):
            text = f"trigger {trigger_id!r} was answered before."
            self.lane.refuse(item, DropReason.DUPLICATE_ID, text)
            return
        self._answered[trigger_id] = None
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        self.lane.receive(item, error, trigger_id=trigger_id, part_id=call.part_id)


class Triggered(Stream):
    """Answers triggers. Safe from several threads; each gets its own answer.

    Args:
        judge: Called with each frame.
        deadline_ms: An answer leaves within so many milliseconds of the frame's capture; None:
            whenever it is ready.
        policy: As of `edgead.stream.run`; ``auto`` rejects at once when four frames wait.
        workers: Frames judged at the same time.
        limits: Bounds.
        journal: Gets every outcome, by default with each row on the disk before the answer.
        rejects: Saves rejected frames.
        source_id: Name of the station.
    """

    _is_ordered = False  # a rejected trigger is answered at once, not after those before it

    def __init__(
        self,
        judge: Judge,
        *,
        deadline_ms: float | None,
        policy: str = "auto",
        workers: int = 1,
        limits: Limits | None = None,
        journal: Journal | None = None,
        rejects: Rejects | None = None,
        source_id: str = "trigger",
    ) -> None:
        self._station = _Station(source_id)
        self._calls: dict[int, _Call] = {}
        super().__init__(
            judge,
            {source_id: self._station},
            policy=policy,
            deadline_ms=deadline_ms,
            workers=workers,
            limits=limits,
            journal=journal,
            rejects=rejects,
        )

    def on_trigger(self, trigger_id: str, frame: Any, *, part_id: str | None = None) -> Outcome:
        """Judge the frame of one trigger; waits for its outcome, at most until its deadline.

        Args:
            trigger_id: The line's id; one that was answered before is DROPPED(DUPLICATE_ID).
            frame: A `Frame`, which nobody may change, or an array as of `Frame.from_array`, which
                is copied. Its time of capture starts the deadline; an array's is now.
            part_id: The line's id of the part.

        Returns:
            The outcome. It is never accepted later than its deadline.

        Raises:
            StateError: CLOSED or FORKED.
            BackendError: The judge hung too often.
        """
        self._check_process()
        call = _Call(_frame_of(frame, trigger_id, part_id), trigger_id, part_id)
        self._station.put(call)
        try:
            answer = self._answer_to(call)
        except BaseException:
            call.is_gone = True
            raise
        self._heartbeat.beat()
        return self._outbox.hand_over(answer)

    def _answer_to(self, call: _Call) -> Parcel:
        while call.answer is None:
            with self._lock:
                will_not_be = self._is_stopping or self._is_finished()
                if will_not_be and not call.is_received:
                    self._raise_lost()
                    raise StateError("CLOSED", "the station was closed.", "Make a new one.")
            call.bell.wait(0.5)
        return call.answer

    def _make_intake(self, name: str) -> Intake:
        check = FrameCheck(self.limits.frozen_after)
        lane = self.lanes[name]
        return _Intake(self._station, lane, check, self._changed, lambda: True, calls=self._calls)

    def _emit(self, outcome: Outcome, ticket: Ticket) -> None:
        call = self._calls.pop(ticket.seq)
        # The disk is at work before the caller is awake; and a caller that is gone keeps no row back.
        call.answer = self._outbox.pack(outcome, ticket, handed_over=not call.is_gone)
        call.bell.ring()

    def _tick(self) -> None:
        """A line that sends no triggers is not stuck: systemd is fed while nothing waits."""
        if not any(lane.ledger.in_flight for lane in self.lanes.values()):
            self._heartbeat.beat()


def _frame_of(frame: Any, trigger_id: str, part_id: str | None) -> Frame | EdgeadError:
    now = time.monotonic_ns()
    try:
        wrapped = Frame.from_array(frame)
    except EdgeadError as error:
        return error
    if isinstance(frame, Frame):
        return replace(frame, trigger_id=trigger_id, part_id=part_id)
    # A judge that is given up goes on reading, and a reject is saved later: the pixels must stay.
    pixels = wrapped.pixels.copy()
    return replace(wrapped, pixels=pixels, trigger_id=trigger_id, part_id=part_id, t_mono_ns=now)
