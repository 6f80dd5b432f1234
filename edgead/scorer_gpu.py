"""Frame -> score with the whole frame on the GPU: upload, resize, engine, head, heat map on one stream.

What decides is what decides on the CPU: the same checks of the same resized picture (the resize is
bit-equal), the same head on the native map. They run while the engine is at work.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from edgead.appearance import measure
from edgead.backends.base import Backend
from edgead.backends.trt.frame import FrameOnGpu
from edgead.backends.trt.run import TrtBackend
from edgead.backends.whole_frame import CHANNELS, why_on_cpu
from edgead.bundle import Bundle
from edgead.errors import FrameError
from edgead.frame import Frame
from edgead.heads import check_maps
from edgead.scorer import Scored, Scorer, head_tensors
from edgead.types import Placement

__all__ = ["GpuScorer", "open_scorer"]

_Pending = tuple[FrameOnGpu, Placement, float, bool]


def open_scorer(
    bundle: Bundle, backend: Backend, *, check_ranges: bool = True, score_only: bool = False
) -> Scorer:
    """The scorer that keeps whole frames on the GPU where that can be, else the CPU's.

    Args:
        bundle: As for `Scorer`.
        backend: As for `Scorer`.
        check_ranges: As for `Scorer`.
        score_only: Nobody will look at heat maps: none is made.
    """
    manifest = bundle.manifest
    why = why_on_cpu(backend.name, manifest.view, manifest.frame.format)
    if why or not isinstance(backend, TrtBackend):
        return Scorer(bundle, backend, check_ranges=check_ranges)
    return GpuScorer(bundle, backend, check_ranges=check_ranges, score_only=score_only)


class GpuScorer(Scorer):
    """See `Scorer`; frames may be NumPy arrays or lie on the GPU, where they are read in place.

    Args:
        bundle: As for `Scorer`; `why_on_cpu` has nothing against it.
        backend: A loaded engine.
        check_ranges: As for `Scorer`.
        score_only: Make no heat map.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: TrtBackend,
        *,
        check_ranges: bool = True,
        score_only: bool = False,
    ) -> None:
        super().__init__(bundle, backend, check_ranges=check_ranges)
        manifest = bundle.manifest
        self._wants_heat = not score_only
        self._engine = backend
        self._options: dict[str, Any] = {
            "sigma": manifest.head.sigma,
            "pixel_threshold": manifest.thresholds.pixel_threshold,
            "channels": CHANNELS[manifest.frame.format],
            "centroids": None,
        }
        if manifest.head.kind == "kmeans":
            centroids = head_tensors(bundle)["centroids"]
            self._options["centroids"] = np.ascontiguousarray(centroids, dtype=np.float32)
        self._runs: deque[FrameOnGpu] = deque()
        self._is_closed = False

    def __call__(self, frame: Frame, *, check_ranges: bool = True) -> Scored:
        """Score one frame; see `Scorer.__call__`."""
        return self._end(self._begin(frame, check_ranges=check_ranges))

    def each(self, frames: Iterable[Frame], *, in_flight: int = 2) -> Iterator[Scored]:
        """Score many frames in order; one frame's upload overlaps with the engine on another."""
        pending: deque[_Pending] = deque()
        try:
            for frame in frames:
                if len(pending) == in_flight:
                    yield self._end(pending.popleft())
                pending.append(self._begin(frame))
            while pending:
                yield self._end(pending.popleft())
        finally:
            for run, *_ in pending:  # a frame before these was refused
                _drop(run)

    def close(self) -> None:
        """Free what runs hold; one that is at work is freed when it is done."""
        super().close()
        self._is_closed = True
        while self._runs:
            _drop(self._runs.popleft())

    def _begin(self, frame: Frame, *, check_ranges: bool = True) -> _Pending:
        """Enqueue all that needs no answer from the GPU."""
        started = time.perf_counter()
        layout = self._preprocess.begin(frame)
        run = self._take_run()
        with self._using(run):
            run.bring(_with_channels(frame.pixels), layout.crop)
            ignores = layout.placement.ignored is not None
            if ignores:
                picture = run.picture()
                layout.paint(picture)
                run.repaint(picture)
            # Ignored cells are filled before the map is smoothed: that waits for the head.
            run.start(heat=self._wants_heat and not ignores)
        return run, layout.placement, started, check_ranges

    def _end(self, pending: _Pending) -> Scored:
        """Check the picture while the engine is at work, then judge its map."""
        run, placement, started, check_ranges = pending
        with self._using(run):
            picture = run.picture()
            prepared = time.perf_counter()
            self._preprocess.check_picture(picture, check_ranges=check_ranges)
            appearance = measure(picture) if self._is_measured else None
            native = run.native()[None]
            check_maps(native)
            maps, scores = self._head.judge(native, placement.ignored)
            heat = None
            if self._wants_heat:
                heat = run.heat(None if placement.ignored is None else maps[0])
        self._give_back(run)
        timings = {
            "preprocess": (prepared - started) * 1e3,
            "infer": (time.perf_counter() - prepared) * 1e3,
        }
        return Scored(
            maps[0], float(scores[0]), placement, picture, timings, appearance=appearance, heat=heat
        )

    def _take_run(self) -> FrameOnGpu:
        try:
            return self._runs.popleft()
        except IndexError:
            return FrameOnGpu(self._engine, **self._options)

    def _give_back(self, run: FrameOnGpu) -> None:
        self._runs.append(run)
        if self._is_closed:
            self.close()

    @contextlib.contextmanager
    def _using(self, run: FrameOnGpu) -> Iterator[None]:
        """A refused picture is no failure of the run; one that failed is not used again."""
        try:
            yield
        except FrameError:
            run.settle()
            self._give_back(run)
            raise
        except BaseException:
            _drop(run)
            raise


def _with_channels(pixels: Any) -> Any:
    """(H, W) -> (H, W, 1): what the resize takes."""
    if pixels.ndim == 3:
        return pixels
    if isinstance(pixels, np.ndarray):
        return pixels[:, :, None]
    return _OneChannel(pixels)


class _OneChannel:
    """A mono picture on the GPU, with its one channel as a size."""

    def __init__(self, pixels: Any) -> None:
        told = pixels.__cuda_array_interface__
        strides = told.get("strides")
        more = None if strides is None else (*strides, 1)
        self.pixels = pixels  # holds the memory
        self.__cuda_array_interface__ = {**told, "shape": (*told["shape"], 1), "strides": more}


def _drop(run: FrameOnGpu) -> None:
    """Free a run; a lost device frees nothing, and needs nothing freed."""
    with contextlib.suppress(Exception):
        run.settle()
    with contextlib.suppress(Exception):
        run.close()
