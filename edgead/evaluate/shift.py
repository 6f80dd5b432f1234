"""A shift, read from a line's journal: what was judged, when, how fast, and what was not accepted."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import CalibrationError, ConfigError
from edgead.stream.journal_read import journal_rows, journal_runs, verify_journal

__all__ = ["KINDS", "Reject", "Shift", "read_shift"]

#: What a row counts as; unknown is judged or failed without a verdict, dropped was never judged.
KINDS = ("good", "defect", "unknown", "dropped")
_COLUMNS = (
    "run_id", "source_id", "seq", "part_id", "status", "reason", "verdict", "score", "threshold", "bundle_hash",
    "t_mono_ns", "settled_mono_ns", "written_wall", "is_simulated", "amends",
)  # fmt: skip
_REMEMBERED = 4096  # rows that a later one may take back
_REJECTS = 500


@dataclass(frozen=True)
class Reject:
    """A frame that was judged or failed, and not accepted."""

    when: datetime
    camera: str
    seq: int
    part_id: str | None
    verdict: str
    reason: str
    score: float | None


@dataclass(eq=False)
class Shift:
    """Rows of a journal as arrays, one entry a frame.

    Attributes:
        name: The journal's file name.
        seconds: When the row was written, seconds since 1970. [N] float64
        camera: Index into ``cameras``. [N] int32
        kind: Index into `KINDS`. [N] int8
        score: NaN without a score. [N] float64
        latency_ms: Capture to verdict; NaN for frames that were not judged. [N] float64
        cameras: Names.
        reasons: (dropped or unknown, reason) -> frames.
        thresholds: Threshold -> frames judged with it.
        bundles: Bundle hash -> frames judged with it.
        rejects: The last ones, oldest first.
        is_simulated: Whether any frame came from a file.
        runs: As of `edgead.stream.journal_read.journal_runs`.
        integrity: As of `edgead.stream.journal_read.verify_journal`; of the whole journal.
        zone: Time zone that times are shown in.
    """

    name: str
    seconds: NDArray[np.float64]
    camera: NDArray[np.int32]
    kind: NDArray[np.int8]
    score: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    cameras: list[str]
    reasons: Counter[tuple[str, str]]
    thresholds: Counter[float]
    bundles: Counter[str]
    rejects: list[Reject]
    is_simulated: bool
    runs: list[dict[str, Any]]
    integrity: dict[str, Any]
    zone: Any = None

    def count(self, kind: str, camera: int | None = None) -> int:
        """Frames of a kind, of one camera or of all."""
        mask = self.kind == KINDS.index(kind)
        return int((mask if camera is None else mask & (self.camera == camera)).sum())

    def time(self, seconds: float) -> datetime:
        """A moment in the time zone shown."""
        return datetime.fromtimestamp(seconds).astimezone(self.zone)


@dataclass
class _Gathered:
    """Columns while they grow; a row that takes back another replaces it."""

    cameras: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[float, int, int, float, float]] = field(default_factory=list)
    facts: list[tuple[str, float | None, str | None]] = field(default_factory=list)
    places: OrderedDict[tuple[str, str, int], int] = field(default_factory=OrderedDict)
    rejects: deque[Reject] = field(default_factory=lambda: deque(maxlen=_REJECTS))
    is_simulated: bool = False


def read_shift(
    path: str | Path, *, since: datetime | None = None, until: datetime | None = None
) -> Shift:
    """Read a journal and its rotated files.

    Args:
        path: The journal.
        since: Rows written before are left out.
        until: Rows written then and later are left out.

    Raises:
        StorageError: JOURNAL_MISSING or JOURNAL.
        ConfigError: PERIOD when it ends before it begins.
        CalibrationError: NO_ROWS when the period holds none.
    """
    if since is not None and until is not None and until <= since:
        raise ConfigError("PERIOD", f"the period ends at {until}, and begins at {since}.")
    gathered = _Gathered()
    for values in journal_rows(path, _COLUMNS):
        row = dict(zip(_COLUMNS, values, strict=True))
        when = datetime.fromisoformat(row["written_wall"])
        if (since is None or when >= since) and (until is None or when < until):
            _gather(gathered, row, when)
    if not gathered.rows:
        raise CalibrationError(
            "NO_ROWS", f"{path} holds no row of that period.", "Give another --since or --until."
        )
    return _shift_of(Path(path), gathered)


def _gather(into: _Gathered, row: dict[str, Any], when: datetime) -> None:
    camera = into.cameras.setdefault(row["source_id"], len(into.cameras))
    is_result = row["status"] == "RESULT"
    kind = "dropped" if row["status"] == "DROPPED" else row["verdict"].lower()
    score = float("nan") if row["score"] is None else float(row["score"])
    latency = (row["settled_mono_ns"] - row["t_mono_ns"]) / 1e6 if is_result else float("nan")
    entry = (when.timestamp(), camera, KINDS.index(kind), score, latency)
    about = (row["reason"], row["threshold"], row["bundle_hash"])
    key = (row["run_id"], row["source_id"], row["seq"])
    before = into.places.get(key) if row["amends"] else None
    if before is None:
        into.places[key] = len(into.rows)
        into.rows.append(entry)
        into.facts.append(about)
        if len(into.places) > _REMEMBERED:
            into.places.popitem(last=False)
    else:
        into.rows[before], into.facts[before] = entry, about
    into.is_simulated |= bool(row["is_simulated"])
    if kind in ("defect", "unknown"):
        found = None if row["score"] is None else score
        into.rejects.append(
            Reject(
                when,
                row["source_id"],
                row["seq"],
                row["part_id"],
                row["verdict"],
                row["reason"],
                found,
            )
        )


def _shift_of(path: Path, found: _Gathered) -> Shift:
    seconds, camera, kind, score, latency = zip(*found.rows, strict=True)
    reasons: Counter[tuple[str, str]] = Counter(
        (KINDS[row[2]], fact[0])
        for row, fact in zip(found.rows, found.facts, strict=True)
        if fact[0]
    )
    return Shift(
        name=path.name,
        seconds=np.asarray(seconds, dtype=np.float64),
        camera=np.asarray(camera, dtype=np.int32),
        kind=np.asarray(kind, dtype=np.int8),
        score=np.asarray(score, dtype=np.float64),
        latency_ms=np.asarray(latency, dtype=np.float64),
        cameras=list(found.cameras),
        reasons=reasons,
        thresholds=Counter(fact[1] for fact in found.facts if fact[1] is not None),
        bundles=Counter(fact[2] for fact in found.facts if fact[2] is not None),
        rejects=list(found.rejects),
        is_simulated=found.is_simulated,
        runs=journal_runs(path),
        integrity=verify_journal(path),
    )
