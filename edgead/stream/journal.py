"""The journal: one row for each settled frame, in SQLite, that shows when it was altered.

Each row carries SHA-256(previous chain + its own values), so a changed, removed or reordered row breaks
the chain from there on. ``full`` commits each row to the disk before its verdict is handed over: none
is lost at a power cut. ``batch`` commits every ``flush_ms``: at most so much is lost, and nothing is
torn. A full disk never stops inspection: the journal says that it is degraded, and counts.

One thread of the journal's own writes to the file. What a caller does is one call of a deque, so that a
signal whose handler raises in the middle of it can neither tear a row nor double it.
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
from edgead.errors import StateError, StorageError
from edgead.stream.interrupts import Bell
from edgead.stream.journal_schema import COLUMNS, SCHEMA, again, chain_of, values_of
from edgead.types import Detection, Outcome

__all__ = ["Journal", "Sync"]

Sync: TypeAlias = Literal["auto", "full", "batch"]

_log = logging.getLogger("edgead.stream")
_BATCH = 500  # rows a transaction
_BACKLOG = 20_000  # rows kept while the disk refuses them
_CROWDED = 4000  # rows from which a caller waits for a disk that is only slow
_CLOSE_S = 10.0  # a disk that hangs longer is left behind

_Row: TypeAlias = "tuple[Any, ...]"


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
        self._rows: deque[_Row] = deque()  # put by any thread, written by one
        self._late: deque[_Row] = deque()
        self._receipts: deque[Bell] = deque()
        self._wake = Bell()
        self._ended = Bell()
        self._final: dict[str, Any] | None = None  # the run's counts: it is closing
        self._last: _Row = ()
        self._is_writing = False
        self._turn = threading.Lock()  # to begin and to close: a stream is opened by its own thread
        self._thread = threading.Thread(target=self._work, name="edgead journal", daemon=True)
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

        Raises:
            StateError: CLOSED.
        """
        with self._turn:
            if self._final is not None:
                raise StateError("CLOSED", f"the journal {self.path} is closed.", "Open it again.")
            self._begin(kind, policy)

    def _begin(self, kind: str, policy: str) -> None:
        if self.sync == "auto":
            self.sync = "full" if kind == "triggered" else "batch"
        self._info.update(
            policy=policy,
            sync=self.sync,
            edgead_version=__version__,
            wall_minus_mono_ns=time.time_ns() - time.monotonic_ns(),
        )
        self._database.execute(f"PRAGMA synchronous={'FULL' if self.sync == 'full' else 'NORMAL'}")
        self._note_run()
        self._is_writing = True
        self._thread.start()
        _log.info("journal %s, synchronous %s", self.path, self.sync)

    def put(
        self, outcome: Outcome, *, handed_over: bool = True, amends: bool = False
    ) -> Bell | None:
        """Enter one settled frame: at once, and whole or not at all.

        A frame that is entered twice in a row, because its reader was interrupted in between, gets
        one row; when something else is said of it the second time, that row amends the first.

        Args:
            outcome: The frame's end.
            handed_over: False when nobody read it before the stream was closed.
            amends: True when the row before it could not be handed over in time.

        Returns:
            For `wait`: with ``full`` the row is on the disk after it.
        """
        now = datetime.now(timezone.utc)
        row = values_of(self.run_id, outcome, now, handed_over=handed_over, amends=amends)
        is_crowded = len(self._rows) >= _CROWDED and not self.last_error
        receipt = Bell() if self.sync == "full" or is_crowded else None
        self._rows.append(row)
        if receipt is not None:
            self._receipts.append(receipt)
        if receipt is not None or len(self._rows) >= _BATCH:
            self._wake.ring()
        return receipt

    def wait(self, receipt: Bell | None) -> None:
        """Wait until the disk took a row or refused it."""
        while receipt is not None and not receipt.wait(0.5) and self._is_writing:
            continue

    def write(self, outcome: Outcome, *, handed_over: bool = True, amends: bool = False) -> None:
        """`put` and `wait`."""
        self.wait(self.put(outcome, handed_over=handed_over, amends=amends))

    def write_late(self, source_id: str, seq: int, detection: Detection) -> None:
        """Enter what a judge said too late; it was never given to the line."""
        self._late.append((self.run_id, source_id, seq, detection.verdict.name, detection.score))

    def close(self, counts: Mapping[str, Any] | None = None) -> None:
        """Write what waits and note the run's final counts; safe to call twice, and again after an
        interruption. A disk that hangs is left to the journal's thread after ten seconds.
        """
        with self._turn:
            if self._final is None:
                self._final = dict(counts or {})
                if not self._is_writing:  # it was never begun
                    self._finish()
        self._wake.ring()
        until = time.monotonic() + _CLOSE_S
        while self._is_writing and time.monotonic() < until:
            self._ended.wait(0.1)
        if self._is_writing:
            _log.error("JOURNAL_DEGRADED: %s: the disk does not answer; left behind.", self.path)

    def _work(self) -> None:
        """The only thread that writes."""
        try:
            while self._final is None:
                self._wake.wait(self._flush_s)
                self._flush()
            self._finish()
        finally:
            self._is_writing = False
            self._ended.ring()

    def _finish(self) -> None:
        self._flush()
        with self._guarded():
            self._database.execute(
                "UPDATE runs SET counts = ? WHERE run_id = ?",
                (json.dumps(self._final), self.run_id),
            )
            self._database.commit()
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._give_up(len(self._rows))
        self._database.close()

    def _flush(self) -> None:
        """Commit what waits; on any refusal it stays, up to a bound."""
        while True:
            known = len(self._receipts)  # first: each was entered after its row
            rows, late = _first(self._rows), _first(self._late)
            is_refused = bool(rows or late) and not self._commit(rows, late)
            if is_refused:
                self._give_up(len(self._rows) - _BACKLOG)
            else:
                for entered, written in ((self._rows, rows), (self._late, late)):
                    for _ in written:
                        entered.popleft()
            if is_refused or len(rows) < _BATCH:  # it was all that waited
                for _ in range(known):
                    self._receipts.popleft().ring()
            if is_refused or not rows:
                return
            self._rotate_if_large()

    def _give_up(self, count: int) -> None:
        for _ in range(count):
            self._rows.popleft()
            self.failed += 1

    def _commit(self, rows: list[_Row], late: list[_Row]) -> bool:
        chain, last = self._chain, self._last
        chained = []
        for row in rows:
            new, row = again(last, row)
            if new:
                last, chain = row, chain_of(chain, row)
                chained.append((*row, chain))
        with self._guarded() as errors:
            marks = ", ".join("?" * (len(COLUMNS) + 1))
            names = ", ".join((*COLUMNS, "chain"))
            self._database.executemany(f"INSERT INTO outcomes ({names}) VALUES ({marks})", chained)
            self._database.executemany("INSERT INTO late VALUES (?, ?, ?, ?, ?)", late)
            self._database.commit()
            self._chain, self._last = chain, last
            self.written += len(chained)
            self.last_error = ""
        return not errors

    @contextlib.contextmanager
    def _guarded(self) -> Any:
        """Turn a refusal of the disk into a state; the list yielded holds the error, if any."""
        errors: list[Exception] = []
        try:
            yield errors
        except (sqlite3.Error, OSError, StorageError) as error:
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
            columns = [row[1] for row in database.execute("PRAGMA table_info(outcomes)")]
        except sqlite3.Error as error:
            raise StorageError(
                "JOURNAL",
                f"cannot open the journal {self.path}: {error}.",
                "Give the path of a new file or of an edgead journal.",
            ) from error
        if columns != ["id", *COLUMNS, "chain"]:
            database.close()
            raise StorageError(
                "JOURNAL",
                f"the journal {self.path} was begun by another version of edgead: its columns differ.",
                "Give the path of a new file.",
            )
        return database

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
        with self._guarded() as errors:
            self.path.rename(old)
        with self._guarded():
            self._database = self._open()
            mode = "FULL" if self.sync == "full" else "NORMAL"
            self._database.execute(f"PRAGMA synchronous={mode}")
            if not errors:
                self._database.execute("INSERT INTO meta VALUES ('chain', ?)", (self._chain,))
                self._database.commit()
        self._note_run()


def _first(entered: deque[_Row]) -> list[_Row]:
    """The oldest rows, while others append: by index, for an iterator must not see that."""
    return [entered[i] for i in range(min(_BATCH, len(entered)))]
