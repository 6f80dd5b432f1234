"""Triggered inspection: one frame with the line's own id in, one outcome by its deadline out."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import replace
from typing import Any

from edgead.errors import EdgeadError, StateError
from edgead.frame import Frame
from edgead.stream.checks import FrameCheck
from edgead.stream.crew import Judge
from edgead.stream.journal import Journal
from edgead.stream.lane import Lane
from edgead.stream.ledger import Ticket
from edgead.stream.limits import Limits
from edgead.stream.pipeline import Stream
from edgead.stream.reasons import DropReason
from edgead.stream.replay import Rejects
from edgead.stream.sources.base import Captured, EndOfSource, SourceKind
from edgead.types import Outcome

__all__ = ["Triggered"]

_REMEMBERED = 4096  # trigger ids that count as answered


class _Station:
    """The place of the source: frames are pushed, not read."""

    kind: SourceKind = "triggered"
    is_simulated = False

    def __init__(self, source_id: str) -> None:
        self.source_id = source_id
        self._closed = threading.Event()

    def read(self, timeout_s: float) -> Captured:
        if self._closed.wait(timeout_s):
            raise EndOfSource
        return None

    def close(self) -> None:
        self._closed.set()


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
        self._source_id = source_id
        self._answers: dict[int, tuple[Outcome, Ticket]] = {}
        self._answered: OrderedDict[str, None] = OrderedDict()
        self._check_lock = threading.Lock()
        self._frame_check = FrameCheck((limits or Limits()).frozen_after)
        super().__init__(
            judge,
            {source_id: _Station(source_id)},
            policy=policy,
            deadline_ms=deadline_ms,
            workers=workers,
            limits=limits,
            journal=journal,
            rejects=rejects,
        )

    @property
    def _lane(self) -> Lane:
        return self.lanes[self._source_id]

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
        item = _frame_of(frame, trigger_id, part_id)
        with self._check_lock:
            error = self._frame_check(item) if isinstance(item, Frame) else None
        with self._changed:
            while not (self._lane.has_room or self._is_stopping):  # ``every`` waits
                self._changed.wait(0.5)
            if self._is_stopping:
                self._raise_lost()
                raise StateError("CLOSED", "the station was closed.", "Make a new one.")
            if trigger_id in self._answered and isinstance(item, Frame):
                text = f"trigger {trigger_id!r} was answered before."
                ticket = self._lane.refuse(item, DropReason.DUPLICATE_ID, text)
            else:
                self._remember(trigger_id)
                ticket = self._lane.receive(item, error)
            self._changed.notify_all()
            outcome = self._wait_for(ticket)
        if not isinstance(item, Frame):
            outcome = replace(outcome, trigger_id=trigger_id, part_id=part_id)
        return self._recorded(outcome, ticket)

    def _wait_for(self, ticket: Ticket) -> Outcome:
        while (found := self._answers.pop(ticket.seq, None)) is None:
            due = self._lane.next_due_ns
            wait_s = 0.5 if due is None else min(0.5, (due - self._clock()) / 1e9)
            if wait_s > 0:
                self._changed.wait(wait_s)
            self._lane.expire()  # one thread fewer to wake up than waiting for the timer's
        return self._in_time(*found)

    def _emit(self, outcome: Outcome, ticket: Ticket) -> None:
        self._answers[ticket.seq] = (outcome, ticket)
        self._changed.notify_all()

    def _tick(self) -> None:
        """A line that sends no triggers is not stuck: systemd is fed while nothing waits."""
        if not self._lane.ledger.in_flight:
            self._heartbeat.beat()

    def _remember(self, trigger_id: str) -> None:
        self._answered[trigger_id] = None
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)


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
