"""`edgead report`: what a shift's page says, from journals that the stream itself wrote."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgead.cli import app
from edgead.errors import CalibrationError, ConfigError, StorageError
from edgead.evaluate.report_shift import figures_of, write_shift_report
from edgead.evaluate.shift import read_shift
from edgead.evaluate.svg_time import Axis, bars_over_time, lines_over_time, scores_over_time
from edgead.stream import Journal, run
from edgead.stream.journal_read import journal_rows
from edgead.testing import FakeJudge, Fault, ScriptedSource

FRAMES = 40


def clock() -> int:
    import time

    return time.monotonic_ns()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of two cameras: every 8th frame a defect, every 10th judge's call fails."""
    where = tmp_path_factory.mktemp("line")
    sources = {
        name: ScriptedSource(FRAMES, source_id=name, kind="file", clock=clock)
        for name in ("left", "right <b>")
    }
    judge = FakeJudge(
        lambda seq: Fault.TYPED_ERROR if seq % 10 == 9 else None,
        score_of=lambda frame: 0.9 if frame.seq % 8 == 3 else 0.25,
    )
    options = {"journal": where / "line.sqlite", "save_rejects": where / "rejects"}
    outcomes = list(run(judge, sources, **options))  # type: ignore[arg-type]
    assert len(outcomes) == 2 * FRAMES
    return where


def test_the_figures_add_up(folder: Path) -> None:
    shift = read_shift(folder / "line.sqlite")
    found = figures_of(shift)
    assert (found["frames"], found["good"], found["defect"]) == (80, 64, 8)
    assert (found["unknown"], found["dropped"]) == (8, 0)
    assert found["reject_rate"] == 8 / 72
    assert found["journal_ok"] is True
    assert shift.reasons == {("unknown", "BACKEND_ERROR"): 8}
    assert shift.thresholds == {0.5: 72}
    assert len(shift.rejects) == 16


def test_a_row_that_was_taken_back_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    stream = run(FakeJudge(), ScriptedSource(3, kind="file", clock=clock), journal=path)
    journal = stream.journal
    assert isinstance(journal, Journal)
    with stream:
        outcomes = [next(stream) for _ in range(3)]
        ticketed = outcomes[1]
        from dataclasses import replace

        from edgead.types import Status

        back = replace(ticketed, status=Status.FAILED, reason="DEADLINE_HANDOVER", detection=None)
        journal.write(back, amends=True)
    found = figures_of(read_shift(path))
    assert (found["frames"], found["good"], found["unknown"]) == (3, 2, 1)


def test_the_page(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "shift.html"
    write_shift_report(out, read_shift(folder / "line.sqlite"), rejects=folder / "rejects")
    page = out.read_text()
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "right &lt;b&gt;" in page
    assert "right <b>" not in page
    assert "80 frames of 2 cameras" in page
    assert "unknown: BACKEND_ERROR" in page
    assert page.count("data:image/jpeg;base64,") == 12
    assert page.count("<svg") == 4
    assert page.count('role="img"') == 4


def test_the_command(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "shift.html"
    done = CliRunner().invoke(
        app, ["report", str(folder / "line.sqlite"), "--out", str(out), "--json"]
    )
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["report"], found["frames"], found["cameras"]) == (
        str(out),
        80,
        ["left", "right <b>"],
    )
    assert out.stat().st_size > 10_000


def test_a_period(folder: Path) -> None:
    path = folder / "line.sqlite"
    moments = [datetime.fromisoformat(row[0]) for row in journal_rows(path, ["written_wall"])]
    middle = sorted(moments)[len(moments) // 2]
    before = sum(moment < middle for moment in moments)
    assert read_shift(path, since=middle).seconds.size == 80 - before
    if before:
        assert read_shift(path, until=middle).seconds.size == before
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    with pytest.raises(CalibrationError) as error:
        read_shift(path, since=tomorrow)
    assert str(error.value) == (
        f"[NO_ROWS] {path} holds no row of that period. Give another --since or --until."
    )
    with pytest.raises(
        ConfigError, match=r"^\[PERIOD\] the period ends at .*, and begins at .*\.$"
    ):
        read_shift(path, since=tomorrow, until=middle)


def test_a_moment_that_is_none(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "a.html")
    done = CliRunner().invoke(
        app, ["report", str(folder / "line.sqlite"), "--since", "six", "--out", out]
    )
    assert str(done.exception) == (
        "[PERIOD] --since is 'six'; want a date and time. e.g. 2026-11-22T06:00."
    )


def test_what_is_no_journal(tmp_path: Path) -> None:
    missing = tmp_path / "none.sqlite"
    with pytest.raises(StorageError) as error:
        read_shift(missing)
    assert str(error.value) == f"[JOURNAL_MISSING] {missing} does not exist."
    other = tmp_path / "other.sqlite"
    other.write_bytes(b"no database at all, but long enough to be looked at" * 50)
    with pytest.raises(StorageError) as error:
        read_shift(other)
    assert str(error.value) == (
        f"[JOURNAL] cannot read the journal {other}: file is not a database. Give an edgead journal."
    )


def test_a_column_that_is_none(folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        list(journal_rows(folder / "line.sqlite", ["score", "colour; DROP TABLE runs"]))
    assert str(error.value) == "[JOURNAL_COLUMNS] a journal has no colour; DROP TABLE runs."


def test_bars_hold_every_frame() -> None:
    axis = Axis(0.0, 10.0, lambda at: f"{at:g}")
    counts = {"good": np.array([4.0, 0.0]), "defect": np.array([4.0, 2.0])}
    drawn = bars_over_time(axis, counts, name="n", spoken="s", height=246)
    tall = [float(height) for height in re.findall(r'height="([\d.]+)" fill', drawn)]
    assert tall == [100.0, 100.0, 50.0]  # 8 frames are the 200 units between the margins


def test_a_gap_in_a_line_stays_a_gap() -> None:
    axis = Axis(0.0, 10.0, lambda at: f"{at:g}")
    values = np.array([1.0, 2.0, np.nan, 3.0])
    drawn = lines_over_time(axis, {"good": values}, name="n", spoken="s")
    assert drawn.count("<polyline") == 2


def test_scores_above_the_threshold_are_all_drawn() -> None:
    axis = Axis(0.0, 1.0, lambda at: f"{at:g}")
    scores = np.concatenate([np.full(10_000, 0.1), np.full(7, 0.9)])
    drawn = scores_over_time(
        axis, np.linspace(0, 1, scores.size), scores, 0.5, name="n", spoken="s"
    )
    assert drawn.count('fill="var(--defect)"') == 7
    assert 1000 < drawn.count('fill="var(--good)"') < 2000


@pytest.mark.parametrize(
    ("start", "end", "offset_s", "ticks"),
    [
        (0.0, 28_796.0, 0.0, [0, 3600, 7200, 10800, 14400, 18000, 21600, 25200]),
        (100.0, 28_000.0, 1800.0, [1800, 5400, 9000, 12600, 16200, 19800, 23400, 27000]),
        (0.5, 4.2, 0.0, [1, 2, 3, 4]),
        (5.2, 5.3, 0.0, [5.2]),
    ],
)
def test_moments_are_round(start: float, end: float, offset_s: float, ticks: list[float]) -> None:
    assert Axis(start, end, str, offset_s=offset_s).ticks() == ticks
