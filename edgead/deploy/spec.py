"""What export needs to know of a trained method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgead.manifest import HeadSpec

__all__ = ["ExportSpec"]


@dataclass(frozen=True)
class ExportSpec:
    """What export needs to know of a trained method.

    Attributes:
        module: Maps ``image`` (n, h, w, 3) uint8 BGR to the outputs, in evaluation mode, on the CPU.
        outputs: Names of the outputs. Heads ``max`` and ``top_mean`` read ``anomaly_map``
            (n, h', w'); head ``kmeans`` reads ``patches`` (n, h', w', D).
        head: How outputs become a map and a score.
        head_tensors: Arrays that the head needs, e.g. ``centroids`` [K, D] float32.
        keep_high: Name prefixes of sub-modules whose nodes stay in high precision.
        mean: What `InputLayer` subtracts, RGB, 0..255.
        std: What `InputLayer` divides by, RGB, 0..255.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    head: HeadSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    head_tensors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    keep_high: tuple[str, ...] = ()
