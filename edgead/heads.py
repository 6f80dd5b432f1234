"""Engine outputs -> native anomaly maps (n, h', w') float32 and image scores (n,), larger = worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead import kernels
from edgead.errors import BackendError, BundleError
from edgead.manifest import HeadSpec, View

__all__ = ["Head"]

_Maps = NDArray[np.float32]


class Head:
    """The last step of a method, outside its graph.

    Kinds: ``max`` takes output ``anomaly_map`` (n, h', w') and its maximum as the score; ``top_mean``
    the mean of its ``top`` highest values; ``kmeans`` takes output ``patches`` (n, h', w', D) and the
    tensor ``centroids`` [K, D]: the map is the Euclidean distance to the nearest centroid, the score
    its maximum.

    Args:
        spec: Kind and its parameters.
        tensors: The head's arrays.

    Raises:
        BundleError: HEAD_TENSORS when the bundle lacks what the kind needs.
    """

    def __init__(self, spec: HeadSpec, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._spec = spec
        self._centroids: NDArray[np.float32] | None = None
        if spec.kind == "kmeans":
            centroids = tensors.get("centroids")
            if centroids is None or centroids.ndim != 2:
                raise BundleError("HEAD_TENSORS", "head kmeans needs a tensor centroids [K, D].")
            self._centroids = np.ascontiguousarray(centroids, dtype=np.float32)
        if spec.kind == "top_mean" and not spec.top:
            raise BundleError("HEAD_TENSORS", "head top_mean needs a number top >= 1.")

    def __call__(
        self, outputs: Mapping[str, NDArray[Any]], ignore: NDArray[np.bool_] | None = None
    ) -> tuple[_Maps, NDArray[np.float32]]:
        """Outputs of one inference -> (maps (n, h', w'), scores (n,)).

        Args:
            outputs: Engine outputs by name.
            ignore: (H, W) any size, True where the picture is never scored; None scores all.

        Raises:
            BackendError: BACKEND_NONFINITE or BACKEND_DEGENERATE; such an output is never judged.
        """
        maps = self._maps(outputs)
        _check(maps)
        if ignore is not None:
            maps = _without(maps, ignore)
        flat = maps.reshape(len(maps), -1)
        if self._spec.kind == "top_mean":
            top = min(self._spec.top or 1, flat.shape[1])
            return maps, np.partition(flat, -top, axis=1)[:, -top:].mean(axis=1)
        return maps, flat.max(axis=1)

    def _maps(self, outputs: Mapping[str, NDArray[Any]]) -> _Maps:
        if self._centroids is None:
            return np.array(outputs["anomaly_map"], dtype=np.float32)  # the engine reuses its own
        patches = np.asarray(outputs["patches"], dtype=np.float32)
        flat = np.ascontiguousarray(patches.reshape(-1, patches.shape[-1]))
        _, distance = kernels.kmeans_assign(flat, self._centroids)
        native: _Maps = distance.reshape(patches.shape[:-1])
        return native


def ignore_mask(view: View, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Which cells of a (rows, columns) grid laid over the view have their centre in a polygon.

    Polygons are in frame pixels; without a roi the grid covers the polygons' whole frame, so callers
    pass a grid as large as the view, one cell a pixel.
    """
    if not view.ignore:
        return None
    x0, y0 = (0, 0) if view.roi is None else view.roi[:2]
    ys, xs = np.mgrid[: size[0], : size[1]].astype(np.float64) + 0.5
    ys, xs = ys + y0, xs + x0
    inside = np.zeros(size, dtype=bool)
    for polygon in view.ignore:
        hit = np.zeros(size, dtype=bool)
        for (ax, ay), (bx, by) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            if ay == by:
                continue
            crosses = (ay <= ys) != (by <= ys)
            hit ^= crosses & (xs < (bx - ax) * (ys - ay) / (by - ay) + ax)
        inside |= hit
    return inside


def _without(maps: _Maps, ignore: NDArray[np.bool_]) -> _Maps:
    """Cells under an ignored centre take the lowest value that is looked at."""
    rows = (np.arange(maps.shape[1]) + 0.5) * ignore.shape[0] / maps.shape[1]
    columns = (np.arange(maps.shape[2]) + 0.5) * ignore.shape[1] / maps.shape[2]
    cells = ignore[np.ix_(rows.astype(int), columns.astype(int))]
    if cells.all():
        raise BundleError("VIEW_EMPTY", "the ignore polygons leave nothing to look at.")
    kept: _Maps = maps.copy()
    kept[:, cells] = maps[:, ~cells].min(axis=1, keepdims=True)
    return kept


def _check(maps: _Maps) -> None:
    low, high = maps.min(axis=(1, 2)), maps.max(axis=(1, 2))  # NaN spreads through both
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise BackendError(
            "BACKEND_NONFINITE",
            "the engine's anomaly map holds NaN or infinity.",
            "Such a frame is never judged; run: edgead verify BUNDLE.",
        )
    if bool((low == high).any()):
        raise BackendError(
            "BACKEND_DEGENERATE",
            f"every value of the engine's anomaly map is {float(low[low == high][0]):.4g}.",
            "Such a frame is never judged; run: edgead verify BUNDLE.",
        )
