"""Frame -> native anomaly map and score, without a verdict: what commissioning and Detector share."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors

from edgead.appearance import LOOKS, Appearance, measure
from edgead.backends.base import Backend, Request
from edgead.bundle import HEAD, Bundle
from edgead.errors import BackendError, BundleError, FrameError
from edgead.forks import keep_in_children
from edgead.frame import Frame
from edgead.heads import Head
from edgead.kernels import Heatmap
from edgead.preprocess import Preprocess, is_one_colour
from edgead.tiles import TileGrid
from edgead.types import Placement

__all__ = ["Scored", "Scorer", "head_tensors"]

#: Tiles that one inference takes where the engine takes any number.
_TILES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Scored:
    """One frame's way through the engine.

    Attributes:
        anomaly_map: (h', w') float32, the method's native map; with tiles, of all of them.
        score: Image score.
        placement: Where the map lies in the frame.
        tensor: The picture (h, w, 3) uint8 that was scored: the engine input, or what tiles are cut
            from.
        timings_ms: ``preprocess`` and ``infer`` (with the head), milliseconds.
        grid: Where its tiles lie; None when it is the engine input itself.
        appearance: Figures of the picture, where the bundle keeps those of its good ones.
        heat: The smoothed map, where it was made beside the engine already; None leaves it to
            `edgead.postprocess`.
    """

    anomaly_map: NDArray[np.float32]
    score: float
    placement: Placement
    tensor: NDArray[np.uint8]
    timings_ms: dict[str, float]
    grid: TileGrid | None = None
    appearance: Appearance | None = None
    heat: Heatmap | None = None

    @property
    def inputs(self) -> list[NDArray[np.uint8]]:
        """What the engine was given: (h, w, 3) each, one or, with tiles, those looked at."""
        if self.grid is None:
            return [self.tensor]
        return [self.grid.cut(self.tensor)[i] for i in self.grid.seen(self.placement.ignored)]

    def whole(self, maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The native map from those of ``inputs``, (h', w') each."""
        if self.grid is None:
            return maps[0]
        found: list[NDArray[np.float32] | None] = [None] * len(self.grid)
        for i, one in zip(self.grid.seen(self.placement.ignored), maps, strict=True):
            found[i] = one
        return self.grid.stitch(found)


