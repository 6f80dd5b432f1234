"""One output's own queue and thread: what waits is bounded, and what is given up is counted."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from edgead.errors import EdgeadError, OutputError
from edgead.integrations.output import Output, OutputHealth, Result

__all__ = ["Outlet"]

_log = logging.getLogger("edgead.integrations")
_TURN_S = 0.2


class Outlet:
    """Feeds one output from its own thread.

    Args:
        output: An opened output; the outlet closes it.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self._queue: deque[Result] = deque()
        self._changed = threading.Condition()
        self._published = 0
        self._until: float | None = None
        self._is_closed = False
        self._thread = threading.Thread(
            target=self._run, name=f"edgead output {output.name}", daemon=True
        )
        self._thread.start()

    def put(self, result: Result) -> None:
        """Queue a result, never waits; of a full queue the oldest is lost."""
        with self._changed:
            self._published += 1
            if self._is_closed or self._until is not None:
                self.output.lose()
                return
            if len(self._queue) >= self.output.queue:
                self._queue.popleft()
                self.output.lose()
                lost = self.output.lost
                if lost & (lost - 1) == 0:  # the 1st, 2nd, 4th, 8th …
                    _log.warning("%s: queue full, %d results lost", self.output.name, lost)
            self._queue.append(result)
            self._changed.notify_all()

    @property
    def health(self) -> OutputHealth:
        """How it does."""
        with self._changed:
            delivered = self.output.delivered
            lost = self.output.lost
            if self._is_closed:
                lost = self._published - delivered
            return OutputHealth(
                name=self.output.name,
                published=self._published,
                waiting=self._published - delivered - lost,
                delivered=delivered,
                lost=lost,
                problem=self.output.problem,
            )

    def stop(self, drain_s: float) -> None:
        """Begin to close: what waits has so many seconds to leave."""
        with self._changed:
            if self._until is None:
                self._until = time.monotonic() + drain_s
            self._changed.notify_all()

    def close(self, drain_s: float) -> None:
        """Deliver what can be within ``drain_s``, count the rest as lost, close the output."""
        if self._is_closed:
            return
        self.stop(drain_s)
        self._thread.join(drain_s + 2 * _TURN_S)
        until = self._until or 0.0
        while self.health.waiting and time.monotonic() < until:  # receipts are on their way
            time.sleep(0.01)
        with self._changed:
            self._is_closed = True
            self._queue.clear()
        try:
            self.output.close()
        except Exception as error:  # a library's: nothing is left that it could harm
            _log.warning("%s: closing: %s", self.output.name, error)

    def _run(self) -> None:
        while (result := self._next()) is not None:
            try:
                while not self.output.send(result, _TURN_S):
                    if self._is_over():
                        return
            except EdgeadError as error:
                self._lose(error)
            except Exception as error:  # a library's own: the line must not lose its thread
                self._lose(OutputError("OUTPUT_FAILED", f"{type(error).__name__}: {error}."))

    def _lose(self, error: EdgeadError) -> None:
        self.output.note(error)
        self.output.lose()

    def _next(self) -> Result | None:
        """The next result; None when it is time to end."""
        with self._changed:
            while not self._queue:
                if self._until is not None:
                    return None
                self._changed.wait()
            return None if self._is_over() else self._queue.popleft()

    def _is_over(self) -> bool:
        return self._is_closed or (self._until is not None and time.monotonic() >= self._until)
