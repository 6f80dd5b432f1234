"""All decisions about one source's frames, with no thread and no clock of its own.

`edgead.stream.pipeline` drives a lane from threads, the simulation in `edgead.testing` from an injected
clock: both run this code. Every method is called under the stream's one lock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from edgead.errors import EdgeadError
from edgead.stream.ledger import Ledger, Ticket
from edgead.stream.policies import Policy
from edgead.stream.reasons import DropReason, FailCode
from edgead.stream.service import ServiceTime
from edgead.types import Detection, Frame, Outcome, Status

__all__ = ["Deadline", "Lane"]

_BLOCK_BITS = (16, 32, 64)


@dataclass(frozen=True)
class Deadline:
    """When a verdict must leave, counted from the frame's capture.

    Attributes:
        budget_ns: Time from capture to hand-over, ns.
        guard_ns: How long before the deadline a frame still running is given up, ns.
    """

    budget_ns: int
    guard_ns: int


class Lane:
    """Queue, books, deadlines and order of one source.

    Args:
        source_id: Name of the source.
        policy: What happens when frames come faster than they are judged.
        clock: Monotonic time, ns.
        lock: The stream's lock, re-entrant.
        emit: Called with each outcome and its ticket.
        service: Measured service times, shared by all lanes of an engine.
        workers: How many frames are judged at the same time.
        deadline: None when verdicts have no deadline.
        on_frame: Called with each outcome and its frame as soon as it is settled, to save rejects.
        on_late: Called with a ticket and what its judge said after it was settled.
        is_ordered: Emit in the order of ``seq``; else as soon as settled.
        is_simulated: For buffers that are no frame; frames say it themselves.
    """

    def __init__(
        self,
        source_id: str,
        policy: Policy,
        *,
        clock: Callable[[], int],
        lock: AbstractContextManager[Any],
        emit: Callable[[Outcome, Ticket], None],
        service: ServiceTime,
        workers: int = 1,
        deadline: Deadline | None = None,
        on_frame: Callable[[Outcome, Frame | None], None] | None = None,
        on_late: Callable[[Ticket, Detection], None] | None = None,
        is_ordered: bool = True,
        is_simulated: bool = False,
    ) -> None:
        self.policy = policy
        self.is_simulated = is_simulated
        self.ledger = Ledger(source_id, self._on_settled, clock, lock)
        self.queue: deque[Ticket] = deque()
        self.running = 0
        self.most_queued = 0
        self._clock = clock
        self._emit = emit
        self._service = service
        self._workers = workers
        self._deadline = deadline
        self._on_frame = on_frame
        self._on_late = on_late
        self._is_ordered = is_ordered
        self._due: list[tuple[int, int, Ticket]] = []
        self._done: dict[int, tuple[Outcome, Ticket]] = {}
        self._next_out = 0
        self._last_block: int | None = None

    @property
    def has_room(self) -> bool:
        """False while a policy that waits has a full queue."""
        return self.policy.name != "every" or len(self.queue) < self.policy.bound

    def receive(
        self,
        item: Frame | EdgeadError,
        error: EdgeadError | None = None,
        *,
        trigger_id: str | None = None,
        part_id: str | None = None,
    ) -> Ticket:
        """Enter what the source handed over: a frame, or why the buffer is none.

        Args:
            item: A frame; or the error of a buffer that is none.
            error: Why the frame must not be judged, None for a sound one.
            trigger_id: Of a buffer that is no frame; frames say it themselves.
            part_id: Likewise.
        """
        now = self._clock()
        if isinstance(item, EdgeadError):
            self._count_gap(getattr(item, "block_id", None))
            ticket = self.ledger.issue(
                None,
                t_mono_ns=now,
                is_simulated=self.is_simulated,
                trigger_id=trigger_id,
                part_id=part_id,
            )
            self.fail(ticket, item.code, str(item))
            return ticket
        self._count_gap(item.block_id)
        if error is not None:
            ticket = self._issue(item)
            self.fail(ticket, error.code, str(error))
            return ticket
        due = None if self._deadline is None else item.t_mono_ns + self._deadline.budget_ns
        ticket = self._issue(item, due)
        if due is not None and not self._admit(ticket, now, due):
            return ticket
        if len(self.queue) >= self.policy.bound:
            if self.policy.name == "reject_when_full":
                self._drop(ticket, DropReason.QUEUE_FULL, "The queue was full.")
                return ticket
            if self.policy.name == "latest":
                newer = "A newer frame took its place."
                self._drop(self.queue.popleft(), DropReason.SUPERSEDED, newer)
            elif self.policy.name == "drop_oldest":
                full = "The queue was full and this was the oldest frame."
                self._drop(self.queue.popleft(), DropReason.QUEUE_FULL, full)
        self.queue.append(ticket)
        self.most_queued = max(self.most_queued, len(self.queue))
        return ticket

    def refuse(self, frame: Frame, reason: DropReason, message: str) -> Ticket:
        """Enter a sound frame that is not to be judged."""
        ticket = self._issue(frame)
        self._drop(ticket, reason, message)
        return ticket

    def take(self) -> Ticket | None:
        """The next frame to judge; frames whose deadline passed in the queue are dropped first."""
        self.expire()
        while self.queue:
            ticket = self.queue.popleft()
            if not ticket.is_settled:
                ticket.started_ns = self._clock()
                self.running += 1
                return ticket
        return None

    def finish(self, ticket: Ticket, detection: Detection, *, generation: int = 0) -> None:
        """Enter a judge's detection; one that comes after the deadline is counted late, not accepted."""
        self._stop_running(ticket)
        self.expire()
        in_time = self.ledger.settle(
            ticket, Status.RESULT, detection=detection, generation=generation
        )
        if not in_time and self._on_late is not None:
            self._on_late(ticket, detection)

    def finish_failed(self, ticket: Ticket, code: str, message: str) -> None:
        """Enter a judge's failure."""
        self._stop_running(ticket)
        self.expire()
        if not ticket.is_settled:
            self.fail(ticket, code, message)

    def finish_late(self, ticket: Ticket) -> None:
        """Enter that a judge came back after its frame was settled; what it says is not looked at."""
        self._stop_running(ticket)
        self.ledger.late += 1

    def give_up(self, ticket: Ticket, message: str) -> None:
        """Stop waiting for a judge that does not come back; its worker is no longer counted."""
        self.running -= 1
        if not ticket.is_settled:
            self.fail(ticket, FailCode.BACKEND_HUNG.value, message)

    def fail(self, ticket: Ticket, code: str, message: str) -> None:
        """Settle a ticket as FAILED(code)."""
        self.ledger.settle(ticket, Status.FAILED, reason=code, message=message)

    def expire(self) -> None:
        """Settle every open frame whose deadline (less the guard) has passed."""
        now = self._clock()
        while self._due and (self._due[0][0] <= now or self._due[0][2].is_settled):
            ticket = heapq.heappop(self._due)[2]
            if ticket.is_settled:
                continue
            if ticket.started_ns is None:
                with_queue = "Its deadline passed while it waited in the queue."
                self._drop(ticket, DropReason.DEADLINE_QUEUED, with_queue)
                self.queue.remove(ticket)
            else:
                running = "Its deadline passed while it was being judged."
                self.fail(ticket, FailCode.DEADLINE_RUNNING.value, running)

    @property
    def next_due_ns(self) -> int | None:
        """When `expire` has work next, None when nothing is due."""
        return self._due[0][0] if self._due else None

    def shut_down(self) -> None:
        """Drop what still waits."""
        while self.queue:
            self._drop(self.queue.popleft(), DropReason.SHUTDOWN, "The stream was closed.")

    def abandon(self, ticket: Ticket) -> None:
        """Drop a frame that is still being judged when the stream ends."""
        if not ticket.is_settled:
            self._drop(ticket, DropReason.SHUTDOWN, "The stream was closed while it was judged.")

    def _issue(self, frame: Frame, deadline_ns: int | None = None) -> Ticket:
        """A ticket whose frame carries its number."""
        ticket = self.ledger.issue(
            frame,
            t_mono_ns=frame.t_mono_ns,
            deadline_ns=deadline_ns,
            is_simulated=frame.is_simulated,
        )
        ticket.frame = replace(frame, source_id=self.ledger.source_id, seq=ticket.seq)
        return ticket

    def _admit(self, ticket: Ticket, now: int, due: int) -> bool:
        """Drop a frame that cannot make it; an idle engine always tries (the p99 must stay current)."""
        guard = 0 if self._deadline is None else self._deadline.guard_ns
        ahead = len(self.queue) + self.running
        rounds = ahead // self._workers + 1
        if due - guard <= now:
            late = "It was already late when it was received."
            self._drop(ticket, DropReason.ADMISSION, late)
            return False
        # Policies that make room for the newest frame do not make it wait behind the queue.
        if ahead and self.policy.name in ("every", "reject_when_full"):
            expected = now + rounds * self._service.p99_ns
            if expected > due - guard:
                text = f"{ahead} frames ahead and a p99 of {self._service.p99_ns / 1e6:.1f} ms."
                self._drop(ticket, DropReason.ADMISSION, f"It cannot meet its deadline: {text}")
                return False
        heapq.heappush(self._due, (due - guard, ticket.seq, ticket))
        return True

    def _stop_running(self, ticket: Ticket) -> None:
        self.running -= 1
        if ticket.started_ns is not None:
            self._service.add(self._clock() - ticket.started_ns)

    def _drop(self, ticket: Ticket, reason: DropReason, message: str) -> None:
        self.ledger.settle(ticket, Status.DROPPED, reason=reason.value, message=message)

    def _count_gap(self, block_id: int | None) -> None:
        """Frames lost before edgead: holes in the camera's ids, which wrap at 16, 32 or 64 bits."""
        if block_id is None:
            return
        last, self._last_block = self._last_block, block_id
        lost = self.ledger.lost_upstream or 0
        if last is not None and block_id != last:
            step = block_id - last
            if step < 0:
                # The counter wrapped at the smallest width that holds it, or the camera restarted.
                bits = next(b for b in _BLOCK_BITS if last < 1 << b)
                step += 1 << bits
                if step > 1 << (bits - 1):
                    step = 1
            lost += step - 1
        self.ledger.lost_upstream = lost

    def _on_settled(self, outcome: Outcome, ticket: Ticket) -> None:
        if self._on_frame is not None:
            self._on_frame(outcome, ticket.frame)
        ticket.frame = None
        if not self._is_ordered:
            self._emit(outcome, ticket)
            return
        self._done[ticket.seq] = (outcome, ticket)
        while (ready := self._done.pop(self._next_out, None)) is not None:
            self._next_out += 1
            self._emit(*ready)
