"""The books of one source: a ticket for every buffer received, settled exactly once.

``received == results + dropped + failed + in_flight`` holds at every moment. The only places that move
a number are `Ledger.issue`, `Ledger.settle`, `Ledger.revoke`, each under the stream's one lock.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from edgead.errors import StateError
from edgead.stream.reasons import DropReason, FailCode
from edgead.types import Detection, Frame, LedgerCounts, Outcome, Status

__all__ = ["Ledger", "Ticket"]


@dataclass(slots=True, eq=False)
class Ticket:
    """One received frame on its way to exactly one outcome.

    Attributes:
        ledger: Where it was issued.
        seq: Number in its source, +1 a frame, never reused.
        frame: The frame until it is settled; None for a buffer that was no frame.
        deadline_ns: Monotonic time by which its verdict must leave, None without a deadline.
        started_ns: When judging began, None before.
        is_settled: True after its one outcome.
    """

    ledger: Ledger
    seq: int
    frame: Frame | None
    t_mono_ns: int
    deadline_ns: int | None
    is_simulated: bool
    block_id: int | None = None
    trigger_id: str | None = None
    part_id: str | None = None
    started_ns: int | None = None
    is_settled: bool = False

    def __del__(self) -> None:
        # A ticket that nobody holds can never be settled by anybody else: show it as a number.
        if not self.is_settled:
            self.ledger.report_lost(self)


@dataclass(eq=False)
class Ledger:
    """Counts of one source.

    Args:
        source_id: Name of the source.
        on_settled: Called under the lock with each outcome and its ticket, in order of settlement.
        lock: The stream's lock; re-entrant, because a lost ticket may be found inside it.
        clock: Monotonic time, ns.
    """

    source_id: str
    on_settled: Callable[[Outcome, Ticket], None]
    clock: Callable[[], int]
    lock: AbstractContextManager[Any] = field(default_factory=threading.RLock)
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    received: int = 0
    results: int = 0
    late: int = 0
    double_settle: int = 0
    lost_upstream: int | None = None
    _dropped_total: int = 0
    _failed_total: int = 0
    in_flight: int = 0

    def issue(
        self,
        frame: Frame | None,
        *,
        t_mono_ns: int,
        deadline_ns: int | None = None,
        is_simulated: bool = False,
        trigger_id: str | None = None,
        part_id: str | None = None,
    ) -> Ticket:
        """Count a buffer that the source handed over, sound or not, and give it its number."""
        with self.lock:
            ticket = Ticket(
                self,
                self.received,
                frame,
                t_mono_ns,
                deadline_ns,
                is_simulated,
                block_id=None if frame is None else frame.block_id,
                trigger_id=trigger_id if frame is None else frame.trigger_id,
                part_id=part_id if frame is None else frame.part_id,
            )
            self.received += 1
            self.in_flight += 1
            return ticket

    def settle(
        self,
        ticket: Ticket,
        status: Status,
        *,
        reason: str = "",
        message: str = "",
        detection: Detection | None = None,
        generation: int = 0,
    ) -> bool:
        """Settle a ticket; the first call wins.

        Returns:
            False when the ticket was settled before. A second *result* is a late one and counted in
            ``late``; anything else is a bug and counted in ``double_settle``.
        """
        with self.lock:
            if ticket.is_settled:
                if status is Status.RESULT:
                    self.late += 1
                else:
                    self.double_settle += 1
                return False
            ticket.is_settled = True
            self.in_flight -= 1
            self._count(status, reason, 1)
            outcome = self._outcome(ticket, status, reason, message, detection, generation)
            self.on_settled(outcome, ticket)
            return True

    def revoke(self, outcome: Outcome, message: str) -> Outcome:
        """Take back a RESULT that could not be handed over by its deadline: FAILED(DEADLINE_HANDOVER).

        The outcome has not left edgead yet, so its frame still ends exactly once.
        """
        with self.lock:
            reason = FailCode.DEADLINE_HANDOVER.value
            self._count(outcome.status, outcome.reason, -1)
            self._count(Status.FAILED, reason, 1)
            self.late += 1
            return replace(
                outcome,
                status=Status.FAILED,
                reason=reason,
                message=message,
                detection=None,
                settled_mono_ns=self.clock(),
                counts=self._counts(),
            )

    def report_lost(self, ticket: Ticket) -> None:
        """Settle a ticket that was garbage-collected unsettled: FAILED(INTERNAL_LOST)."""
        self.settle(
            ticket,
            Status.FAILED,
            reason=FailCode.INTERNAL_LOST.value,
            message="The frame was lost inside edgead; please report this.",
        )

    def snapshot(self) -> LedgerCounts:
        """Counts now, checked.

        Raises:
            StateError: LEDGER when an invariant does not hold.
        """
        with self.lock:
            counts = self._counts()
            sound = (
                counts.balanced
                and counts.in_flight >= 0
                and sum(self.dropped.values()) == counts.dropped
                and sum(self.failed.values()) == counts.failed
                and self.double_settle == 0
            )
        if not sound:
            raise StateError(
                "LEDGER",
                f"the books of {self.source_id} do not balance: {counts}, "
                f"{self.double_settle} settled twice.",
                "This is a bug in edgead; please report it.",
            )
        return counts

    def _counts(self) -> LedgerCounts:
        return LedgerCounts(
            self.received,
            self.results,
            self._dropped_total,
            self._failed_total,
            self.in_flight,
            self.lost_upstream,
            self.late,
        )

    def _count(self, status: Status, reason: str, by: int) -> None:
        if status is Status.RESULT:
            self.results += by
        elif status is Status.DROPPED:
            DropReason(reason)  # the fixed list: an unknown reason is a bug, raised here
            self.dropped[reason] += by
            self._dropped_total += by
        else:
            self.failed[reason] += by
            self._failed_total += by

    def _outcome(
        self,
        ticket: Ticket,
        status: Status,
        reason: str,
        message: str,
        detection: Detection | None,
        generation: int,
    ) -> Outcome:
        return Outcome(
            status=status,
            reason=reason,
            message=message,
            detection=detection,
            source_id=self.source_id,
            seq=ticket.seq,
            t_mono_ns=ticket.t_mono_ns,
            settled_mono_ns=self.clock(),
            counts=self._counts(),
            block_id=ticket.block_id,
            trigger_id=ticket.trigger_id,
            part_id=ticket.part_id,
            is_simulated=ticket.is_simulated,
            generation=generation,
        )
