"""Does a detector give many threads the same bits as one?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["same_bits_from_threads"]


def same_bits_from_threads(
    detector: Callable[[Any], Any],
    frames: Sequence[Any],
    *,
    threads: int = 16,
    frames_each: int = 10_000,
) -> dict[str, Any]:
    """Judge ``frames`` alone, then from many threads at once, and compare every bit.

    Args:
        detector: A `Detector`, or what it is compared with.
        frames: Taken in turn, each thread beginning at another one.
        threads: How many at once.
        frames_each: Frames that each of them judges.

    Returns:
        ``threads``, ``frames`` judged, ``differing`` (score, map or mask not bit-equal) and
        ``errors``, the texts of what was raised.
    """
    alone = [_bits(detector(frame)) for frame in frames]
    differing = [0] * threads
    errors: list[str] = []
    start = threading.Barrier(threads)

    def judge(number: int) -> None:
        try:
            start.wait()
            for step in range(frames_each):
                index = (number + step) % len(frames)
                differing[number] += _bits(detector(frames[index])) != alone[index]
        except Exception as error:  # reported with the figures, whatever it is
            errors.append(f"{type(error).__name__}: {error}")

    crew = [threading.Thread(target=judge, args=(number,)) for number in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return {
        "threads": threads,
        "frames": threads * frames_each,
        "differing": sum(differing),
        "errors": errors,
    }


def _bits(found: Any) -> tuple[bytes, ...]:
    parts = (np.float64(found.score), found.anomaly_map, found.mask)
    return tuple(b"" if part is None else np.asarray(part).tobytes() for part in parts)
