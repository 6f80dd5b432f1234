"""Outcomes for the tests of what goes out to the line, and a way to wait for something to be so."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from edgead.frame import Frame
from edgead.testing.fakes import detection_of
from edgead.types import LedgerCounts, Outcome, Status

#: Far more than anything here takes: it tells a hang from a busy machine.
PATIENCE_S = 60.0


def outcome_of(
    seq: int,
    *,
    score: float | None = None,
    part: str | None = None,
    trigger: str | None = None,
    at_ns: int | None = None,
    source: str = "cam",
) -> Outcome:
    """Outcome number ``seq``, just settled: every third one is a defect, every seventh dropped."""
    now = time.monotonic_ns() if at_ns is None else at_ns
    counts = LedgerCounts(received=seq + 1, results=seq + 1)
    detection = None
    if score is not None or seq % 7 != 6:
        frame = Frame(np.zeros((4, 4, 3), np.uint8), seq=seq, source_id=source)
        detection = detection_of(frame, score if score is not None else 0.9 * (seq % 3 == 2))
    return Outcome(
        status=Status.DROPPED if detection is None else Status.RESULT,
        reason="DEADLINE" if detection is None else "",
        detection=detection,
        source_id=source,
        seq=seq,
        t_mono_ns=now - 5_000_000,
        settled_mono_ns=now,
        counts=counts,
        part_id=part if part is not None else f"part-{seq}",
        trigger_id=trigger,
    )


def wait_until(is_so: Callable[[], object], what: str) -> None:
    """Return when ``is_so``; it never decides by how long that took."""
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until, f"still not so after {PATIENCE_S} s: {what}"
        time.sleep(0.002)
