"""Chaos with real time: a worker process that is slow, hangs or dies, beside a busy processor."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from edgead.frame import Frame
from edgead.stream.child import Child
from edgead.stream.journal_read import verify_journal
from edgead.stream.limits import Limits
from edgead.stream.pipeline import Stream
from edgead.stream.supervised import Supervised
from edgead.stream.triggered import Triggered
from edgead.testing.fakes import FakeJudge
from edgead.testing.faults import Fault
from edgead.testing.sources import ScriptedSource, textured

__all__ = ["hangs", "killed_journals", "killed_workers", "supervised_deadlines"]

_BURNER = "while True: sum(range(10000))"
_BUDGET_MS = 25.0
_PERIOD_S = 0.01


def make_slow_judge(seed: int, share: float, budget_ms: float) -> FakeJudge:
    """A judge of which a share of the answers takes 0.8 to 3 times the budget."""
    draw = random.Random(f"{seed} slow")

    def wait(_: Frame, __: Fault | None) -> None:
        is_slow = draw.random() < share
        time.sleep(budget_ms / 1e3 * draw.uniform(0.8, 3.0) if is_slow else 0.001)

    return FakeJudge(wait=wait)


def supervised_deadlines(seed: int, triggers: int, *, burners: int = 1) -> dict[str, Any]:
    """Triggers on the real clock in supervised mode, beside ``burners`` busy processes.

    Returns:
        How many were answered, accepted and accepted late, measured by the caller when it held the
        answer; the histogram of the lateness (answer minus deadline) and its maximum, ms.
    """
    judge = Supervised(functools.partial(make_slow_judge, seed, 0.05, _BUDGET_MS))
    lateness: list[float] = []
    accepted = late_accepts = 0
    reasons: dict[str, int] = {}
    processes = [subprocess.Popen([sys.executable, "-c", _BURNER]) for _ in range(burners)]
    try:
        with Triggered(judge, deadline_ms=_BUDGET_MS) as station:
            begin = time.monotonic()
            for number in range(triggers):
                time.sleep(max(0.0, begin + number * _PERIOD_S - time.monotonic()))
                start = time.monotonic_ns()
                frame = Frame(textured(number % 251), t_mono_ns=start)
                outcome = station.on_trigger(str(number), frame)
                late_ms = (time.monotonic_ns() - start) / 1e6 - _BUDGET_MS
                lateness.append(late_ms)
                accepted += outcome.accept
                late_accepts += outcome.accept and late_ms > 0
                name = outcome.reason or "RESULT"
                reasons[name] = reasons.get(name, 0) + 1
            counts = station.counts
    finally:
        for process in processes:
            process.kill()
            process.wait()
        judge.close()
    lateness.sort()
    return {
        "triggers": triggers,
        "burners": burners,
        "deadline_ms": _BUDGET_MS,
        "answered": counts.results + counts.dropped + counts.failed,
        "accepted": accepted,
        "late_accepts": late_accepts,
        "reasons": dict(sorted(reasons.items())),
        "lateness_ms": {
            "p50": round(lateness[len(lateness) // 2], 3),
            "p99": round(lateness[int(0.99 * len(lateness))], 3),
            "p99_9": round(lateness[int(0.999 * len(lateness))], 3),
            "max": round(lateness[-1], 3),
        },
        "lateness_histogram": _histogram(lateness),
    }


def _histogram(lateness_ms: list[float]) -> dict[str, int]:
    bounds = [-20.0, -10.0, -5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0, 10.0, 50.0]
    found: dict[str, int] = {}
    low = float("-inf")
    for high in [*bounds, float("inf")]:
        found[f"<= {high:g}"] = sum(low < late <= high for late in lateness_ms)
        low = high
    return found


def killed_workers(seed: int, kills: int) -> dict[str, Any]:
    """Kill the worker under load with SIGSEGV, SIGABRT and SIGKILL; every frame is accounted for."""
    draw = random.Random(f"{seed} kills")
    judge = Supervised(functools.partial(make_slow_judge, seed, 0.0, 1.0), restarts=kills)
    judge.warm_up()
    source = ScriptedSource(10**9, clock=time.monotonic_ns, kind="file")
    stream = Stream(judge, {"camera": source}, policy="every(4)")
    lost = good_after = 0
    recovery: list[float] = []
    killed_at = 0.0
    planned = draw.randrange(5, 30)
    for seen, outcome in enumerate(stream, start=1):
        if outcome.accept and killed_at:
            recovery.append(time.monotonic() - killed_at)
            killed_at = 0.0
            good_after += 1
            planned = seen + draw.randrange(5, 30)
        lost += outcome.reason == "WORKER_LOST"
        if good_after == kills:
            break
        if seen >= planned and not killed_at:
            number = draw.choice([signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
            killed_at = time.monotonic()
            os.kill(judge.pid, number)
    stream.close()
    judge.close()
    counts = stream.counts
    return {
        "kills": kills,
        "recovered": good_after,
        "frames_lost_with_a_worker": lost,
        "unaccounted": counts.in_flight + (0 if counts.balanced else 1),
        "recovery_max_s": round(max(recovery), 3) if recovery else None,
    }


def hangs(count: int) -> dict[str, Any]:
    """A judge in this process that hangs: each frame is settled, and the worker is replaced."""
    release = threading.Event()
    at = {10 * (n + 1) for n in range(count)}

    def wait(frame: Frame, _: Fault | None) -> None:
        if frame.seq in at:
            release.wait(30)

    source = ScriptedSource(10 * (count + 2), clock=time.monotonic_ns, kind="file")
    judge = FakeJudge(lambda n: Fault.HANG if n in at else None, wait=wait)
    with Stream(judge, {"camera": source}, limits=Limits(hang_s=0.1)) as stream:
        outcomes = list(stream)
    release.set()
    hung = [o for o in outcomes if o.reason == "BACKEND_HUNG"]
    return {
        "hangs": count,
        "settled": len(hung),
        "false_accepts": sum(o.accept for o in outcomes if o.seq in at),
        "unaccounted": abs(len(outcomes) - 10 * (count + 2)),
    }


def killed_journals(seed: int, kills: int) -> dict[str, Any]:
    """Kill the writer of a journal at a random moment; every row it was told is written must be there.

    A kill leaves what the kernel was given; a power cut is SQLite's promise of synchronous=FULL and
    is not shown here.
    """
    draw = random.Random(f"{seed} journals")
    torn = lost = acknowledged = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(kills):
            path = Path(folder) / f"{number}.sqlite"
            child = Child("edgead.testing.workers:write_journal")
            child.control.send(str(path))
            last = -1
            for _ in range(draw.randrange(1, 40)):
                last = child.control.recv()
            time.sleep(draw.uniform(0.0, 0.01))
            child.kill()
            child.wait()
            while child.control.poll(0):  # what it still said before it died
                try:
                    last = child.control.recv()
                except EOFError:
                    break
            child.close()
            found = verify_journal(path)
            torn += not found["ok"]
            lost += max(0, last + 1 - found["rows"])
            acknowledged += last + 1
    return {"kills": kills, "acknowledged": acknowledged, "lost_rows": lost, "torn": torn}
