"""Frame -> native anomaly map and score, without a verdict: what commissioning and Detector share."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors

from edgead.backends.base import Backend, Request
from edgead.bundle import HEAD, Bundle
from edgead.errors import BackendError, BundleError
from edgead.forks import keep_in_children
from edgead.frame import Frame
from edgead.heads import Head, ignore_mask
from edgead.preprocess import Preprocess
from edgead.types import Placement

__all__ = ["Scored", "Scorer", "head_tensors"]


@dataclass(frozen=True, eq=False)
class Scored:
    """One frame's way through the engine.

    Attributes:
        anomaly_map: (h', w') float32, the method's native map.
        score: Image score.
        placement: Where the map lies in the frame.
        tensor: The engine input (h, w, 3) uint8 that was scored.
        timings_ms: ``preprocess`` and ``infer`` (with the head), milliseconds.
    """

    anomaly_map: NDArray[np.float32]
    score: float
    placement: Placement
    tensor: NDArray[np.uint8]
    timings_ms: dict[str, float]


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
        if manifest.view.tiles is not None:
            raise BundleError(
                "VIEW_TILES",
                "the bundle asks for tiles, which this edgead does not judge in.",
                "Commission it with a region of interest instead.",
            )
        self._preprocess = preprocess or Preprocess(
            manifest.frame,
            manifest.input,
            manifest.view,
            manifest.input_ranges if check_ranges else None,
        )
        self._backend = backend
        _check_io(backend, manifest.input.size, manifest.head.kind)
        self._head = Head(manifest.head, head_tensors(bundle))
        self._view = manifest.view
        self._ignore: dict[tuple[int, int], NDArray[np.bool_] | None] = {}
        self._free: deque[Request] = deque()
        keep_in_children(self)

    def __call__(self, frame: Frame, *, check_ranges: bool = True) -> Scored:
        """Score one frame; see `Preprocess.__call__` for ``check_ranges``.

        Raises:
            FrameError: The frame must not be judged.
            BackendError: The engine failed or its output is not finite.
        """
        started = time.perf_counter()
        tensor, placement = self._preprocess(frame, check_ranges=check_ranges)
        prepared = time.perf_counter()
        request = self._take()
        request.start({"image": tensor})
        return self._finish(request, tensor, placement, started, prepared)

    def each(self, frames: Iterable[Frame], *, in_flight: int = 2) -> Iterator[Scored]:
        """Score many frames in order; preparing and finishing overlap with the engine."""
        pending: deque[tuple[Request, NDArray[np.uint8], Placement, float, float]] = deque()
        for frame in frames:
            started = time.perf_counter()
            tensor, placement = self._preprocess(frame)
            prepared = time.perf_counter()
            if len(pending) == in_flight:
                yield self._finish(*pending.popleft())
            request = self._take()
            request.start({"image": tensor})
            pending.append((request, tensor, placement, started, prepared))
        while pending:
            yield self._finish(*pending.popleft())

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
    ) -> Scored:
        outputs = request.wait()
        maps, scores = self._head(outputs, self._ignored(placement))
        self._free.append(request)
        timings = {
            "preprocess": (prepared - started) * 1e3,
            "infer": (time.perf_counter() - prepared) * 1e3,
        }
        return Scored(maps[0], float(scores[0]), placement, tensor[0], timings)

    def _take(self) -> Request:
        """A request of this call's own; one that failed is not put back."""
        try:
            return self._free.pop()
        except IndexError:
            return self._backend.open_request()

    def _ignored(self, placement: Placement) -> NDArray[np.bool_] | None:
        if not self._view.ignore:
            return None
        rows, columns = placement.frame_size
        if self._view.roi is not None:
            x0, y0, x1, y1 = self._view.roi
            rows, columns = y1 - y0, x1 - x0
        if (rows, columns) not in self._ignore:
            self._ignore[rows, columns] = ignore_mask(self._view, (rows, columns))
        return self._ignore[rows, columns]


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
