"""`edgead tune`: which certified precision, back end and thread count meet a latency on this machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgead import files
from edgead.backends import BACKENDS
from edgead.backends.kind import device_kind
from edgead.bundle import read_bundle
from edgead.choice import Tuned, certified, tuned_path
from edgead.errors import BackendError, BundleError, ConfigError
from edgead.frame import Frame
from edgead.golden import golden_frame
from edgead.loaded import LoadedBundle

__all__ = ["Measured", "best", "tune"]

_ROUNDS, _BURST = 9, 5
#: Closest to FP32 first: certificates hold all of them to the same verdicts, but not to the same map.
_ORDER = ("fp32", "fp16", "bf16", "int8")
_MEMORY = ("pinned", "mapped")
#: Codes of what this machine has not got: library, GPU, engine.
_NOT_HERE = ("PROVIDER", "NO_", "DRIVER_", "DEVICE_BUSY", "ENGINE_", "TENSORRT_")


@dataclass(frozen=True)
class Measured:
    """One way to run the bundle here, from camera frame to verdict."""

    backend: str
    precision: str
    threads: int
    p50_ms: float
    p90_ms: float
    memory: str = "auto"


@dataclass(frozen=True)
class _Way:
    """What is measured: on a CPU so many threads, on a GPU one kind of host memory."""

    backend: str
    precision: str
    threads: int
    memory: str = "auto"


def tune(
    bundle_path: str | Path,
    *,
    latency_ms: float,
    backends: Sequence[str] = BACKENDS,
    threads: Sequence[int] | None = None,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Measure every certified way to run a bundle and keep the best for this user and machine.

    The choice goes to the per-user cache folder, which ``precision="auto"`` reads; the bundle stays
    as it is. On a GPU each engine is measured with mapped and with pinned memory; engines are not
    built: one that is missing is passed over, and told with the command that builds it.

    Args:
        bundle_path: The bundle.
        latency_ms: From frame to verdict, 90th percentile.
        backends: Which to try; those that cannot run here are passed over.
        threads: CPU threads to try; None tries powers of two up to the cores at hand.
        report: Called with what is measured and the share done.

    Returns:
        ``choice``: backend, precision, threads, memory, p90_ms; ``met``: whether it meets the latency;
        ``measured``: all ways, best first; ``passed_over``: back end, precision and why;
        ``certificates``: precisions certified here by back end.

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
        way
        for backend in backends
        for precision in ("fp32", *certified(bundle, backend))
        for way in _ways(backend, precision, threads)
    ]
    measured, passed_over = _measure(bundle_path, ways, report)
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
        memory=first.memory,  # type: ignore[arg-type]  # one of _MEMORY
    )
    path = tuned_path(bundle)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, msgspec.json.encode(tuned))
    return {
        "choice": asdict(first),
        "met": first.p90_ms <= latency_ms,
        "measured": [asdict(one) for one in ordered],
        "passed_over": passed_over,
        "certificates": {name: sorted(certified(bundle, name)) for name in backends},
    }


def best(measured: Sequence[Measured], latency_ms: float) -> list[Measured]:
    """Best first: what meets the latency, closest to FP32, on the fewest threads; the rest by speed."""

    def place(one: Measured) -> tuple[Any, ...]:
        if one.p90_ms > latency_ms:
            return 1, one.p90_ms
        return 0, _ORDER.index(one.precision), one.threads, one.p90_ms

    return sorted(measured, key=place)


def _ways(backend: str, precision: str, threads: Sequence[int] | None) -> list[_Way]:
    if backend.startswith("tensorrt"):
        return [_Way(backend, precision, 0, memory) for memory in _MEMORY]
    return [_Way(backend, precision, count) for count in threads or _thread_counts()]


def _measure(
    path: str | Path,
    ways: Sequence[_Way],
    report: Callable[[str, float], None] | None,
) -> tuple[list[Measured], list[dict[str, str]]]:
    """Time all ways in turns, on the bundle's own golden images; and what cannot run here."""
    opened: dict[_Way, LoadedBundle] = {}
    passed_over: dict[tuple[str, str], str] = {}
    try:
        for way in ways:
            if (way.backend, way.precision) in passed_over:
                continue
            try:
                opened[way] = LoadedBundle(
                    path, backend=way.backend, precision=way.precision, threads=way.threads,
                    memory=way.memory,
                )  # fmt: skip
            except BackendError as error:
                if not error.code.startswith(_NOT_HERE):
                    raise
                passed_over[way.backend, way.precision] = str(error)
        measured = _timed_in_turns(opened, report)
    finally:
        for loaded in opened.values():
            loaded.close()
    told = [{"backend": b, "precision": p, "why": why} for (b, p), why in passed_over.items()]
    return measured, told


def _timed_in_turns(
    opened: Mapping[_Way, LoadedBundle], report: Callable[[str, float], None] | None
) -> list[Measured]:
    times: dict[_Way, list[float]] = {way: [] for way in opened}
    for turn in range(_ROUNDS):
        if report is not None:
            report(f"timing {len(opened)} ways", turn / _ROUNDS)
        for way, loaded in opened.items():
            bundle = loaded.bundle
            frames = [golden_frame(bundle, one.name) for one in bundle.manifest.golden]
            time.sleep(0.01)  # the threads of the one before come to rest
            loaded(frames[0])
            times[way] += [_timed(loaded, frames[i % len(frames)]) for i in range(_BURST)]
    return [
        Measured(
            way.backend, way.precision, way.threads, statistics.median(values),
            float(np.quantile(values, 0.9)), way.memory,
        )
        for way, values in times.items()
    ]  # fmt: skip


def _timed(loaded: LoadedBundle, frame: Frame) -> float:
    started = time.perf_counter()
    loaded(frame)
    return (time.perf_counter() - started) * 1e3


def _thread_counts() -> list[int]:
    cores = len(os.sched_getaffinity(0))
    counts = [1]
    while counts[-1] * 2 <= cores:
        counts.append(counts[-1] * 2)
    return counts
