"""`Detector`: a bundle, an engine, and a verdict for each frame."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.appearance import LOOKS, decode_looks
from edgead.backends import open_backend
from edgead.bundle import Bundle, read_bundle
from edgead.choice import choose
from edgead.errors import BackendError, BundleError, EdgeadError, StateError
from edgead.frame import Frame
from edgead.golden import check_golden
from edgead.postprocess import Postprocess
from edgead.recheck import Recheck
from edgead.scorer import Scored, Scorer
from edgead.types import Detection
from edgead.view import check_commissioned

if TYPE_CHECKING:
    from edgead.stream import Stream
    from edgead.stream.drift_reference import DriftReference
    from edgead.stream.triggered import Triggered

__all__ = ["Detector"]


class Detector:
    """Judges camera frames with a bundle.

    >>> with Detector("part.edgead") as detector:                   # doctest: +SKIP
    ...     detection = detector(frame)                             # one (H, W, 3) uint8 BGR frame
    ...     detection.verdict, detection.score, detection.regions
    ...     for outcome in detector.stream("rtsp://cam/1", deadline_ms=40):
    ...         if not outcome.accept:
    ...             reject(outcome.frame_id, outcome.reason)

    May be called from many threads; each call uses a request of its own. Not usable in a forked child.

    Args:
        bundle: A ``.edgead`` file, or a bundle in memory.
        backend: ``auto``, or a name, which is then used or raises; nothing is fallen back to.
        precision: ``auto`` (fp32, or the fastest that is certified here), or a name.
        threads: CPU threads of the engine; 0 leaves the choice to it.
        score_only: Compute verdict and score alone: no map, mask and regions.
        check_ranges: Refuse frames outside the commissioned brightness and sharpness.
        self_check: Judge the bundle's golden images at the start.
        recheck_minutes: Judge them again every so many minutes, beside the frames. While the latest
            check has failed, every frame raises MODEL_UNVERIFIED.
        cache_dir: Folder for what the engine compiles; None keeps nothing on disk.

    Raises:
        BundleError: The bundle is damaged, or GOLDEN: this machine scores its golden images
            differently, or VIEW_CHANGED: it has no threshold for its view.
        BackendError: The back end is missing or refuses the model.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        backend: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        score_only: bool = False,
        check_ranges: bool = True,
        self_check: bool = True,
        recheck_minutes: float | None = None,
        cache_dir: str | Path | None = None,
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
            cache_dir=None if cache_dir is None else str(cache_dir),
        )
        self._pid = os.getpid()
        self._closed = False
        self._unverified = ""  # why the latest golden check failed
        self._recheck: Recheck | None = None
        try:
            self._scorer = Scorer(self.bundle, self._backend, check_ranges=check_ranges)
            self._postprocess = Postprocess(
                manifest.head,
                manifest.input,
                manifest.thresholds,
                manifest.units,
                score_only=score_only,
            )
            if self_check:
                self.verify(strict=True)
        except BaseException:
            self._backend.close()
            raise
        if recheck_minutes is not None:
            self._recheck = Recheck(self.verify, recheck_minutes)

    def __call__(self, frame: Any) -> Detection:
        """Judge one frame.

        Args:
            frame: A `Frame`, or a plain array: (H, W, 3) uint8 is BGR, (H, W) uint8 is grey.

        Raises:
            FrameError: The frame must not be judged: its verdict is UNKNOWN.
            BackendError: The engine failed, its output is not finite, or MODEL_UNVERIFIED: the
                latest golden check failed.
            StateError: CLOSED or FORKED.
        """
        self._check_state()
        self._check_verified()
        wrapped = Frame.from_array(frame)
        with self._closed_meanwhile():
            return self._detection(wrapped, self._scorer(wrapped))

    def batch(self, frames: Iterable[Any]) -> list[Detection]:
        """Judge several frames in order; preparing one overlaps with the engine on another."""
        self._check_state()
        self._check_verified()
        wrapped = [Frame.from_array(frame) for frame in frames]
        with self._closed_meanwhile():
            scored = self._scorer.each(wrapped)
            return [self._detection(f, one) for f, one in zip(wrapped, scored, strict=True)]

    def stream(self, source: Any, **options: Any) -> Stream:
        """Judge every frame of a source; see `edgead.stream.run` for sources and options."""
        from edgead import stream

        self._check_state()
        hold_off_builds = getattr(self._backend, "hold_off_builds", None)
        if hold_off_builds is not None:
            hold_off_builds()
        return stream.run(self, source, **options)

    def triggered(self, *, deadline_ms: float | None, **options: Any) -> Triggered:
        """Answer a line's triggers: ``station.on_trigger(trigger_id, frame)`` gives its `Outcome`.

        Args:
            deadline_ms: An answer leaves in this time after capture, UNKNOWN if need be.
            options: See `edgead.stream.triggered.Triggered`.
        """
        from edgead.stream.triggered import Triggered

        self._check_state()
        return Triggered(self, deadline_ms=deadline_ms, **options)

    def drift_reference(self, bundle_hash: str) -> DriftReference | None:
        """What the bundle in use was commissioned on, for `edgead.stream.drift`; streams ask it.

        Args:
            bundle_hash: Of the detection to compare; another bundle than the one in use gives None.
        """
        from edgead.stream.drift_reference import DriftReference

        return DriftReference.of(self.bundle) if bundle_hash == self.bundle.hash else None

    @property
    def unverified(self) -> str:
        """Why the latest golden check failed; empty when it held."""
        return self._unverified

    def verify(self, *, strict: bool = False) -> dict[str, Any]:
        """Judge the bundle's golden images on this machine and back end.

        Until it holds again, a failed check makes every frame raise MODEL_UNVERIFIED.

        Args:
            strict: Raise instead of returning a failed check.

        Returns:
            ``ok``, ``worst`` (largest score difference over what is allowed) and ``images``.

        Raises:
            BundleError: GOLDEN, with ``strict``.
        """
        self._check_state()
        try:
            result = check_golden(self.bundle, self._scorer, self.choice.precision)
        except EdgeadError as error:
            self._unverified = f"its golden images cannot be judged: {error}"
            raise
        self._unverified = "" if result["ok"] else self._worst_of(result)
        if strict and self._unverified:
            raise BundleError(
                "GOLDEN",
                self._unverified,
                "Not started. Try another backend or precision, or make the bundle again.",
            )
        return result

    def close(self) -> None:
        """Free the engine; safe to call twice."""
        was_closed, self._closed = self._closed, True  # before the engine goes: who judges asks
        if not was_closed and os.getpid() == self._pid:
            if self._recheck is not None:
                self._recheck.close()
            self._scorer.close()
            self._backend.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"Detector({self.bundle.manifest.method}, {self.choice.backend}/{self.choice.precision}, "
            f"{self.bundle.hash[:12]})"
        )

    def __reduce__(self) -> Any:
        raise StateError(
            "NOT_PICKLABLE",
            "a Detector holds an engine and cannot be pickled.",
            "Send the bundle's path and open a Detector in the other process.",
        )

    def _detection(self, frame: Frame, scored: Scored) -> Detection:
        started = time.perf_counter()
        found = self._postprocess(scored.anomaly_map, scored.score, scored.placement)
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
        )

    def _worst_of(self, result: dict[str, Any]) -> str:
        worst = max(result["images"], key=lambda image: float(image["over"]))
        return (
            f"{worst['name']} scored {worst['score']:.5g}, expected {worst['expected']:.5g} "
            f"± {worst['allowed']:.2g}, on {self.choice.backend} {self.choice.precision}."
        )

    def _check_verified(self) -> None:
        if self._unverified:
            raise BackendError(
                "MODEL_UNVERIFIED", self._unverified, "Run: edgead verify BUNDLE, then start again."
            )

    @contextlib.contextmanager
    def _closed_meanwhile(self) -> Iterator[None]:
        """Another thread closed the detector under this one: the same error as a moment later."""
        try:
            yield
        except BackendError as error:
            if error.code == "CLOSED":
                self._check_state()
            raise

    def _check_state(self) -> None:
        if self._closed:
            raise StateError("CLOSED", "this Detector is closed.", "Open a new one.")
        if os.getpid() != self._pid:
            raise StateError(
                "FORKED",
                f"this Detector was made in process {self._pid}, you are in {os.getpid()}.",
                "Create it after the fork.",
            )
