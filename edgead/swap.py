"""Changing the model while the line runs: switch between two frames, shadow, roll back.

The old model serves until the new one is built and checked; each frame is judged by one model from
beginning to end, and the last frame in an old model frees it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from edgead.errors import EdgeadError, StateError
from edgead.types import Detection, Frame, Verdict

__all__ = ["Disagreement", "ShadowReport", "Swappable", "require_memory"]

Judge: TypeAlias = Callable[[Frame], Detection]
J = TypeVar("J", bound=Judge)

_SHADOW_ENDS_S = 2.0


@dataclass(frozen=True)
class Disagreement:
    """A frame on which the live model and its shadow gave another verdict."""

    frame_id: str
    live: Verdict
    shadow: Verdict
    live_score: float
    shadow_score: float


@dataclass(frozen=True)
class ShadowReport:
    """What a shadow model did beside the live one.

    Attributes:
        frames: Frames that both judged.
        skipped: Frames that the shadow was too slow for.
        failed: Frames on which the shadow raised.
        disagreements: How many verdicts differed.
        latest: The newest of them, at most 100.
    """

    frames: int
    skipped: int
    failed: int
    disagreements: int
    latest: tuple[Disagreement, ...]


class _Model(Generic[J]):
    """A judge, and how many frames are in it."""

    def __init__(self, judge: J) -> None:
        self.judge = judge
        self.users = 0
        self.is_retired = False


class Swappable(Generic[J]):
    """A judge that can be exchanged between two frames; itself a judge.

    Args:
        judge: The first model. A model with a ``close`` method is closed when it is no longer
            wanted and its last frame has left it.
    """

    def __init__(self, judge: J) -> None:
        self._lock = threading.Lock()  # of all that follows
        self._live = _Model(judge)
        self._generation = 0
        self._previous: _Model[J] | None = None
        self._shadow: _Shadow | None = None
        self._is_closed = False

    @property
    def live(self) -> J:
        """The model that judges the next frame."""
        return self._live.judge

    @property
    def generation(self) -> int:
        """Number of the live model: +1 with every switch and roll-back, never back."""
        return self._generation

    def __call__(self, frame: Frame) -> Detection:
        """Judge with the live model."""
        return self.judge_with_generation(frame)[0]

    def judge_with_generation(self, frame: Frame) -> tuple[Detection, int]:
        """Judge, and say which generation did; streams ask for it."""
        with self.using() as (model, generation):
            detection = model(frame)
        shadow = self._shadow
        if shadow is not None:
            shadow.offer(frame, detection)
        return detection, generation

    @contextmanager
    def using(self) -> Iterator[tuple[J, int]]:
        """The live model and its generation; it stays open until the end of the ``with``.

        Raises:
            StateError: CLOSED.
        """
        with self._lock:
            self._check_open()
            model, generation = self._live, self._generation
            model.users += 1
        try:
            yield model.judge, generation
        finally:
            with self._lock:
                model.users -= 1
                is_over = model.is_retired and not model.users
            if is_over:
                _close(model.judge)

    def drift_reference(self, bundle_hash: str) -> Any:
        """What the live model says of it, None for one that says nothing; streams ask it."""
        return getattr(self.live, "drift_reference", lambda _: None)(bundle_hash)

    def switch(self, judge: J, *, check: Callable[[J], None] | None = None) -> int:
        """Make ``judge`` the live model.

        Args:
            judge: The new model, built and warm; the old one serves meanwhile.
            check: Called with it first, e.g. to judge its golden images; when it raises, the old
                model stays, the new one is closed and the error goes to the caller.

        Returns:
            The new generation.

        Raises:
            StateError: CLOSED; ``judge`` is closed too.
        """
        if check is not None:
            try:
                check(judge)
            except BaseException:
                _close(judge)
                raise
        try:
            with self._lock:
                self._check_open()
                unwanted = self._retire(self._previous)
                self._live, self._previous = _Model(judge), self._live
                self._generation = generation = self._generation + 1
        except StateError:
            _close(judge)
            raise
        _close_all(unwanted)
        return generation

    def roll_back(self) -> int:
        """Make the model before the last switch live again, under a new generation.

        Raises:
            StateError: CLOSED, or NO_PREVIOUS: there was no switch, or it was rolled back already.
        """
        with self._lock:
            self._check_open()
            if self._previous is None:
                raise StateError("NO_PREVIOUS", "there is no earlier model to go back to.")
            unwanted = self._retire(self._live)
            self._live, self._previous = self._previous, None
            self._generation = generation = self._generation + 1
        _close_all(unwanted)
        return generation

    def start_shadow(self, judge: Judge) -> None:
        """Let ``judge`` judge the same frames, after the live model and without slowing it.

        Raises:
            StateError: CLOSED, or SHADOW when one is running; ``judge`` is closed.
        """
        try:
            with self._lock:
                self._check_open()
                if self._shadow is not None:
                    raise StateError("SHADOW", "a shadow model is running.", "End it first.")
                self._shadow = _Shadow(judge)
        except StateError:
            _close(judge)
            raise

    def end_shadow(self) -> ShadowReport:
        """Stop the shadow model, close it and report.

        Raises:
            StateError: SHADOW when none is running.
        """
        with self._lock:
            shadow, self._shadow = self._shadow, None
        if shadow is None:
            raise StateError("SHADOW", "no shadow model is running.", "Start one first.")
        shadow.stop()
        return shadow.report()

    def shadow_report(self) -> ShadowReport | None:
        """How the shadow does so far, None without one."""
        shadow = self._shadow
        return None if shadow is None else shadow.report()

    def close(self) -> None:
        """Close all models, each when its last frame has left it; safe to call twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            shadow, self._shadow = self._shadow, None
            unwanted = self._retire(self._live) + self._retire(self._previous)
            self._previous = None
        if shadow is not None:
            shadow.stop()
        _close_all(unwanted)

    def _check_open(self) -> None:
        if self._is_closed:
            raise StateError("CLOSED", "this judge is closed.", "Open a new one.")

    @staticmethod
    def _retire(model: _Model[J] | None) -> list[J]:
        """Want a model no longer; it, if no frame is in it. Called under the lock, once a model."""
        if model is None:
            return []
        model.is_retired = True
        return [] if model.users else [model.judge]


