"""How long judging takes: the sliding p99 that admission goes by."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

__all__ = ["ServiceTime"]


class ServiceTime:
    """Percentiles of the last ``window`` service times, nanoseconds. Called under the stream's lock."""

    def __init__(self, window: int = 256) -> None:
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []
        self._window = window

    def add(self, duration_ns: int) -> None:
        """Take one finished call into account; the oldest leaves."""
        if len(self._recent) == self._window:
            oldest = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._recent.append(duration_ns)
        insort(self._sorted, duration_ns)

    def percentile(self, q: float) -> int:
        """The ``q``-quantile, 0 <= q <= 1; 0 before the first call ended."""
        if not self._sorted:
            return 0
        return self._sorted[min(len(self._sorted) - 1, int(q * len(self._sorted)))]

    @property
    def p99_ns(self) -> int:
        """99th percentile of the window."""
        return self.percentile(0.99)
