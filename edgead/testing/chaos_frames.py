"""Chaos with frames and judges: overload, deadlines and every fault that a fake can show."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from edgead.frame import Frame
from edgead.stream.lane import Deadline
from edgead.stream.limits import Limits
from edgead.stream.pipeline import Stream
from edgead.testing.audit import Audit, MemoryTrend
from edgead.testing.clock import FakeClock
from edgead.testing.fakes import FakeJudge
from edgead.testing.faults import Fault
from edgead.testing.simulation import Simulation
from edgead.testing.sources import ScriptedSource

__all__ = ["deadlines", "faults_in_threads", "overload", "overload_in_threads", "planted"]

_POLICIES = ("every(8)", "latest", "drop_oldest(8)", "reject_when_full(4)")
_OVERLOADS = (2, 5, 20)
_SERVICE_NS = 10_000_000
_BUDGET_NS = 50_000_000
_GUARD_NS = 1_000_000
_NOT_INJECTABLE = frozenset({Fault.SLOW, Fault.HANG, Fault.DIE})  # they need time or a process


def overload(seed: int, frames: int) -> list[dict[str, Any]]:
    """Each policy under each overload on the injected clock, ``frames`` shared among the twelve."""
    share = max(1, frames // (len(_POLICIES) * len(_OVERLOADS)))
    return [_overloaded(seed, share, p, k) for p in _POLICIES for k in _OVERLOADS]


def _overloaded(seed: int, frames: int, policy: str, factor: int) -> dict[str, Any]:
    draw = random.Random(f"{seed} {policy} {factor}")
    clock = FakeClock()
    source = ScriptedSource(frames, clock=clock, block_bits=16)
    simulation = Simulation(
        FakeJudge(),
        source,
        clock,
        period_ns=_SERVICE_NS // factor,
        service_ns=lambda _: int(_SERVICE_NS * draw.uniform(0.5, 1.5)),
        policy=policy,
    )
    audit, memory = Audit(), MemoryTrend()
    for outcome in simulation.run():
        if outcome.seq == frames // 5:
            memory.start()
        audit.see(outcome)
    counts = simulation.counts
    return {
        "policy": policy,
        "overload": factor,
        "frames": frames,
        "results": counts.results,
        "dropped": counts.dropped,
        "unaccounted": audit.unaccounted(frames, counts),
        "out_of_order": audit.out_of_order,
        "bound": simulation.lane.policy.bound,
        "most_queued": simulation.lane.most_queued,
        "memory_flat": memory.is_flat(frames),
    }


def overload_in_threads(frames: int) -> list[dict[str, Any]]:
    """The same through the real, threaded stream: exactly ``factor`` frames come for each judged."""
    share = max(1, frames // (len(_POLICIES) * len(_OVERLOADS)))
    return [_overloaded_thread(share, p, k) for p in _POLICIES for k in _OVERLOADS]


def _overloaded_thread(frames: int, policy: str, factor: int) -> dict[str, Any]:
    permits = threading.Semaphore(factor)

    def wait_for_permit(_: int) -> None:
        if not policy.startswith("every"):  # there the full queue holds the source back
            permits.acquire(timeout=10)

    source = ScriptedSource(frames, clock=time.monotonic_ns, block_bits=16, wait=wait_for_permit)
    judge = FakeJudge(wait=lambda *_: permits.release(factor))
    audit, memory = Audit(), MemoryTrend()
    with Stream(judge, {"camera": source}, policy=policy) as stream:
        for outcome in stream:
            if outcome.seq == frames // 5:
                memory.start()
            audit.see(outcome)
    counts, lane = stream.counts, stream.lanes["camera"]
    return {
        "policy": policy,
        "overload": factor,
        "frames": frames,
        "results": counts.results,
        "dropped": counts.dropped,
        "unaccounted": audit.unaccounted(frames, counts),
        "out_of_order": audit.out_of_order,
        "bound": lane.policy.bound,
        "most_queued": lane.most_queued,
        "memory_flat": memory.is_flat(frames),
    }


def deadlines(seed: int, triggers: int) -> list[dict[str, Any]]:
    """1 %, 10 % and 50 % of the judges' answers over the deadline, on the injected clock."""
    return [_deadline_run(seed, triggers, share) for share in (0.01, 0.1, 0.5)]


def _deadline_run(seed: int, triggers: int, share: float) -> dict[str, Any]:
    draw = random.Random(f"{seed} {share}")
    slow = {n for n in range(triggers) if draw.random() < share}
    clock = FakeClock()

    def service_ns(frame: Frame) -> int:
        longest = 4 * _BUDGET_NS
        return draw.randrange(_BUDGET_NS, longest) if frame.seq in slow else _BUDGET_NS // 5

    simulation = Simulation(
        FakeJudge(),
        ScriptedSource(triggers, clock=clock, kind="triggered"),
        clock,
        period_ns=5 * _BUDGET_NS,  # each trigger finds an idle engine, so every miss is its own
        service_ns=service_ns,
        deadline=Deadline(_BUDGET_NS, _GUARD_NS),
    )
    audit = Audit(lambda n: Fault.SLOW if n in slow else None, deadline_ns=_BUDGET_NS)
    for outcome in simulation.run():
        audit.see(outcome)
    counts = simulation.counts
    return {
        "over_deadline": share,
        "triggers": triggers,
        "slow": len(slow),
        "unaccounted": audit.unaccounted(triggers, counts),
        "late_answers": audit.late_answers,
        "late_accepts": audit.late_accepts,
        "false_accepts": audit.false_accepts,
        "late_results": counts.late,
    }


def planted(seed: int, faults: int) -> dict[int, Fault]:
    """Where faults are planted: at most every third frame, the first ten are sound."""
    draw = random.Random(f"{seed} faults")
    kinds = [fault for fault in Fault if fault not in _NOT_INJECTABLE]
    return {10 + 3 * n + draw.randrange(2): draw.choice(kinds) for n in range(faults)}


def faults_in_threads(
    seed: int, faults: int, *, truth: Callable[[int], Fault | None] | None = None
) -> dict[str, Any]:
    """Planted faults through the real, threaded stream with two workers.

    Args:
        seed: Of the plan.
        faults: How many are planted.
        truth: What the auditor is told instead of the plan: for the planted control.
    """
    plan = planted(seed, faults)
    frames = 10 + 3 * faults
    source = ScriptedSource(frames, plan.get, clock=time.monotonic_ns, block_bits=16)
    audit = Audit(truth or plan.get)
    misnamed: list[str] = []
    with Stream(
        FakeJudge(plan.get), {"camera": source}, policy="every", workers=2, limits=Limits()
    ) as stream:
        for outcome in stream:
            audit.see(outcome)
            fault = plan.get(outcome.seq)
            if fault is not None and outcome.reason != fault.code:
                misnamed.append(f"{fault.value}: {outcome.reason or outcome.status.value}")
    return {
        "frames": frames,
        "faults": len(plan),
        "kinds": dict(sorted(audit.faults.items())),
        "false_accepts": audit.false_accepts,
        "misnamed": misnamed[:10],
        "unaccounted": audit.unaccounted(frames, stream.counts),
        "out_of_order": audit.out_of_order,
    }
