"""Which memory is faster on this machine: what ``edgead tune`` and the benchmarks ask."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgead.backends.trt.options import TrtOptions
from edgead.backends.trt.run import open_backend

__all__ = ["compare_memory"]


def compare_memory(
    model: bytes,
    *,
    name: str,
    precision: str,
    cache_dir: str | Path | None = None,
    options: TrtOptions | None = None,
    rounds: int = 20,
    burst: int = 10,
) -> dict[str, Any]:
    """Time one inference, host to host, with mapped and with pinned + copied memory, in turns.

    Args:
        model: Bytes of the ONNX file, whose engine is in the cache.
        name: tensorrt or tensorrt-rtx.
        precision: What the model is.
        cache_dir: Engine cache.
        options: Options of both; ``memory`` is set here.
        rounds: Turns of each kind.
        burst: Timed inferences a turn, after one that is not.

    Returns:
        ``best`` (mapped or pinned), and for each kind ``median_ms`` and ``p90_ms``.

    Raises:
        BackendError: As `open_backend`.
    """
    kinds = ("pinned", "mapped")
    base = options or TrtOptions()
    opened = {
        kind: open_backend(
            model, name=name, precision=precision, cache_dir=cache_dir,
            options=replace(base, memory=kind),
        )
        for kind in kinds
    }  # fmt: skip
    try:
        requests = {kind: backend.open_request() for kind, backend in opened.items()}
        some = opened["pinned"]
        feeds = {
            name: np.zeros([base.batch[1] if n == -1 else n for n in spec.shape], spec.dtype)
            for name, spec in some.inputs.items()
        }
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, request in requests.items():
                request.infer(feeds)
                for _ in range(burst):
                    start = time.perf_counter()
                    request.infer(feeds)
                    times[kind].append((time.perf_counter() - start) * 1e3)
    finally:
        for backend in opened.values():
            backend.close()
    told = {kind: _summary(values) for kind, values in times.items()}
    return {"best": min(kinds, key=lambda kind: told[kind]["median_ms"]), **told}


def _summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median_ms": round(statistics.median(ordered), 4),
        "p90_ms": round(ordered[int(0.9 * (len(ordered) - 1))], 4),
    }
