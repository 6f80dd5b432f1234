"""How far two engines agree on the same frames, and what a precision must hold.

Score differences are shares of ``score_scale``, so that methods compare.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.calibration.frames import ProofFrame
from edgead.evaluate.metrics import image_auroc
from edgead.evaluate.regions import pixel_metrics
from edgead.golden import FAR
from edgead.manifest import Manifest
from edgead.postprocess import smooth

__all__ = ["Agreement", "Limits", "Scores", "agreement"]


@dataclass(frozen=True)
class Limits:
    """What a precision must hold.

    Attributes:
        flips: Verdicts that differ from FP32's outside the band.
        band: Half-width around the threshold inside which a flip is not counted, in score_scale.
        auroc_loss: Image AUROC that may be lost.
        pixel_auroc_loss: Pixel AUROC that may be lost.
        rank_correlation: Spearman's, of the scores, at least.
    """

    flips: int = 0
    band: float = 0.01
    auroc_loss: float = 0.002
    pixel_auroc_loss: float = 0.005
    rank_correlation: float = 0.99


@dataclass(frozen=True, eq=False)
class Scores:
    """What one engine gives on the frames of a comparison.

    Attributes:
        scores: [N] float64.
        maps: [N] of (h', w') float32, native.
        sizes: (h, w) of each smoothed map; None where all have the engine input's.
    """

    scores: NDArray[np.float64]
    maps: list[NDArray[np.float32]]
    sizes: list[tuple[int, int]] | None = None


@dataclass(frozen=True)
class Agreement:
    """A precision against FP32; None where the frames do not define a figure.

    Attributes:
        frames: How many were compared.
        rank_correlation: Spearman's, of the scores.
        score_change_max: Largest score change, score_scale.
        score_change_rms: Root of the mean squared score change, score_scale; scores more than three
            score_scale above the threshold count as three: no verdict hangs on how much more.
        score_change_mean: Mean signed change, score_scale.
        flips: Verdicts that differ, outside the band.
        flips_in_band: Verdicts that differ, inside it.
        flip_distance: How far from the threshold the farthest of both kinds lies in FP32, score_scale: the band
            that no flip would leave; 0 without any.
        auroc_fp32: Image AUROC of FP32.
        auroc: Image AUROC of the precision.
        auroc_loss: Their difference; negative where the precision happens to be better.
        pixel_auroc_fp32: Pixel AUROC of FP32 over the frames with a mask.
        pixel_auroc: Of the precision.
        pixel_auroc_loss: Their difference.
        map_correlation: Pearson's of the smoothed maps, median over the frames.
        map_correlation_min: The worst frame's.
        mask_iou: Mean overlap of the masks at the pixel threshold, over frames that have one.
    """

    frames: int
    rank_correlation: float
    score_change_max: float
    score_change_rms: float
    score_change_mean: float
    flips: int
    flips_in_band: int
    flip_distance: float
    auroc_fp32: float | None
    auroc: float | None
    auroc_loss: float | None
    pixel_auroc_fp32: float | None
    pixel_auroc: float | None
    pixel_auroc_loss: float | None
    map_correlation: float
    map_correlation_min: float
    mask_iou: float | None

    def misses(self, limits: Limits) -> list[str]:
        """The limits that are not held, in words."""
        found = []
        if self.flips > limits.flips:
            found.append(
                f"{self.flips} verdicts flip (limit {limits.flips}), the farthest "
                f"{self.flip_distance:.3f} score_scale from the threshold (band {limits.band:g})"
            )
        if self.rank_correlation < limits.rank_correlation:
            found.append(
                f"rank correlation {self.rank_correlation:.4f} (limit {limits.rank_correlation:g})"
            )
        if (self.auroc_loss or 0.0) > limits.auroc_loss:
            found.append(f"image AUROC loss {self.auroc_loss:.4f} (limit {limits.auroc_loss:g})")
        if (self.pixel_auroc_loss or 0.0) > limits.pixel_auroc_loss:
            found.append(
                f"pixel AUROC loss {self.pixel_auroc_loss:.4f} (limit {limits.pixel_auroc_loss:g})"
            )
        return found


def agreement(
    manifest: Manifest,
    frames: Sequence[ProofFrame],
    reference: Scores,
    found: Scores,
    limits: Limits,
) -> Agreement:
    """Compare two engines on the same frames."""
    threshold, scale = manifest.thresholds.threshold, manifest.thresholds.score_scale
    change = (found.scores - reference.scores) / scale
    top = threshold + FAR * scale
    near = (np.minimum(found.scores, top) - np.minimum(reference.scores, top)) / scale
    flipped = (found.scores > threshold) != (reference.scores > threshold)
    distance = np.abs(reference.scores - threshold) / scale
    in_band = distance <= limits.band
    labels = np.array([frame.is_defect for frame in frames])
    before, after = image_auroc(reference.scores, labels), image_auroc(found.scores, labels)
    before_maps, after_maps = _smoothed(manifest, reference), _smoothed(manifest, found)
    pixels = [_pixel_auroc(frames, maps) for maps in (before_maps, after_maps)]
    correlations = [_correlation(a, b) for a, b in zip(before_maps, after_maps, strict=True)]
    overlaps = _overlaps(before_maps, after_maps, manifest.thresholds.pixel_threshold)
    return Agreement(
        frames=len(frames),
        rank_correlation=_correlation(_ranks(reference.scores), _ranks(found.scores)),
        score_change_max=float(np.abs(change).max()),
        score_change_rms=float(np.sqrt((near**2).mean())),
        score_change_mean=float(change.mean()),
        flips=int((flipped & ~in_band).sum()),
        flips_in_band=int((flipped & in_band).sum()),
        flip_distance=float(distance[flipped].max(initial=0.0)),
        auroc_fp32=before,
        auroc=after,
        auroc_loss=_loss(before, after),
        pixel_auroc_fp32=pixels[0],
        pixel_auroc=pixels[1],
        pixel_auroc_loss=_loss(pixels[0], pixels[1]),
        map_correlation=statistics.median(correlations),
        map_correlation_min=min(correlations),
        mask_iou=statistics.fmean(overlaps) if overlaps else None,
    )


def _smoothed(manifest: Manifest, scores: Scores) -> list[NDArray[np.float32]]:
    sizes = scores.sizes or [manifest.input.size] * len(scores.maps)
    sigma = manifest.head.sigma
    return [smooth(one[None], size, sigma)[0] for one, size in zip(scores.maps, sizes, strict=True)]


def _pixel_auroc(frames: Sequence[ProofFrame], maps: Sequence[NDArray[np.float32]]) -> float | None:
    pairs = [(m, f.mask) for m, f in zip(maps, frames, strict=True) if f.mask is not None]
    if not any(mask.any() for _, mask in pairs):
        return None
    return pixel_metrics([m for m, _ in pairs], [mask for _, mask in pairs])["pixel_auroc"]


def _overlaps(
    first: Sequence[NDArray[np.float32]], second: Sequence[NDArray[np.float32]], threshold: float
) -> list[float]:
    found = []
    for a, b in zip(first, second, strict=True):
        both, either = (a > threshold) & (b > threshold), (a > threshold) | (b > threshold)
        if either.any():
            found.append(float(both.sum() / either.sum()))
    return found


def _loss(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's; 1 for equal constants, 0 when only one is constant."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    length = float(np.sqrt((x @ x) * (y @ y)))
    if length == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(x @ y) / length
