"""Bounds of a stream in time and number."""

from __future__ import annotations

from dataclasses import dataclass

from edgead.errors import ConfigError
from edgead.stream.lane import Deadline

__all__ = ["Limits", "deadline_of"]


@dataclass(frozen=True)
class Limits:
    """Bounds of a stream.

    Attributes:
        guard_ms: How long before its deadline a running frame is given up.
        hang_s: A judge that does not return for so long is given up.
        drain_s: How long `Stream.close` waits for frames that are being judged.
        unread: Outcomes that may wait for the reader before sources are read no further.
        frozen_after: The n-th byte-identical frame of a live source in a row, and those after it,
            are refused; 0 for a source that repeats itself.
    """

    guard_ms: float = 1.0
    hang_s: float = 10.0
    drain_s: float = 1.0
    unread: int = 4096
    frozen_after: int = 5


def deadline_of(deadline_ms: float | None, limits: Limits) -> Deadline | None:
    """The deadline in nanoseconds, None without one.

    Raises:
        ConfigError: DEADLINE when it is not longer than the guard.
    """
    if deadline_ms is None:
        return None
    if not deadline_ms > limits.guard_ms:
        raise ConfigError(
            "DEADLINE",
            f"deadline_ms is {deadline_ms}; want more than the guard of {limits.guard_ms} ms.",
        )
    return Deadline(int(deadline_ms * 1e6), int(limits.guard_ms * 1e6))
