"""A monotonic clock that moves only when told."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """Stands for ``time.monotonic_ns``: call it for the time, nanoseconds."""

    def __init__(self, start_ns: int = 1_000_000_000) -> None:
        self.now_ns = start_ns

    def __call__(self) -> int:
        """The time, nanoseconds."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.advance_to(self.now_ns + round(seconds * 1e9))

    def advance_to(self, now_ns: int) -> None:
        """Let time pass until ``now_ns``; a moment that has passed changes nothing."""
        self.now_ns = max(self.now_ns, now_ns)

    def sleep(self, seconds: float) -> None:
        """Stands for ``time.sleep``."""
        self.advance(seconds)
