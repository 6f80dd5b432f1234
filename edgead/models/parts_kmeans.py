"""k-means with k-means++ start: DFDA-AD's classifier and sub-sampling at once.

Letters: N patches, D channels, K clusters. The assignment is edgead's own kernel, in training as at run time.
Sources: Arthur & Vassilvitskii, SODA 2007 (k-means++); Lloyd, 1982.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgead.errors import CalibrationError
from edgead.kernels import kmeans_assign

__all__ = ["compactness", "kmeans", "kmeans_plus_plus", "retained_deviation"]

Floats = NDArray[np.float32]


def kmeans(
    patches: Floats,
    clusters: int,
    rng: np.random.Generator,
    *,
    iterations: int = 100,
    tolerance: float = 1e-4,
    start: Floats | None = None,
) -> Floats:
    """Lloyd's algorithm.

    A cluster that lost all its patches moves to the patch farthest from its centroid. Where there are fewer
    different patches than clusters, the clusters that nothing is left for are dropped.

    Args:
        patches: [N, D].
        clusters: K wanted, 1 <= K <= N.
        rng: The only source of chance.
        iterations: At most this many.
        tolerance: Ends when the mean squared distance falls by less than this share.
        start: First centroids instead of k-means++. [K, D]

    Returns:
        Centroids. [K', D], 1 <= K' <= K.

    Raises:
        CalibrationError: CLUSTERS when K is out of range, PATCHES_NOT_FINITE.
    """
    if not 1 <= clusters <= len(patches):
        raise CalibrationError(
            "CLUSTERS",
            f"{clusters} clusters of {len(patches)} patches; expected 1 to {len(patches)} clusters.",
            "Ask for fewer clusters, or give more good images.",
        )
    if not np.isfinite(patches).all():
        raise CalibrationError(
            "PATCHES_NOT_FINITE",
            f"{int((~np.isfinite(patches)).any(axis=1).sum())} of {len(patches)} patches hold NaN or infinity.",
            "The backbone's weights or the images are damaged.",
        )
    centroids = kmeans_plus_plus(patches, clusters, rng) if start is None else start
    before = np.inf
    for _ in range(iterations):
        index, distance = kmeans_assign(patches, centroids)
        error = float(np.square(distance, dtype=np.float64).mean())
        if error == 0 or before - error <= tolerance * before < np.inf:
            break
        before = error
        centroids = _moved(patches, index, distance, len(centroids))
    return centroids


def kmeans_plus_plus(
    patches: Floats, clusters: int, rng: np.random.Generator, *, per_cluster: int = 16
) -> Floats:
    """First centroids, each drawn with probability proportional to the squared distance to those before.

    Args:
        patches: [N, D].
        clusters: K.
        rng: The only source of chance.
        per_cluster: The start is drawn among this many patches a cluster, which bounds its time.

    Returns:
        [K', D]; K' < K only where there are fewer different patches.
    """
    room = per_cluster * clusters
    if len(patches) > room:
        patches = patches[rng.choice(len(patches), room, replace=False)]
    data = torch.from_numpy(np.ascontiguousarray(patches))
    chosen = [int(rng.integers(len(patches)))]
    nearest = _squared(data, chosen[0])
    while len(chosen) < clusters:
        total = nearest.cumsum(0, dtype=torch.float64)
        if total[-1] <= 0:  # every patch is a centroid already
            break
        drawn = int(torch.searchsorted(total, rng.random() * total[-1], right=True))
        chosen.append(min(drawn, len(patches) - 1))
        torch.minimum(nearest, _squared(data, chosen[-1]), out=nearest)
    return np.ascontiguousarray(patches[chosen])


def _squared(data: torch.Tensor, row: int) -> torch.Tensor:
    """Squared distances of all rows to one; by differences, so that an equal row is at exactly 0. [N]."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(data, data[row : row + 1], compute_mode=exact)[:, 0].square_()


def _moved(patches: Floats, index: NDArray[np.int32], distance: Floats, clusters: int) -> Floats:
    """Means of the clusters; empty ones move to the farthest patches, or go."""
    counts = np.bincount(index, minlength=clusters)
    rows = torch.from_numpy(index.astype(np.int64))
    sums = torch.zeros(clusters, patches.shape[1]).index_add_(0, rows, torch.from_numpy(patches))
    centroids: Floats = sums.numpy() / np.maximum(counts, 1).astype(np.float32)[:, None]
    empty = np.flatnonzero(counts == 0)
    if len(empty) == 0:
        return centroids
    farthest = np.argsort(-distance, kind="stable")[: len(empty)]
    farthest = farthest[distance[farthest] > 0]
    centroids[empty[: len(farthest)]] = patches[farthest]
    return np.ascontiguousarray(np.delete(centroids, empty[len(farthest) :], axis=0))


def compactness(
    patches: torch.Tensor, centroids: torch.Tensor, nearest: torch.Tensor
) -> torch.Tensor:
    """Squared distance to the nearest centroid relative to the mean one to the others.

    Args:
        patches: [N, D].
        centroids: Held still. [K, D]
        nearest: Index of each patch's nearest centroid. [N]

    Returns:
        Mean over the patches; 1 when all centroids are equally far. Scalar.
    """
    clusters = len(centroids)
    near = (patches - centroids[nearest]).square().sum(dim=1)
    # Mean over all centroids in closed form: |x|^2 - 2 x.mean(c) + mean(|c|^2).
    every = patches.square().sum(dim=1) - 2 * patches @ centroids.mean(dim=0)
    every = every + centroids.square().sum(dim=1).mean()
    others = (clusters * every - near) / max(1, clusters - 1)
    return (near / others.clamp(min=1e-6)).mean()


def retained_deviation(patches: torch.Tensor, deviation: torch.Tensor) -> float:
    """Mean share of each channel's deviation that is left, 0 (collapsed) .. 1.

    Args:
        patches: [N, D].
        deviation: Of the untrained attention's patches. [D]
    """
    moves = deviation > 1e-6
    share = patches.std(dim=0)[moves] / deviation[moves]
    return float(share.clamp(max=1).mean()) if moves.any() else 1.0
