"""kill -9 at random moments of writing, and a power cut replayed on the journal.

A writer is forked, writes without pause and acknowledges each finished write through a pipe; the
parent kills it and looks at what lies on the disk. What was acknowledged must be there, whole.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgead import files, images
from edgead.bundle import bundle_from_bytes, read_bundle, write_bundle
from edgead.errors import ConfigError, EdgeadError
from edgead.stream.journal import Journal
from edgead.stream.journal_read import verify_journal
from edgead.testing.tiny import tiny_bundle, tiny_frame
from edgead.types import LedgerCounts, Outcome, Status

__all__ = ["crashtest", "crashtest_command", "powercut"]


def crashtest(
    *, kills: int = 1000, seed: int = 0, folder: str | Path | None = None, plant: bool = False
) -> dict[str, Any]:
    """Kill a writer of bundles, images and a journal ``kills`` times.

    Args:
        kills: How often; bundles, images and journal take turns.
        seed: When.
        folder: Where to write, to test that file system; a temporary folder by default.
        plant: Positive control: bundles are written in place, and ``ok`` must come out False.

    Returns:
        ``kills``; ``writes`` acknowledged; ``torn`` files; ``lost`` acknowledged writes; ``left``:
        temporary files that a sweep did not remove; ``swept``: those that it did; ``rows`` of the
        journal; ``seconds``; ``problems``: sentences; ``ok``.
    """
    started = time.monotonic()
    figures: dict[str, Any] = {"kills": kills, "writes": 0, "torn": 0, "lost": 0, "swept": 0}
    draw = random.Random(seed)
    problems: list[str] = []
    with _folder(folder) as place:
        writers = (_InPlace(place) if plant else _Bundles(place), _Images(place), _Rows(place))
        for number in range(kills):
            writer = writers[number % len(writers)]
            acknowledged = _killed(writer.write_forever, draw)
            figures["writes"] += acknowledged
            figures["swept"] += len(files.sweep(place))
            what, text = writer.check(acknowledged)
            if what:
                figures[what] += 1
                problems.append(f"kill {number}: {text}")
        left = [path.name for path in place.iterdir() if path.name.endswith(".tmp")]
        figures["rows"] = writers[2].rows
    figures["left"] = len(left)
    figures["seconds"] = round(time.monotonic() - started, 1)
    figures["problems"] = problems[:20]
    figures["ok"] = not problems and not left and figures["writes"] > 0
    return figures


def crashtest_command(
    command: list[str], bundle: str | Path, *, kills: int = 20, seed: int = 0
) -> dict[str, Any]:
    """Kill a command that makes or changes ``bundle`` at random moments of its run.

    Args:
        command: Program and arguments, e.g. ``["edgead", "quantize", "part.edgead", ...]``.
        bundle: The file that it writes; it must stay what it was, or be a whole new one.
        kills: How often.
        seed: When.

    Returns:
        ``kills`` that hit the running command; ``whole``: bundles read afterwards; ``missing``:
        not there yet; ``torn``; ``seconds`` of an undisturbed run; ``ok``.

    Raises:
        ConfigError: CRASH_COMMAND when the command fails undisturbed.
    """
    target = Path(bundle)
    before = target.read_bytes() if target.exists() else None
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, check=False)
    seconds = time.monotonic() - begun
    if done.returncode:
        raise ConfigError(
            "CRASH_COMMAND",
            f"the command ends with {done.returncode} when it is not disturbed: "
            f"{done.stderr.decode(errors='replace')[-300:].strip()}",
        )
    draw = random.Random(seed)
    figures: dict[str, Any] = {"kills": 0, "whole": 0, "missing": 0, "torn": 0}
    for _ in range(kills):
        _restore(target, before)
        child = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(draw.uniform(0.0, seconds))
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            figures["kills"] += 1
        child.wait()
        files.sweep(target.parent)
        figures[_state(target)] += 1
    _restore(target, before)
    figures["seconds"] = round(seconds, 2)
    figures["ok"] = not figures["torn"] and (before is None or not figures["missing"])
    return figures


def powercut(*, rows: int = 200, cuts: int = 400, seed: int = 0) -> dict[str, Any]:
    """Replay a power cut on the journal: its newest file cut or filled with rubbish at any byte.

    After each acknowledged row the size of the write-ahead log is noted: up to there it was synced.
    Then copies are cut at each of these places and at ``cuts`` random bytes, some with rubbish
    behind, as a torn write leaves it, and opened: every row that was acknowledged before the cut
    must be there, and the chain whole.

    Returns:
        ``rows``, ``cuts``, ``lost`` (acknowledged rows that are gone), ``broken`` (chains),
        ``fewest`` and ``most`` rows that a cut left, and ``ok``.
    """
    draw = random.Random(seed)
    figures: dict[str, Any] = {"rows": rows, "cuts": rows + 1 + cuts, "lost": 0, "broken": 0}
    left: list[int] = []
    with _folder(None) as place:
        path = place / "journal.db"
        log = place / "journal.db-wal"
        journal = Journal(path, sync="full")
        journal.begin(kind="triggered", policy="all")
        synced = [(log.stat().st_size, 0)]
        for number in range(1, rows + 1):
            journal.write(_outcome(number))
            synced.append((log.stat().st_size, number))
        main, whole = path.read_bytes(), log.read_bytes()
        places = [size for size, _ in synced]
        places += [draw.randrange(synced[0][0], len(whole) + 1) for _ in range(cuts)]
        for at in places:
            torn = whole[:at] + draw.choice((b"", draw.randbytes(4096), bytes(8192)))
            with _folder(None) as copy:
                (copy / "journal.db").write_bytes(main)
                (copy / "journal.db-wal").write_bytes(torn)
                found = verify_journal(copy / "journal.db")
            figures["lost"] += found["rows"] < max(n for size, n in synced if size <= at)
            figures["broken"] += not found["ok"]
            left.append(found["rows"])
        journal.close()
    figures |= {"fewest": min(left), "most": max(left)}
    figures["ok"] = not figures["lost"] and not figures["broken"] and min(left) < max(left)
    return figures


class _Bundles:
    """Two different bundles in turn under one name."""

    rows = 0

    def __init__(self, folder: Path) -> None:
        self.path = folder / "part.edgead"
        # Large enough that a kill lands inside a write.
        padding = b"[" + b"0," * 500_000 + b"0]"
        made = [tiny_bundle(**{"calibration.json": padding}), tiny_bundle()]
        self.versions = made
        write_bundle(self.path, made[0])

    def write_forever(self, acknowledge: Callable[[], None]) -> None:
        while True:
            for bundle in self.versions:
                self.write(bundle.to_bytes())
                acknowledge()

    def write(self, data: bytes) -> None:
        write_bundle(self.path, bundle_from_bytes(data))

    def check(self, _: int) -> tuple[str, str]:
        try:
            found = read_bundle(self.path)
        except EdgeadError as error:
            write_bundle(self.path, self.versions[0])
            return "torn", str(error)
        return ("", "") if found in self.versions else ("torn", "a bundle that nobody wrote")


class _InPlace(_Bundles):
    """What edgead does not do: the positive control."""

    def write(self, data: bytes) -> None:
        self.path.write_bytes(data)


class _Images:
    """One image with a number in its pixels; it must never be older than what was acknowledged."""

    rows = 0

    def __init__(self, folder: Path) -> None:
        self.path = folder / "map.png"

    def write_forever(self, acknowledge: Callable[[], None]) -> None:
        number = 0
        while True:
            pixels = tiny_frame(0).astype("uint16")
            pixels[0, 0] = number = number + 1
            images.save_image(self.path, pixels)
            acknowledge()

    def check(self, acknowledged: int) -> tuple[str, str]:
        try:
            found = int(images.read(self.path).pixels[0, 0, 0]) if self.path.exists() else 0
        except EdgeadError as error:
            return "torn", str(error)
        finally:
            self.path.unlink(missing_ok=True)
        lost = not acknowledged <= found <= acknowledged + 1
        return ("lost", f"image {found}, acknowledged {acknowledged}") if lost else ("", "")


class _Rows:
    """Journal rows; every acknowledged one must be there and the chain must be whole."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.db"
        self.rows = 0

    def write_forever(self, acknowledge: Callable[[], None]) -> None:
        journal = Journal(self.path, sync="full")
        journal.begin(kind="triggered", policy="all")
        number = 0
        while True:
            number += 1
            journal.write(_outcome(number))
            acknowledge()

    def check(self, acknowledged: int) -> tuple[str, str]:
        if not self.path.exists():
            return ("lost", "no journal") if acknowledged else ("", "")
        try:
            with contextlib.closing(sqlite3.connect(self.path)) as database:
                rows = database.execute("SELECT COUNT(*) FROM outcomes").fetchone()[0]
            found: dict[str, Any] = verify_journal(self.path) if rows else {"ok": True}
        except (sqlite3.Error, EdgeadError) as error:
            return ("torn", str(error)) if acknowledged or self.rows else ("", "")
        before, self.rows = self.rows, rows
        if not found["ok"]:
            return "torn", "; ".join(found["problems"])
        lost = rows < before + acknowledged
        return ("lost", f"{rows} rows, {before + acknowledged} acknowledged") if lost else ("", "")


