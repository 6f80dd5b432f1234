"""Commissioning: thresholds, input ranges and golden images from this line's good images. No torch.

Training ends with it on held-out images; `edgead commission` repeats it on a new camera.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from edgead.appearance import LOOKS, encode_looks, learn_looks, measure
from edgead.backends.base import Backend
from edgead.bundle import CERTIFICATES, Bundle
from edgead.errors import CalibrationError
from edgead.evaluate.anomalies import simulate
from edgead.evaluate.threshold import (
    Threshold,
    learn_pixel_threshold,
    learn_threshold,
    score_scale,
)
from edgead.frame import Frame, PixelFormat
from edgead.golden import golden_png
from edgead.manifest import FrameSpec, Golden, InputRanges, Thresholds
from edgead.postprocess import smooth
from edgead.preprocess import Preprocess, as_bgr, frame_statistics
from edgead.scorer import Scored, Scorer
from edgead.view import view_key

__all__ = ["ENGINE_TOLERANCE", "Commissioned", "commission", "frame_spec", "open_scorer"]

GOLDEN_GOOD = 2
GOLDEN_DEFECTS = ("cutpaste", "stain")
MIN_IMAGES = 5
#: Two FP32 engines may differ by this share of score_scale in the score of one frame.
ENGINE_TOLERANCE = 1e-3


class Commissioned(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle ready for the line, what its threshold promises, and how the good images scored."""

    bundle: Bundle
    promise: Threshold
    scored: list[Scored]


def frame_spec(frames: Iterable[Frame]) -> FrameSpec:
    """What these frames have in common: format and depth must agree, sizes may differ.

    Raises:
        CalibrationError: FORMATS_MIXED.
    """
    kinds: dict[tuple[PixelFormat, int], int] = {}
    sizes = set()
    for index, frame in enumerate(frames):
        kinds.setdefault((frame.format, frame.depth), index)
        sizes.add(frame.size)
    if len(kinds) != 1:
        found = " and ".join(f"{fmt.value} (image {index})" for (fmt, _), index in kinds.items())
        raise CalibrationError(
            "FORMATS_MIXED",
            f"the images are of different formats: {found}; a line has one camera format.",
            "Convert them to one format, the camera's own.",
        )
    ((fmt, depth),) = kinds
    return FrameSpec(format=fmt, size=sizes.pop() if len(sizes) == 1 else None, depth=depth)


def open_scorer(bundle: Bundle, backend: Backend, frame: FrameSpec) -> Scorer:
    """A scorer for frames of ``frame``, whatever the bundle was commissioned on before."""
    return Scorer(bundle, backend, preprocess=Preprocess.of(bundle, frame))


def commission(
    bundle: Bundle,
    backend: Backend,
    frames: Sequence[Frame],
    *,
    false_reject_rate: float = 0.01,
    confidence: float = 0.95,
    how: Literal["held_out", "cross_fitted", "commissioned"] = "commissioned",
    scored: Sequence[Scored] | None = None,
    seed: int = 0,
) -> Commissioned:
    """Learn everything that depends on the line from good images.

    Args:
        bundle: Model and head; its thresholds are replaced.
        backend: The bundle's FP32 model.
        frames: Good images that the model was not trained on. [N], N >= 5.
        false_reject_rate: Share of good parts that may be rejected.
        confidence: How surely.
        how: Noted in the manifest.
        scored: The frames' scores when they were measured already (cross-fitting).
        seed: Of the simulated defects among the golden images.

    Raises:
        CalibrationError: TOO_FEW_IMAGES, FORMATS_MIXED, and those of the thresholds.
        ConfigError: FALSE_REJECT_RATE, CONFIDENCE.
    """
    if len(frames) < MIN_IMAGES:
        raise CalibrationError(
            "TOO_FEW_IMAGES",
            f"{len(frames)} good images; commissioning needs at least {MIN_IMAGES}.",
            "42 prove a false-reject rate of 6.9 % at 95 %, 299 prove 1 %.",
        )
    frame = frame_spec(frames)
    scorer = open_scorer(bundle, backend, frame)
    measured = list(scored) if scored is not None else list(scorer.each(frames))
    manifest = bundle.manifest
    promise = learn_threshold(
        [one.score for one in measured],
        false_reject_rate=false_reject_rate,
        confidence=confidence,
    )
    scores = [one.score for one in measured]
    promise = dataclasses.replace(promise, threshold=_clear_of_ties(promise.threshold, scores))
    pixels = learn_pixel_threshold(
        (_looked_at(one, manifest.head.sigma) for one in measured),
        false_reject_rate=false_reject_rate,
        confidence=confidence,
    )
    thresholds = Thresholds(
        threshold=promise.threshold,
        pixel_threshold=pixels.threshold,
        score_scale=score_scale(promise.threshold, scores),
        false_reject_rate=false_reject_rate,
        bound=promise.bound,
        confidence=confidence,
        images=promise.images,
        needed=promise.needed,
        how=how,
        good_scores=sorted(scores),
        view=view_key(manifest) or UNSET,
    )
    golden, pictures = _golden(scorer, frames, promise.threshold, seed)
    old = {entry.name: None for entry in manifest.golden}
    ready = bundle.with_members(
        # Certificates go: their flips were counted at the old threshold.
        {**old, **pictures, CERTIFICATES: None, LOOKS: _looks(measured)},
        frame=frame,
        thresholds=thresholds,
        input_ranges=_ranges(measured),
        golden=golden,
    )
    return Commissioned(bundle=ready, promise=promise, scored=measured)


