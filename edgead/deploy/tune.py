"""`edgead tune`: which certified precision, back end and thread count meet a latency on this machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgead import files
from edgead.backends.kind import device_kind
from edgead.bundle import Bundle, read_bundle
from edgead.choice import Tuned, certified, tuned_path
from edgead.detector import Detector
from edgead.errors import BackendError, BundleError, ConfigError
from edgead.frame import Frame
from edgead.golden import golden_frame

__all__ = ["Measured", "best", "tune"]

_ROUNDS, _BURST = 9, 5
#: Closest to FP32 first: certificates hold all of them to the same verdicts, but not to the same map.
_ORDER = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Measured:
    """One way to run the bundle here, from camera frame to verdict."""

    backend: str
    precision: str
    threads: int
    p50_ms: float
    p90_ms: float


def tune(
    bundle_path: str | Path,
    *,
    latency_ms: float,
    backends: Sequence[str] = ("openvino", "onnxruntime"),
    threads: Sequence[int] | None = None,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Measure every certified way to run a bundle and keep the best for this user and machine.

    The choice goes to the per-user cache folder, which ``precision="auto"`` reads; the bundle stays
    as it is.

    Args:
        bundle_path: The bundle.
        latency_ms: From frame to verdict, 90th percentile.
        backends: Which to try; those that are not installed are passed over.
        threads: CPU threads to try; None tries powers of two up to the cores at hand.
        report: Called with what is measured and the share done.

    Returns:
        ``choice``: backend, precision, threads, p90_ms; ``met``: whether it meets the latency;
        ``measured``: all ways, best first; ``certificates``: precisions certified here by back end.

    Raises:
        ConfigError: LATENCY.
        BundleError: GOLDEN_NONE.
        BackendError: PROVIDER when no back end runs the bundle.
        StorageError: The choice cannot be kept.
    """
    if not latency_ms > 0:
        raise ConfigError("LATENCY", f"latency_ms is {latency_ms}; expected more than 0.")
    bundle = read_bundle(bundle_path)
    if not bundle.manifest.golden:
        raise BundleError(
            "GOLDEN_NONE",
            "the bundle has no golden images to time.",
            "Commission it: edgead commission BUNDLE GOOD.",
        )
    ways = [
        (backend, precision, count)
        for backend in backends
        for precision in ("fp32", *certified(bundle, backend))
        for count in threads or _thread_counts()
    ]
    measured = _measure(bundle, ways, report)
    if not measured:
        raise BackendError(
            "PROVIDER",
            f"none of {', '.join(backends)} runs this bundle here.",
            "pip install 'edgead[cpu]'.",
        )
    ordered = best(measured, latency_ms)
    first = ordered[0]
    tuned = Tuned(
        backend=first.backend,
        precision=first.precision,
        threads=first.threads,
        p90_ms=first.p90_ms,
        latency_ms=latency_ms,
        device=device_kind(first.backend),
    )
    path = tuned_path(bundle)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, msgspec.json.encode(tuned))
    return {
        "choice": asdict(first),
        "met": first.p90_ms <= latency_ms,
        "measured": [asdict(one) for one in ordered],
        "certificates": {name: sorted(certified(bundle, name)) for name in backends},
    }


def best(measured: Sequence[Measured], latency_ms: float) -> list[Measured]:
    """Best first: what meets the latency, closest to FP32, on the fewest threads; the rest by speed."""

    def place(one: Measured) -> tuple[Any, ...]:
        if one.p90_ms > latency_ms:
            return 1, one.p90_ms
        return 0, _ORDER.index(one.precision), one.threads, one.p90_ms

    return sorted(measured, key=place)


def _measure(
    bundle: Bundle,
    ways: Sequence[tuple[str, str, int]],
    report: Callable[[str, float], None] | None,
) -> list[Measured]:
    """Time all ways in turns, on the bundle's own golden images."""
    frames = [golden_frame(bundle, one.name) for one in bundle.manifest.golden]
    detectors: dict[tuple[str, str, int], Detector] = {}
    for way in ways:
        backend, precision, count = way
        try:
            detectors[way] = Detector(bundle, backend=backend, precision=precision, threads=count)
        except BackendError as error:
            if error.code != "PROVIDER":
                raise
    times: dict[tuple[str, str, int], list[float]] = {way: [] for way in detectors}
    try:
        for turn in range(_ROUNDS):
            if report is not None:
                report(f"timing {len(detectors)} ways", turn / _ROUNDS)
            for way, detector in detectors.items():
                time.sleep(0.01)  # the threads of the one before come to rest
                detector(frames[0])
                times[way] += [_timed(detector, frames[i % len(frames)]) for i in range(_BURST)]
    finally:
        for detector in detectors.values():
            detector.close()
    return [
        Measured(*way, statistics.median(values), float(np.quantile(values, 0.9)))
        for way, values in times.items()
    ]


def _timed(detector: Detector, frame: Frame) -> float:
    started = time.perf_counter()
    detector(frame)
    return (time.perf_counter() - started) * 1e3


def _thread_counts() -> list[int]:
    cores = len(os.sched_getaffinity(0))
    counts = [1]
    while counts[-1] * 2 <= cores:
        counts.append(counts[-1] * 2)
    return counts
