"""Pixels on a GPU, whatever library made them, described as NumPy describes an array.

CuPy's arrays look like NumPy's already. torch's tensors have another dtype, jetson-utils' images none:
those are wrapped; nothing is copied and nothing is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import FrameError

__all__ = ["GpuPixels", "described"]


@dataclass(frozen=True, eq=False)
class GpuPixels:
    """Part of an array with ``__cuda_array_interface__``, which keeps its memory alive.

    Attributes:
        owner: The array itself.
        shape: Its sizes, or those of a mono picture without the third.
        dtype: Its type.
    """

    owner: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of sizes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the pixels take."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        told = dict(self.owner.__cuda_array_interface__)
        strides = told.get("strides")
        cut = None if strides is None else tuple(strides)[: self.ndim]
        return {**told, "shape": self.shape, "strides": cut}

    def __getitem__(self, index: Any) -> GpuPixels:
        """The one plane of a mono picture, ``[:, :, 0]``; nothing else is asked for."""
        if self.ndim != 3 or self.shape[2] != 1 or index != (slice(None), slice(None), 0):
            raise IndexError(f"pixels of shape {self.shape} on a GPU have no part {index}")
        return GpuPixels(self.owner, self.shape[:2], self.dtype)

    def copy(self) -> GpuPixels:
        """Pixels of their own, made by the owner's library on the GPU.

        Raises:
            FrameError: FRAME_ON_GPU when that library cannot.
        """
        for name in ("clone", "copy"):  # torch, CuPy
            if hasattr(self.owner, name):
                return GpuPixels(getattr(self.owner, name)(), self.shape, self.dtype)
        raise self._error("copy it")

    def get(self) -> NDArray[Any]:
        """The pixels in host memory, fetched by the owner's library.

        Raises:
            FrameError: FRAME_ON_GPU when that library cannot.
        """
        owner = self.owner
        if hasattr(owner, "get"):  # CuPy, pycuda
            return np.asarray(owner.get()).reshape(self.shape)
        if hasattr(owner, "cpu"):  # torch
            return np.asarray(owner.cpu().numpy()).reshape(self.shape)
        raise self._error("bring it to the host")

    def _error(self, what: str) -> FrameError:
        kind = type(self.owner)
        return FrameError(
            "FRAME_ON_GPU",
            f"the frame is a {kind.__module__}.{kind.__name__} on a GPU; edgead cannot {what}.",
            "Hand over a NumPy, CuPy or torch array.",
        )


def described(pixels: Any) -> Any:
    """``pixels``, wrapped when they are on a GPU and do not describe themselves as NumPy does."""
    if isinstance(pixels, (np.ndarray, GpuPixels)):
        return pixels
    if isinstance(getattr(pixels, "dtype", None), np.dtype) and hasattr(pixels, "ndim"):
        return pixels
    interface = getattr(pixels, "__cuda_array_interface__", None)
    if interface is None:
        return pixels
    shape = tuple(int(n) for n in interface["shape"])
    return GpuPixels(pixels, shape, np.dtype(interface["typestr"]))
