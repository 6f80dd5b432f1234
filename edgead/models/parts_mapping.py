"""The bidirectional mapping residual network (BMR) of NF-BMR.

Letters: n images, C channels of a domain, (h, w) map, W width of the residual blocks.
Source: Zhang et al., Computers, Materials & Continua 78(2), 2024, section 3.3 and figure 4.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

__all__ = ["BidirectionalMapping", "MappingNetwork", "ResidualBlock"]

Norm = Literal["none", "batch"]


class ResidualBlock(nn.Module):
    """x + g(x), g: 1x1, 3x3, 1x1 convolutions with a ReLU after each.

    Args:
        width: W.
        inner: Channels between the convolutions.
        norm: ``batch`` puts batch normalisation before each ReLU.
        last_relu: As the paper has it; then g >= 0 and a block can only add.
        shared: Take this block's convolutions instead of own ones. The normalisations stay own: two domains
            have two statistics, and common running ones would fit neither.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        *,
        norm: Norm,
        last_relu: bool,
        shared: ResidualBlock | None = None,
    ) -> None:
        super().__init__()
        if shared is None:
            bias = norm == "none"
            self.convolutions = nn.ModuleList(
                [
                    nn.Conv2d(width, inner, 1, bias=bias),
                    nn.Conv2d(inner, inner, 3, padding=1, bias=bias),
                    nn.Conv2d(inner, width, 1, bias=bias),
                ]
            )
        else:
            self.convolutions = shared.convolutions
        sizes = (inner, inner, width)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(size) if norm == "batch" else nn.Identity() for size in sizes
        )
        relus = (True, True, last_relu)
        self.activations = nn.ModuleList(nn.ReLU() if one else nn.Identity() for one in relus)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, W, h, w) -> the same shape."""
        out = x
        for convolution, norm, activation in zip(
            self.convolutions, self.norms, self.activations, strict=True
        ):
            out = activation(norm(convolution(out)))
        return x + out


class MappingNetwork(nn.Module):
    """Raise the channels, n blocks, the shared block, n blocks, lower the channels.

    Args:
        channels: C, of both domains.
        width: W, more than C.
        inner: Channels inside a block.
        blocks: n, on either side of the shared block.
        norm: See `ResidualBlock`.
        last_relu: See `ResidualBlock`.
        shared: The other network's middle block.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        inner: int,
        blocks: int,
        norm: Norm,
        last_relu: bool,
        shared: ResidualBlock | None = None,
    ) -> None:
        super().__init__()

        def block(of: ResidualBlock | None = None) -> ResidualBlock:
            return ResidualBlock(width, inner, norm=norm, last_relu=last_relu, shared=of)

        self.rise = nn.Conv2d(channels, width, 1)
        self.before = nn.Sequential(*(block() for _ in range(blocks)))
        self.middle = block(shared)
        self.after = nn.Sequential(*(block() for _ in range(blocks)))
        self.fall = nn.Conv2d(width, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, C, h, w) -> the same shape."""
        return self.fall(self.after(self.middle(self.before(self.rise(x)))))


class BidirectionalMapping(nn.Module):
    """SMNN, Z -> Y, and TMNN, Y -> Z, whose middle blocks are one.

    Args:
        channels: C, of both domains.
        width: W.
        inner: Channels inside a block.
        blocks: n.
        norm: See `ResidualBlock`.
        last_relu: See `ResidualBlock`.
        seed: Of the weights.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        inner: int,
        blocks: int,
        norm: Norm,
        last_relu: bool,
        seed: int = 0,
    ) -> None:
        super().__init__()

        def network(shared: ResidualBlock | None = None) -> MappingNetwork:
            return MappingNetwork(
                channels,
                width=width,
                inner=inner,
                blocks=blocks,
                norm=norm,
                last_relu=last_relu,
                shared=shared,
            )

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.smnn = network()
            self.tmnn = network(self.smnn.middle)

    def forward(self, y: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Source y and target z -> their mapped counterparts y' = SMNN(z), z' = TMNN(y)."""
        return self.smnn(z), self.tmnn(y)
