"""Speed of a bundle on this machine: decoded frames in, verdicts out, the raw engine beside it.

Both are measured in the same run, frame by frame in turn, so that a machine whose speed drifts bends
both alike. What is measured is named: ``raw_engine`` is inference alone on prepared inputs,
``end_to_end`` a frame in memory to a `Detection` with map, mask and regions.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead import images
from edgead.backends import HINTS, open_backend
from edgead.bundle import Bundle
from edgead.detector import Detector
from edgead.errors import ConfigError
from edgead.evaluate import data
from edgead.evaluate.benchmark_gpu import gpu_figures
from edgead.frame import Frame
from edgead.golden import golden_frame
from edgead.power import PowerMeter, throttle_state
from edgead.scorer import Scorer

__all__ = ["benchmark"]

WARM_UP_FRAMES = 10
MAX_FRAMES = 64
BATCHES = (1, 2, 4, 8)
_TOGETHER = 16


def benchmark(
    bundle: str | Path,
    *,
    source: str | Path | None = None,
    seconds: float = 5.0,
    period_ms: float | None = None,
    line_rate: float | None = None,
    threads: int = 0,
    backend: str = "auto",
    precision: str = "auto",
) -> dict[str, Any]:
    """Measure; see ``edgead benchmark`` for what the keys mean.

    Args:
        bundle: A ``.edgead`` file.
        source: Folder of images, decoded before the clock starts; None takes the golden images.
        seconds: Measuring time of each part.
        period_ms: Also measure paced, one frame every so many milliseconds.
        line_rate: Parts a minute that must be judged, at p99.
        threads: CPU threads of the engine.
        backend: Back end, or auto.
        precision: Precision, or auto.

    Raises:
        ConfigError: BENCHMARK when an option is out of range.
    """
    for name, value in (("seconds", seconds), ("period_ms", period_ms), ("line_rate", line_rate)):
        if value is not None and not value > 0:
            raise ConfigError("BENCHMARK", f"{name} is {value}; want more than 0.")
    with Detector(bundle, backend=backend, precision=precision, threads=threads) as detector:
        frames = _frames(detector.bundle, source)
        runner = _Runner(detector, frames, threads)
        for _ in range(WARM_UP_FRAMES):
            runner.raw()
            runner.judge()
        cool = throttle_state()
        raw, whole = _in_turn(runner.raw, runner.judge, seconds)
        warm = throttle_state()
        power = _power(runner.judge, seconds / 2)
        paced = None
        if period_ms is not None:
            paced = _percentiles(_paced(runner.judge, period_ms / 1e3, seconds))
        result: dict[str, Any] = {
            "backend": detector.choice.backend,
            "backend_version": runner.engine.version,
            "precision": detector.choice.precision,
            "bundle_hash": detector.bundle.hash,
            "threads": threads,
            "frame_size": list(frames[0].size),
            "input_size": list(detector.bundle.manifest.input.size),
            "frames": len(frames),
            "warm_up_frames": WARM_UP_FRAMES,
            "raw_engine": _percentiles(raw),
            "end_to_end": _percentiles(whole),
            "stages_ms": runner.stages(),
            "overhead_ratio": float(np.median(raw) / np.median(whole)),
            "batch": [_batched(runner, n, seconds / len(BATCHES)) for n in BATCHES],
            "paced": paced,
            "line_rate": None,
            "power": power,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "throughput": _over_threads(detector, frames, threads, seconds / 4),
            "throttle": {"before": cool, "after": warm},
            "gpu": gpu_figures(detector, frames),
            "machine": _machine(runner.engine.device),
        }
    if line_rate is not None:
        p99 = result["end_to_end"]["p99_ms"]
        can = 60_000 / p99
        result["line_rate"] = {
            "asked": line_rate,
            "ok": bool(can >= line_rate),
            "headroom": can / line_rate - 1,
        }
    return result


class _Runner:
    """One frame after another through the raw engine and through the detector."""

    def __init__(self, detector: Detector, frames: Sequence[Frame], threads: int) -> None:
        self.engine = open_backend(
            detector.choice.backend,
            detector.bundle.members,
            precision=detector.choice.precision,
            threads=threads,
            memory=detector.choice.memory,
        )
        self._request = self.engine.open_request()
        scorer = Scorer(detector.bundle, self.engine, check_ranges=False)
        self._inputs: list[list[NDArray[np.uint8]]] = [one.inputs for one in scorer.each(frames)]
        self._detector, self._frames = detector, frames
        self._next_raw = self._next_frame = 0
        self._timings: dict[str, list[float]] = {}

    def raw(self) -> float:
        """Seconds of one frame's inference, or inferences where it is judged in tiles."""
        inputs = self._inputs[self._next_raw % len(self._inputs)]
        self._next_raw += 1
        started = time.perf_counter()
        for picture in inputs:
            self._request.start({"image": picture[None]})
            self._request.wait()
        return time.perf_counter() - started

    def judge(self) -> float:
        """Seconds from a frame in memory to its Detection."""
        frame = self._frames[self._next_frame % len(self._frames)]
        self._next_frame += 1
        started = time.perf_counter()
        found = self._detector(frame)
        spent = time.perf_counter() - started
        for stage, value in found.timings_ms.items():
            self._timings.setdefault(stage, []).append(value)
        return spent

    def batch(self, count: int) -> float:
        """Seconds for ``count`` frames handed over together."""
        chosen = [self._frames[i % len(self._frames)] for i in range(count)]
        started = time.perf_counter()
        self._detector.batch(chosen)
        return time.perf_counter() - started

    def stages(self) -> dict[str, float]:
        """Median milliseconds a stage."""
        return {stage: float(np.median(values)) for stage, values in self._timings.items()}


