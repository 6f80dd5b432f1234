"""Outcomes on their way to the reader: each is journaled once and handed over in time, or taken back.

The reader's thread may be interrupted anywhere (see `edgead.stream.interrupts`): here it makes single
calls only, and what changes the books besides is the clerk's work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from edgead.stream.interrupts import Bell, Changed, Clerk
from edgead.stream.journal import Journal
from edgead.stream.ledger import Ledger, Ticket
from edgead.types import Outcome

__all__ = ["Outbox", "Parcel"]

_LATE = "It was judged in time, and taken or journaled after its deadline."


class Parcel(NamedTuple):
    """An outcome that waits, without its ticket, whose end must not come in a caller's thread.

    Python swallows what a signal's handler raises within ``__del__``: nothing would stop.
    """

    outcome: Outcome
    ledger: Ledger
    deadline_ns: int | None
    results_before: int = 0
    receipt: Bell | None = None


class Outbox:
    """What waits for the reader of a stream.

    Args:
        changed: The stream's condition.
        clerk: Changes the books.
        journal: Gets a row for each outcome, None for none.
        clock: Monotonic time, ns.
        guard_ns: A verdict must leave so long before its deadline.
    """

    def __init__(
        self,
        changed: Changed,
        clerk: Clerk,
        journal: Journal | None,
        clock: Callable[[], int],
        guard_ns: int,
    ) -> None:
        self._changed = changed
        self._clerk = clerk
        self._journal = journal
        self._clock = clock
        self._guard_ns = guard_ns
        self._waiting: deque[Parcel] = deque()
        self._results_added = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def results(self) -> int:
        """Detections that wait; read off the queue, which a reader shortens by one call."""
        return self._results_added - self._waiting[0].results_before if self._waiting else 0

    def add(self, outcome: Outcome, ticket: Ticket) -> None:
        """Put it at the end. Called under the lock."""
        self._waiting.append(
            Parcel(outcome, ticket.ledger, ticket.deadline_ns, self._results_added)
        )
        self._results_added += outcome.detection is not None
        self._changed.notify_all()

    def take(self, is_over: Callable[[], bool]) -> Outcome | None:
        """Wait for the next outcome; None when there is none left and ``is_over()``."""
        while True:
            with self._changed.lock:
                parcel = self._waiting[0] if self._waiting else None
                if parcel is None:
                    if is_over():
                        return None
                    bell = self._changed.bell()
                elif not self._is_late(parcel):
                    # The row first: who is interrupted in between reads the outcome again.
                    receipt = self._enter(parcel.outcome)
                    self._waiting.popleft()
                    self._changed.notify_all()
                    break
            if parcel is None:
                self._changed.wait_for_bell(bell, 0.5)
            else:
                self._clerk.do(partial(self._revoke_first, parcel))
        return self.hand_over(parcel._replace(receipt=receipt))

    def pack(self, outcome: Outcome, ticket: Ticket, *, handed_over: bool = True) -> Parcel:
        """Journal an outcome that does not wait its turn; for `hand_over`."""
        receipt = self._enter(outcome, handed_over=handed_over)
        return Parcel(outcome, ticket.ledger, ticket.deadline_ns, receipt=receipt)

    def hand_over(self, parcel: Parcel) -> Outcome:
        """Wait until its row is on the disk; if it is late by then, it is no verdict any more."""
        self._wait_for(parcel.receipt)
        if not self._is_late(parcel):
            return parcel.outcome
        outcome, receipt = self._clerk.do(partial(self._take_back, parcel))
        self._wait_for(receipt)
        return outcome

    def clear(self) -> None:
        """Journal what nobody has read. The clerk's work."""
        with self._changed:
            for parcel in self._waiting:
                self._enter(parcel.outcome, handed_over=False)
            self._waiting.clear()

    def _enter(self, outcome: Outcome, *, handed_over: bool = True) -> Bell | None:
        if self._journal is None:
            return None
        return self._journal.put(outcome, handed_over=handed_over)

    def _wait_for(self, receipt: Bell | None) -> None:
        if self._journal is not None:
            self._journal.wait(receipt)  # with synchronous=FULL this waits for the disk

    def _is_late(self, parcel: Parcel) -> bool:
        """A verdict that is not taken by its deadline is UNKNOWN."""
        due = parcel.deadline_ns
        return due is not None and parcel.outcome.accept and self._clock() + self._guard_ns > due

    def _revoke_first(self, parcel: Parcel) -> None:
        """The outcome at the head, which was found late, is no verdict. The clerk's work."""
        with self._changed:
            if self._waiting and self._waiting[0] is parcel:
                outcome = parcel.ledger.revoke(parcel.outcome, _LATE)
                self._waiting[0] = parcel._replace(outcome=outcome)

    def _take_back(self, parcel: Parcel) -> tuple[Outcome, Bell | None]:
        """A row that was written too late is amended. The clerk's work."""
        final = parcel.ledger.revoke(parcel.outcome, _LATE)
        return final, None if self._journal is None else self._journal.put(final, amends=True)
