"""Every ticket is settled exactly once, and the books say so at every moment."""

from __future__ import annotations

import gc
import threading

import pytest

from edgead.errors import StateError
from edgead.stream.ledger import Ledger, Ticket
from edgead.stream.reasons import DropReason, FailCode
from edgead.testing import FakeClock, detection_of, textured
from edgead.types import Frame, Outcome, Status, Verdict


def make() -> tuple[Ledger, list[Outcome]]:
    seen: list[Outcome] = []
    return Ledger("cam", lambda outcome, _: seen.append(outcome), FakeClock()), seen


def issue(ledger: Ledger) -> Ticket:
    return ledger.issue(Frame(textured(1)), t_mono_ns=5, deadline_ns=None)


def test_books_of_one_frame_of_each_end() -> None:
    ledger, seen = make()
    tickets = [issue(ledger) for _ in range(3)]
    assert ledger.snapshot().in_flight == 3
    ledger.settle(tickets[0], Status.RESULT, detection=detection_of(Frame(textured(1))))
    ledger.settle(tickets[1], Status.DROPPED, reason=DropReason.QUEUE_FULL.value)
    ledger.settle(tickets[2], Status.FAILED, reason=FailCode.BACKEND_ERROR.value)
    counts = ledger.snapshot()
    assert (counts.received, counts.results, counts.dropped, counts.failed) == (3, 1, 1, 1)
    assert (counts.in_flight, counts.balanced, counts.lost_upstream) == (0, True, None)
    assert [o.verdict for o in seen] == [Verdict.GOOD, Verdict.UNKNOWN, Verdict.UNKNOWN]
    assert [o.accept for o in seen] == [True, False, False]
    assert [o.seq for o in seen] == [0, 1, 2]


def test_a_late_result_is_counted_and_nothing_else_happens() -> None:
    ledger, seen = make()
    ticket = issue(ledger)
    assert ledger.settle(ticket, Status.FAILED, reason="DEADLINE_RUNNING")
    assert not ledger.settle(ticket, Status.RESULT, detection=detection_of(Frame(textured(1))))
    assert (len(seen), ledger.snapshot().late, seen[0].accept) == (1, 1, False)


def test_a_second_failure_is_a_bug_and_breaks_the_snapshot() -> None:
    ledger, _ = make()
    ticket = issue(ledger)
    ledger.settle(ticket, Status.FAILED, reason="BACKEND_ERROR")
    ledger.settle(ticket, Status.FAILED, reason="BACKEND_ERROR")
    with pytest.raises(StateError) as caught:
        ledger.snapshot()
    assert str(caught.value) == (
        "[LEDGER] the books of cam do not balance: LedgerCounts(received=1, results=0, dropped=0, "
        "failed=1, in_flight=0, lost_upstream=None, late=0), 1 settled twice. This is a bug in "
        "edgead; please report it."
    )


def test_a_ticket_that_nobody_holds_shows_as_a_number() -> None:
    ledger, seen = make()
    issue(ledger)
    gc.collect()
    assert [o.reason for o in seen] == ["INTERNAL_LOST"]
    assert ledger.snapshot().in_flight == 0


def test_a_revoked_result_moves_and_is_not_counted_twice() -> None:
    ledger, seen = make()
    ticket = issue(ledger)
    ledger.settle(ticket, Status.RESULT, detection=detection_of(Frame(textured(1))))
    final = ledger.revoke(seen[0], "too late")
    counts = ledger.snapshot()
    assert (final.status, final.reason, final.accept) == (Status.FAILED, "DEADLINE_HANDOVER", False)
    assert (counts.results, counts.failed, counts.received, counts.late) == (0, 1, 1, 1)


def test_an_unknown_drop_reason_is_refused() -> None:
    ledger, _ = make()
    with pytest.raises(ValueError, match="'TIRED' is not a valid DropReason"):
        ledger.settle(issue(ledger), Status.DROPPED, reason="TIRED")


def test_many_threads_settling_the_same_tickets_settle_each_once() -> None:
    ledger, seen = make()
    tickets = [issue(ledger) for _ in range(500)]
    found = detection_of(Frame(textured(1)))

    def settle() -> None:
        for ticket in tickets:
            ledger.settle(ticket, Status.RESULT, detection=found)

    threads = [threading.Thread(target=settle) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = ledger.snapshot()
    assert (len(seen), counts.results, counts.late) == (500, 500, 1500)
