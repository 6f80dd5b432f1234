"""Something that is checked again and again beside the work, on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edgead.errors import ConfigError, EdgeadError

__all__ = ["Recheck"]

_log = logging.getLogger("edgead")


class Recheck:
    """Calls ``check`` every ``minutes`` until it is closed.

    Args:
        check: Notes its own result; what it raises is logged and does not end the schedule.
        minutes: Time from one check to the next, more than 0.

    Raises:
        ConfigError: RECHECK.
    """

    def __init__(self, check: Callable[[], object], minutes: float) -> None:
        if not 0 < minutes < float("inf"):
            raise ConfigError(
                "RECHECK",
                f"recheck_minutes is {minutes}; want more than 0, or None for never.",
            )
        self._check, self._seconds = check, minutes * 60
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="edgead recheck", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the schedule; a check that is running is waited for. Safe to call twice."""
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _go_on(self) -> None:
        while not self._closed.wait(self._seconds):
            try:
                self._check()
            except EdgeadError as error:
                _log.warning("a scheduled check could not be carried out: %s", error)
            except Exception:
                _log.exception("a scheduled check could not be carried out")
