"""The journal: whole, in order, rotated without a gap, honest about a disk that refuses."""

from __future__ import annotations

import csv
import json
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from edgead.errors import StateError, StorageError
from edgead.stream import run
from edgead.stream.journal import Journal
from edgead.stream.journal_read import export_journal, journal_files, verify_journal
from edgead.testing import FakeJudge, Fault, detection_of, textured
from edgead.types import Frame, LedgerCounts, Outcome, Status


def outcome_of(seq: int) -> Outcome:
    return Outcome(
        status=Status.RESULT,
        reason="",
        detection=detection_of(Frame(textured(1)), 0.1 + seq / 1000),
        source_id="cam",
        seq=seq,
        t_mono_ns=seq,
        settled_mono_ns=seq + 1,
        counts=LedgerCounts(),
    )


def judged(path: Path, frames: int = 20) -> None:
    judge = FakeJudge({3: Fault.RAISES}.get)
    list(run(judge, {"cam": [textured(n) for n in range(frames)]}, journal=path))


def altered(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    database.execute(statement)
    database.commit()
    database.close()


def test_one_row_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    judged(path)
    found = verify_journal(path)
    assert found == {
        "ok": True,
        "rows": 20,
        "runs": 1,
        "files": 1,
        "handed_over": 20,
        "late": 0,
        "first_bad": None,
        "missing": 0,
        "open_runs": 0,
        "problems": [],
    }
    judged(path, 5)  # a second run goes on in the same file
    found = verify_journal(path)
    assert (found["ok"], found["rows"], found["runs"]) == (True, 25, 2)


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("UPDATE outcomes SET verdict = 'GOOD' WHERE seq = 3", 4),
        ("UPDATE outcomes SET score = score + 1e-12 WHERE seq = 7", 8),
        ("DELETE FROM outcomes WHERE seq = 5", 7),
        ("UPDATE outcomes SET id = CASE id WHEN 2 THEN 100 ELSE id END", 3),
        ("UPDATE outcomes SET handed_over = 0 WHERE seq = 19", 20),
    ],
)
def test_each_alteration_is_found(tmp_path: Path, statement: str, row: int) -> None:
    path = tmp_path / "j.sqlite"
    judged(path)
    altered(path, statement)
    found = verify_journal(path)
    assert not found["ok"]
    assert found["first_bad"] == f"j.sqlite, row {row}"
    assert found["problems"][0] == (
        f"the chain breaks at j.sqlite, row {row}: a row was changed, removed or moved."
    )


