"""The journal: one row for each settled frame, in SQLite, that shows when it was altered.

Each row carries SHA-256(previous chain + its own values), so a changed, removed or reordered row breaks
the chain from there on. ``full`` commits each row to the disk before its verdict is handed over: none
is lost at a power cut. ``batch`` commits every ``flush_ms``: at most so much is lost, and nothing is
torn. A full disk never stops inspection: the journal says that it is degraded, and counts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TypeAlias

from edgead._version import __version__
from edgead.errors import StorageError
from edgead.stream.journal_schema import COLUMNS, SCHEMA, chain_of, values_of
from edgead.types import Detection, Outcome

__all__ = ["Journal", "Sync"]

Sync: TypeAlias = Literal["auto", "full", "batch"]

_log = logging.getLogger("edgead.stream")
_BATCH = 500  # rows a transaction
_BACKLOG = 20_000  # rows kept while the disk refuses them


class Journal:
    """Writes the journal of one run. Safe from several threads.

    Args:
        path: SQLite file; made, or continued.
        sync: ``full``, ``batch``, or ``auto``: full for triggered sources, else batch.
        flush_ms: How often ``batch`` commits.
        max_bytes: A larger file is closed, renamed to ``name.0001.suffix`` and a new one begun.
            Nothing is ever deleted.
        info: What belongs to the run, e.g. engine hash, back-end version, device.

    Raises:
        StorageError: JOURNAL when the file cannot be opened or is something else.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sync: Sync = "auto",
        flush_ms: float = 200.0,
        max_bytes: int = 256_000_000,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.sync: Sync = sync
        self.run_id = str(uuid.uuid4())
        self.written = 0
        self.failed = 0
        self.last_error = ""
        self._flush_s = flush_ms / 1e3
        self._max_bytes = max_bytes
        self._info = dict(info or {})
        self._lock = threading.Condition()
        self._backlog: deque[tuple[Any, ...]] = deque()
        self._late: deque[tuple[Any, ...]] = deque()
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._database = self._open()
        self._chain = self._last_chain()

    @property
    def is_degraded(self) -> bool:
        """Whether rows are waiting for a disk that refused them, or were given up."""
        return bool(self.failed or self.last_error)

    def begin(self, *, kind: str, policy: str) -> None:
        """Note the run: called by the stream.

        Args:
            kind: Kind of source; ``auto`` chooses by it.
            policy: The policy in use.
        """
        if self.sync == "auto":
            self.sync = "full" if kind == "triggered" else "batch"
        self._info.update(
            policy=policy,
            sync=self.sync,
            edgead_version=__version__,
            wall_minus_mono_ns=time.time_ns() - time.monotonic_ns(),
        )
        with self._lock:
            self._database.execute(
                f"PRAGMA synchronous={'FULL' if self.sync == 'full' else 'NORMAL'}"
            )
            self._note_run()
        if self.sync == "batch":
            self._thread = threading.Thread(
                target=self._flush_on, name="edgead journal", daemon=True
            )
            self._thread.start()
        _log.info("journal %s, synchronous %s", self.path, self.sync)

    def write(self, outcome: Outcome, *, handed_over: bool = True, amends: bool = False) -> None:
        """Enter one settled frame; with ``full`` it is on the disk when this returns.

        Args:
            outcome: The frame's end.
            handed_over: False when nobody read it before the stream was closed.
            amends: True when the row before it could not be handed over in time.
        """
        now = datetime.now(timezone.utc)
        row = values_of(self.run_id, outcome, now, handed_over=handed_over, amends=amends)
        with self._lock:
            self._backlog.append(row)
            if self.sync == "full" or len(self._backlog) >= _BATCH:
                self._flush()

    def write_late(self, source_id: str, seq: int, detection: Detection) -> None:
        """Enter what a judge said too late; it was never given to the line."""
        row = (self.run_id, source_id, seq, detection.verdict.name, detection.score)
        with self._lock:
            self._late.append(row)

    def close(self, counts: Mapping[str, Any] | None = None) -> None:
        """Write what waits and note the run's final counts; safe to call twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join(5)
        with self._lock:
            self._flush()
            with self._guarded():
                self._database.execute(
                    "UPDATE runs SET counts = ? WHERE run_id = ?",
                    (json.dumps(counts or {}), self.run_id),
                )
                self._database.commit()
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.failed += len(self._backlog)
            self._backlog.clear()
            self._database.close()

    def _flush_on(self) -> None:
        with self._lock:
            while not self._is_closed:
                self._lock.wait(self._flush_s)
                self._flush()

    def _flush(self) -> None:
        """Commit the backlog; on any refusal it stays, up to a bound. Called under the lock."""
        while self._backlog or self._late:
            rows = [self._backlog[i] for i in range(min(_BATCH, len(self._backlog)))]
            late = list(self._late)
            if not self._commit(rows, late):
                while len(self._backlog) > _BACKLOG:
                    self._backlog.popleft()
                    self.failed += 1
                return
            for _ in rows:
                self._backlog.popleft()
            self._late.clear()
            self.written += len(rows)
        self._rotate_if_large()

    def _commit(self, rows: list[tuple[Any, ...]], late: list[tuple[Any, ...]]) -> bool:
        chain = self._chain
        chained = []
        for row in rows:
            chain = chain_of(chain, row)
            chained.append((*row, chain))
        with self._guarded() as outcome:
            marks = ", ".join("?" * (len(COLUMNS) + 1))
            names = ", ".join((*COLUMNS, "chain"))
            self._database.executemany(f"INSERT INTO outcomes ({names}) VALUES ({marks})", chained)
            self._database.executemany("INSERT INTO late VALUES (?, ?, ?, ?, ?)", late)
            self._database.commit()
            self._chain = chain
            self.last_error = ""
        return not outcome

    @contextlib.contextmanager
    def _guarded(self) -> Any:
        """Turn a refusal of the disk into a state; the list yielded holds the error, if any."""
        errors: list[sqlite3.Error] = []
        try:
            yield errors
        except sqlite3.Error as error:
            errors.append(error)
            if not self.last_error:
                _log.error("JOURNAL_DEGRADED: %s: %s", self.path, error)
            self.last_error = str(error)
            with contextlib.suppress(sqlite3.Error):
                self._database.rollback()

    def _open(self) -> sqlite3.Connection:
        try:
            database = sqlite3.connect(self.path, check_same_thread=False, timeout=5)
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(SCHEMA)
            return database
        except sqlite3.Error as error:
            raise StorageError(
                "JOURNAL",
                f"cannot open the journal {self.path}: {error}.",
                "Give the path of a new file or of an edgead journal.",
            ) from error

    def _last_chain(self) -> str:
        row = self._database.execute(
            "SELECT chain FROM outcomes ORDER BY id DESC LIMIT 1"
        ).fetchone()
        if row is None:
            row = self._database.execute("SELECT value FROM meta WHERE key = 'chain'").fetchone()
        return str(row[0]) if row else ""

    def _note_run(self) -> None:
        with self._guarded():
            self._database.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, NULL)",
                (self.run_id, datetime.now(timezone.utc).isoformat(), json.dumps(self._info)),
            )
            self._database.commit()

    def _rotate_if_large(self) -> None:
        parts = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        if sum(part.stat().st_size for part in parts if part.exists()) < self._max_bytes:
            return
        with self._guarded() as errors:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if errors:
            return
        self._database.close()
        number = 1
        while (old := self.path.with_suffix(f".{number:04d}{self.path.suffix}")).exists():
            number += 1
        self.path.rename(old)
        self._database = self._open()
        with self._guarded():
            self._database.execute("INSERT INTO meta VALUES ('chain', ?)", (self._chain,))
            mode = "FULL" if self.sync == "full" else "NORMAL"
            self._database.commit()
            self._database.execute(f"PRAGMA synchronous={mode}")
        self._note_run()
