"""Saved rejects: a file that holds the very pixels and what was said about them, to judge again.

``<source>-<seq>.replay`` is a safetensors file: the tensor ``pixels`` exactly as the camera gave it,
and the frame's and the outcome's JSON in the header. On the same bundle and engine the score that a
replay gives on a desk is bit-equal to the one on the line.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from edgead import files
from edgead.errors import EdgeadError, StorageError
from edgead.frame import Frame, PixelFormat
from edgead.types import Detection, Outcome, Status

__all__ = ["Rejects", "read_replay", "replay", "write_replay"]

Judge: TypeAlias = Callable[[Frame], Detection]

_log = logging.getLogger("edgead.stream")
_WAITING = 16  # frames held in memory until the disk took them


def write_replay(path: str | Path, frame: Frame, outcome: Outcome) -> None:
    """Save a frame and its outcome.

    Raises:
        StorageError: The disk refused.
    """
    from safetensors.numpy import save

    about = {
        "format": frame.format.value,
        "depth": frame.depth,
        "t_mono_ns": frame.t_mono_ns,
        "source_id": frame.source_id,
        "seq": frame.seq,
        "block_id": frame.block_id,
        "trigger_id": frame.trigger_id,
        "part_id": frame.part_id,
    }
    pixels = frame.pixels if isinstance(frame.pixels, np.ndarray) else frame.pixels.get()
    header = {
        "edgead": "replay 1",
        "frame": json.dumps(about),
        "outcome": json.dumps(outcome.to_json()),
    }
    files.write_bytes(path, save({"pixels": np.ascontiguousarray(pixels)}, header))


def read_replay(path: str | Path) -> tuple[Frame, dict[str, Any]]:
    """Read a replay file.

    Returns:
        The frame, marked as simulated, and the outcome's JSON.

    Raises:
        StorageError: REPLAY when it is missing, damaged, or no replay file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as stored:
            header = stored.metadata() or {}
            if header.get("edgead") != "replay 1":
                raise StorageError("REPLAY", f"{path} is no replay file.")
            about, outcome = json.loads(header["frame"]), json.loads(header["outcome"])
            frame = Frame(
                stored.get_tensor("pixels"),
                PixelFormat(about.pop("format")),
                is_simulated=True,
                **about,
            )
            return frame, outcome
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StorageError("REPLAY", f"cannot read {path}: {error}") from error


def replay(judge: Judge, paths: Iterable[str | Path]) -> dict[str, Any]:
    """Judge saved frames again and compare the scores, bit by bit.

    Args:
        judge: The detector, on the bundle that the files name.
        paths: Replay files.

    Returns:
        ``ok``: every frame that had a score has the same now, on the same bundle; ``frames``;
        ``compared``; ``equal``; ``other_bundle``; ``differing``: file, then and now; ``unjudged``:
        files of frames that had no score then, with what is said now.
    """
    frames = compared = equal = other_bundle = 0
    differing: list[dict[str, Any]] = []
    unjudged: list[dict[str, Any]] = []
    for path in paths:
        frame, then = read_replay(path)
        frames += 1
        try:
            now = judge(frame)
            said: dict[str, Any] = {"score": now.score, "verdict": now.verdict.name}
        except EdgeadError as error:
            said = {"score": None, "verdict": "UNKNOWN", "reason": str(error)}
        if then["score"] is None:
            unjudged.append({"file": str(path), "reason": then["reason"], "now": said})
            continue
        compared += 1
        other_bundle += said["score"] is not None and now.bundle_hash != then["bundle_hash"]
        if said["score"] == then["score"] and said["verdict"] == then["verdict"]:
            equal += 1
        else:
            differing.append({"file": str(path), "then": then["score"], "now": said["score"]})
    return {
        "ok": compared == equal and not other_bundle,
        "frames": frames,
        "compared": compared,
        "equal": equal,
        "other_bundle": other_bundle,
        "differing": differing,
        "unjudged": unjudged,
    }


class Rejects:
    """Saves every frame that was judged and not accepted, or failed, in a thread of its own.

    Dropped frames are not saved: under overload they would be most of them, and nothing looked at
    them.

    A slow or full disk costs saved frames, which are counted, never verdicts.

    Args:
        folder: Made when missing.
        max_bytes: Budget; the oldest files go first.

    Raises:
        StorageError: NO_FOLDER when the folder cannot be made.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int = 10_000_000_000) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError("NO_FOLDER", f"cannot make {folder}: {error.strerror}.") from error
        # Old ones only: on a share the writer may be another machine's, which looks dead from here.
        files.sweep(self.folder, min_age_s=600)
        self.saved = 0
        self.saves_failed = 0
        self._budget = max_bytes
        found = sorted(self.folder.glob("*.replay"), key=lambda p: p.stat().st_mtime_ns)
        self._files = deque((path, path.stat().st_size) for path in found)
        self._bytes = sum(size for _, size in self._files)
        self._waiting: deque[tuple[Outcome, Frame]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="edgead rejects", daemon=True)
        self._thread.start()

    def offer(self, outcome: Outcome, frame: Frame | None) -> None:
        """Save the frame unless it was accepted or dropped; never waits."""
        if outcome.accept or outcome.status is Status.DROPPED or frame is None:
            return
        with self._changed:
            if self._is_closed or len(self._waiting) >= _WAITING:
                self.saves_failed += 1
                return
            self._waiting.append((outcome, frame))
            self._changed.notify()

    def close(self) -> None:
        """Save what waits, within two seconds, and stop; safe to call twice."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(2)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                outcome, frame = self._waiting.popleft()
            name = re.sub(r"[^A-Za-z0-9_-]+", "_", frame.source_id)[:64]
            path = self.folder / f"{name}-{frame.seq:08d}-{frame.t_mono_ns}.replay"
            try:
                write_replay(path, frame, outcome)
            except StorageError as error:
                self.saves_failed += 1
                _log.warning("reject not saved: %s", error)
                continue
            self.saved += 1
            self._keep_to_budget(path)

    def _keep_to_budget(self, path: Path) -> None:
        size = path.stat().st_size
        self._files.append((path, size))
        self._bytes += size
        while self._bytes > self._budget and len(self._files) > 1:
            oldest, size = self._files.popleft()
            oldest.unlink(missing_ok=True)
            self._bytes -= size