class Scorer:
    """Pre-processing, engine and head of one bundle; callable from many threads.

    Args:
        bundle: Where the pre-processing, view and head come from.
        backend: The compiled model.
        check_ranges: False also scores frames outside the commissioned brightness and sharpness.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        *,
        check_ranges: bool = True,
        preprocess: Preprocess | None = None,
    ) -> None:
        manifest = bundle.manifest
        self._preprocess = preprocess or Preprocess.of(bundle, check_ranges=check_ranges)
        self._backend = backend
        _check_io(backend, manifest.input.size, manifest.head.kind)
        self._head = Head(manifest.head, head_tensors(bundle))
        self._tiles, self._size = manifest.view.tiles, manifest.input.size
        self._is_measured = LOOKS in bundle.members
        self._free: deque[Request] = deque()
        keep_in_children(self)

    def __call__(self, frame: Frame, *, check_ranges: bool = True) -> Scored:
        """Score one frame; see `Preprocess.__call__` for ``check_ranges``.

        Raises:
            FrameError: The frame must not be judged.
            BackendError: The engine failed or its output is not finite.
        """
        started = time.perf_counter()
        tensor, placement = self._preprocess.prepare(frame)
        prepared = time.perf_counter()
        if self._tiles is not None:
            self._preprocess.check_picture(tensor[0], check_ranges=check_ranges)
            return self._tiled(tensor[0], placement, started, prepared)
        request = self._take()
        request.start({"image": tensor})
        return self._finish(request, tensor, placement, started, prepared, check_ranges)

    def of_each_copy(self) -> list[Scorer]:
        """This scorer with one copy of the model at a time; itself where there is only one."""
        backends: list[Backend] = getattr(self._backend, "each_copy", list)()
        if len(backends) < 2:
            return [self]
        found = [copy.copy(self) for _ in backends]
        for one, backend in zip(found, backends, strict=True):
            vars(one).update(_backend=backend, _free=deque())
            keep_in_children(one)
        return found

    def each(self, frames: Iterable[Frame]) -> Iterator[Scored]:
        """Score many frames in order; preparing and finishing overlap with the engine."""
        in_flight = getattr(self._backend, "in_flight", 2)
        if self._tiles is not None:  # a frame's own tiles keep the engine busy
            yield from map(self, frames)
            return
        pending: deque[tuple[Request, NDArray[np.uint8], Placement, float, float]] = deque()
        for frame in frames:
            started = time.perf_counter()
            tensor, placement = self._preprocess.prepare(frame)
            prepared = time.perf_counter()
            if len(pending) == in_flight:
                yield self._finish(*pending.popleft())
            request = self._take()
            request.start({"image": tensor})
            pending.append((request, tensor, placement, started, prepared))
        while pending:
            yield self._finish(*pending.popleft())

    def placement(self, frame: Frame) -> Placement:
        """Where the map of such a frame lies in it; its pixels are not looked at."""
        return self._preprocess.layout(frame).placement

    def close(self) -> None:
        """Let go of the requests, which keep the engine alive."""
        self._free.clear()

    def _finish(
        self,
        request: Request,
        tensor: NDArray[np.uint8],
        placement: Placement,
        started: float,
        prepared: float,
        check_ranges: bool = True,
    ) -> Scored:
        try:  # the engine is at work
            self._preprocess.check_picture(tensor[0], check_ranges=check_ranges)
            appearance = measure(tensor[0]) if self._is_measured else None
        except FrameError:
            request.wait()
            self._free.append(request)
            raise
        outputs = request.wait()
        maps, scores = self._head(outputs, placement.ignored)
        self._free.append(request)
        timings = {
            "preprocess": (prepared - started) * 1e3,
            "infer": (time.perf_counter() - prepared) * 1e3,
        }
        return Scored(
            maps[0], float(scores[0]), placement, tensor[0], timings, appearance=appearance
        )

    def _take(self) -> Request:
        """A request of this call's own; one that failed is not put back."""
        try:
            return self._free.pop()
        except IndexError:
            return self._backend.open_request()

    def _tiled(
        self, canvas: NDArray[np.uint8], placement: Placement, started: float, prepared: float
    ) -> Scored:
        """Tile by tile, batch by batch: one batch is finished while the engine has the next."""
        assert self._tiles is not None
        grid = TileGrid((canvas.shape[0], canvas.shape[1]), self._tiles, self._size)
        tiles, seen = grid.cut(canvas), grid.seen(placement.ignored)
        maps: list[NDArray[np.float32] | None] = [None] * len(grid)
        pending: deque[tuple[Request, list[int], NDArray[np.uint8]]] = deque()

        def finish() -> None:
            request, batch, _ = pending.popleft()
            flat = [is_one_colour(tiles[i]) for i in batch]
            found = self._head.native(_first(request.wait(), len(batch)), flat=flat)
            for i, one in zip(batch, found, strict=True):
                maps[i] = one
            self._free.append(request)

        fixed = max(0, self._backend.inputs["image"].shape[0])
        count = fixed or min(
            _TILES_AT_ONCE, getattr(self._backend, "largest_batch", _TILES_AT_ONCE)
        )
        for first in range(0, len(seen), count):
            batch = seen[first : first + count]
            full = (batch * fixed)[:fixed] or batch  # a fixed batch is filled up
            if len(pending) == 2:
                finish()
            request = self._take()
            stacked = np.stack([tiles[i] for i in full])  # held until the engine has read it
            request.start({"image": stacked})
            pending.append((request, batch, stacked))
        appearance = measure(canvas) if self._is_measured else None
        while pending:
            finish()
        whole, scores = self._head.judge(grid.stitch(maps)[None], placement.ignored)
        timings = {
            "preprocess": (prepared - started) * 1e3,
            "infer": (time.perf_counter() - prepared) * 1e3,
        }
        return Scored(whole[0], float(scores[0]), placement, canvas, timings, grid, appearance)


def _first(outputs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The outputs of a batch's first images."""
    return {name: value[:count] for name, value in outputs.items()}


def head_tensors(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """The head's arrays, none when the method needs none.

    Raises:
        BundleError: HEAD_TENSORS when the member is no safetensors file.
    """
    if HEAD not in bundle.members:
        return {}
    try:
        return dict(load_tensors(bundle.members[HEAD]))
    except Exception as error:  # safetensors raises types of its own
        raise BundleError(
            "HEAD_TENSORS", f"{HEAD} is not a safetensors file.", "Make the bundle again."
        ) from error


def _check_io(backend: Backend, size: tuple[int, int], kind: str) -> None:
    """Refuse a graph whose input or outputs are not what the manifest promises."""
    wanted = "patches" if kind == "kmeans" else "anomaly_map"
    image = backend.inputs.get("image")
    shape = () if image is None else image.shape[1:]
    if image is None or image.dtype != "uint8" or shape != (*size, 3):
        raise BackendError(
            "MODEL_IO",
            f"inputs are {sorted(backend.inputs)}; need 'image' (n, {size[0]}, {size[1]}, 3) uint8.",
        )
    if wanted not in backend.outputs:
        raise BackendError(
            "MODEL_IO", f"outputs are {sorted(backend.outputs)}; head {kind} needs {wanted!r}."
        )
