"""What every method offers to training and export.

Shapes: N images of (h, w) pixels; (h', w') is the native map. Images are (h, w, 3) uint8, BGR, already
resized by the run-time's own pre-processing, so that training sees the bits that inference sees.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgead.deploy.spec import ExportSpec

__all__ = ["ExportSpec", "Images", "InputLayer", "Method"]


class Images(Protocol):
    """A sequence of training images, decoded when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """One image, (h, w, 3) uint8, BGR."""
        ...


class InputLayer(nn.Module):
    """(n, h, w, 3) uint8 BGR -> (n, 3, h, w) float32 RGB, ``(x - mean) / std`` on 0..255 pixels.

    This is the only place where pixels become numbers; it is part of every exported graph.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([2, 1, 0]), persistent=False)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalise a batch."""
        # Cast first: TensorRT takes a uint8 input into a Cast and into nothing else.
        pixels = image.float().permute(0, 3, 1, 2).index_select(1, self.order)
        return (pixels - self.mean) * self.scale


class Method(Protocol):
    """One anomaly detection method: built from a frozen config, trained by `fit`, then exported.

    Attributes:
        name: Short name in lower case, e.g. ``trisimplenet``.
        config: The frozen config dataclass; its defaults are the paper's.
        image_size: (h, w) of the engine input.
        backbone: Name of the network(s) that features come from.
        weights: Where their weights came from, for the manifest.
    """

    name: str
    config: Any
    image_size: tuple[int, int]
    backbone: str
    weights: str

    def fit(self, images: Images, loop: Any) -> None:
        """Train on good images under ``loop`` (`edgead.train.loop.Loop`).

        Raises:
            CalibrationError: TOO_FEW_IMAGES, LOSS_NOT_FINITE.
        """
        ...

    def export_spec(self) -> ExportSpec:
        """The trained method as one module, with what the bundle must know of it."""
        ...
