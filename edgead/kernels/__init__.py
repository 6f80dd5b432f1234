"""The four operations that edgead runs on its own account, on NumPy arrays and on CUDA arrays.

NumPy arrays run in C++ (edgead._C) or, where that was not built or EDGEAD_KERNELS=reference, in NumPy. All checks are
made before anything is written. NaN in an input is never hidden: each function says how it
shows.

Letters: N patches or nodes, D and C channels, K centroids or neighbours, B maps, (h, w) -> (H, W) map sizes.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgead.kernels import _checks as check
from edgead.kernels import cuda, reference
from edgead.kernels._native import has_cuda, implementation, native
from edgead.kernels.tables import heatmap_table, resize_table

__all__ = [
    "CudaArray",
    "Heatmap",
    "has_cuda",
    "heatmap",
    "implementation",
    "kmeans_assign",
    "resize",
    "topk_neighbours",
]

MAX_SIGMA = 1024.0


class CudaArray(Protocol):
    """An array on a GPU: CuPy, torch, pycuda, or another with this interface (DLPack in is taken too)."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


Floats = npt.NDArray[np.float32] | CudaArray
Bytes = npt.NDArray[np.uint8] | CudaArray


class Heatmap(NamedTuple):
    """What `heatmap` returns."""

    map: npt.NDArray[np.float32]
    """Up-sampled and smoothed. [B, H, W]."""
    peak: npt.NDArray[np.float32]
    """Maximum of each map; NaN when the map holds one. [B]."""
    mask: npt.NDArray[np.uint8] | None
    """1 above the threshold and on NaN, else 0; None without a threshold. [B, H, W]."""


