"""The nouns of edgead: frames in, detections and outcomes out. Small, frozen, self-checking.

Shapes: ``(H, W)`` is the camera frame, ``(h, w)`` the engine input. Times are ``time.monotonic_ns``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.appearance import Appearance
from edgead.frame import Frame, PixelFormat

__all__ = [
    "Detection",
    "Frame",
    "LedgerCounts",
    "Outcome",
    "PixelFormat",
    "Placement",
    "Region",
    "Status",
    "Verdict",
]


class Verdict(IntEnum):
    """UNKNOWN is 0, so that a zeroed word never reads as good."""

    UNKNOWN = 0
    GOOD = 1
    DEFECT = 2


class Status(str, Enum):
    """How a frame ended: exactly one of these for every frame that a source handed over."""

    RESULT = "RESULT"
    DROPPED = "DROPPED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Placement:
    """Where the engine input lies in the frame: frame = offset + scale * (input + 0.5) - 0.5.

    Attributes:
        offset_xy: Upper left corner of the view in the frame, pixels.
        scale_xy: Frame pixels for one input pixel.
        frame_size: (H, W) of the frame.
        size: (h, w) of the engine input or, with tiles, of the picture that they are cut from; None
            where whoever made it did not say.
        ignored: (h, w) bool, True where the view never looks; None where it looks everywhere.
    """

    offset_xy: tuple[float, float]
    scale_xy: tuple[float, float]
    frame_size: tuple[int, int]
    size: tuple[int, int] | None = None
    ignored: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)

    def to_frame(self, xy: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Map points [N, 2] (x, y) of pixel centres from input to frame coordinates, [N, 2]."""
        scale = np.asarray(self.scale_xy)
        return np.asarray(
            np.asarray(self.offset_xy) + scale * (np.asarray(xy) + 0.5) - 0.5, dtype=np.float32
        )


@dataclass(frozen=True, eq=False)
class Region:
    """One connected defect region, in frame coordinates.

    Attributes:
        box_xyxy: x0, y0, x1, y1 (exclusive end), frame pixels.
        contour: Outline [N, 2] float32, x and y, frame pixels.
        area_px: Area in frame pixels.
        area_mm2: Area in square millimetres, None when the bundle has no scale.
        peak: Largest smoothed map value inside.
        centroid: x, y, frame pixels.
    """

    box_xyxy: tuple[float, float, float, float]
    contour: NDArray[np.float32]
    area_px: float
    area_mm2: float | None
    peak: float
    centroid: tuple[float, float]

    def __repr__(self) -> str:
        return f"Region(box_xyxy={self.box_xyxy}, area_px={self.area_px:.0f}, peak={self.peak:.4g})"

    def to_json(self) -> dict[str, Any]:
        """Plain values for the JSON line; the contour is rounded to a tenth of a pixel."""
        return {
            "box_xyxy": [round(v, 1) for v in self.box_xyxy],
            "area_px": round(self.area_px, 1),
            "area_mm2": None if self.area_mm2 is None else round(self.area_mm2, 4),
            "peak": self.peak,
            "centroid": [round(v, 1) for v in self.centroid],
            "contour": np.round(self.contour.astype(float), 1).tolist(),
        }


