"""Whether the line may be trusted now: what ``/readyz``, the page and the metrics say."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edgead.errors import EdgeadError
from edgead.integrations.serve.board import Board
from edgead.stream import Stream
from edgead.stream.watchdog import State

__all__ = ["Check", "Readiness"]

_UNREAD_S = 5.0  # outcomes that nobody has read for so long: the loop is stuck


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: books, judge, loop, cameras, journal, rejects or model.
        ok: Whether it holds.
        text: Why not, or what was found.
    """

    name: str
    ok: bool
    text: str


class Readiness:
    """Looks at the stream's books and health, never at whether a process is up.

    Args:
        stream: The line.
        board: What was handed over.
        unverified: Why the latest golden check failed; empty when it held.
        golden_images: How many the model has; without any nothing is checked.
    """

    def __init__(
        self,
        stream: Stream,
        board: Board,
        unverified: Callable[[], str],
        golden_images: Callable[[], int],
    ) -> None:
        self._stream, self._board, self._unverified = stream, board, unverified
        self._golden_images = golden_images
        self._latest: tuple[float, list[Check]] = (0.0, [])

    def recent(self) -> list[Check]:
        """Every check, at most half a second ago: for who asks many times a second."""
        now_s = time.monotonic()
        if not self._latest[1] or now_s - self._latest[0] > 0.5:
            self._latest = (now_s, self())
        return self._latest[1]

    def __call__(self) -> list[Check]:
        """Every check, now."""
        reasons = self._stream.health.reasons
        failed = self._stream.health.state is State.FAILED and not self._stream.errors
        return [
            self._books(),
            Check("judge", not failed, ", ".join(reasons) if failed else "it answers"),
            self._loop(),
            self._cameras(),
            self._kept(
                "journal", "JOURNAL_DEGRADED", self._stream.journal, "rows wait for the disk"
            ),
            self._kept("rejects", "REJECTS_NOT_SAVED", self._stream.rejects, "some were not saved"),
            self._model(),
        ]

    def _books(self) -> Check:
        try:
            counts = self._stream.counts
        except EdgeadError as error:
            return Check("books", False, str(error))
        return Check("books", counts.balanced, f"{counts.received} frames accounted for")

    def _kept(self, name: str, reason: str, kept: object, trouble: str) -> Check:
        if reason in self._stream.health.reasons:
            return Check(name, False, trouble)
        return Check(name, True, "not asked for" if kept is None else "written")

    def _loop(self) -> Check:
        try:
            counts = self._stream.counts
        except EdgeadError:
            return Check("loop", False, "the books do not balance")
        unread = counts.received - counts.in_flight - self._board.taken
        silent_s = time.monotonic() - self._board.taken_s
        stuck = unread > 0 and silent_s > _UNREAD_S
        text = f"{unread} outcomes not read for {silent_s:.0f} s" if stuck else "outcomes are read"
        return Check("loop", not stuck, text)

    def _cameras(self) -> Check:
        states = self._board.states()
        stale = [f"{name}: {state.name}" for name, state in states.items() if not state.is_fresh]
        waiting = [n for n, one in self._board.cameras.items() if one.last is None]
        stale += [f"{name}: no frame yet" for name in waiting if states[name].is_fresh]
        return Check(
            "cameras", not stale, "; ".join(stale) or f"{len(states)} of {len(states)} send frames"
        )

    def _model(self) -> Check:
        why = self._unverified()
        if not why and not self._golden_images():
            return Check("model", True, "it has no golden images: nothing checks its scores")
        return Check("model", not why, why or "its golden images score as they should")
