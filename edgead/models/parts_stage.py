"""A frozen network cut after any of its modules, where timm's list of levels does not have it.

EfficientNet has two stages at stride 32; timm's levels only name the second. NF-BMR takes the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import create_feature_extractor
from torch import nn

from edgead.errors import ConfigError
from edgead.models import backbones
from edgead.models.backbones import Backbone
from edgead.models.base import InputLayer

__all__ = ["StageBackbone"]


class StageBackbone(Backbone):
    """Frozen features of one stage, named by its module, e.g. ``blocks.5``.

    Args:
        name: Any timm network name.
        layer: Dotted name of the module whose output is taken.
        weights: As for `Backbone`.
        seed: Of random weights.

    Raises:
        ConfigError: BACKBONE_UNKNOWN, BACKBONE_LAYER, and those of `Backbone`.
    """

    def __init__(
        self, name: str, *, layer: str, weights: str | Path | None = None, seed: int = 0
    ) -> None:
        nn.Module.__init__(self)
        self.name = name
        self.net: Any = _Cut(_network(name, seed), name, layer)
        self.weights = backbones.load_weights(self.net.stages, name, weights)
        self.mean, self.std = backbones.norm_of(name).mean, backbones.norm_of(name).std
        self.input = InputLayer(self.mean, self.std)
        self.requires_grad_(False)
        self.eval()
        with torch.no_grad():
            probe = self(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        self.channels = tuple(level.shape[1] for level in probe)


class _Cut(nn.Module):
    """The network up to the layer; what lies behind it is dropped."""

    def __init__(self, network: nn.Module, name: str, layer: str) -> None:
        super().__init__()
        if layer not in dict(network.named_modules()):
            raise ConfigError(
                "BACKBONE_LAYER",
                f"{name} has no module {layer!r}; its outermost are "
                f"{', '.join(child for child, _ in network.named_children())}.",
                "Name one of its modules, or give a stride instead.",
            )
        self.stages = create_feature_extractor(network.eval(), {layer: "y"})

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self.stages(image)["y"]]


def _network(name: str, seed: int) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return timm.create_model(name)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            "BACKBONE_UNKNOWN",
            f"timm has no network named {name!r}.",
            "List them: python -c 'import timm; print(timm.list_models())'.",
        ) from error