def _looked_at(one: Scored, sigma: float) -> NDArray[np.float32]:
    """Smoothed map of a frame: (h, w), or the pixels of it that its view looks at."""
    rows, columns = one.tensor.shape[:2]
    smoothed: NDArray[np.float32] = smooth(one.anomaly_map[None], (rows, columns), sigma)[0]
    ignored = one.placement.ignored
    if ignored is None:
        return smoothed
    seen: NDArray[np.float32] = smoothed[~ignored]
    return seen


def _clear_of_ties(threshold: float, scores: Sequence[float]) -> float:
    """Raise the threshold by what engines differ by: what it promises still holds.

    The order statistic is the score of one good image. Left there, that image would be accepted by
    the engine that measured it and rejected by the next one, for a bit's difference.
    """
    return threshold + 2 * ENGINE_TOLERANCE * score_scale(threshold, scores)


def _ranges(measured: Sequence[Scored]) -> InputRanges:
    """Ranges of the good images, wide enough that only gross faults of light and focus fall out."""
    rows = [frame_statistics(one.tensor) for one in measured]
    wide = {}
    for name, slack in (("mean", 10.0), ("std", 5.0), ("sharpness", 0.5)):
        values = [row[name] for row in rows]
        low, high = min(values), max(values)
        room = (high - low) + slack
        wide[name] = (max(0.0, min(low - room, low * 0.8)), max(high + room, high * 1.25))
    return InputRanges(**wide)


def _looks(measured: Sequence[Scored]) -> bytes:
    """How the good images look, for `edgead.stream.drift`."""
    return encode_looks(learn_looks([measure(one.tensor) for one in measured]))


def _golden(
    scorer: Scorer, frames: Sequence[Frame], threshold: float, seed: int
) -> tuple[list[Golden], dict[str, bytes]]:
    """Good images and simulated defects with the scores that this bundle gives them."""
    rng = np.random.default_rng(seed)
    golden, pictures = [], {}

    def add(name: str, kind: Literal["good", "simulated_defect"], frame: Frame) -> None:
        score = scorer(frame).score
        verdict: Literal["GOOD", "DEFECT"] = "DEFECT" if score > threshold else "GOOD"
        golden.append(Golden(name=name, kind=kind, score=score, verdict=verdict))
        pictures[name] = golden_png(frame)

    for index in range(min(GOLDEN_GOOD, len(frames))):
        add(f"golden/good_{index}.png", "good", frames[index])
    for index, kind in enumerate(GOLDEN_DEFECTS):
        frame = frames[(GOLDEN_GOOD + index) % len(frames)]
        add(f"golden/defect_{index}.png", "simulated_defect", _damaged(frame, kind, rng))
    return golden, pictures


def _damaged(frame: Frame, kind: str, rng: np.random.Generator) -> Frame:
    """The frame with a simulated defect, in its own format; NV12 keeps its chroma plane."""
    drawn, _ = simulate(as_bgr(frame), kind, rng)
    if frame.format is PixelFormat.NV12:
        pixels = frame.pixels.copy()
        pixels[: frame.size[0]] = drawn[:, :, 1]
        return Frame(pixels, frame.format)
    if frame.format is PixelFormat.BGRX8:
        drawn = np.concatenate([drawn, np.zeros_like(drawn[:, :, :1])], axis=2)
    if frame.format in (PixelFormat.RGB8, PixelFormat.RGB16):
        drawn = drawn[:, :, ::-1]
    own: NDArray[Any] = drawn[:, :, 0] if frame.pixels.ndim == 2 else drawn
    if frame.depth > 8:
        own = own.astype(np.uint16) << (frame.depth - 8)
    return Frame(np.ascontiguousarray(own), frame.format, depth=frame.depth)
