"""What a journal row holds, and the chain that holds the rows together."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any

from edgead.types import Outcome

__all__ = ["COLUMNS", "SCHEMA", "again", "chain_of", "values_of"]

COLUMNS = (
    "run_id",
    "source_id",
    "seq",
    "trigger_id",
    "part_id",
    "block_id",
    "status",
    "reason",
    "message",
    "verdict",
    "score",
    "threshold",
    "confidence",
    "generation",
    "bundle_hash",
    "backend",
    "precision",
    "engine_hash",
    "stages",
    "t_mono_ns",
    "settled_mono_ns",
    "written_wall",
    "is_simulated",
    "handed_over",
    "amends",
)

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY, started_wall TEXT, info TEXT, counts TEXT);
CREATE TABLE IF NOT EXISTS outcomes (
    id INTEGER PRIMARY KEY, {", ".join(COLUMNS)}, chain TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS late (run_id TEXT, source_id TEXT, seq INTEGER, verdict TEXT, score REAL);
"""


def values_of(
    run_id: str, outcome: Outcome, now: datetime, *, handed_over: bool, amends: bool
) -> tuple[str | int | float | None, ...]:
    """The row of an outcome, in the order of `COLUMNS`.

    Args:
        run_id: The run.
        outcome: The settled frame.
        now: Wall time of writing, a label only.
        handed_over: False when the stream was closed before anybody read the outcome.
        amends: True for a row that takes back the frame's row before it.
    """
    found = outcome.detection
    return (
        run_id,
        outcome.source_id,
        outcome.seq,
        outcome.trigger_id,
        outcome.part_id,
        outcome.block_id,
        outcome.status.value,
        outcome.reason,
        outcome.message,
        outcome.verdict.name,
        None if found is None else float(found.score),
        None if found is None else float(found.threshold),
        None if found is None else float(found.confidence),
        outcome.generation,
        None if found is None else found.bundle_hash,
        None if found is None else found.backend,
        None if found is None else found.precision,
        None if found is None else found.engine_hash,
        "{}" if found is None else json.dumps(dict(found.timings_ms)),
        outcome.t_mono_ns,
        outcome.settled_mono_ns,
        now.isoformat(),
        int(outcome.is_simulated),
        int(handed_over),
        int(amends),
    )


def again(last: tuple[Any, ...], row: tuple[Any, ...]) -> tuple[bool, tuple[Any, ...]]:
    """Whether a row is to be written after ``last``, and how.

    A reader that was interrupted between entering a row and taking its outcome enters it again: the
    same once more is left out; another end of the same frame amends the first.
    """
    if row[-1] or row[1:3] != last[1:3]:  # amends; source_id, seq
        return True, row
    return row[6:8] != last[6:8], (*row[:-1], 1)  # status, reason


def chain_of(previous: str, row: tuple[Any, ...]) -> str:
    """SHA-256 of the chain so far and this row, hexadecimal."""
    canonical = json.dumps([previous, *row], separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