def _in_turn(
    first: Callable[[], float], second: Callable[[], float], seconds: float
) -> tuple[list[float], list[float]]:
    """Call both in turn for ``seconds``; at least 20 times each."""
    a: list[float] = []
    b: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(a) < 20:
        a.append(first())
        b.append(second())
    return a, b


def _paced(call: Callable[[], float], period: float, seconds: float) -> list[float]:
    """Call once a period, as parts come on a line: clocks may fall in between."""
    spent: list[float] = []
    due = time.perf_counter()
    end = due + seconds
    while due < end or len(spent) < 10:
        time.sleep(max(0.0, due - time.perf_counter()))
        spent.append(call())
        due += period
    return spent


def _power(call: Callable[[], float], seconds: float) -> dict[str, Any]:
    """Watts and millijoules a frame while frames are judged without pause; None without a sensor."""
    with PowerMeter() as meter:
        spent: list[float] = []
        while sum(spent) < (seconds if meter.source else 0.0):
            spent.append(call())
    return meter.to_json(len(spent), sum(spent))


def _batched(runner: _Runner, count: int, seconds: float) -> dict[str, float]:
    spent: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(spent) < 3:
        spent.append(runner.batch(count))
    median = float(np.median(spent))
    return {"n": count, "fps": count / median, "ms_per_frame": median * 1e3 / count}


def _over_threads(
    detector: Detector, frames: Sequence[Frame], most: int, seconds: float
) -> list[dict[str, Any]]:
    """Frames a second handed over together, by threads and hint, the hints in turn; none on a GPU."""
    if detector.choice.backend.startswith("tensorrt"):
        return []
    most = most or len(os.sched_getaffinity(0))
    together = [frames[i % len(frames)] for i in range(_TOGETHER)]
    rows = []
    for count in sorted({*(1 << i for i in range(most.bit_length())), most}):
        with contextlib.ExitStack() as opened:
            engines = {
                hint: opened.enter_context(
                    Detector(
                        detector.bundle,
                        backend=detector.choice.backend,
                        precision=detector.choice.precision,
                        threads=count,
                        hint=hint,
                        self_check=False,
                    )
                )
                for hint in HINTS
            }
            spent: dict[str, list[float]] = {hint: [] for hint in HINTS}
            end = time.perf_counter() + seconds
            while time.perf_counter() < end or len(spent[HINTS[-1]]) < 4:
                for hint, engine in engines.items():
                    started = time.perf_counter()
                    engine.batch(together)
                    spent[hint].append(time.perf_counter() - started)
        for hint, times in spent.items():
            fps = _TOGETHER / float(np.median(times[1:]))  # the first is warm-up
            rows.append({"threads": count, "hint": hint, "fps": fps})
    return rows


def _percentiles(spent: Sequence[float]) -> dict[str, float]:
    ms = np.asarray(spent) * 1e3
    p50, p90, p99 = np.percentile(ms, [50, 90, 99])
    return {
        "fps": float(1e3 / ms.mean()),
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "max_ms": float(ms.max()),
        "samples": len(ms),
    }


def _frames(bundle: Bundle, source: str | Path | None) -> list[Frame]:
    if source is not None:
        return [images.read(path) for path in data.find_images(source)[:MAX_FRAMES]]
    if not bundle.manifest.golden:
        raise ConfigError(
            "BENCHMARK", "the bundle has no golden images to measure with.", "Give a source."
        )
    return [golden_frame(bundle, entry.name) for entry in bundle.manifest.golden]


def _machine(device: str) -> dict[str, Any]:
    return {
        "device": device,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
