"""What only a GPU back end can tell about itself: the way of a frame, copies, memory, parity with a CPU."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgead.backends import member_for, open_backend
from edgead.backends.trt import TrtOptions, device
from edgead.backends.trt import open_backend as open_engine
from edgead.backends.trt.measure import compare_memory
from edgead.backends.whole_frame import why_on_cpu
from edgead.detector import Detector
from edgead.frame import Frame
from edgead.scorer import Scorer
from edgead.scorer_gpu import open_scorer

__all__ = ["gpu_figures"]

_RUNS = 50
_PARITY_FRAMES = 16
_CPU = ("openvino", "onnxruntime")


def gpu_figures(detector: Detector, frames: Sequence[Frame]) -> dict[str, Any] | None:
    """Figures of a detector on TensorRT or TensorRT-RTX; None on another back end.

    Args:
        detector: Its engines are in the cache.
        frames: Frames that the bundle takes.

    Returns:
        ``device`` and ``cuda``; ``whole_frame`` and ``why_on_cpu``: whether resize and heat map run
        on the GPU, and if not, why; ``split_ms``: medians of copy in, compute and copy out of the
        engine alone, as trtexec splits them; ``memory``: mapped against pinned memory, with the best;
        ``golden``: ok and worst, None without golden images; ``parity``: against a CPU back end at
        FP32, None without one.
    """
    name, precision = detector.choice.backend, detector.choice.precision
    if not name.startswith("tensorrt"):
        return None
    bundle = detector.bundle
    cuda, gpu = device.require_gpu(name)
    model = bundle.members[member_for(name, precision, bundle.members)]
    manifest = bundle.manifest
    why = why_on_cpu(name, manifest.view, manifest.frame.format)
    golden = detector.verify() if manifest.golden else None
    return {
        "device": gpu.to_json(),
        "cuda": cuda.version,
        "whole_frame": not why,
        "why_on_cpu": why,
        "split_ms": _split(model, name, precision),
        "memory": compare_memory(model, name=name, precision=precision),
        "golden": golden and {"ok": golden["ok"], "worst": golden["worst"]},
        "parity": _parity(detector, frames[:_PARITY_FRAMES]),
    }


def _split(model: bytes, name: str, precision: str) -> dict[str, float]:
    """Medians over some inferences, milliseconds."""
    engine = open_engine(model, name=name, precision=precision, options=TrtOptions(timing=True))
    try:
        request = engine.open_request()
        spec = engine.inputs["image"]
        picture = np.zeros([max(n, 1) for n in spec.shape], spec.dtype)
        rows = []
        for _ in range(_RUNS):
            request.infer({"image": picture})
            rows.append(dict(request.timings_ms))
        has_graph = request.has_graph
    finally:
        engine.close()
    medians = {key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}
    return {**medians, "cuda_graph": has_graph}


def _parity(detector: Detector, frames: Sequence[Frame]) -> dict[str, Any] | None:
    """Largest differences from FP32 on the first CPU back end that is installed."""
    found = next((name for name in _CPU if importlib.util.find_spec(name) is not None), None)
    if found is None:
        return None
    bundle, choice = detector.bundle, detector.choice
    limits = bundle.manifest.thresholds
    there = open_backend(
        choice.backend, bundle.members, precision=choice.precision, memory=choice.memory
    )
    here = open_backend(found, bundle.members, precision="fp32")
    scorers = (
        open_scorer(bundle, there, check_ranges=False),
        Scorer(bundle, here, check_ranges=False),
    )
    try:
        pairs = [tuple(scorer(frame) for scorer in scorers) for frame in frames]
    finally:
        for scorer, backend in zip(scorers, (there, here), strict=True):
            scorer.close()
            backend.close()
    return {
        "backend": found,
        "frames": len(pairs),
        "score_change": max(abs(a.score - b.score) for a, b in pairs) / limits.score_scale,
        "map_change": max(
            float(np.abs(a.anomaly_map - b.anomaly_map).max() / max(np.ptp(b.anomaly_map), 1e-9))
            for a, b in pairs
        ),
        "flips": sum(
            (a.score > limits.threshold) != (b.score > limits.threshold) for a, b in pairs
        ),
    }
