"""`LoadedBundle`: a bundle on an engine, frame in, verdict out; a `Detector` may swap it for another."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.appearance import LOOKS, decode_looks
from edgead.backends import member_for, open_backend
from edgead.backends.base import Backend
from edgead.bundle import Bundle, read_bundle
from edgead.choice import Choice, choose
from edgead.errors import BackendError, BundleError, EdgeadError
from edgead.frame import Frame
from edgead.golden import check_golden
from edgead.postprocess import Postprocess
from edgead.scorer import Scored, Scorer
from edgead.types import Detection
from edgead.view import check_commissioned

if TYPE_CHECKING:
    from edgead.stream.drift_reference import DriftReference

__all__ = ["LoadedBundle"]

_log = logging.getLogger("edgead")


class LoadedBundle:
    """Judges frames with one bundle on one engine, from many threads at once.

    The arguments are those of `edgead.Detector`; ``memory`` is that of `edgead.backends.open_backend`,
    None takes the choice's.

    Attributes:
        bundle: The bundle in memory.
        choice: Back end and precision.
        in_flight: Frames that several cameras together should have judged at the same time.
        unverified: Why the latest golden check failed; empty when it held.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        backend: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        hint: str = "latency",
        score_only: bool = False,
        check_ranges: bool = True,
        self_check: bool = True,
        cache_dir: str | Path | None = None,
        memory: str | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        manifest = self.bundle.manifest
        check_commissioned(manifest)
        if LOOKS in self.bundle.members:
            decode_looks(self.bundle.members[LOOKS])
        self.choice = choose(self.bundle, backend, precision)
        self._backend = open_backend(
            self.choice.backend,
            self.bundle.members,
            precision=self.choice.precision,
            threads=threads or self.choice.threads,
            hint=hint,
            cache_dir=None if cache_dir is None else str(cache_dir),
            memory=memory or self.choice.memory,
            source=None if isinstance(bundle, Bundle) else str(bundle),
        )
        self.in_flight: int = getattr(self._backend, "in_flight", 1) if hint == "throughput" else 1
        self.unverified = ""
        self._engine_hash = _engine_hash(self._backend, self.bundle, self.choice)
        try:
            self._scorer = _scorer(
                self.bundle, self._backend, check_ranges=check_ranges, score_only=score_only
            )
            self._postprocess = Postprocess(
                manifest.head,
                manifest.input,
                manifest.thresholds,
                manifest.units,
                score_only=score_only,
            )
            if self_check:
                self._check_at_start()
        except BaseException:
            self._backend.close()
            raise

    def __call__(self, frame: Frame) -> Detection:
        """Judge one frame; see `edgead.Detector`."""
        self._check_verified()
        return self._detection(frame, self._scorer(frame))

    def batch(self, frames: Sequence[Frame]) -> list[Detection]:
        """Judge several frames in order; preparing one overlaps with the engine on another."""
        self._check_verified()
        scored = self._scorer.each(frames)
        return [self._detection(frame, one) for frame, one in zip(frames, scored, strict=True)]

    def drift_reference(self, bundle_hash: str) -> DriftReference | None:
        """What the bundle was commissioned on; None for another bundle's hash."""
        from edgead.stream.drift_reference import DriftReference

        return DriftReference.of(self.bundle) if bundle_hash == self.bundle.hash else None

    def hold_off_builds(self) -> None:
        """Compile nothing in the background any more: a camera is running."""
        hold_off = getattr(self._backend, "hold_off_builds", None)
        if hold_off is not None:
            hold_off()

    def verify(self, *, strict: bool = False) -> dict[str, Any]:
        """Judge the bundle's golden images; see `edgead.Detector.verify`."""
        try:
            result = check_golden(self.bundle, self._scorer, self.choice.precision)
        except EdgeadError as error:
            # Without golden images nothing has failed: the bundle runs as it always did, and says so.
            if error.code != "GOLDEN_NONE":
                self.unverified = f"its golden images cannot be judged: {error}"
            raise
        self.unverified = "" if result["ok"] else self._worst_of(result)
        if strict and self.unverified:
            raise BundleError(
                "GOLDEN",
                self.unverified,
                "Not started. Try another backend or precision, or make the bundle again.",
            )
        return result

    def close(self) -> None:
        """Free the engine."""
        self._scorer.close()
        self._backend.close()

    def _detection(self, frame: Frame, scored: Scored) -> Detection:
        started = time.perf_counter()
        found = self._postprocess(scored.anomaly_map, scored.score, scored.placement, scored.heat)
        scored.timings_ms["postprocess"] = (time.perf_counter() - started) * 1e3
        return Detection(
            verdict=found.verdict,
            score=found.score,
            threshold=self.bundle.manifest.thresholds.threshold,
            confidence=found.confidence,
            anomaly_map=found.anomaly_map,
            mask=found.mask,
            regions=found.regions,
            timings_ms=scored.timings_ms,
            frame_id=frame.frame_id,
            bundle_hash=self.bundle.hash,
            backend=self.choice.backend,
            precision=self.choice.precision,
            placement=scored.placement,
            appearance=scored.appearance,
            engine_hash=self._engine_hash,
        )

    def _check_at_start(self) -> None:
        try:
            self.verify(strict=True)
        except BundleError as error:
            if error.code != "GOLDEN_NONE":
                raise
            _log.warning("%s It runs unchecked.", error)

    def _worst_of(self, result: dict[str, Any]) -> str:
        worst = max(result["images"], key=lambda image: float(image["over"]))
        return (
            f"{worst['name']} scored {worst['score']:.5g}, expected {worst['expected']:.5g} "
            f"± {worst['allowed']:.2g}, on {self.choice.backend} {self.choice.precision}."
        )

    def _check_verified(self) -> None:
        why = self.unverified  # read once: a check beside the frames writes it
        if why:
            raise BackendError(
                "MODEL_UNVERIFIED", why, "Run: edgead verify BUNDLE, then start again."
            )


def _scorer(bundle: Bundle, backend: Backend, *, check_ranges: bool, score_only: bool) -> Scorer:
    """The CPU's, or on TensorRT the one that keeps whole frames on the GPU where that can be."""
    if not backend.name.startswith("tensorrt"):
        return Scorer(bundle, backend, check_ranges=check_ranges)
    from edgead.scorer_gpu import open_scorer

    return open_scorer(bundle, backend, check_ranges=check_ranges, score_only=score_only)


def _engine_hash(backend: Backend, bundle: Bundle, choice: Choice) -> str:
    """An engine that is compiled at each opening has no bytes to hash: of what it is made, then."""
    built = getattr(backend, "key", None)
    if built is not None:
        return str(built.digest)
    member = bundle.members[member_for(choice.backend, choice.precision, bundle.members)]
    model = hashlib.sha256(member).hexdigest()
    made_of = [model, backend.name, backend.version, backend.device, backend.precision]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
