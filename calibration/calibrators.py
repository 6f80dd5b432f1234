"""Where to clip an activation before it becomes eight bits: MinMax, Percentile, Entropy, MSE.

One streaming histogram of absolute values a tensor serves all four, so that a search tries another
calibrator without another pass over the frames. ONNX Runtime's own collectors keep every frame's
activations until the end, and its entropy search walks Python loops (minutes for one network); what
it does better, laying Q/DQ into a graph, is left to it (`edgead.deploy.qdq`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgead.errors import CalibrationError, ConfigError

__all__ = ["METHODS", "Calibrator", "Histogram", "clip_ranges"]

METHODS: Final = ("minmax", "percentile", "entropy", "mse")
_BINS = 2048
_LEVELS = 128  # magnitudes of a symmetric int8
_CANDIDATES = 96  # clipping points that entropy and mse compare


class Histogram:
    """Counts of magnitudes in 2048 equal bins; the range doubles, by joining bins in pairs, when it must.

    Attributes:
        low: Smallest value seen.
        high: Largest value seen.
    """

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self._counts = np.zeros(_BINS, dtype=np.int64)
        self._top = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of one frame, any shape.

        Raises:
            CalibrationError: ACTIVATION_NOT_FINITE.
        """
        low, high = float(values.min()), float(values.max())
        largest = max(abs(low), abs(high))
        if not np.isfinite(largest):
            raise CalibrationError(
                "ACTIVATION_NOT_FINITE",
                "an activation of the FP32 model is NaN or infinite on a calibration frame.",
                "Check the bundle: edgead verify BUNDLE.",
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._cover(largest)
        if self._top == 0.0:
            self._counts[0] += values.size
            return
        places = np.abs(values).ravel() * np.float32(_BINS / self._top)
        places = np.minimum(places, np.float32(_BINS - 1)).astype(np.int32)
        self._counts += np.bincount(places, minlength=_BINS)

    def _cover(self, largest: float) -> None:
        if self._top == 0.0:
            self._top = largest
        while largest > self._top:
            self._counts[: _BINS // 2] = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts[_BINS // 2 :] = 0
            self._top *= 2

    def clip(self, calibrator: Calibrator) -> float:
        """Magnitude to clip at; at least a bin, at most the largest that was seen."""
        largest = max(abs(self.low), abs(self.high))
        if self._top == 0.0 or calibrator.method == "minmax":
            return largest
        edges = np.arange(1, _BINS + 1, dtype=np.float64) * (self._top / _BINS)
        if calibrator.method == "percentile":
            share = np.cumsum(self._counts) / self._counts.sum()
            found = edges[int(np.searchsorted(share, calibrator.percentile / 100))]
        elif calibrator.method == "entropy":
            found = edges[_entropy_clip(self._counts) - 1]
        else:
            found = _mse_clip(self._counts, edges)
        return float(min(found, largest))


@dataclass(frozen=True)
class Calibrator:
    """A rule that turns a histogram into a clipping magnitude.

    Attributes:
        method: ``minmax`` keeps everything; ``percentile`` keeps that share of magnitudes;
            ``entropy`` loses least information (Kullback-Leibler); ``mse`` has the least squared
            error of rounding and clipping together.
        percentile: For ``percentile``, in percent.
    """

    method: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(
                "CALIBRATOR", f"calibrator {self.method!r} is not one of {', '.join(METHODS)}."
            )
        if not 50 < self.percentile <= 100:
            raise ConfigError("PERCENTILE", f"percentile {self.percentile} is not in 50..100.")

    def __str__(self) -> str:
        return f"percentile {self.percentile:g}" if self.method == "percentile" else self.method


def clip_ranges(
    histograms: Mapping[str, Histogram], calibrator: Calibrator
) -> dict[str, tuple[float, float]]:
    """(low, high) of each tensor under a calibrator; clipped on both sides, never without zero."""
    ranges = {}
    for name, histogram in histograms.items():
        clip = histogram.clip(calibrator)
        low, high = min(0.0, max(histogram.low, -clip)), max(0.0, min(histogram.high, clip))
        ranges[name] = (low, high) if high > low else (low, low + 1e-6)
    return ranges


def _entropy_clip(counts: NDArray[np.int64]) -> int:
    """How many bins to keep: least divergence of the kept bins from their 128-level rounding.

    Source: Migacz, 8-bit Inference with TensorRT, GTC 2017.
    """
    used = int(np.flatnonzero(counts)[-1]) + 1
    best, best_divergence = used, np.inf
    for keep in _candidates(used):
        kept = counts[:keep].astype(np.float64)
        reference = kept.copy()
        reference[-1] += counts[keep:].sum()
        level = np.arange(keep) * _LEVELS // keep
        filled = kept > 0
        mass = np.bincount(level, kept, _LEVELS)
        spread = np.bincount(level, filled, _LEVELS)
        rounded = np.where(filled, mass[level] / np.maximum(spread[level], 1), 0.0)
        divergence = _divergence(reference, rounded)
        if divergence < best_divergence:
            best, best_divergence = keep, divergence
    return best


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence; a bin that only p fills costs as if q held 1e-4 of an entry."""
    inside = p > 0
    if q.sum() == 0:
        return float(np.inf)
    p_share = p[inside] / p.sum()
    q_share = np.maximum(q[inside], 1e-4) / q.sum()
    return float((p_share * np.log(p_share / q_share)).sum())


def _mse_clip(counts: NDArray[np.int64], edges: NDArray[np.float64]) -> float:
    """Clipping point with the least squared error over the histogram."""
    used = int(np.flatnonzero(counts)[-1]) + 1
    centres = edges - edges[0] / 2
    errors = []
    keeps = list(_candidates(used))
    for keep in keeps:
        step = edges[keep - 1] / (_LEVELS - 1)
        # Uniform rounding noise inside the range is step^2 / 12; a bin finer than a step adds none.
        inside = counts[:keep].sum() * step**2 / 12
        outside = (counts[keep:] * (centres[keep:] - edges[keep - 1]) ** 2).sum()
        errors.append(inside + outside)
    return float(edges[keeps[int(np.argmin(errors))] - 1])


def _candidates(used: int) -> Iterable[int]:
    """Clipping points from 128 bins, under which eight bits lose nothing, to all that are used."""
    if used <= _LEVELS:
        return (used,)
    return sorted({int(n) for n in np.linspace(_LEVELS, used, _CANDIDATES)})
