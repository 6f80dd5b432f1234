"""Reading a journal: is it whole, and the rows for other programs."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from edgead import files
from edgead.errors import ConfigError, StorageError
from edgead.stream.journal_schema import COLUMNS, chain_of

__all__ = ["export_journal", "journal_files", "journal_rows", "journal_runs", "verify_journal"]


def journal_files(path: str | Path) -> list[Path]:
    """The journal's rotated files, oldest first, then the file itself.

    Raises:
        StorageError: JOURNAL_MISSING.
    """
    newest = Path(path)
    rotated = sorted(newest.parent.glob(f"{newest.stem}.[0-9][0-9][0-9][0-9]{newest.suffix}"))
    if not newest.is_file():
        raise StorageError("JOURNAL_MISSING", f"{newest} does not exist.")
    return [*rotated, newest]


def verify_journal(path: str | Path) -> dict[str, Any]:
    """Check every row of a journal and its rotated files.

    Returns:
        ``ok``; ``rows``; ``runs``; ``files``; ``handed_over``: rows whose verdict somebody read;
        ``late``; ``first_bad``: file and row id where the chain breaks, or None; ``missing``:
        frames of closed runs without a row; ``open_runs``: runs that never ended (power cut,
        kill, or still going); ``problems``: sentences.
    """
    problems: list[str] = []
    first_bad: str | None = None
    chain, rows, handed_over, late = "", 0, 0, 0
    runs: dict[str, dict[str, Any] | None] = {}
    seen: dict[str, int] = {}
    for file in journal_files(path):
        try:
            with _reading(file) as database:
                for (text,) in database.execute("PRAGMA quick_check"):
                    if text != "ok":
                        problems.append(f"{file.name}: {text}")
                start = database.execute("SELECT value FROM meta WHERE key = 'chain'").fetchone()
                chain = chain if rows else ("" if start is None else start[0])
                for run_id, counts in database.execute("SELECT run_id, counts FROM runs"):
                    runs[run_id] = json.loads(counts) if counts else runs.get(run_id)
                for identity, *values, found in _rows(database):
                    chain = chain_of(chain, tuple(values))
                    if chain != found and first_bad is None:
                        first_bad = f"{file.name}, row {identity}"
                    chain = found  # go on from there: the first break is what is reported
                    rows += 1
                    handed_over += values[COLUMNS.index("handed_over")]
                    if not values[COLUMNS.index("amends")]:
                        seen[values[0]] = seen.get(values[0], 0) + 1
                late += database.execute("SELECT COUNT(*) FROM late").fetchone()[0]
        except sqlite3.Error as error:
            problems.append(f"{file.name}: {error}")
    missing = 0
    for run_id, counts in runs.items():
        if counts and "received" in counts:
            missing += abs(int(counts["received"]) - seen.get(run_id, 0))
    if first_bad:
        problems.append(f"the chain breaks at {first_bad}: a row was changed, removed or moved.")
    if missing:
        problems.append(f"{missing} frames of closed runs have no row, or more than one.")
    return {
        "ok": not problems,
        "rows": rows,
        "runs": len(runs),
        "files": len(journal_files(path)),
        "handed_over": handed_over,
        "late": late,
        "first_bad": first_bad,
        "missing": missing,
        "open_runs": sum(counts is None for counts in runs.values()),
        "problems": problems,
    }


def export_journal(
    path: str | Path, out: str | Path, *, form: Literal["jsonl", "csv"] = "jsonl"
) -> dict[str, Any]:
    """Write all rows to one file, oldest first, atomically.

    Returns:
        ``rows`` and ``out``.
    """
    rows = 0
    with files.atomic_writer(out) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, COLUMNS)
        if form == "csv":
            writer.writeheader()
        for file in journal_files(path):
            with _reading(file) as database:
                for _, *values, _chain in _rows(database):
                    row = dict(zip(COLUMNS, values, strict=True))
                    if form == "csv":
                        writer.writerow(row)
                    else:
                        row["stages"] = json.loads(row["stages"])
                        text.write(json.dumps(row) + "\n")
                    rows += 1
        text.detach()
    return {"rows": rows, "out": str(out)}


def journal_rows(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of a journal and its rotated files, oldest first, these of `COLUMNS` only.

    Raises:
        StorageError: JOURNAL_MISSING, or JOURNAL when it cannot be read.
    """
    unknown = set(columns) - set(COLUMNS)
    if unknown:
        raise ConfigError("JOURNAL_COLUMNS", f"a journal has no {', '.join(sorted(unknown))}.")
    for file in journal_files(path):
        with _reading(file) as database, _typed(file):
            yield from database.execute(f"SELECT {', '.join(columns)} FROM outcomes ORDER BY id")


def journal_runs(path: str | Path) -> list[dict[str, Any]]:
    """The runs: ``run_id``, ``started_wall``, ``info``, ``counts`` (None: it never ended).

    Raises:
        StorageError: As `journal_rows`.
    """
    runs: dict[str, dict[str, Any]] = {}
    for file in journal_files(path):
        with _reading(file) as database, _typed(file):
            for run_id, started, info, counts in database.execute("SELECT * FROM runs"):
                known = runs.setdefault(run_id, {"run_id": run_id, "started_wall": started})
                known["info"] = json.loads(info)
                known["counts"] = json.loads(counts) if counts else known.get("counts")
    return list(runs.values())


@contextlib.contextmanager
def _typed(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(
            "JOURNAL", f"cannot read the journal {file}: {error}.", "Give an edgead journal."
        ) from error


class _reading:
    """A read-only connection that is closed at the end."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=5)

    def __enter__(self) -> sqlite3.Connection:
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.close()


def _rows(database: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    return iter(
        database.execute(f"SELECT id, {', '.join(COLUMNS)}, chain FROM outcomes ORDER BY id")
    )
