"""Every way to stop, in a process of its own: it ends, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgead.stream.journal_read import verify_journal
from edgead.testing.servers import SilentServer

pytestmark = pytest.mark.timeout(300)

_SCRIPT = """
import functools, itertools, os, signal, sys
from edgead import stream
from edgead.stream.supervised import Supervised
from edgead.testing import FakeJudge, Fault, textured
from edgead.testing.workers import make_faulty_judge, make_gil_holder

def leave(*_):
    raise SystemExit(143)

signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
mode, journal, port = sys.argv[1:4]
judge, source, children = FakeJudge(), (textured(n % 200) for n in itertools.count()), []
if mode == "rtsp":
    source = f"rtsp://127.0.0.1:{port}/x"
elif mode in ("supervised", "gil"):
    judge = (
        Supervised(functools.partial(make_faulty_judge, {50: Fault.HANG}))
        if mode == "supervised" else Supervised(functools.partial(make_gil_holder, 60.0))
    )
    judge.warm_up()
    print("child", judge.pid, flush=True)
try:
    with stream.run(judge, source, journal=journal) as outcomes:
        if mode == "rtsp":
            (camera,) = outcomes._sources.values()
            while camera._connection is None:
                pass
            print("child", camera._connection.pid, flush=True)
        print("running", flush=True)
        for outcome in outcomes:
            pass
finally:
    if hasattr(judge, "close"):
        judge.close()
    print("closed", outcomes.counts.balanced, outcomes.counts.in_flight, flush=True)
"""


def start(mode: str, journal: Path, port: int = 1) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, mode, str(journal), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    children = []
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("child"):
            children.append(int(line.split()[1]))
        if line.startswith("running"):
            break
    time.sleep(0.4)
    return process, children


def ended(process: subprocess.Popen[str]) -> str:
    """What it said; one that does not end is not left running. How fast it ends is chaos's claim."""
    try:
        return process.communicate(timeout=120)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def gone(pids: list[int], within_s: float = 60.0) -> bool:
    until = time.monotonic() + within_s
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(is_running, pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", ["plain", "rtsp", "supervised", "gil"])
def test_a_signal_ends_it_and_nothing_stays(tmp_path: Path, mode: str, number: int) -> None:
    journal = tmp_path / "j.sqlite"
    with SilentServer() as server:
        process, children = start(mode, journal, server.port)
        process.send_signal(number)
        out = ended(process)
    assert "closed True 0" in out
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT)
    assert gone(children)
    found = verify_journal(journal)
    assert (found["ok"], found["open_runs"]) == (True, 0)


@pytest.mark.parametrize("mode", ["rtsp", "supervised", "gil"])
def test_no_child_outlives_a_killed_parent(tmp_path: Path, mode: str) -> None:
    with SilentServer() as server:
        process, children = start(mode, tmp_path / "j.sqlite", server.port)
        assert children
        assert all(map(is_running, children))
        process.kill()
        ended(process)
    assert gone(children)


def test_a_killed_parent_leaves_a_whole_journal(tmp_path: Path) -> None:
    journal = tmp_path / "j.sqlite"
    process, _ = start("plain", journal)
    process.kill()
    ended(process)
    found = verify_journal(journal)
    assert (found["ok"], found["open_runs"], found["first_bad"]) == (True, 1, None)
    assert found["rows"] > 0
