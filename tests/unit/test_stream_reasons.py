"""The fixed lists: every reason that a frame can end with has a scenario here that produces it."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from edgead.errors import BackendError
from edgead.stream import Limits, Stream, Swappable, run
from edgead.stream.lane import Deadline
from edgead.stream.reasons import DropReason, FailCode
from edgead.stream.supervised import Supervised
from edgead.stream.triggered import Triggered
from edgead.testing import FakeClock, FakeJudge, Fault, ScriptedSource, Simulation, textured
from edgead.testing.workers import make_faulty_judge
from edgead.types import Detection, Frame, Outcome, Status

MS = 1_000_000


def simulated(
    policy: str, *, service_ms: int = 10, deadline_ms: int | None = None
) -> list[Outcome]:
    clock = FakeClock()
    return list(
        Simulation(
            FakeJudge(),
            ScriptedSource(40, clock=clock),
            clock,
            period_ns=2 * MS,
            service_ns=lambda _: service_ms * MS,
            policy=policy,
            deadline=None if deadline_ms is None else Deadline(deadline_ms * MS, MS),
        ).run()
    )


def judged(fault: Fault) -> list[Outcome]:
    return list(run(FakeJudge({1: fault}.get), [textured(n) for n in range(3)]))


def seen(fault: Fault) -> list[Outcome]:
    source = ScriptedSource(3, {1: fault}.get, clock=time.monotonic_ns, block_bits=16)
    return list(Stream(FakeJudge(), {"cam": source}, policy="every"))


def raising(code: str) -> list[Outcome]:
    def judge(frame: Frame) -> Detection:
        raise BackendError(code, "as told.")

    return list(run(Swappable(judge), [textured(1)]))


def closed() -> list[Outcome]:
    release = threading.Event()

    def judge(frame: Frame) -> Detection:
        release.wait(5)
        return FakeJudge()(frame)

    ends: list[Outcome] = []
    stream = run(judge, [textured(n) for n in range(3)], limits=Limits(drain_s=0.05))
    emit = stream.lanes["array"]._emit
    stream.lanes["array"]._emit = lambda outcome, ticket: (
        ends.append(outcome),
        emit(outcome, ticket),
    )[-1]
    time.sleep(0.05)
    stream.close()
    release.set()
    return ends


def hung() -> list[Outcome]:
    release = threading.Event()
    judge = FakeJudge({1: Fault.HANG}.get, wait=lambda _, f: f is Fault.HANG and release.wait(5))
    outcomes = list(run(judge, [textured(n) for n in range(3)], limits=Limits(hang_s=0.05)))
    release.set()
    return outcomes


def late_reader() -> list[Outcome]:
    with run(FakeJudge(), [textured(1)], deadline_ms=20) as stream:
        time.sleep(0.04)
        return [next(stream)]


def twice() -> list[Outcome]:
    with Triggered(FakeJudge(), deadline_ms=500) as station:
        return [station.on_trigger("1", textured(n)) for n in range(2)]


def died() -> list[Outcome]:
    judge = Supervised(functools.partial(make_faulty_judge, {1: Fault.DIE}))
    outcomes = list(run(judge, [textured(n) for n in range(3)]))
    judge.close()
    return outcomes


def forgotten() -> list[Outcome]:
    """A bug in edgead itself: the queue loses a ticket."""
    ends: list[Outcome] = []
    clock = FakeClock()
    simulation = Simulation(
        FakeJudge(),
        ScriptedSource(3, clock=clock),
        clock,
        period_ns=1,
        service_ns=lambda _: 100,
        policy="every",
    )
    for outcome in simulation.run():
        ends.append(outcome)
        if outcome.seq == 0:
            simulation.lane.queue.clear()
    return ends


def broken_item() -> list[Outcome]:
    return list(run(FakeJudge(), [np.zeros((4, 4, 3), np.uint8)]))


PRODUCERS: dict[str, Callable[[], list[Outcome]]] = {
    "QUEUE_FULL": lambda: simulated("drop_oldest(2)"),
    "SUPERSEDED": lambda: simulated("latest"),
    "ADMISSION": lambda: simulated("reject_when_full(4)", deadline_ms=20),
    "DEADLINE_QUEUED": lambda: simulated("drop_oldest(8)", service_ms=10, deadline_ms=11),
    "SHUTDOWN": closed,
    "DUPLICATE_ID": twice,
    "FRAME_SHAPE_CHANGED": lambda: seen(Fault.RESIZED),
    "FRAME_CONSTANT": broken_item,
    "FROZEN_SOURCE": lambda: seen(Fault.REPEATED_BLOCK),
    "INCOMPLETE_FRAME": lambda: seen(Fault.INCOMPLETE),
    "DEADLINE_RUNNING": lambda: simulated("latest", service_ms=50, deadline_ms=20),
    "DEADLINE_HANDOVER": late_reader,
    "BACKEND_ERROR": lambda: judged(Fault.RAISES),
    "BACKEND_HUNG": hung,
    "BACKEND_NONFINITE": lambda: judged(Fault.NAN_MAP),
    "BACKEND_DEGENERATE": lambda: judged(Fault.ZERO_MAP),
    "BACKEND_SHAPE": lambda: judged(Fault.MAP_SHAPE),
    "DEVICE_OOM": lambda: judged(Fault.OUT_OF_MEMORY),
    "DEVICE_LOST": lambda: raising("DEVICE_LOST"),
    "WORKER_LOST": died,
    "MODEL_UNVERIFIED": lambda: raising("MODEL_UNVERIFIED"),
    "INTERNAL_LOST": forgotten,
}


@pytest.mark.parametrize("reason", [*DropReason, *FailCode], ids=lambda reason: reason.value)
def test_each_reason_is_produced_and_never_accepted(reason: DropReason | FailCode) -> None:
    outcomes = PRODUCERS[reason.value]()
    found = [o for o in outcomes if o.reason == reason.value]
    assert found
    expected = Status.DROPPED if isinstance(reason, DropReason) else Status.FAILED
    assert {o.status for o in found} == {expected}
    assert not any(o.accept for o in found)
    assert all(o.message for o in found)


def test_the_fixed_lists_and_the_scenarios_agree() -> None:
    assert set(PRODUCERS) == {reason.value for reason in [*DropReason, *FailCode]}
