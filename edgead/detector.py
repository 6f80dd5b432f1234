"""`Detector`: a bundle, an engine, and a verdict for each frame."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.bundle import Bundle, read_bundle
from edgead.choice import Choice
from edgead.errors import StateError
from edgead.frame import Frame
from edgead.loaded import LoadedBundle
from edgead.recheck import Recheck
from edgead.swap import ShadowReport, Swappable, require_memory
from edgead.types import Detection

if TYPE_CHECKING:
    from edgead.stream import Stream
    from edgead.stream.drift_reference import DriftReference
    from edgead.stream.triggered import Triggered

__all__ = ["Detector"]

#: What a second engine takes: this and so much for each byte of the bundle (4 to 8 were seen).
_ENGINE_BYTES, _BYTES_PER_BYTE = 64_000_000, 8


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
        hint: ``latency`` judges one frame as fast as can be, on all threads. ``throughput`` judges more
            frames a second, each on one thread and therefore later: for several cameras on one
            detector, and for `batch`. A GPU knows no difference.
        score_only: Compute verdict and score alone: no map, mask and regions.
        check_ranges: Refuse frames outside the commissioned brightness and sharpness.
        self_check: Judge the bundle's golden images at the start; a bundle that has none is run, with
            a warning in the log.
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
        hint: str = "latency",
        score_only: bool = False,
        check_ranges: bool = True,
        self_check: bool = True,
        recheck_minutes: float | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        self._load = functools.partial(
            LoadedBundle,
            backend=backend,
            precision=precision,
            threads=threads,
            hint=hint,
            score_only=score_only,
            check_ranges=check_ranges,
            cache_dir=cache_dir,
        )
        self._models = Swappable(self._load(bundle, self_check=self_check))
        self._pid = os.getpid()
        self._closed = False
        self._is_streaming = False
        self._recheck: Recheck | None = None
        if recheck_minutes is not None:
            self._recheck = Recheck(self.verify, recheck_minutes)

    @property
    def bundle(self) -> Bundle:
        """The bundle in use; see `swap`."""
        return self._models.live.bundle

    @property
    def choice(self) -> Choice:
        """Back end and precision in use, and why."""
        return self._models.live.choice

    @property
    def in_flight(self) -> int:
        """Frames that a stream has judged at the same time: 1, or what the throughput hint wants."""
        return self._models.live.in_flight

    def __call__(self, frame: Any) -> Detection:
        """Judge one frame.

        Args:
            frame: A `Frame`, or a plain array: (H, W, 3) uint8 is BGR, (H, W) uint8 is grey.
                On TensorRT also an array with ``__cuda_array_interface__``, read where it is.

        Raises:
            FrameError: The frame must not be judged: its verdict is UNKNOWN.
            BackendError: The engine failed, its output is not finite, or MODEL_UNVERIFIED: the
                latest golden check failed.
            StateError: CLOSED or FORKED.
        """
        return self.judge_with_generation(frame)[0]

    def judge_with_generation(self, frame: Any) -> tuple[Detection, int]:
        """Judge one frame, and say which generation did: +1 with each `swap` and `roll_back`."""
        self._check_state()
        return self._models.judge_with_generation(Frame.from_array(frame))

    def batch(self, frames: Iterable[Any]) -> list[Detection]:
        """Judge several frames in order; preparing one overlaps with the engine on another."""
        self._check_state()
        wrapped = [Frame.from_array(frame) for frame in frames]
        with self._models.using() as (model, _):
            return model.batch(wrapped)

    def stream(self, source: Any, **options: Any) -> Stream:
        """Judge every frame of a source; see `edgead.stream.run` for sources and options."""
        from edgead import stream

        self._check_state()
        self._is_streaming = True
        self._hold_off_builds()
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
        return self._models.live.drift_reference(bundle_hash)

    def swap(
        self,
        bundle: str | Path | Bundle,
        *,
        backend: str | None = None,
        precision: str | None = None,
    ) -> int:
        """Judge with another bundle from some frame on, while streams and stations go on.

        The present one serves until the new one is loaded, warm and has judged its golden images as
        it should; when anything of that fails, the present one stays. Each frame is judged by one
        bundle from beginning to end. The one before it is kept for `roll_back`.

        Args:
            bundle: A ``.edgead`` file, or a bundle in memory.
            backend: None for what this detector was opened with.
            precision: Likewise.

        Returns:
            The new generation, as in `edgead.types.Outcome`.

        Raises:
            StateError: MEMORY: there is no room for two at a time; CLOSED; FORKED.
            BundleError: As when it is opened, and GOLDEN.
            BackendError: As when it is opened.
        """
        generation = self._models.switch(self._loaded_beside(bundle, backend, precision))
        self._hold_off_builds()
        return generation

    def roll_back(self) -> int:
        """Judge again with the bundle before the last `swap`: the new generation.

        Raises:
            StateError: NO_PREVIOUS when there is none; CLOSED; FORKED.
        """
        self._check_state()
        generation = self._models.roll_back()
        self._hold_off_builds()
        return generation

    def start_shadow(
        self,
        bundle: str | Path | Bundle,
        *,
        backend: str | None = None,
        precision: str | None = None,
    ) -> None:
        """Let another bundle judge the same frames beside this one, without a say: to compare.

        Args:
            bundle: As of `swap`.
            backend: Likewise.
            precision: Likewise.

        Raises:
            StateError: SHADOW when one is running; and as of `swap`.
        """
        self._models.start_shadow(self._loaded_beside(bundle, backend, precision))

    def end_shadow(self) -> ShadowReport:
        """Stop it: what both judged, and where they gave another verdict.

        Raises:
            StateError: SHADOW when none is running.
        """
        return self._models.end_shadow()

    @property
    def unverified(self) -> str:
        """Why the latest golden check failed; empty when it held, or when there are no golden images."""
        return self._models.live.unverified

    def verify(self, *, strict: bool = False) -> dict[str, Any]:
        """Judge the bundle's golden images on this machine and back end.

        Until it holds again, a failed check makes every frame raise MODEL_UNVERIFIED.

        Args:
            strict: Raise instead of returning a failed check.

        Returns:
            ``ok``, ``worst`` (largest score difference over what is allowed) and ``images``.

        Raises:
            BundleError: GOLDEN, with ``strict``; GOLDEN_NONE when there are none to judge.
        """
        self._check_state()
        with self._models.using() as (model, _):
            return model.verify(strict=strict)

    def close(self) -> None:
        """Free the engine, when the last frame has left it; safe to call twice."""
        was_closed, self._closed = self._closed, True
        if not was_closed and os.getpid() == self._pid:
            if self._recheck is not None:
                self._recheck.close()
            self._models.close()

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

    def _loaded_beside(
        self, bundle: str | Path | Bundle, backend: str | None, precision: str | None
    ) -> LoadedBundle:
        """Another bundle, ready to judge, while the present one serves."""
        self._check_state()
        opened = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        weights = sum(map(len, opened.members.values()))
        require_memory(_ENGINE_BYTES + _BYTES_PER_BYTE * weights)
        asked: dict[str, Any] = {"backend": backend, "precision": precision}
        return self._load(opened, **{name: value for name, value in asked.items() if value})

    def _hold_off_builds(self) -> None:
        """While a camera runs, the engine in use keeps others from being compiled."""
        if self._is_streaming:
            with self._models.using() as (model, _):
                model.hold_off_builds()

    def _check_state(self) -> None:
        if self._closed:
            raise StateError("CLOSED", "this Detector is closed.", "Open a new one.")
        if os.getpid() != self._pid:
            raise StateError(
                "FORKED",
                f"this Detector was made in process {self._pid}, you are in {os.getpid()}.",
                "Create it after the fork.",
            )
