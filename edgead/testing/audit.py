"""The auditor of a test run: it knows what went wrong with each frame and believes no counter."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgead.testing.faults import Fault
from edgead.types import LedgerCounts, Outcome, Status

__all__ = ["Audit", "MemoryTrend", "Resources", "children_of"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Audit:
    """Counts outcomes itself and compares.

    Args:
        fault_of: Number of a frame -> its planted fault, None for a sound one.
        deadline_ns: Time from capture by which an outcome must be settled, None for none.
        is_ordered: Whether outcomes must come in the order of ``seq``.
    """

    fault_of: Callable[[int], Fault | None] = lambda _: None
    deadline_ns: int | None = None
    is_ordered: bool = True
    seen: int = 0
    results: int = 0
    false_accepts: int = 0
    late_accepts: int = 0
    late_answers: int = 0
    out_of_order: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    _last: int = -1

    def see(self, outcome: Outcome) -> None:
        """Take one outcome into account."""
        self.seen += 1
        self.results += outcome.status is Status.RESULT
        if outcome.reason:
            self.reasons[outcome.reason] += 1
        if self.is_ordered and outcome.seq != self._last + 1:
            self.out_of_order += 1
        self._last = outcome.seq
        fault = self.fault_of(outcome.seq)
        if fault is not None:
            self.faults[fault.value] += 1
            self.false_accepts += outcome.accept
        if self.deadline_ns is not None:
            is_late = outcome.settled_mono_ns > outcome.t_mono_ns + self.deadline_ns
            self.late_answers += is_late
            self.late_accepts += is_late and outcome.accept

    def unaccounted(self, handed_over: int, counts: LedgerCounts) -> int:
        """Frames that the source handed over and that did not come out once, in fact and in the books."""
        booked = counts.results + counts.dropped + counts.failed
        return (
            abs(handed_over - self.seen)
            + abs(handed_over - booked)
            + abs(counts.in_flight)
            + abs(counts.results - self.results)
        )


class MemoryTrend:
    """Whether memory grows with the frames: objects that Python holds, and resident pages.

    The first part of a run fills caches and pools; growth is counted from `start` on.
    """

    def __init__(self) -> None:
        self._blocks = self._resident = 0

    def start(self) -> None:
        """Begin counting."""
        gc.collect()
        self._blocks, self._resident = sys.getallocatedblocks(), _resident_bytes()

    def grown(self) -> tuple[int, int]:
        """Objects and bytes that were added since `start`."""
        gc.collect()
        return sys.getallocatedblocks() - self._blocks, _resident_bytes() - self._resident

    def is_flat(self, frames: int) -> bool:
        """Less than one object for a hundred frames, and less than 16 MB in all."""
        blocks, resident = self.grown()
        return blocks < 2000 + frames // 100 and resident < 16_000_000


@dataclass(frozen=True)
class Resources:
    """File descriptors, threads and child processes of this process."""

    fds: int
    threads: int
    children: int

    @staticmethod
    def now() -> Resources:
        """What this process holds."""
        gc.collect()
        return Resources(
            len(list(Path("/proc/self/fd").iterdir())),
            threading.active_count(),
            len(children_of(os.getpid())),
        )

    def gained(self, before: Resources) -> dict[str, int]:
        """What was added since ``before``."""
        return {
            "fds": self.fds - before.fds,
            "threads": self.threads - before.threads,
            "processes": self.children - before.children,
        }


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def children_of(pid: int) -> list[int]:
    """Processes whose parent it is; ``/proc/<pid>/stat``: pid (name) state ppid."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found
