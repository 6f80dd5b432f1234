"""A served line under systemd: its watchdog is fed only while the line is honest, its status says how it is.

The stream itself feeds the watchdog when a frame has moved. A served line has more to say: a camera
that is known to be silent is shown on the page and opened again, and a restart would only take the page away.
Outcomes that nobody reads, or frames that are never settled, are a line that hangs: no feeding, and systemd
restarts it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from edgead.stream.watchdog import notify_systemd
from edgead.types import LedgerCounts

__all__ = ["Watchdog", "watchdog_period_s"]

_log = logging.getLogger("edgead.serve")


def watchdog_period_s() -> float | None:
    """The unit's WatchdogSec in seconds, None without one.

    Source: sd_watchdog_enabled(3): WATCHDOG_USEC, and WATCHDOG_PID when it is meant for one process.
    """
    text, owner = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (owner and owner != str(os.getpid())):
        return None
    return int(text) / 1e6


class Watchdog:
    """Looks at the line again and again, and tells systemd what it saw.

    Args:
        counts: The stream's books; raising means that they do not balance.
        taken: How many outcomes were handed over.
        status: One line for ``systemctl status``.
        notify: Sends to systemd.
    """

    def __init__(
        self,
        counts: Callable[[], LedgerCounts],
        taken: Callable[[], int],
        status: Callable[[], str],
        *,
        notify: Callable[[str], object] = notify_systemd,
    ) -> None:
        self._counts, self._taken, self._status, self._notify = counts, taken, status, notify
        self._last: tuple[int, int] | None = None
        self._said = ""
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> bool:
        """Feed the watchdog if the line moves or has nothing to do; returns whether it was fed."""
        try:
            counts = self._counts()
        except Exception as error:
            _log.error("the watchdog is not fed: %s", error)
            return False
        taken = self._taken()
        now = (taken, counts.results + counts.dropped + counts.failed)
        is_idle = counts.in_flight == 0 and taken >= now[1]
        is_moving = self._last is not None and now != self._last and taken != self._last[0]
        self._last = now
        status = self._status()
        if status != self._said:
            self._said = status
            self._notify(f"STATUS={status}")
        if is_idle or is_moving:
            self._notify("READY=1\nWATCHDOG=1")
        return is_idle or is_moving

    def start(self) -> None:
        """Look every second, or three times a watchdog's period; nothing without systemd."""
        if not os.environ.get("NOTIFY_SOCKET"):
            return
        period_s = min(1.0, (watchdog_period_s() or 3.0) / 3)
        self._thread = threading.Thread(
            target=self._go_on, args=(period_s,), name="edgead watchdog", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop looking, and say that the service ends; safe to call twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._thread is not None:
            self._thread.join(2)
            self._notify("STOPPING=1")

    def _go_on(self, period_s: float) -> None:
        self.look()
        while not self._closed.wait(period_s):
            self.look()
