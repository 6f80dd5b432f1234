"""One source's capture thread: reads, checks and enters frames while there is room for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edgead.errors import EdgeadError, SourceError
from edgead.frame import Frame
from edgead.stream.checks import FrameCheck
from edgead.stream.lane import Lane
from edgead.stream.sources.base import EndOfSource, Source

__all__ = ["Intake"]

_log = logging.getLogger("edgead.stream")


class Intake:
    """Reads a source into its lane.

    Args:
        source: Closed when it ends.
        lane: Where its frames are entered.
        check: The input checks.
        changed: The stream's condition.
        has_space: Whether the reader keeps up; looked at under the lock.

    Attributes:
        is_over: The source has ended, was lost, or was stopped.
        error: Why it was lost.
    """

    def __init__(
        self,
        source: Source,
        lane: Lane,
        check: FrameCheck,
        changed: threading.Condition,
        has_space: Callable[[], bool],
    ) -> None:
        self.source = source
        self.lane = lane
        self.is_over = False
        self.error: SourceError | None = None
        self._check = check
        self._changed = changed
        self._has_space = has_space
        self._is_stopping = False
        name = f"edgead capture {lane.ledger.source_id}"
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def stop(self) -> None:
        """Enter no further frame. Called under the lock."""
        self._is_stopping = True

    def _run(self) -> None:
        name = self.lane.ledger.source_id
        try:
            while self._wait_for_room():
                self._read()
        except EndOfSource:
            _log.info("source %s ended", name)
        except SourceError as error:
            self.error = error
        except Exception as error:
            text = f"source {name} raised {type(error).__name__}: {error}"
            self.error = SourceError("SOURCE_FAILED", text)
            self.error.__cause__ = error
        finally:
            self.source.close()
            with self._changed:
                self.is_over = True
                self._changed.notify_all()

    def _read(self) -> None:
        item = self.source.read(0.1)
        if item is None:
            return
        error = self._check(item) if isinstance(item, Frame) else None
        with self._changed:
            if not self._is_stopping:
                self._receive(item, error)
                self._changed.notify_all()

    def _receive(self, item: Frame | EdgeadError, error: EdgeadError | None) -> None:
        self.lane.receive(item, error)

    def _wait_for_room(self) -> bool:
        with self._changed:
            while not self._is_stopping:
                if self.lane.has_room and self._has_space():
                    return True
                self._changed.wait(0.5)
            return False
