"""Signals at random moments: a streaming program ends at once, and nothing of it stays behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgead.stream.journal_read import verify_journal
from edgead.testing.audit import children_of
from edgead.testing.servers import SilentServer

__all__ = ["MODES", "SignalledProgram", "signals"]

#: What the program is doing when it is struck; see `edgead.testing.signalled`.
MODES = ("plain", "triggered", "rtsp", "supervised", "gil")

_WITH_CHILD = ("rtsp", "supervised", "gil")
_PATIENCE_S = 120.0


class SignalledProgram:
    """A process that streams; it is running when this is made.

    Args:
        mode: One of `MODES`.
        journal: The journal that it writes.
        port: Of a server that says nothing, for ``rtsp``.

    Attributes:
        children: Process ids of its children.
    """

    def __init__(self, mode: str, journal: Path, port: int) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgead.testing.signalled", mode, str(journal), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()  # it is running
        self.children: list[int] = []
        until = time.monotonic() + _PATIENCE_S
        while mode in _WITH_CHILD and not self.children and time.monotonic() < until:
            self.children = children_of(self.process.pid)

    def end(self, number: int) -> tuple[str, float]:
        """Send a signal: what it said then, and how long it took to end, seconds.

        Raises:
            TimeoutExpired: It did not end within two minutes; it was killed.
        """
        start = time.monotonic()
        self.process.send_signal(number)
        try:
            said = self.process.communicate(timeout=_PATIENCE_S)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return said, time.monotonic() - start

    def leaves_no_child(self, within_s: float = 60.0) -> bool:
        """Whether its children end, too."""
        until = time.monotonic() + within_s
        while any(map(is_running, self.children)) and time.monotonic() < until:
            time.sleep(0.02)
        return not any(map(is_running, self.children))


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie; ``/proc/<pid>/stat``: pid (name) state."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def signals(seed: int, count: int, *, limit_s: float = 3.0) -> dict[str, Any]:
    """Send SIGINT or SIGTERM at random moments, ``count`` times, to every mode in turn.

    Returns:
        ``signals``; ``ended``: within ``limit_s``, with the signal's exit status, balanced books,
        a whole and closed journal and no child; ``slowest_s``; ``modes``: how many each;
        ``problems``: a sentence each.
    """
    draw = random.Random(f"{seed} signals")
    problems: list[str] = []
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder, SilentServer() as server:
        for number in range(count):
            mode, journal = MODES[number % len(MODES)], Path(folder) / f"{number}.sqlite"
            which = draw.choice([signal.SIGINT, signal.SIGTERM])
            program = SignalledProgram(mode, journal, server.port)
            time.sleep(draw.uniform(0.0, 0.5))
            try:
                said, took = program.end(which)
            except subprocess.TimeoutExpired:
                problems.append(f"{mode}, {which.name}: it did not end within {_PATIENCE_S:g} s")
                seconds.append(_PATIENCE_S)
                continue
            seconds.append(took)
            found = _wrong(program, said, which, journal)
            if took > limit_s:
                found.append(f"it took {took:.1f} s")
            if found:
                problems.append(f"{mode}, {which.name}: {', '.join(found)}")
    return {
        "signals": count,
        "ended": count - len(problems),
        "limit_s": limit_s,
        "median_s": round(sorted(seconds)[count // 2], 2),
        "slowest_s": round(max(seconds), 2),
        "problems": problems,
    }


def _wrong(program: SignalledProgram, said: str, which: signal.Signals, journal: Path) -> list[str]:
    found = []
    status = 143 if which is signal.SIGTERM else -signal.SIGINT
    if program.process.returncode != status:
        found.append(f"exit status {program.process.returncode}, want {status}")
    if "closed True 0" not in said:
        found.append(f"books: {said.strip()!r}")
    verified = verify_journal(journal)
    if not verified["ok"] or verified["open_runs"]:
        found.append(f"journal: {verified['problems']}, {verified['open_runs']} open runs")
    if not program.leaves_no_child():
        found.append("a child is left")
    return found