class _Shadow:
    """A thread that judges again what the live model judged, dropping what it cannot keep up with.

    It closes its judge at its end: one that hangs is never closed under itself.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._waiting: deque[tuple[Frame, Detection]] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._frames = self._skipped = self._failed = self._disagreements = 0
        self._latest: deque[Disagreement] = deque(maxlen=100)
        self._thread = threading.Thread(target=self._work, name="edgead shadow", daemon=True)
        self._thread.start()

    def offer(self, frame: Frame, live: Detection) -> None:
        with self._changed:
            if len(self._waiting) >= 2:  # it holds frames: no more than it needs to keep busy
                self._skipped += 1
                return
            self._waiting.append((frame, live))
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(_SHADOW_ENDS_S)

    def report(self) -> ShadowReport:
        with self._changed:
            return ShadowReport(
                self._frames,
                self._skipped,
                self._failed,
                self._disagreements,
                tuple(self._latest),
            )

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_stopping:
                    self._changed.wait()
                if not self._waiting:
                    break
                frame, live = self._waiting.popleft()
            try:
                detection = self._judge(frame)
            except Exception:
                with self._changed:
                    self._failed += 1
                continue
            self._compare(frame, live, detection)
        _close(self._judge)

    def _compare(self, frame: Frame, live: Detection, shadow: Detection) -> None:
        with self._changed:
            self._frames += 1
            if live.verdict is not shadow.verdict:
                self._disagreements += 1
                self._latest.append(
                    Disagreement(
                        frame.frame_id, live.verdict, shadow.verdict, live.score, shadow.score
                    )
                )


def require_memory(needed_bytes: int, *, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Check that a second model fits beside the live one, before it is built.

    Args:
        needed_bytes: What the new model takes, bytes (twice that must be free).
        meminfo: The kernel's figures; MemAvailable also holds on Jetson, where the GPU shares it.

    Returns:
        Available bytes.

    Raises:
        StateError: MEMORY when less than twice ``needed_bytes`` is available.
    """
    lines = meminfo.read_text().splitlines()
    available = next(int(s.split()[1]) * 1024 for s in lines if s.startswith("MemAvailable:"))
    if available < 2 * needed_bytes:
        raise StateError(
            "MEMORY",
            f"a second model needs {2 * needed_bytes / 1e6:.0f} MB free beside the live one; "
            f"{available / 1e6:.0f} MB are available.",
            "Stop the stream, change the bundle and start again.",
        )
    return available


def _close_all(judges: Iterable[Judge]) -> None:
    for judge in judges:
        _close(judge)


def _close(judge: Judge) -> None:
    close = getattr(judge, "close", None)
    if callable(close):
        try:
            close()
        except EdgeadError:
            return  # closed by its owner already
