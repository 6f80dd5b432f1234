"""Every way to stop, in a process of its own: it ends, and nothing stays behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from edgead.stream.journal_read import verify_journal
from edgead.testing.chaos_signals import MODES, SignalledProgram, is_running
from edgead.testing.servers import SilentServer

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", MODES)
def test_a_signal_ends_it_and_nothing_stays(tmp_path: Path, mode: str, number: int) -> None:
    """How fast it ends is the claim of the chaos run."""
    journal = tmp_path / "j.sqlite"
    with SilentServer() as server:
        program = SignalledProgram(mode, journal, server.port)
        time.sleep(0.3)  # whatever it is doing then
        out, _ = program.end(number)
    assert "closed True 0" in out
    assert program.process.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT)
    assert program.leaves_no_child()
    found = verify_journal(journal)
    assert (found["problems"], found["open_runs"]) == ([], 0)


@pytest.mark.parametrize("mode", ["rtsp", "supervised", "gil"])
def test_no_child_outlives_a_killed_parent(tmp_path: Path, mode: str) -> None:
    with SilentServer() as server:
        program = SignalledProgram(mode, tmp_path / "j.sqlite", server.port)
        assert program.children
        assert all(map(is_running, program.children))
        program.end(signal.SIGKILL)
    assert program.leaves_no_child()


def test_a_killed_parent_leaves_a_whole_journal(tmp_path: Path) -> None:
    journal = tmp_path / "j.sqlite"
    program = SignalledProgram("plain", journal, 1)
    until = time.monotonic() + 60
    while not verify_journal(journal)["rows"] and time.monotonic() < until:
        time.sleep(0.02)
    program.end(signal.SIGKILL)
    found = verify_journal(journal)
    assert (found["ok"], found["open_runs"], found["first_bad"]) == (True, 1, None)
    assert found["rows"] > 0
