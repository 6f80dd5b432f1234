"""Features of frozen networks, computed once and kept within a memory bound.

A frozen backbone gives the same features in every epoch, so each image passes through it once. What
fits is kept in memory as float32; more than that goes to a temporary file as float16.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgead.errors import CalibrationError
from edgead.models.base import Images

__all__ = ["FeatureCache"]

_BATCH = 8


class FeatureCache:
    """Features of all training images.

    Args:
        extract: (n, h, w, 3) uint8 -> (n, h', w', C) float32.
        images: Training images.
        memory_limit_bytes: Above it the features live in a temporary file, as float16.
        device: Where ``extract`` runs.
        report: Called with the share done, 0..1.

    Raises:
        CalibrationError: TOO_FEW_IMAGES when there are none.
    """

    def __init__(
        self,
        extract: Callable[[torch.Tensor], torch.Tensor],
        images: Images,
        *,
        memory_limit_bytes: int = 4 << 30,
        device: torch.device | str = "cpu",
        report: Callable[[float], None] | None = None,
    ) -> None:
        if not len(images):
            raise CalibrationError("TOO_FEW_IMAGES", "there are no images to train on.")
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._store: NDArray[np.floating] | None = None
        for start in range(0, len(images), _BATCH):
            stop = min(start + _BATCH, len(images))
            batch = torch.from_numpy(np.stack([images[i] for i in range(start, stop)]))
            with torch.no_grad():
                part = extract(batch.to(device)).float().cpu().numpy()
            if self._store is None:
                self._store = self._allocate((len(images), *part.shape[1:]), memory_limit_bytes)
            self._store[start:stop] = part
            if report is not None:
                report(stop / len(images))
        assert self._store is not None
        self.shape: tuple[int, int, int, int] = self._store.shape  # (N, h', w', C)
        self._patches = self._store.reshape(-1, self.shape[-1])

    def _allocate(self, shape: tuple[int, ...], limit: int) -> NDArray[np.floating]:
        if int(np.prod(shape)) * 4 <= limit:
            return np.empty(shape, dtype=np.float32)
        self._folder = tempfile.TemporaryDirectory(prefix="edgead-features-")
        path = Path(self._folder.name) / "features.f16"
        return np.memmap(path, dtype=np.float16, mode="w+", shape=shape)

    @property
    def is_on_disk(self) -> bool:
        """True when the features did not fit the memory bound."""
        return self._folder is not None

    @property
    def patches(self) -> int:
        """Number of patches, N * h' * w'."""
        return len(self._patches)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """``count`` patches drawn across all images, (count, C) float32."""
        rows = torch.randint(self.patches, (count,), generator=generator)
        return self.take(rows)

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Patches by row, (len(rows), C) float32."""
        return torch.from_numpy(np.asarray(self._patches[rows.numpy()], dtype=np.float32))

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        """All patches of some images, (len(indices) * h' * w', C) float32."""
        assert self._store is not None
        chosen = np.asarray(self._store[indices.numpy()], dtype=np.float32)
        return torch.from_numpy(chosen.reshape(-1, self.shape[-1]))

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each channel over all patches, (C,) float32."""
        total = np.zeros(self.shape[-1])
        squares = np.zeros(self.shape[-1])
        for start in range(0, self.patches, 1 << 16):
            part = np.asarray(self._patches[start : start + (1 << 16)], dtype=np.float64)
            total += part.sum(axis=0)
            squares += (part * part).sum(axis=0)
        mean = total / self.patches
        deviation = np.sqrt(np.maximum(squares / self.patches - mean * mean, 0))
        return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()

    def close(self) -> None:
        """Free the memory, or remove the temporary file."""
        self._store = None
        self._patches = np.empty((0, 1), dtype=np.float32)
        if self._folder is not None:
            self._folder.cleanup()