def kmeans_assign(
    patches: Floats,
    centroids: Floats,
    *,
    threads: int = 0,
    out: tuple[Any, Any] | None = None,
    stream: Any = None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Nearest centroid of each patch.

    The distances compared are sums of squared differences in float32, not |x|^2 - 2xc + |c|^2: they do not
    cancel, and are the same on every instruction set and for every thread count.

    Args:
        patches: Patch features. [N, D] float32; N may be 0.
        centroids: [K, D] float32, K >= 1.
        threads: CPU threads; 0 takes all that the process may use.
        out: CUDA arrays only: (index, distance) to write.
        stream: CUDA arrays only: where to launch; None takes the current stream of their library.

    Returns:
        index: Row of `centroids`; the lowest on a tie. With a NaN in the patch or in a centroid, the first centroid
            whose distance is NaN. [N] int32.
        distance: Euclidean, not squared; NaN as above. [N] float32.

    Raises:
        TypeError: Not a NumPy array of float32.
        ValueError: Wrong rank, D disagrees, K is 0, or threads is out of range.

    Source: DFDA-AD's classifier, Masoudi, J. Modeling in Engineering 22(79), 2024.
    """
    if cuda.is_device_array(patches):
        return cuda.kmeans_assign(patches, centroids, out=out, stream=stream)
    check.host_only(out, stream)
    patches = check.floats("patches", patches, "ND")
    centroids = check.floats("centroids", centroids, "KD")
    check.cluster_shapes(patches.shape, centroids.shape)
    threads = check.threads(threads)
    module = native()
    if module is None:
        return reference.kmeans_assign(patches, centroids)
    index, distance = np.empty(len(patches), np.int32), np.empty(len(patches), np.float32)
    module.kmeans_assign(patches, centroids, index, distance, threads)
    return index, distance


def topk_neighbours(
    f: Floats,
    g: Floats,
    position: Floats | None,
    k: int,
    *,
    threads: int = 0,
    out: Any = None,
    stream: Any = None,
) -> npt.NDArray[np.int32]:
    """The k nodes most similar to each node: cos(f, g^T) - position, largest first.

    Args:
        f: Features of the nodes that look for neighbours. [B, N, C] float32.
        g: Features of the nodes they look among. [B, N, C] float32.
        position: Position similarity that is subtracted, or None. [N, N] float32.
        k: Neighbours per node, 1 <= k <= N.
        threads: CPU threads; 0 takes all that the process may use.
        out: CUDA arrays only: the index to write.
        stream: CUDA arrays only: where to launch; None takes the current stream of their library.

    Returns:
        Indices of the neighbours. On a tie the lower index comes first; a NaN similarity comes before every number, so
        that a damaged node is seen. A zero vector has cosine 0. [B, N, k] int32.

    Raises:
        TypeError: Not a NumPy array of float32, or k is no integer.
        ValueError: Wrong rank, shapes disagree, k or threads is out of range.

    Source: SLSG's sparse graph, W_s = cos(f(X), g(X)^T) - cos(P, P^T).
    """
    if cuda.is_device_array(f):
        return cuda.topk_neighbours(f, g, position, k, out=out, stream=stream)
    check.host_only(out, stream)
    f = check.floats("f", f, "BNC")
    g = check.floats("g", g, "BNC")
    if position is not None:
        position = check.floats("position", position, "NN")
    k = check.node_shapes(f.shape, g.shape, None if position is None else position.shape, k)
    threads = check.threads(threads)
    module = native()
    if module is None:
        return reference.topk_neighbours(f, g, position, k)
    index = np.empty((*f.shape[:2], k), np.int32)
    module.topk_neighbours(f, g, position, index, threads)
    return index


def heatmap(
    anomaly_map: Floats,
    size: tuple[int, int],
    *,
    sigma: float,
    threshold: float | None = None,
    threads: int = 0,
    out: Any = None,
    stream: Any = None,
) -> Heatmap:
    """Bilinear up-sampling and Gaussian smoothing in one pass, with the maximum and the mask.

    Equal to a bilinear resize with half-pixel centres (align_corners=False) followed by a Gaussian cut at 4
    sigma with a reflect-101 border (SciPy's "mirror"), because both are linear and separable.

    Args:
        anomaly_map: Maps as the head gives them. [B, h, w] float32; B may be 0.
        size: (H, W) of the result.
        sigma: Standard deviation of the Gaussian in pixels of the result; 0 only up-samples.
        threshold: Pixels above it are marked in the mask; None makes no mask.
        threads: CPU threads; 0 takes all that the process may use.
        out: Where to write the map, [B, H, W] float32; None allocates it. With CUDA arrays also a `Heatmap`.
        stream: CUDA arrays only: where to launch; None takes the current stream of their library.

    Returns:
        The smoothed map, its peak and its mask. A NaN covers the pixels within its reach, makes the peak NaN and is
        marked.

    Raises:
        TypeError: Not a NumPy array of float32, or an argument of another type.
        ValueError: Wrong rank, an empty map, or sigma, size, threshold or threads out of range.
    """
    size = check.size(size)
    sigma = check.non_negative("sigma", sigma, MAX_SIGMA)
    if threshold is not None:
        threshold = check.real("threshold", threshold)
    if cuda.is_device_array(anomaly_map):
        return Heatmap(*cuda.heatmap(anomaly_map, size, sigma, threshold, out=out, stream=stream))
    check.host_only(None, stream)
    anomaly_map = check.floats("anomaly_map", anomaly_map, "Bhw")
    check.map_shape(anomaly_map.shape)
    batch, height, width = anomaly_map.shape
    threads = check.threads(threads)
    smoothed: npt.NDArray[np.float32] = check.output(
        out, (batch, *size), np.float32, (anomaly_map,)
    )
    rows, columns = heatmap_table(height, size[0], sigma), heatmap_table(width, size[1], sigma)
    module = native()
    if module is None:
        return Heatmap(
            smoothed, *reference.heatmap(anomaly_map, rows, columns, threshold, smoothed)
        )
    peak = np.empty(batch, np.float32)
    mask = None if threshold is None else np.empty(smoothed.shape, np.uint8)
    module.heatmap(
        anomaly_map, rows.band, rows.weights, columns.band, columns.spread,
        0.0 if threshold is None else threshold, smoothed, peak, mask, threads,
    )  # fmt: skip
    return Heatmap(smoothed, peak, mask)


def resize(
    frame: Bytes,
    size: tuple[int, int],
    *,
    crop: tuple[int, int, int, int] | None = None,
    channels: tuple[int, ...] | None = None,
    threads: int = 0,
    out: Any = None,
    stream: Any = None,
) -> npt.NDArray[np.uint8]:
    """Crop, resize and reorder the channels of a frame; the same bits on every machine.

    A separable triangle filter in fixed point whose support grows with the scale when it shrinks (antialiasing), like
    Pillow's BILINEAR. Weights hold 14 bits and sum to exactly one; the vertical pass comes first, rounds half up and
    keeps 7 fraction bits; the horizontal pass rounds half up to 8 bits.

    Args:
        frame: Camera frame. [H, W, C] uint8 with 1, 3 or 4 channels; any strides, read-only allowed.
        size: (h, w) of the result.
        crop: (x0, y0, x1, y1) in pixels, x1 and y1 excluded; pixels outside it are never read. None takes all.
        channels: Source channel of each channel of the result, such as (2, 1, 0), or (0, 0, 0) to replicate a mono
            frame; None keeps them.
        threads: CPU threads; 0 takes all that the process may use.
        out: Where to write the result, [h, w, C'] uint8; None allocates it.
        stream: CUDA arrays only: where to launch; None takes the current stream of their library.

    Returns:
        [h, w, C'] uint8.

    Raises:
        TypeError: Not a NumPy array of uint8, or an argument of another type.
        ValueError: Wrong rank or channel count, an empty frame, or an argument out of range.
    """
    size = check.size(size)
    if cuda.is_device_array(frame):
        return cuda.resize(frame, size, crop, channels, out=out, stream=stream)
    check.host_only(None, stream)
    frame = check.frame(frame)
    height, width, depth = frame.shape
    channels = check.channels(channels, depth)
    x0, y0, x1, y1 = check.crop(crop, height, width)
    threads = check.threads(threads)
    resized: npt.NDArray[np.uint8] = check.output(out, (*size, len(channels)), np.uint8, (frame,))
    view = frame[y0:y1, x0:x1]
    rows, columns = resize_table(y1 - y0, size[0]), resize_table(x1 - x0, size[1])
    module = native()
    if module is None:
        resized[...] = reference.resize(view, rows, columns, channels)
        return resized
    # A side of one pixel may have any stride: nothing is ever reached by it.
    if (view.shape[1] > 1 and view.strides[1] != depth) or (depth > 1 and view.strides[2] != 1):
        view = np.ascontiguousarray(view)
    module.resize(
        view, rows.start, rows.weights, columns.start, columns.weights, channels, resized, threads
    )
    return resized
