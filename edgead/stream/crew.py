"""The workers: threads that take frames from the lanes in turn and judge them.

A judge that does not come back cannot be interrupted. Its thread is left behind and another takes its
place, at most five times a minute.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from edgead.errors import BackendError, EdgeadError
from edgead.stream.checks import DetectionCheck
from edgead.stream.lane import Lane
from edgead.stream.ledger import Ticket
from edgead.stream.reasons import FailCode
from edgead.stream.watchdog import Restarts, Throttle
from edgead.types import Detection, Frame

__all__ = ["Crew", "Judge", "JudgeLost"]

Judge: TypeAlias = Callable[[Frame], Detection]

_RESTARTS, _WINDOW_S = 5, 60.0


class JudgeLost(BackendError):
    """Raised by a judge that will never answer again: the stream ends."""


class Crew:
    """Worker threads on one judge.

    Args:
        judge: Called from ``size`` threads at once; by its method ``judge_with_generation``, where
            it has one, as `edgead.swap.Swappable`.
        lanes: Where the frames are.
        size: Number of threads.
        changed: The stream's condition; notified when a frame was taken or settled.
        clock: Monotonic time, ns.
        hang_s: A judge that does not return for so long is given up.
        may_judge: Whether the reader keeps up with the results; looked at under the lock.
    """

    def __init__(
        self,
        judge: Judge,
        lanes: Iterable[Lane],
        *,
        size: int,
        changed: threading.Condition,
        clock: Callable[[], int],
        hang_s: float,
        may_judge: Callable[[], bool],
    ) -> None:
        self.fatal: EdgeadError | None = None
        self.restarts = Restarts(_RESTARTS, _WINDOW_S, clock)
        self.throttle = Throttle()
        self.threads: list[threading.Thread] = []
        self._judge = judge
        self._judge_with_generation = getattr(judge, "judge_with_generation", self._unnumbered)
        self._turn = deque(lanes)
        self._size = size
        self._changed = changed
        self._clock = clock
        self._hang_ns = int(hang_s * 1e9)
        self._may_judge = may_judge
        self._check = DetectionCheck()
        self._running: dict[threading.Thread, tuple[Lane, Ticket]] = {}
        self._is_stopping = False

    def start(self) -> None:
        """Warm up a judge that can, then start the threads."""
        warm_up = getattr(self._judge, "warm_up", None)
        if callable(warm_up):
            warm_up()
        for _ in range(self._size):
            self._add()

    @property
    def is_busy(self) -> bool:
        """Whether a frame is being judged."""
        return bool(self._running)

    def stop(self) -> None:
        """Take no further frame. Called under the lock."""
        self._is_stopping = True

    def abandon(self) -> None:
        """Drop the frames that are still being judged. Called under the lock."""
        for lane, ticket in self._running.values():
            lane.abandon(ticket)
        self._running.clear()

    def give_up_hung(self) -> None:
        """Replace each thread whose judge has not returned for ``hang_s``. Called under the lock."""
        now = self._clock()
        for thread, (lane, ticket) in list(self._running.items()):
            if ticket.started_ns is None or now - ticket.started_ns < self._hang_ns:
                continue
            del self._running[thread]
            self.threads.remove(thread)
            text = f"The judge did not return for {self._hang_ns / 1e9:g} s."
            lane.give_up(ticket, text)
            if self.restarts.allow():
                self._add()
            else:
                self.fatal = BackendError(
                    FailCode.BACKEND_HUNG.value,
                    f"the judge hung {_RESTARTS + 1} times within {_WINDOW_S:g} s.",
                    "Use supervised=True, or look at the device and its driver.",
                )
            self._changed.notify_all()

    def _add(self) -> None:
        thread = threading.Thread(target=self._work, name="edgead judge", daemon=True)
        self.threads.append(thread)
        thread.start()

    def _work(self) -> None:
        me = threading.current_thread()
        while (work := self._take(me)) is not None:
            lane, ticket = work
            frame = ticket.frame
            if frame is None:  # settled between the taking and here
                judged: tuple[Detection, int] | EdgeadError = BackendError("BACKEND_ERROR", "")
            else:
                judged = self._judged(frame)
            with self._changed:
                if self._running.pop(me, None) is None:
                    # Given up meanwhile: whatever it says is late, and this thread was replaced.
                    lane.ledger.late += 1
                    return
                if isinstance(judged, JudgeLost):
                    self.fatal = self.fatal or judged
                if isinstance(judged, EdgeadError):
                    lane.finish_failed(ticket, judged.code, str(judged))
                else:
                    lane.finish(ticket, judged[0], generation=judged[1])
                if ticket.started_ns is not None:
                    self.throttle.add(self._clock() - ticket.started_ns)
                self._changed.notify_all()
            del work, frame, ticket, judged

    def _judged(self, frame: Frame) -> tuple[Detection, int] | EdgeadError:
        try:
            detection, generation = self._judge_with_generation(frame)
            return self._check(detection) or (detection, generation)
        except EdgeadError as error:
            return error
        except BaseException as error:  # a judge that ends its thread must still settle its frame
            return BackendError(
                FailCode.BACKEND_ERROR.value,
                f"the judge raised {type(error).__name__}: {error}",
            )

    def _unnumbered(self, frame: Frame) -> tuple[Detection, int]:
        """Of a judge that never changes its model."""
        return self._judge(frame), 0

    def _take(self, me: threading.Thread) -> tuple[Lane, Ticket] | None:
        """Wait for a frame, taking the sources in turn."""
        with self._changed:
            while not self._is_stopping:
                for _ in range(len(self._turn) if self._may_judge() else 0):
                    lane = self._turn[0]
                    self._turn.rotate(-1)
                    ticket = lane.take()
                    if ticket is not None:
                        self._running[me] = (lane, ticket)
                        self._changed.notify_all()
                        return lane, ticket
                self._changed.wait(0.5)
            return None
