"""The reliability claims, run on this machine: one call, one verdict, the same seed the same run.

Scripted sources, fake back ends and an injected clock where time may be faked; processes, sockets and
the real clock where only those show anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from edgead.testing.audit import Resources
from edgead.testing.chaos_cameras import black_holes, freezes, lost_blocks, outages
from edgead.testing.chaos_controls import controls
from edgead.testing.chaos_frames import (
    deadlines,
    faults_in_threads,
    overload,
    overload_in_threads,
)
from edgead.testing.chaos_signals import signals
from edgead.testing.chaos_workers import (
    hangs,
    killed_journals,
    killed_workers,
    supervised_deadlines,
)

__all__ = ["FULL", "SMOKE", "ChaosSizes", "chaos"]


@dataclass(frozen=True)
class ChaosSizes:
    """How much of each is done.

    Attributes:
        frames: Through the fake back end, shared by four policies at three overloads: once on the
            injected clock, once in threads.
        faults: Planted faults through the threaded stream.
        triggers: With a deadline on the injected clock, at each of three shares of slow answers.
        supervised_triggers: With a deadline on the real clock, in supervised mode.
        stalls: Cameras that fall silent.
        disconnects: Cameras that cut the connection.
        failed_opens: Attempts in a row that fail.
        black_holes: RTSP servers that say nothing.
        freezes: Cameras that repeat their picture.
        deleted_blocks: Block ids deleted, at each of three counter widths.
        kills: Worker processes killed under load.
        journal_kills: Writers of a journal killed between or within two rows.
        hangs: Judges that hang in this process, at most 5 (more end a stream, by rule).
        signals: SIGINT and SIGTERM at random moments of a streaming program.
        end_s: In which time such a program must have ended; what is run beside other work gets more.
    """

    frames: int
    faults: int
    triggers: int
    supervised_triggers: int
    stalls: int
    disconnects: int
    failed_opens: int
    black_holes: int
    freezes: int
    deleted_blocks: int
    kills: int
    journal_kills: int
    hangs: int
    signals: int
    end_s: float


SMOKE = ChaosSizes(6000, 600, 600, 150, 10, 10, 30, 3, 6, 40, 3, 3, 2, 5, 60.0)
FULL = ChaosSizes(
    1_000_000, 10_000, 100_000, 10_000, 200, 500, 1000, 150, 100, 1000, 300, 100, 5, 200, 3.0
)


def chaos(
    seed: int = 0,
    *,
    sizes: ChaosSizes = SMOKE,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run everything.

    Args:
        seed: Of every draw; the same seed plants the same faults.
        sizes: `SMOKE` (half a minute) or `FULL` (the claims), or anything between.
        progress: Called with the name of each part when it begins.

    Returns:
        ``ok``: every claim held and every control was noticed; ``accounted``: share of frames that
        ended exactly once, 1.0 for all; ``false_accepts``; ``faults``: how many were planted;
        ``controls``: control -> noticed; ``failures``: the claims that did not hold; ``parts``: the
        figures of each part; ``resources``: file descriptors, threads and processes gained.
    """
    start, before = time.monotonic(), Resources.now()
    parts: dict[str, Any] = {}
    log = logging.getLogger("edgead.stream")
    level = log.level
    log.setLevel(logging.CRITICAL)  # every planted outage would be a line
    try:
        for name, run in _parts(seed, sizes).items():
            progress(name)
            parts[name] = run()
        progress("controls")
        noticed = controls(seed)
    finally:
        log.setLevel(level)
    gained = Resources.now().gained(before)
    failures = [
        *_frame_failures(parts),
        *_camera_failures(parts),
        *(f"signals: {problem}" for problem in parts["signals"]["problems"]),
        *(f"resources: {count} {name} gained" for name, count in gained.items() if count > 0),
        *(f"control {name} was not noticed" for name, seen in noticed.items() if not seen),
    ]
    frames = _total(parts, "frames", "triggers")
    return {
        "ok": not failures,
        "seed": seed,
        "accounted": 1.0 - _total(parts, "unaccounted") / frames,
        "frames": frames,
        "false_accepts": _total(parts, "false_accepts", "late_accepts"),
        "faults": _planted(sizes),
        "controls": noticed,
        "failures": failures,
        "parts": parts,
        "resources": gained,
        "sizes": asdict(sizes),
        "seconds": round(time.monotonic() - start, 1),
    }


