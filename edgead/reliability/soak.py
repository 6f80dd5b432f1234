"""A detector at full speed for hours: does memory grow, do handles leak, does it get slower?

The memory slope is the mean increment between block medians of the resident set after a warm-up,
with a 95 % interval from the increments' scatter (Student's t). Resident memory moves in steps and
stays there, so the increments are what is independent, not the levels: a line fitted to the levels
would take a single step of a few pages for growth that is certain.
"""

from __future__ import annotations

import math
import resource
import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgead.bundle import Bundle
from edgead.detector import Detector
from edgead.frame import Frame
from edgead.power import throttle_state

__all__ = ["memory_slope", "soak"]

_BLOCKS = 24
_PAGE = resource.getpagesize()
_WARM_UP = 0.2  # share of the run that is not judged: allocators and engines settle
#: Two-sided 95 % points of Student's t for 1..30 degrees of freedom.
_T95 = (
    *(12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160),
    *(2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056),
    *(2.052, 2.048, 2.045, 2.042),
)


def soak(
    bundle: str | Path | Bundle,
    *,
    minutes: float = 120.0,
    frames: Sequence[Any] | None = None,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    leak_bytes: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Judge frames without pause and watch the process.

    Args:
        bundle: The bundle, or its file.
        minutes: How long; intervals narrow with time, 120 is a release's figure.
        frames: Frames judged in turn; noise of the bundle's frame size by default.
        backend: As for `Detector`.
        precision: As for `Detector`.
        threads: As for `Detector`.
        leak_bytes: Positive control: so many bytes a frame are kept, and ``ok`` must come out False.
        on_progress: Called about once a second with the share done, 0..1.

    Returns:
        ``frames``, ``seconds``, ``backend``, ``precision``; ``sustained_fps`` from the last quarter's
        median; ``throttle`` before and after, see `edgead.power.throttle_state`; ``slope_mb_per_hour`` with
        ``slope_interval`` and ``half_width_mb_per_hour``; ``rss_mb`` at the start, after the warm-up
        and at the end; ``handles`` and ``threads`` gained since the warm-up; ``p50_ms`` of the first
        and last quarter after it and ``p50_drift``; ``golden_ok``, None without golden images;
        ``is_flat``: the interval covers 0 or lies below it; ``ok``: flat, nothing gained, drift under
        2 %, golden images as at the start. A short run is wide, not wrong: read the half-width.
    """
    with Detector(
        bundle, backend=backend, precision=precision, threads=threads, check_ranges=False
    ) as detector:
        pictures = list(frames) if frames is not None else _noise(detector.bundle)
        run = _Run(detector, pictures, minutes * 60, leak_bytes, on_progress)
        cool = throttle_state()
        run.go()
        warm = throttle_state()
        has_golden = bool(detector.bundle.manifest.golden)
        golden_ok = detector.verify()["ok"] if has_golden else None
        return {
            **run.figures(),
            "backend": detector.choice.backend,
            "precision": detector.choice.precision,
            "throttle": {"before": cool, "after": warm},
            "golden_ok": golden_ok,
            "ok": run.is_sound() and golden_ok is not False,
        }


class _Run:
    """One soak: judges, samples, and works the figures out."""

    def __init__(
        self,
        detector: Detector,
        frames: list[Any],
        seconds: float,
        leak_bytes: int,
        on_progress: Callable[[float], None] | None,
    ) -> None:
        self._detector, self._frames, self._seconds = detector, frames, seconds
        self._leak_bytes, self._on_progress = leak_bytes, on_progress
        # Flat arrays of fixed size: the measurement itself must not grow.
        self._samples = int(max(200, min(seconds * 4, 40_000)))
        self._times = array("d", bytes(8 * self._samples))
        self._memory = array("d", bytes(8 * self._samples))
        self._latency = array("d", bytes(8 * self._samples))
        self._taken = self._judged = 0

    def go(self) -> None:
        """Judge until the time is over; between samples keep the median latency only."""
        kept: list[bytes] = []
        self._start_mb = _resident_mb()
        self._warm: tuple[int, int] | None = None
        begun = time.monotonic()
        interval = self._seconds / self._samples
        window: list[float] = []
        while (now := time.monotonic() - begun) < self._seconds:
            frame = self._frames[self._judged % len(self._frames)]
            started = time.perf_counter()
            self._detector(frame)
            window.append(time.perf_counter() - started)
            self._judged += 1
            if self._leak_bytes:
                kept.append(bytes(bytearray(self._leak_bytes)))
            if now >= self._taken * interval and self._taken < self._samples:
                self._sample(now, statistics.median(window))
                window.clear()
        self._elapsed = time.monotonic() - begun
        self._end = _handles()

    def _sample(self, now: float, latency: float) -> None:
        place = self._taken
        self._times[place], self._memory[place] = now, _resident_mb()
        self._latency[place] = latency * 1e3
        self._taken += 1
        if self._warm is None and now >= _WARM_UP * self._seconds:
            self._warm = _handles()
            self._warm_mb = self._memory[place]
        if self._on_progress is not None and place % max(1, self._samples // 200) == 0:
            self._on_progress(now / self._seconds)

    def figures(self) -> dict[str, Any]:
        slope, half = self._slope()
        first, last = self._quarters()
        warm = self._warm or self._end
        return {
            "frames": self._judged,
            "seconds": round(self._elapsed, 1),
            "sustained_fps": round(1e3 / last, 2),
            "slope_mb_per_hour": round(slope, 4),
            "half_width_mb_per_hour": round(half, 4),
            "slope_interval": [round(slope - half, 4), round(slope + half, 4)],
            "rss_mb": [
                round(value, 2)
                for value in (self._start_mb, self._warm_mb, self._memory[self._taken - 1])
            ],
            "handles": self._end[0] - warm[0],
            "threads": self._end[1] - warm[1],
            "p50_ms": [round(first, 4), round(last, 4)],
            "p50_drift": round(last / first - 1, 4),
            "is_flat": slope - half <= 0,
        }

    def is_sound(self) -> bool:
        found = self.figures()
        grown = found["handles"] > 0 or found["threads"] > 0
        return bool(found["is_flat"] and not grown and found["p50_drift"] < 0.02)

    def _slope(self) -> tuple[float, float]:
        from_sample = int(_WARM_UP * self._taken)
        hours = np.array(self._times[from_sample : self._taken]) / 3600
        return memory_slope(hours, np.array(self._memory[from_sample : self._taken]))

    def _quarters(self) -> tuple[float, float]:
        after = self._latency[int(_WARM_UP * self._taken) : self._taken]
        quarter = max(1, len(after) // 4)
        return statistics.median(after[:quarter]), statistics.median(after[-quarter:])


def memory_slope(hours: Any, megabytes: Any) -> tuple[float, float]:
    """Slope of the resident set and the half-width of its 95 % interval, MB an hour.

    Args:
        hours: Sample times [N].
        megabytes: Resident set at each of them [N], N >= 48.
    """
    times = [float(np.mean(block)) for block in np.array_split(np.asarray(hours), _BLOCKS)]
    sizes = [float(np.median(block)) for block in np.array_split(np.asarray(megabytes), _BLOCKS)]
    increments = np.diff(sizes)
    block_hours = (times[-1] - times[0]) / (_BLOCKS - 1)
    error = float(increments.std(ddof=1)) / math.sqrt(len(increments))
    slope, half = float(increments.mean()), _T95[len(increments) - 2] * error
    return slope / block_hours, half / block_hours


def _noise(bundle: Bundle) -> list[Frame]:
    """Eight seeded frames of the commissioned format."""
    spec = bundle.manifest.frame
    height, width = spec.size or (480, 640)
    draw = np.random.default_rng(0)
    shape = (height, width) if spec.format.value.startswith("MONO") else (height, width, 3)
    wide = spec.format.value.endswith("16")
    top = 1 << spec.depth
    dtype = np.uint16 if wide else np.uint8
    return [
        Frame(draw.integers(0, top, shape, dtype=dtype), spec.format, depth=spec.depth)
        for _ in range(8)
    ]


def _resident_mb() -> float:
    with Path("/proc/self/statm").open() as stream:
        pages = int(stream.read().split()[1])
    return pages * _PAGE / 1e6


def _handles() -> tuple[int, int]:
    """Open file descriptors and threads of this process, native ones too."""
    own = Path("/proc/self")
    return len(list((own / "fd").iterdir())), len(list((own / "task").iterdir()))
