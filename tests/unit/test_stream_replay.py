"""Saved rejects: the very pixels, and the same score on a desk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgead.errors import StorageError
from edgead.stream import run
from edgead.stream.replay import Rejects, read_replay, replay, write_replay
from edgead.stream.triggered import Triggered
from edgead.testing import FakeJudge, Fault, detection_of, textured
from edgead.types import Detection, Frame, LedgerCounts, Outcome, PixelFormat, Status


def score(frame: Frame) -> float:
    return float(np.sqrt(frame.pixels.astype(np.float64).mean() / 255))


def judge(frame: Frame) -> Detection:
    if frame.seq == 2:
        raise RuntimeError("x")
    return detection_of(frame, score(frame), threshold=0.707)


def saved(folder: Path) -> list[Path]:
    with run(judge, {"cam": [textured(n) for n in range(12)]}, save_rejects=folder) as stream:
        outcomes = list(stream)
    rejected = [o.seq for o in outcomes if not o.accept]
    paths = sorted(folder.glob("*.replay"))
    assert [int(p.name.split("-")[1]) for p in paths] == rejected
    assert 2 in rejected
    assert 0 < len(rejected) < 12
    return paths


def test_scores_are_bit_equal(tmp_path: Path) -> None:
    paths = saved(tmp_path)

    def again(frame: Frame) -> Detection:
        assert frame.is_simulated
        return detection_of(frame, score(frame), threshold=0.707)

    found = replay(again, paths)
    assert (found["ok"], found["frames"]) == (True, len(paths))
    assert found["compared"] == found["equal"] == len(paths) - 1
    assert [entry["reason"] for entry in found["unjudged"]] == ["BACKEND_ERROR"]


def test_one_bit_of_difference_is_told(tmp_path: Path) -> None:
    paths = saved(tmp_path)

    def other(frame: Frame) -> Detection:
        return detection_of(frame, float(np.nextafter(score(frame), 2)), threshold=0.707)

    found = replay(other, paths)
    assert (found["ok"], found["equal"]) == (False, 0)
    assert len(found["differing"]) == found["compared"]


def test_another_bundle_is_told(tmp_path: Path) -> None:
    paths = saved(tmp_path)

    def other(frame: Frame) -> Detection:
        return detection_of(frame, score(frame), threshold=0.707, bundle_hash="other")

    found = replay(other, paths)
    assert (found["ok"], found["other_bundle"]) == (False, found["compared"])


def test_every_format_comes_back_as_it_was(tmp_path: Path) -> None:
    wide = np.arange(24, dtype=np.uint16).reshape(4, 6) * 100
    frames = [
        Frame(textured(1)[:, ::-2], PixelFormat.RGB8, source_id="a/b", seq=3, block_id=9),
        Frame(wide, PixelFormat.MONO16, depth=12, trigger_id="t", part_id="p"),
    ]
    for n, frame in enumerate(frames):
        outcome = Outcome(Status.FAILED, "BACKEND_ERROR", None, "a", n, 1, 2, LedgerCounts())
        path = tmp_path / f"{n}.replay"
        write_replay(path, frame, outcome)
        back, said = read_replay(path)
        assert np.array_equal(back.pixels, frame.pixels)
        assert back.pixels.dtype == frame.pixels.dtype
        for name in ("format", "depth", "source_id", "seq", "block_id", "trigger_id", "part_id"):
            assert getattr(back, name) == getattr(frame, name)
        assert back.is_simulated
        assert said["reason"] == "BACKEND_ERROR"


@pytest.mark.parametrize("cut", [0, 7, 100, 500])
def test_a_damaged_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = saved(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StorageError) as caught:
        read_replay(path)
    assert caught.value.code == "REPLAY"


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "x.replay"
    save_file({"pixels": np.zeros(3)}, path)
    with pytest.raises(StorageError) as caught:
        read_replay(path)
    assert str(caught.value) == f"[REPLAY] {path} is no replay file."


def test_the_budget_is_kept_oldest_first(tmp_path: Path) -> None:
    plan = dict.fromkeys(range(30), Fault.RAISES)
    rejects = Rejects(tmp_path, max_bytes=12_000)
    for outcome in run(FakeJudge(plan.get), [textured(n) for n in range(30)], save_rejects=rejects):
        assert not outcome.accept
    kept = sorted(tmp_path.glob("*.replay"))
    assert sum(p.stat().st_size for p in kept) <= 12_000
    assert rejects.saved + rejects.saves_failed == 30
    assert int(kept[-1].name.split("-")[1]) >= int(kept[0].name.split("-")[1]) + len(kept) - 1


def test_dropped_frames_are_not_saved(tmp_path: Path) -> None:
    rejects = Rejects(tmp_path)
    with Triggered(FakeJudge(), deadline_ms=500, rejects=rejects) as station:
        station.on_trigger("1", textured(1))
        assert station.on_trigger("1", textured(2)).reason == "DUPLICATE_ID"
    assert list(tmp_path.glob("*.replay")) == []
    assert rejects.saves_failed == 0


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".cam-00000007-1.replay.edgead-999999999-abc.tmp"
    fresh = tmp_path / ".cam-00000008-1.replay.edgead-999999999-def.tmp"
    for path in (left, fresh):
        path.write_bytes(b"half a file")
    os.utime(left, (1, 1))
    Rejects(tmp_path).close()
    assert list(tmp_path.iterdir()) == [fresh]  # its writer may live on another machine


def test_a_disk_that_refuses_costs_files_and_no_verdicts(tmp_path: Path) -> None:
    rejects = Rejects(tmp_path / "r")
    (tmp_path / "r").rmdir()
    plan = dict.fromkeys(range(10), Fault.RAISES)
    stream = run(FakeJudge(plan.get), [textured(n) for n in range(20)], save_rejects=rejects)
    outcomes = list(stream)
    assert len(outcomes) == 20
    assert rejects.saves_failed == 10
    assert "REJECTS_NOT_SAVED" in stream.health.reasons