def _parts(seed: int, sizes: ChaosSizes) -> dict[str, Callable[[], Any]]:
    return {
        "overload": lambda: overload(seed, sizes.frames),
        "overload_in_threads": lambda: overload_in_threads(sizes.frames),
        "deadlines": lambda: deadlines(seed, sizes.triggers),
        "faults": lambda: faults_in_threads(seed, sizes.faults),
        "outages": lambda: outages(
            seed,
            stalls=sizes.stalls,
            disconnects=sizes.disconnects,
            failed_opens=sizes.failed_opens,
        ),
        "freezes": lambda: freezes(seed, sizes.freezes),
        "lost_blocks": lambda: lost_blocks(seed, sizes.deleted_blocks),
        "black_holes": lambda: black_holes(sizes.black_holes),
        "hangs": lambda: hangs(sizes.hangs),
        "killed_workers": lambda: killed_workers(seed, sizes.kills),
        "killed_journals": lambda: killed_journals(seed, sizes.journal_kills),
        "signals": lambda: signals(seed, sizes.signals, limit_s=sizes.end_s),
        "supervised": lambda: supervised_deadlines(seed, sizes.supervised_triggers),
    }


def _planted(sizes: ChaosSizes) -> int:
    """Faults planted in all: every number of `ChaosSizes` that is one."""
    return (
        sizes.faults
        + sizes.stalls
        + sizes.disconnects
        + sizes.failed_opens
        + sizes.black_holes
        + sizes.freezes
        + sizes.kills
        + sizes.journal_kills
        + sizes.hangs
        + sizes.signals
    )


def _total(found: Any, *names: str) -> int:
    """Sum of the figures of these names, however deep."""
    if isinstance(found, list):
        return sum(_total(part, *names) for part in found)
    if not isinstance(found, dict):
        return 0
    own = sum(int(found[name]) for name in names if isinstance(found.get(name), (int, bool)))
    return own + sum(_total(part, *names) for part in found.values())


def _frame_failures(parts: dict[str, Any]) -> list[str]:
    failures = []
    for name in ("unaccounted", "out_of_order", "false_accepts", "late_accepts", "late_answers"):
        for part, found in parts.items():
            if count := _total(found, name):
                failures.append(f"{part}: {count} {name}")
    for run in parts["overload"] + parts["overload_in_threads"]:
        where = f"overload {run['policy']} x{run['overload']}"
        if run["most_queued"] > run["bound"]:
            failures.append(f"{where}: queue of {run['most_queued']} above its bound")
        if not run["memory_flat"]:
            failures.append(f"{where}: memory grows")
    for run in parts["deadlines"]:
        if run["late_results"] != run["slow"]:
            failures.append(f"deadlines: {run['slow']} slow, {run['late_results']} late")
    if parts["faults"]["misnamed"]:
        failures.append(f"faults: {parts['faults']['misnamed']}")
    supervised = parts["supervised"]
    if supervised["answered"] != supervised["triggers"]:
        failures.append(
            f"supervised: {supervised['answered']} of {supervised['triggers']} answered"
        )
    return failures


def _camera_failures(parts: dict[str, Any]) -> list[str]:
    pairs = [
        ("outages", "stalls_seen", "stalls"),
        ("outages", "stalls_recovered", "stalls"),
        ("outages", "disconnects_seen", "disconnects"),
        ("outages", "disconnects_recovered", "disconnects"),
        ("freezes", "found_at_once", "freezes"),
        ("black_holes", "closed_within_1_s", "opens"),
        ("hangs", "settled", "hangs"),
        ("killed_workers", "recovered", "kills"),
    ]
    failures = [
        f"{part}: {parts[part][got]} {got}, want {parts[part][want]}"
        for part, got, want in pairs
        if parts[part][got] != parts[part][want]
    ]
    for part, name in (
        ("outages", "invented"),
        ("outages", "repeated_ids"),
        ("freezes", "false_alarms"),
        ("killed_journals", "lost_rows"),
        ("killed_journals", "torn"),
    ):
        if parts[part][name]:
            failures.append(f"{part}: {parts[part][name]} {name}")
    for name in ("stall_recovery_median_s", "disconnect_recovery_median_s"):
        if not parts["outages"][name] < 1.0:
            failures.append(f"outages: {name} is {parts['outages'][name]}, want less than 1")
    blocks = parts["lost_blocks"]
    failures += [
        f"lost_blocks: {count} at {bits} bit, want {blocks['deleted']}"
        for bits, count in blocks["found"].items()
        if count != blocks["deleted"]
    ]
    return failures
