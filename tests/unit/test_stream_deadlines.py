"""Deadlines on the injected clock: admission, the queue, the running frame, the hand-over."""

from __future__ import annotations

import threading

import pytest

from edgead.errors import ConfigError
from edgead.stream import run
from edgead.stream.lane import Deadline, Lane
from edgead.stream.limits import Limits
from edgead.stream.policies import parse_policy
from edgead.stream.service import ServiceTime
from edgead.testing import FakeClock, FakeJudge, ScriptedSource, Simulation, detection_of, textured
from edgead.types import Frame, Outcome

MS = 1_000_000


class Rig:
    def __init__(self, policy: str = "reject_when_full(4)", p99_ms: int = 10) -> None:
        self.clock = FakeClock()
        self.seen: list[Outcome] = []
        self.service = ServiceTime()
        self.service.add(p99_ms * MS)
        self.lane = Lane(
            "cam",
            parse_policy(policy),
            clock=self.clock,
            lock=threading.RLock(),
            emit=lambda outcome, _: self.seen.append(outcome),
            service=self.service,
            deadline=Deadline(40 * MS, 1 * MS),
            is_ordered=False,
        )

    def receive(self, age_ms: int = 0) -> None:
        self.lane.receive(Frame(textured(1), t_mono_ns=self.clock() - age_ms * MS))

    @property
    def reasons(self) -> list[str]:
        return [o.reason for o in self.seen]


def test_a_frame_that_is_late_already_is_not_admitted() -> None:
    rig = Rig()
    rig.receive(age_ms=40)
    assert rig.reasons == ["ADMISSION"]
    assert rig.seen[0].message == "It was already late when it was received."


def test_a_frame_behind_too_many_others_is_not_admitted() -> None:
    rig = Rig(p99_ms=15)
    for _ in range(3):
        rig.receive()
    assert rig.reasons == ["ADMISSION"]  # 3 * 15 ms > 39 ms
    assert rig.seen[0].message == (
        "It cannot meet its deadline: 2 frames ahead and a p99 of 15.0 ms."
    )


def test_an_idle_engine_always_tries() -> None:
    rig = Rig(p99_ms=500)
    rig.receive()
    assert rig.reasons == []
    assert rig.lane.take() is not None


def test_the_deadline_passes_in_the_queue() -> None:
    rig = Rig()
    rig.receive()
    rig.clock.advance(0.039)
    assert rig.lane.take() is None
    assert rig.reasons == ["DEADLINE_QUEUED"]


def test_the_deadline_passes_while_judged_and_the_late_result_is_not_accepted() -> None:
    rig = Rig()
    rig.receive()
    ticket = rig.lane.take()
    assert ticket is not None
    assert rig.lane.next_due_ns == rig.clock() + 39 * MS
    rig.clock.advance(0.039)
    rig.lane.expire()
    assert rig.reasons == ["DEADLINE_RUNNING"]
    rig.lane.finish(ticket, detection_of(Frame(textured(1))))
    assert len(rig.seen) == 1
    assert (rig.lane.ledger.late, rig.lane.ledger.snapshot().in_flight) == (1, 0)


def test_a_result_at_the_very_moment_is_late() -> None:
    rig = Rig()
    rig.receive()
    ticket = rig.lane.take()
    assert ticket is not None
    rig.clock.advance(0.039)
    rig.lane.finish(ticket, detection_of(Frame(textured(1))))  # before any timer ran
    assert rig.reasons == ["DEADLINE_RUNNING"]


def test_service_time_quantile_is_that_of_the_window() -> None:
    service = ServiceTime(window=100)
    for n in range(1000):
        service.add(n)
    assert service.p99_ns == 999
    assert service.percentile(0.5) == 950


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_each_trigger_is_answered_once_and_in_time(share: float) -> None:
    clock = FakeClock()
    every = round(1 / share)
    simulation = Simulation(
        FakeJudge(),
        ScriptedSource(2000, clock=clock, kind="triggered"),
        clock,
        period_ns=200 * MS,
        service_ns=lambda f: (60 if f.seq % every == 0 else 5) * MS,
        deadline=Deadline(40 * MS, 1 * MS),
    )
    outcomes = list(simulation.run())
    missed = 2000 // every
    assert [o.seq for o in outcomes] == list(range(2000))
    assert sum(o.reason == "DEADLINE_RUNNING" for o in outcomes) == missed
    assert max(o.latency_ms for o in outcomes) <= 40
    assert simulation.counts.late == missed
    assert not any(o.accept for o in outcomes if o.seq % every == 0)


def test_a_verdict_that_is_not_taken_in_time_is_unknown() -> None:
    with run(FakeJudge(), [textured(1)], deadline_ms=30, limits=Limits(guard_ms=1)) as stream:
        wait = threading.Event()
        wait.wait(0.06)  # the reader sleeps past the deadline
        outcome = next(stream)
    assert (outcome.reason, outcome.accept) == ("DEADLINE_HANDOVER", False)
    assert outcome.message == ("It was judged in time, and taken or journaled after its deadline.")
    assert (stream.counts.results, stream.counts.failed) == (0, 1)


def test_a_deadline_below_the_guard_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        run(FakeJudge(), [textured(1)], deadline_ms=0.5)
    assert str(caught.value) == (
        "[DEADLINE] deadline_ms is 0.5; want more than the guard of 1.0 ms."
    )
