"""Engine outputs -> native anomaly maps (n, h', w') float32 and image scores (n,), larger = worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead import kernels
from edgead.errors import BackendError, BundleError
from edgead.manifest import HeadSpec

__all__ = ["Head", "check_maps"]

_Maps = NDArray[np.float32]


class Head:
    """The last step of a method, outside its graph.

    Kinds: ``max`` takes output ``anomaly_map`` (n, h', w') and its maximum as the score; ``top_mean``
    the mean of its ``top`` highest values; ``kmeans`` takes output ``patches`` (n, h', w', D) and the
    tensor ``centroids`` [K, D]: the map is the Euclidean distance to the nearest centroid, the score
    its maximum.

    Every kind's score is a function of its map alone. With a view, cells whose centre is ignored are
    no part of it: ``max`` and ``kmeans`` take the maximum of the other cells, ``top_mean`` the mean
    of the ``top`` highest of the others (of all of them where fewer are left). With tiles it is taken
    from the stitched map, `edgead.tiles`.

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
            BundleError: VIEW_EMPTY when every cell is ignored.
        """
        return self.judge(self.native(outputs), ignore)

    def native(
        self, outputs: Mapping[str, NDArray[Any]], *, flat: Sequence[bool] | None = None
    ) -> _Maps:
        """Outputs of one inference -> checked maps (n, h', w').

        Args:
            outputs: Engine outputs by name.
            flat: Which of the images are of one colour, so that their map may be of one value; None
                for none of them. [n]

        Raises:
            BackendError: BACKEND_NONFINITE or BACKEND_DEGENERATE.
        """
        maps = self._maps(outputs)
        check_maps(maps, flat)
        return maps

    def judge(
        self, maps: _Maps, ignore: NDArray[np.bool_] | None = None
    ) -> tuple[_Maps, NDArray[np.float32]]:
        """Native maps -> (maps, scores); ignored cells take the lowest value that is looked at."""
        seen = maps.reshape(len(maps), -1)
        if ignore is not None:
            cells = _ignored_cells(ignore, maps.shape[1:])
            maps = maps.copy()
            seen = maps[:, ~cells]
            maps[:, cells] = seen.min(axis=1, keepdims=True)
        if self._spec.kind == "top_mean":
            top = min(self._spec.top or 1, seen.shape[1])
            return maps, np.partition(seen, -top, axis=1)[:, -top:].mean(axis=1)
        return maps, seen.max(axis=1)

    def _maps(self, outputs: Mapping[str, NDArray[Any]]) -> _Maps:
        if self._centroids is None:
            return np.array(outputs["anomaly_map"], dtype=np.float32)  # the engine reuses its own
        patches = np.asarray(outputs["patches"], dtype=np.float32)
        flat = np.ascontiguousarray(patches.reshape(-1, patches.shape[-1]))
        _, distance = kernels.kmeans_assign(flat, self._centroids)
        native: _Maps = distance.reshape(patches.shape[:-1])
        return native


def check_maps(maps: _Maps, flat: Sequence[bool] | None = None) -> None:
    """Refuse native maps (n, h', w') that must not be judged; see `Head.native`.

    Raises:
        BackendError: BACKEND_NONFINITE or BACKEND_DEGENERATE.
    """
    for i, one in enumerate(maps):
        low, high = float(one.min()), float(one.max())  # NaN spreads through both
        if not (math.isfinite(low) and math.isfinite(high)):
            raise BackendError(
                "BACKEND_NONFINITE",
                "the engine's anomaly map holds NaN or infinity.",
                "Such a frame is never judged; run: edgead verify BUNDLE.",
            )
        if low == high and not (flat is not None and flat[i]):
            raise BackendError(
                "BACKEND_DEGENERATE",
                f"every value of the engine's anomaly map is {low:.4g}.",
                "Such a frame is never judged; run: edgead verify BUNDLE.",
            )


def _ignored_cells(ignore: NDArray[np.bool_], cells: tuple[int, ...]) -> NDArray[np.bool_]:
    """(h', w'): which cells have their centre under an ignored pixel."""
    rows, columns = (
        ((np.arange(count) + 0.5) * side / count).astype(int)
        for count, side in zip(cells, ignore.shape, strict=True)
    )
    under: NDArray[np.bool_] = ignore[np.ix_(rows, columns)]
    if under.all():
        raise BundleError(
            "VIEW_EMPTY",
            "the ignored places leave no cell of the map to look at.",
            "Set another view: edgead view BUNDLE, then commission it.",
        )
    return under
