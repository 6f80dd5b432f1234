"""DFDA-AD's two frozen extractors: branch A at stride 8, branch B at stride 16.

Letters: n images, (h', w') map of stride 8, C_A and C_B channels.
Source: Masoudi, J. Modeling in Engineering 22(79), 2024, sections 2-1 and 2-2, tables 1 and 2.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from edgead.errors import ConfigError
from edgead.models.backbones import Backbone

__all__ = ["PAPER_BACKBONES", "Extractors"]

#: Dense block 2 before its transition, and block 3.
PAPER_BACKBONES = "densenet121,resnet50"


class Extractors(nn.Module):
    """The two frozen networks, or one that serves as both.

    Args:
        backbone: One name, or two joined by a comma.
        weights: As many files, or None.
        seed: Of random weights.
    """

    def __init__(self, backbone: str, weights: str | Path | None, seed: int) -> None:
        super().__init__()
        names = backbone.split(",")
        sources = [weights] * len(names)
        if weights is not None and len(names) > 1 and str(weights) != "random":
            sources = list(str(weights).split(","))
        if len(names) > 2 or len(sources) != len(names):
            raise ConfigError(
                "BACKBONE_BRANCHES",
                f"backbone is {backbone!r} and weights {str(weights)!r}; "
                "want one network for both branches, or two joined by a comma, and a weights file each.",
                f"For example --backbone {PAPER_BACKBONES}.",
            )
        strides = [(8, 16)] if len(names) == 1 else [(8,), (16,)]
        self.nets = nn.ModuleList(
            Backbone(name, strides=levels, weights=source, seed=seed)
            for name, levels, source in zip(names, strides, sources, strict=True)
        )
        self.channels: tuple[int, ...] = tuple(c for net in self.nets for c in net.channels)
        self.weights = ",".join(net.weights for net in self.nets)

    @property
    def first(self) -> Backbone:
        """Branch A's network."""
        return self.nets[0]

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, h, w, 3) uint8 -> F_A (n, C_A, h', w') and F_B (n, C_B, h'/2, w'/2)."""
        feature_a, feature_b = (level for net in self.nets for level in net(image))
        return feature_a, feature_b

    def packed(self, image: torch.Tensor) -> torch.Tensor:
        """Both maps as one, to be kept: (n, h', w', C_A + C_B / 4), nothing lost."""
        feature_a, feature_b = self(image)
        padding = -feature_b.shape[1] % 4
        spread = F.pixel_shuffle(F.pad(feature_b, (0, 0, 0, 0, 0, padding)), 2)
        return torch.cat([feature_a, spread], dim=1).permute(0, 2, 3, 1)

    def unpacked(self, packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `packed`."""
        channels_a, channels_b = self.channels
        both = packed.permute(0, 3, 1, 2)
        feature_b = F.pixel_unshuffle(both[:, channels_a:], 2)[:, :channels_b]
        return both[:, :channels_a].contiguous(), feature_b
