"""Convolution groups that several methods are built of."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["SelfCalibratedConv", "conv_group"]


def conv_group(c_in: int, c_out: int, *, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU; height and width unchanged."""
    return nn.Sequential(_conv_norm(c_in, c_out, kernel), nn.ReLU(inplace=True))


def _conv_norm(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    # No bias: the batch norm that follows has one.
    convolution = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(c_out))


class SelfCalibratedConv(nn.Module):
    """Convolution whose response is gated by a coarser view: a wider receptive field at one size.

    y = K3(K1(x) * sigmoid(x + up(K2(pool(x))))), each K a convolution with batch norm.

    Args:
        channels: Channels of input and output.
        rate: r, the coarse view's down-sampling factor.

    Source: Liu et al., CVPR 2020, Eqs. 2-5, in MLFF's form (section 1.2), which does not split the
    channels.
    """

    def __init__(self, channels: int, *, rate: int = 4) -> None:
        super().__init__()
        self.rate = rate
        self.full = _conv_norm(channels, channels, 3)
        self.coarse = _conv_norm(channels, channels, 3)
        self.out = _conv_norm(channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, C, h, w) -> (n, C, h, w); h and w at least ``rate``."""
        small = self.coarse(F.avg_pool2d(x, self.rate))
        context = F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(self.full(x) * torch.sigmoid(x + context))