@dataclass(frozen=True, eq=False)
class Detection:
    """The verdict on one frame. Arrays belong to the caller.

    Attributes:
        verdict: GOOD when ``score <= threshold``, else DEFECT.
        score: Image score in the method's own unit; larger is more anomalous.
        threshold: Image threshold that the verdict was made with.
        confidence: 0..1, one minus the empirical tail probability among held-out good scores.
        anomaly_map: (h, w) float32, smoothed, in the view's engine-input coordinates; None when
            only the score was asked for.
        mask: (h, w) bool, ``anomaly_map > pixel_threshold``; None with the map.
        regions: Connected regions in frame coordinates, largest peak first. A DEFECT has at least
            one unless only the score was asked for.
        timings_ms: Stage name -> milliseconds.
        frame_id: ``source:seq`` of the frame.
        bundle_hash: SHA-256 of the bundle's manifest.
        backend: Name of the back end that ran.
        precision: fp32, bf16, fp16 or int8.
        placement: Where the map lies in the frame.
        appearance: Figures of the picture, for `edgead.stream.drift`; None where the bundle keeps
            none to compare them with.
        engine_hash: SHA-256 of what the engine was made of: model, back end, version, device and
            precision, on TensorRT also its build options. Journaled.
    """

    verdict: Verdict
    score: float
    threshold: float
    confidence: float
    anomaly_map: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None
    regions: tuple[Region, ...]
    timings_ms: Mapping[str, float]
    frame_id: str
    bundle_hash: str
    backend: str
    precision: str
    placement: Placement | None = None
    appearance: Appearance | None = None
    engine_hash: str = ""

    def __post_init__(self) -> None:
        finite = bool(np.isfinite(self.score) and np.isfinite(self.threshold))
        if self.verdict is not Verdict.UNKNOWN:
            judged = Verdict.DEFECT if self.score > self.threshold else Verdict.GOOD
            if not finite or judged is not self.verdict:
                raise ValueError(
                    f"verdict {self.verdict.name} contradicts score {self.score} "
                    f"and threshold {self.threshold}"
                )
        if self.anomaly_map is not None and self.anomaly_map.ndim != 2:
            raise ValueError(f"anomaly_map must be (h, w), got {self.anomaly_map.shape}")

    @property
    def accept(self) -> bool:
        """True only for GOOD; there is no other way to accept."""
        return self.verdict is Verdict.GOOD

    def __repr__(self) -> str:
        shape = None if self.anomaly_map is None else self.anomaly_map.shape
        return (
            f"Detection({self.verdict.name}, score={self.score:.5g}, "
            f"threshold={self.threshold:.5g}, confidence={self.confidence:.3f}, map={shape}, "
            f"regions={len(self.regions)}, {self.backend}/{self.precision})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON line; the map and mask stay out."""
        return {
            "frame_id": self.frame_id,
            "verdict": self.verdict.name,
            "accept": self.accept,
            "score": _number(self.score),
            "threshold": _number(self.threshold),
            "confidence": _number(self.confidence),
            "regions": [region.to_json() for region in self.regions],
            "timings_ms": {k: round(v, 3) for k, v in self.timings_ms.items()},
            "bundle_hash": self.bundle_hash,
            "backend": self.backend,
            "precision": self.precision,
        }


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class LedgerCounts:
    """Snapshot of a source's ledger; ``received == results + dropped + failed + in_flight``."""

    received: int = 0
    results: int = 0
    dropped: int = 0
    failed: int = 0
    in_flight: int = 0
    lost_upstream: int | None = None  # None: the camera numbers no frames; never a pretended 0
    late: int = 0

    @property
    def balanced(self) -> bool:
        """The invariant that every snapshot must satisfy."""
        return self.received == self.results + self.dropped + self.failed + self.in_flight


@dataclass(frozen=True, eq=False)
class Outcome:
    """How one frame ended. Drops and failures are outcomes too, and never acceptable.

    Attributes:
        status: RESULT, DROPPED or FAILED.
        reason: Empty for a RESULT; else the fixed drop reason or failure code.
        message: The failure's own sentence, empty otherwise.
        detection: The judged frame for RESULT, else None.
        source_id: Source of the frame.
        seq: Number of the frame in its source.
        t_mono_ns: Capture time on the monotonic clock, nanoseconds.
        settled_mono_ns: When the outcome was settled, nanoseconds.
        counts: The source's ledger right after this outcome was settled.
        block_id: The camera's own frame number.
        trigger_id: The client's id of the trigger.
        part_id: The client's id of the part.
        is_simulated: True for files and replays.
        generation: Which of the hot-swapped models judged it, +1 a swap.
    """

    status: Status
    reason: str
    detection: Detection | None
    source_id: str
    seq: int
    t_mono_ns: int
    settled_mono_ns: int
    counts: LedgerCounts
    message: str = ""
    block_id: int | None = None
    trigger_id: str | None = None
    part_id: str | None = None
    is_simulated: bool = False
    generation: int = 0

    def __post_init__(self) -> None:
        if (self.status is Status.RESULT) != (self.detection is not None):
            raise ValueError(f"{self.status.value} outcome with detection {self.detection!r}")
        if (self.status is Status.RESULT) != (self.reason == ""):
            raise ValueError(f"{self.status.value} outcome with reason {self.reason!r}")

    @property
    def verdict(self) -> Verdict:
        """The detection's verdict; UNKNOWN for every frame that was not judged."""
        return Verdict.UNKNOWN if self.detection is None else self.detection.verdict

    @property
    def accept(self) -> bool:
        """True only for a fresh, finite, in-time GOOD."""
        return self.verdict is Verdict.GOOD

    @property
    def frame_id(self) -> str:
        """``source:seq``."""
        return f"{self.source_id}:{self.seq}"

    @property
    def latency_ms(self) -> float:
        """Capture to settlement, milliseconds."""
        return (self.settled_mono_ns - self.t_mono_ns) / 1e6

    def to_json(self) -> dict[str, Any]:
        """The JSON line of ``edgead run``: the same keys for every outcome."""
        found = self.detection
        return {
            "frame_id": self.frame_id,
            "source_id": self.source_id,
            "seq": self.seq,
            "status": self.status.value,
            "reason": self.reason,
            "message": self.message,
            "verdict": self.verdict.name,
            "accept": self.accept,
            "score": None if found is None else _number(found.score),
            "threshold": None if found is None else _number(found.threshold),
            "confidence": None if found is None else _number(found.confidence),
            "regions": [] if found is None else [r.to_json() for r in found.regions],
            "timings_ms": {}
            if found is None
            else {k: round(v, 3) for k, v in found.timings_ms.items()},
            "latency_ms": round(self.latency_ms, 3),
            "t_mono_ns": self.t_mono_ns,
            "block_id": self.block_id,
            "trigger_id": self.trigger_id,
            "part_id": self.part_id,
            "is_simulated": self.is_simulated,
            "generation": self.generation,
            "bundle_hash": None if found is None else found.bundle_hash,
            "backend": None if found is None else found.backend,
            "precision": None if found is None else found.precision,
            "counts": {
                "received": self.counts.received,
                "results": self.counts.results,
                "dropped": self.counts.dropped,
                "failed": self.counts.failed,
                "in_flight": self.counts.in_flight,
                "lost_upstream": self.counts.lost_upstream,
                "late": self.counts.late,
            },
        }
