"""Whatever comes, in whatever order: every frame ends once, in order, and no faulty one is accepted."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from edgead.stream import Limits, Stream
from edgead.stream.lane import Deadline
from edgead.testing import FakeClock, FakeJudge, Fault, ScriptedSource, Simulation, textured
from edgead.testing.audit import Audit
from edgead.types import Frame, Status

MS = 1_000_000
POLICIES = st.sampled_from(
    ["every(1)", "every(8)", "latest", "drop_oldest(1)", "drop_oldest(5)", "reject_when_full(3)"]
)
FRAME_FAULTS = [fault for fault in Fault if fault.is_in_frame]
FAULTS = st.sampled_from(
    [None, None, None, *[f for f in Fault if f not in (Fault.SLOW, Fault.HANG, Fault.DIE)]]
)


@settings(max_examples=150, deadline=None)
@given(
    plan=st.lists(st.tuples(FAULTS, st.integers(0, 60)), min_size=1, max_size=60),
    policy=POLICIES,
    period_ms=st.integers(0, 30),
    budget_ms=st.one_of(st.none(), st.integers(2, 80)),
    workers=st.integers(1, 3),
)
def test_on_the_injected_clock(
    plan: list[tuple[Fault | None, int]],
    policy: str,
    period_ms: int,
    budget_ms: int | None,
    workers: int,
) -> None:
    # The shape of the first map, and the size of the first frame, are what the run goes by.
    faults = {n: f for n, (f, _) in enumerate(plan) if f is not None and n > 0}
    # A buffer that repeats one which was never seen whole is a new one.
    faults = {
        n: f for n, f in faults.items() if f is not Fault.REPEATED_BLOCK or n - 1 not in faults
    }
    faults = {n: f for n, f in faults.items() if f is not Fault.MAP_SHAPE or n > 5}
    clock = FakeClock()
    simulation = Simulation(
        FakeJudge(faults.get),
        ScriptedSource(len(plan), faults.get, clock=clock, block_bits=16),
        clock,
        period_ns=period_ms * MS,
        service_ns=lambda frame: plan[frame.seq][1] * MS,
        policy=policy,
        workers=workers,
        deadline=None if budget_ms is None else Deadline(budget_ms * MS, MS),
    )
    budget_ns = None if budget_ms is None else budget_ms * MS
    audit = Audit(faults.get, deadline_ns=budget_ns)
    for outcome in simulation.run():
        audit.see(outcome)
        assert outcome.counts.balanced
        assert outcome.counts.in_flight <= simulation.lane.policy.bound + workers
    assert audit.unaccounted(len(plan), simulation.counts) == 0
    assert (audit.out_of_order, audit.late_accepts, audit.late_answers) == (0, 0, 0)
    if not any(fault is Fault.MAP_SHAPE for fault in faults.values()):
        assert audit.false_accepts == 0
    assert simulation.lane.most_queued <= simulation.lane.policy.bound


@settings(max_examples=25, deadline=None)
@given(
    frames=st.integers(1, 60),
    policy=POLICIES,
    workers=st.integers(1, 4),
    naps=st.lists(st.sampled_from([0.0, 0.0, 0.0005, 0.002]), min_size=1, max_size=8),
    stop_at=st.one_of(st.none(), st.integers(0, 40)),
)
def test_in_threads(
    frames: int, policy: str, workers: int, naps: list[float], stop_at: int | None
) -> None:
    def wait(frame: Frame, _: Fault | None) -> None:
        time.sleep(naps[frame.seq % len(naps)])

    source = ScriptedSource(frames, clock=time.monotonic_ns)
    seen = []
    stream = Stream(
        FakeJudge(wait=wait),
        {"cam": source},
        policy=policy,
        workers=workers,
        limits=Limits(drain_s=1),
    )
    for outcome in stream:
        seen.append(outcome)
        if outcome.seq == stop_at:
            break
    counts = stream.counts
    assert counts.balanced
    assert counts.in_flight == 0
    assert [o.seq for o in seen] == list(range(len(seen)))
    if stop_at is None or stop_at >= frames:
        assert len(seen) == counts.received == frames
    if policy.startswith("every") and stop_at is None:
        assert all(o.status is Status.RESULT for o in seen)


@settings(max_examples=100, deadline=None)
@given(
    ids=st.lists(st.integers(0, 400), min_size=2, max_size=80, unique=True),
    start=st.sampled_from([0, 2**16 - 200, 2**32 - 200, 2**64 - 200]),
)
def test_lost_blocks_are_the_holes_in_the_ids(ids: list[int], start: int) -> None:
    ids = sorted(ids)
    bits = 16 if start < 2**16 else 32 if start < 2**32 else 64
    clock = FakeClock()
    source = ScriptedSource(len(ids), clock=clock)
    source._frame = lambda n, _: Frame(  # type: ignore[method-assign]
        textured(n % 251), t_mono_ns=clock(), block_id=(start + ids[n]) % 2**bits
    )
    simulation = Simulation(
        FakeJudge(), source, clock, period_ns=MS, service_ns=lambda _: 0, policy="latest"
    )
    for _ in simulation.run():
        pass
    assert simulation.counts.lost_upstream == ids[-1] - ids[0] + 1 - len(ids)