def test_a_removed_tail_is_missed_by_the_run_s_counts(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    judged(path)
    altered(path, "DELETE FROM outcomes WHERE seq > 17")
    found = verify_journal(path)
    assert (found["ok"], found["first_bad"], found["missing"]) == (False, None, 2)
    assert found["problems"] == ["2 frames of closed runs have no row, or more than one."]


def test_what_nobody_read_is_journaled_too(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    stream = run(FakeJudge(), [textured(n) for n in range(8)], journal=path)
    next(stream)
    while stream.counts.results < 4:  # one was read, three wait: as far ahead as it goes
        pass
    stream.close()
    found = verify_journal(path)
    assert (found["ok"], found["handed_over"]) == (True, 1)
    assert found["rows"] == stream.counts.received >= 4


def test_rotation_loses_nothing_and_the_chain_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    journal = Journal(path, sync="full", max_bytes=150_000)
    journal.begin(kind="triggered", policy="every")
    for seq in range(300):
        journal.write(outcome_of(seq))
    journal.close({"received": 300})
    files = journal_files(path)
    assert len(files) > 2
    found = verify_journal(path)
    assert (found["ok"], found["rows"], found["missing"]) == (True, 300, 0)
    altered(files[0], "UPDATE outcomes SET seq = 999 WHERE id = 2")
    assert verify_journal(path)["first_bad"] == f"{files[0].name}, row 2"
    files[1].unlink()
    assert not verify_journal(path)["ok"]


@pytest.mark.parametrize(("kind", "sync"), [("triggered", "full"), ("live", "batch")])
def test_which_promise_holds_is_told(tmp_path: Path, kind: str, sync: str) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    journal.begin(kind=kind, policy="latest")
    assert journal.sync == sync
    journal.close()
    reader = sqlite3.connect(tmp_path / "j.sqlite")
    info = json.loads(reader.execute("SELECT info FROM runs").fetchone()[0])
    reader.close()
    assert (info["sync"], info["policy"]) == (sync, "latest")


def test_export(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    judged(path)
    assert export_journal(path, tmp_path / "out.jsonl")["rows"] == 20
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(20))
    assert (lines[3]["reason"], lines[3]["verdict"], lines[3]["score"]) == (
        "BACKEND_ERROR",
        "UNKNOWN",
        None,
    )
    assert lines[4]["score"] == 0.25
    export_journal(path, tmp_path / "out.csv", form="csv")
    with (tmp_path / "out.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert (len(rows), rows[4]["score"], rows[4]["bundle_hash"]) == (20, "0.25", "fake")


def test_a_disk_that_refuses_never_stops_the_inspection(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    journal = Journal(path, sync="full")
    stream = run(FakeJudge(), [textured(n) for n in range(30)], journal=journal)
    next(stream)
    blocker = sqlite3.connect(path, timeout=0)
    journal._database.execute("PRAGMA busy_timeout = 1")
    blocker.execute("BEGIN EXCLUSIVE")
    for _ in range(9):
        assert next(stream).accept
    assert stream.health.reasons == ("JOURNAL_DEGRADED",)
    assert journal.last_error == "database is locked"
    blocker.rollback()  # the space is back
    blocker.close()
    assert len(list(stream)) == 20
    assert not journal.is_degraded
    assert verify_journal(path)["rows"] == 30
    assert verify_journal(path)["ok"]


def test_a_full_disk_is_counted_to_the_row(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    journal = Journal(path, sync="full")
    journal._database.execute("PRAGMA max_page_count = 12")  # SQLite's own "disk full"
    outcomes = list(run(FakeJudge(), [textured(n % 200) for n in range(300)], journal=journal))
    assert len(outcomes) == 300
    assert all(o.accept for o in outcomes)
    assert journal.is_degraded
    assert journal.written + journal.failed == 300
    assert journal.last_error == "database or disk is full"
    found = verify_journal(path)
    assert (found["rows"], found["first_bad"]) == (journal.written, None)


def test_a_frame_entered_twice_has_one_row_and_another_end_amends_it(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    journal = Journal(path)
    journal.begin(kind="live", policy="latest")
    first = outcome_of(0)
    journal.put(first)
    journal.put(first, handed_over=False)  # its reader was interrupted, and closed
    journal.put(outcome_of(1))
    late = replace(outcome_of(1), status=Status.FAILED, reason="DEADLINE_HANDOVER", detection=None)
    journal.put(late)
    journal.put(outcome_of(2))
    journal.close({"received": 3})
    found = verify_journal(path)
    assert (found["ok"], found["rows"]) == (True, 4)
    export_journal(path, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(x["seq"], x["status"], x["amends"], x["handed_over"]) for x in lines] == [
        (0, "RESULT", 0, 1),
        (1, "RESULT", 0, 1),
        (1, "FAILED", 1, 1),
        (2, "RESULT", 0, 1),
    ]


def test_many_threads_write_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    journal = Journal(path, sync="full")
    journal.begin(kind="triggered", policy="every")

    def write(start: int) -> None:
        for seq in range(start, 200, 4):
            journal.write(outcome_of(seq))

    threads = [threading.Thread(target=write, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close({"received": 200})
    journal.close({"received": 7})  # only the first says anything
    found = verify_journal(path)
    assert (found["ok"], found["rows"], found["missing"]) == (True, 200, 0)


def test_late_results_have_a_table_of_their_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    journal.begin(kind="live", policy="latest")
    journal.write_late("cam", 7, detection_of(Frame(textured(1))))
    journal.write(outcome_of(0))
    journal.close()
    assert verify_journal(tmp_path / "j.sqlite")["late"] == 1


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello, this is a text file and not a database at all" * 30)
    with pytest.raises(StorageError) as caught:
        Journal(path)
    assert str(caught.value) == (
        f"[JOURNAL] cannot open the journal {path}: file is not a database. Give the path of a new "
        "file or of an edgead journal."
    )
    with pytest.raises(StorageError) as caught:
        verify_journal(tmp_path / "none.sqlite")
    assert str(caught.value) == f"[JOURNAL_MISSING] {tmp_path / 'none.sqlite'} does not exist."


def test_a_killed_run_shows_as_open(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite", sync="full")
    journal.begin(kind="triggered", policy="every")
    journal.write(outcome_of(0))
    journal._database.close()  # as a kill leaves it
    found = verify_journal(tmp_path / "j.sqlite")
    assert (found["ok"], found["open_runs"], found["rows"]) == (True, 1, 1)


def test_a_closed_journal_is_not_begun(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "line.sqlite")
    journal.close()
    with pytest.raises(StateError) as caught:
        run(FakeJudge(), [textured(1)], journal=journal)
    assert str(caught.value) == (
        f"[CLOSED] the journal {tmp_path / 'line.sqlite'} is closed. Open it again."
    )


def test_a_journal_of_other_columns_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "line.sqlite"
    judged(path)
    altered(path, "ALTER TABLE outcomes DROP COLUMN engine_hash")
    with pytest.raises(StorageError) as caught:
        Journal(path)
    assert str(caught.value) == (
        f"[JOURNAL] the journal {path} was begun by another version of edgead: its columns differ. "
        "Give the path of a new file."
    )
