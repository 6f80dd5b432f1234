"""Stands in for the CUDA kernels on the fake GPU: the CPU's, computed in its memory when its stream runs."""

from __future__ import annotations

import numpy as np

from edgead import kernels


class Kernels:
    """The signatures of `edgead.kernels.cuda`, enqueued on the fake stream and computed on the CPU."""

    def __init__(self, cuda) -> None:
        self.cuda, self.calls = cuda, []

    def host(self, array) -> np.ndarray:
        told = array.__cuda_array_interface__
        dtype = np.dtype(told["typestr"])
        nbytes = int(np.prod(told["shape"])) * dtype.itemsize
        return self.cuda.at(told["data"][0], nbytes).view(dtype).reshape(told["shape"])

    def resize(self, frame, size, crop, channels, *, out, stream) -> None:
        self.calls.append("resize")
        self.cuda.enqueue(
            stream,
            lambda: self.put(
                out, kernels.resize(self.host(frame), size, crop=crop, channels=channels)
            ),
        )

    def kmeans_assign(self, patches, centroids, *, out, stream) -> None:
        self.calls.append("kmeans_assign")

        def work() -> None:
            for target, value in zip(
                out, kernels.kmeans_assign(self.host(patches), self.host(centroids)), strict=True
            ):
                self.put(target, value)

        self.cuda.enqueue(stream, work)

    def heatmap(self, maps, size, sigma, threshold, *, out, stream) -> None:
        self.calls.append("heatmap")

        def work() -> None:
            found = kernels.heatmap(self.host(maps), size, sigma=sigma, threshold=threshold)
            for target, value in zip(out, found, strict=True):
                self.put(target, value)

        self.cuda.enqueue(stream, work)

    def put(self, target, value) -> None:
        self.host(target)[...] = value