def _outcome(number: int) -> Outcome:
    return Outcome(
        status=Status.FAILED,
        reason="FRAME_NONE",
        detection=None,
        source_id="crashtest",
        seq=number,
        t_mono_ns=number,
        settled_mono_ns=number + 1,
        counts=LedgerCounts(received=number, failed=number),
    )


def _killed(work: Callable[[Callable[[], None]], None], draw: random.Random) -> int:
    """Fork ``work`` and kill it; how many writes it acknowledged.

    Half of the kills fall into its start, half behind its first finished write.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            work(lambda: _acknowledge(writer))
        finally:
            os._exit(1)
    os.close(writer)
    if draw.random() < 0.5:
        select.select([reader], [], [], 5)
    time.sleep(draw.uniform(0.0, 0.03))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as stream:
        return len(stream.read())


def _acknowledge(pipe: int) -> None:
    os.write(pipe, b".")


def _state(bundle: Path) -> str:
    if not bundle.exists():
        return "missing"
    try:
        read_bundle(bundle)
    except EdgeadError:
        return "torn"
    return "whole"


def _restore(target: Path, before: bytes | None) -> None:
    if before is None:
        target.unlink(missing_ok=True)
    else:
        files.write_bytes(target, before)


@contextlib.contextmanager
def _folder(given: str | Path | None) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="edgead-crashtest-", dir=given))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
