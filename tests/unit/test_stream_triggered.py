"""Triggered stations: one answer a trigger, with the line's own id."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgead.errors import StateError
from edgead.stream.journal import Journal
from edgead.stream.journal_read import verify_journal
from edgead.stream.replay import Rejects, read_replay
from edgead.stream.triggered import Triggered
from edgead.testing import FakeJudge, Fault, textured
from edgead.types import Detection, Frame, Outcome, Verdict


def test_answers_carry_the_ids() -> None:
    with Triggered(FakeJudge(), deadline_ms=500) as station:
        outcome = station.on_trigger("t-1", textured(1), part_id="p-9")
        assert (outcome.trigger_id, outcome.part_id, outcome.verdict) == (
            "t-1",
            "p-9",
            Verdict.GOOD,
        )
        assert not outcome.is_simulated
        assert station.policy == "reject_when_full(4)"


def test_an_id_is_answered_once() -> None:
    with Triggered(FakeJudge(), deadline_ms=500) as station:
        station.on_trigger("1", textured(1))
        again = station.on_trigger("1", textured(2))
        assert (again.reason, again.accept) == ("DUPLICATE_ID", False)
        assert again.message == "trigger '1' was answered before."
        assert station.counts.received == 2


def test_what_is_no_frame_is_answered_too() -> None:
    with Triggered(FakeJudge(), deadline_ms=500) as station:
        outcome = station.on_trigger("1", None)
        assert (outcome.reason, outcome.trigger_id, outcome.accept) == ("FRAME_NONE", "1", False)


def test_a_frozen_camera_is_found() -> None:
    with Triggered(FakeJudge(), deadline_ms=500) as station:
        reasons = [station.on_trigger(str(n), textured(1)).reason for n in range(6)]
    assert reasons == ["", "", "", "", "FROZEN_SOURCE", "FROZEN_SOURCE"]


def test_an_old_frame_is_not_judged() -> None:
    judge = FakeJudge()
    with Triggered(judge, deadline_ms=50) as station:
        stale = Frame(textured(1), t_mono_ns=time.monotonic_ns() - 60_000_000)
        assert station.on_trigger("1", stale).reason == "ADMISSION"
    assert judge.calls == 0


def test_one_trigger_too_many_is_rejected_at_once() -> None:
    release = threading.Event()

    def judge(frame: Frame) -> Detection:
        release.wait(60)
        return FakeJudge()(frame)

    answers: dict[int, Outcome] = {}
    with Triggered(judge, deadline_ms=None, policy="reject_when_full(1)") as station:

        def trigger(n: int) -> None:
            answers[n] = station.on_trigger(str(n), textured(n))

        threads = []
        for n in range(2):  # one is judged, one waits
            threads.append(threading.Thread(target=trigger, args=(n,)))
            threads[-1].start()
            until = time.monotonic() + 5
            while station.counts.received <= n and time.monotonic() < until:
                time.sleep(0.005)
            time.sleep(0.05)
        start = time.monotonic()
        rejected = station.on_trigger("2", textured(2))
        assert time.monotonic() - start < 15  # those before it wait for ever
        release.set()
        for thread in threads:
            thread.join()
    assert rejected.reason == "QUEUE_FULL"
    assert [answers[n].accept for n in range(2)] == [True, True]
    assert [answers[n].trigger_id for n in range(2)] == ["0", "1"]


def test_a_hung_judge_is_answered_by_the_deadline() -> None:
    release = threading.Event()

    def judge(frame: Frame) -> Detection:
        release.wait(60)
        return FakeJudge()(frame)

    with Triggered(judge, deadline_ms=60) as station:
        first = station.on_trigger("1", textured(1))
        second = station.on_trigger("2", textured(2))
        release.set()
    assert first.reason == "DEADLINE_RUNNING"
    assert second.reason == "DEADLINE_QUEUED"
    assert max(first.latency_ms, second.latency_ms) < 1000


def test_an_array_may_be_reused_after_the_answer(tmp_path: Path) -> None:
    plan = dict.fromkeys(range(9), Fault.RAISES)
    rejects = Rejects(tmp_path)
    buffer = np.empty_like(textured(1))
    with Triggered(FakeJudge(plan.get), deadline_ms=500, rejects=rejects) as station:
        for n in range(5):
            buffer[:] = textured(n)
            assert station.on_trigger(str(n), buffer).reason == "BACKEND_ERROR"
    for n, path in enumerate(sorted(tmp_path.glob("*.replay"))):
        frame, said = read_replay(path)
        assert (frame.source_id, frame.seq, said["trigger_id"]) == ("trigger", n, str(n))
        assert np.array_equal(frame.pixels, textured(n))
    assert rejects.saved == 5


def test_a_refused_frame_is_saved_under_its_own_number(tmp_path: Path) -> None:
    rejects = Rejects(tmp_path)
    with Triggered(FakeJudge(), deadline_ms=500, rejects=rejects) as station:
        station.on_trigger("1", textured(1))
        station.on_trigger("2", np.zeros((16, 16, 3), np.uint8))
    (path,) = tmp_path.glob("*.replay")
    frame, said = read_replay(path)
    assert (frame.frame_id, said["reason"]) == ("trigger:1", "FRAME_CONSTANT")


def test_after_closing_it_says_so() -> None:
    station = Triggered(FakeJudge(), deadline_ms=50)
    station.close()
    with pytest.raises(StateError) as caught:
        station.on_trigger("1", textured(1))
    assert str(caught.value) == "[CLOSED] the station was closed. Make a new one."


def test_each_answer_is_on_the_disk_before_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    with Triggered(FakeJudge(), deadline_ms=2000, journal=Journal(path)) as station:
        assert station.journal is not None
        assert station.journal.sync == "full"
        for n in range(3):
            station.on_trigger(str(n), textured(n))
            reader = sqlite3.connect(path)
            assert reader.execute("SELECT COUNT(*) FROM outcomes").fetchone() == (n + 1,)
            assert reader.execute("PRAGMA synchronous").fetchone() is not None
            reader.close()
    assert verify_journal(path)["ok"]


def test_an_answer_that_the_journal_delayed_is_taken_back(tmp_path: Path) -> None:
    class SlowDisk(Journal):
        def _commit(self, rows: list[Any], late: list[Any]) -> bool:
            time.sleep(0.12)
            return super()._commit(rows, late)

    path = tmp_path / "line.sqlite"
    with Triggered(FakeJudge(), deadline_ms=80, journal=SlowDisk(path)) as station:
        outcome = station.on_trigger("1", textured(1))
    assert (outcome.reason, outcome.accept) == ("DEADLINE_HANDOVER", False)
    reader = sqlite3.connect(path)
    rows = reader.execute("SELECT verdict, reason, amends FROM outcomes ORDER BY id").fetchall()
    reader.close()
    assert rows == [("GOOD", "", 0), ("UNKNOWN", "DEADLINE_HANDOVER", 1)]
    assert verify_journal(path)["ok"]


def test_a_deadline_of_a_few_ms_over_many_triggers_never_accepts_late() -> None:
    late = []
    with Triggered(FakeJudge(), deadline_ms=8) as station:
        for n in range(300):
            start = time.monotonic_ns()
            outcome = station.on_trigger(str(n), Frame(textured(n % 251), t_mono_ns=start))
            if outcome.accept and time.monotonic_ns() - start > 8_000_000:
                late.append(n)
        assert station.counts.balanced
    assert late == []


def test_systemd_is_fed_while_the_line_sends_nothing_and_not_while_it_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def judge(frame: Frame) -> Detection:
        release.wait(60)
        return FakeJudge()(frame)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with Triggered(judge, deadline_ms=None) as station:
            assert b"WATCHDOG=1" in receiver.recv(100)
            thread = threading.Thread(target=station.on_trigger, args=("1", textured(1)))
            thread.start()
            while station.counts.in_flight == 0:
                time.sleep(0.005)
            receiver.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                receiver.recv(100)  # one that was sent before the trigger came
            receiver.settimeout(1.5)
            with pytest.raises(TimeoutError):
                receiver.recv(100)
            release.set()
            thread.join()
