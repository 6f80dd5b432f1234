"""Positive controls: faults planted in the run itself, each of which must turn it red.

A check that cannot fail shows nothing. Here a ticket is lost, a bad frame accepted, memory leaked and
a journal torn on purpose, and the same checks as in the real run look at it.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path

from edgead.stream.journal import Journal
from edgead.stream.journal_read import verify_journal
from edgead.stream.ledger import Ticket
from edgead.stream.pipeline import Stream
from edgead.testing.audit import Audit, MemoryTrend
from edgead.testing.chaos_frames import faults_in_threads, planted
from edgead.testing.clock import FakeClock
from edgead.testing.fakes import FakeJudge
from edgead.testing.faults import Fault
from edgead.testing.simulation import Simulation
from edgead.testing.sources import ScriptedSource

__all__ = ["controls"]


def controls(seed: int) -> dict[str, bool]:
    """Control -> whether the run noticed (it must)."""
    return {
        "lost_ticket": _lost_ticket(),
        "false_accept": _false_accept(seed),
        "leak": _leak(),
        "torn_write": _torn_write(),
    }


def _lost_ticket() -> bool:
    """A frame is taken from the queue and forgotten, with its ticket."""
    clock, taken = FakeClock(), list[Ticket | None]()
    source = ScriptedSource(100, clock=clock)
    simulation = Simulation(
        FakeJudge(), source, clock, period_ns=1000, service_ns=lambda _: 10_000, policy="every"
    )
    audit = Audit()
    for outcome in simulation.run():
        audit.see(outcome)
        if outcome.seq == 50:
            taken.append(simulation.lane.take())
    return audit.unaccounted(100, simulation.counts) > 0


def _false_accept(seed: int) -> bool:
    """The judge calls a frame good of which the auditor knows that it was faulty."""
    plan = planted(seed, 50)

    def truth(number: int) -> Fault | None:
        return Fault.ZERO_MAP if number == 9 else plan.get(number)

    return int(faults_in_threads(seed, 50, truth=truth)["false_accepts"]) == 1


def _leak() -> bool:
    """One kilobyte of each frame is kept."""
    clock, kept, frames = FakeClock(), list[bytes](), 20_000
    simulation = Simulation(
        FakeJudge(),
        ScriptedSource(frames, clock=clock),
        clock,
        period_ns=1000,
        service_ns=lambda _: 1000,
        policy="every",
    )
    memory = MemoryTrend()
    for outcome in simulation.run():
        if outcome.seq == frames // 5:
            memory.start()
        kept.append(bytes(1024))
    return not memory.is_flat(frames)


def _torn_write() -> bool:
    """One row of a journal is altered behind its back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        source = ScriptedSource(20, clock=time.monotonic_ns, kind="file")
        for _ in Stream(FakeJudge(), {"camera": source}, journal=Journal(path)):
            pass
        was_whole = bool(verify_journal(path)["ok"])
        database = sqlite3.connect(path)
        database.execute("UPDATE outcomes SET score = 0.125 WHERE seq = 7")
        database.commit()
        database.close()
        return was_whole and not verify_journal(path)["ok"]
