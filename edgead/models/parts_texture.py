"""Statistical texture: how often which similarity to the mean occurs, and put back per pixel.

Letters: B images, C channels, K = h * w pixels, N levels, S sub-regions a side.

Source: Zhu et al., Learning Statistical Texture for Semantic Segmentation, CVPR 2021 (STLNet), as MLFF
uses it (section 1.1). "QCO" is the quantisation and counting operator.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from edgead.models.parts_conv import conv_group

__all__ = ["PyramidTexture", "TextureEnhancement", "Window", "count_1d", "count_2d", "quantise"]

Window = Literal["stlnet", "paper"]
_TINY = 1e-6


def quantise(
    similarity: torch.Tensor, levels: int, window: Window
) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft one-hot code of each pixel over levels between the smallest and the largest similarity.

    Args:
        similarity: M, cosine similarity of each pixel to the pooled feature. [B, K]
        levels: N.
        window: ``stlnet``: centres (2n + 1) / (2N) of the range, kept where |L - M| < range / N, so a
            pixel has one or two levels whatever the range. ``paper``: L_n = n / N of the range, n = 1..N,
            kept where -0.5/N <= L - M < 0.5/N (Eq. 1); with a range below 1 a pixel has several levels.

    Returns:
        code: E = 1 - |L - M| inside the window, else 0. [B, K, N]
        level: L. [B, N]
    """
    low, high = similarity.amin(1, keepdim=True), similarity.amax(1, keepdim=True)
    spread = high - low
    n = torch.arange(levels, device=similarity.device, dtype=similarity.dtype)
    share = (2 * n + 1) / (2 * levels) if window == "stlnet" else (n + 1) / levels
    level = share * spread + low
    difference = level[:, None, :] - similarity[:, :, None]  # L_n - M_i
    if window == "stlnet":
        inside = difference.abs() < spread[:, :, None] / levels
    else:
        inside = (difference >= -0.5 / levels) & (difference < 0.5 / levels)
    return (1 - difference.abs()) * inside.to(difference.dtype), level


def count_1d(code: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """B = Cat(L, sum_i E_in / sum_n sum_i E_in) (Eq. 2): [B, K, N], [B, N] -> [B, 2, N]."""
    count = code.sum(1)
    # A constant image has no spread and no code: its counts are 0, not 0 / 0.
    return torch.stack((level, count / count.sum(1, keepdim=True).clamp_min(_TINY)), 1)


def count_2d(code: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Co-occurrence of levels at each pixel and its (+1, +1) neighbour.

    Args:
        code: E on a grid. [B, h, w, N]
        level: L. [B, N]

    Returns:
        (L_m, L_n, share of pairs with level m at the pixel and n at its neighbour). [B, 3, N, N]
    """
    here, there = code[:, :-1, :-1].flatten(1, 2), code[:, 1:, 1:].flatten(1, 2)
    pairs = here.transpose(1, 2) @ there  # the outer products of all pairs, summed
    share = pairs / pairs.sum((1, 2), keepdim=True).clamp_min(_TINY)
    first, second = level[:, :, None], level[:, None, :]
    return torch.stack((first.expand_as(share), second.expand_as(share), share), 1)


def _similarity(x: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """M: cosine of the angle between each pixel and the pooled feature of its region.

    Product and sum instead of a matrix product, which autocast would compute in bfloat16: levels lie
    closer than that resolves.

    Args:
        x: [B, C, h, w].
        pooled: One for each of S x S regions. [B, C, S, S]

    Returns:
        [B, h, w]
    """
    x, unit = x.float(), F.normalize(pooled.float(), dim=1)
    if unit.shape[-2:] != (1, 1):
        unit = F.interpolate(unit, size=x.shape[-2:], mode="nearest")
    return (x * unit).sum(1) / x.norm(dim=1).clamp_min(_TINY)


def _joined(
    join: nn.Conv1d | nn.Conv2d, statistics: torch.Tensor, pooled: torch.Tensor
) -> torch.Tensor:
    """``join`` of the statistics beside the pooled feature, the same at each level.

    Args:
        join: 1x1 convolution of 2 C channels.
        statistics: [B, C, N] or [B, C, N, N].
        pooled: [B, C]; its half of the convolution is computed once, not at each level.
    """
    weight, half = join.weight, statistics.shape[1]
    convolve = F.conv1d if statistics.ndim == 3 else F.conv2d
    once = F.linear(pooled, weight[:, half:].flatten(1), join.bias)
    levels = (1,) * (statistics.ndim - 2)
    return convolve(statistics, weight[:, :half]) + once.unflatten(1, (-1, *levels))


class TextureEnhancement(nn.Module):
    """TEM: 1-D statistics of the whole map, related by self-attention, given back to each pixel.

    Args:
        c_in: Channels of the input.
        c_out: Channels of the texture returned.
        statistics: Channels of the statistics.
        levels: N.
        window: See `quantise`.
    """

    def __init__(
        self, c_in: int, c_out: int, *, statistics: int, levels: int, window: Window
    ) -> None:
        super().__init__()
        self.levels, self.window = levels, window
        self.reduce = nn.Sequential(conv_group(c_in, c_out), nn.Conv2d(c_out, statistics, 1))
        self.encode = _mlp(nn.Conv1d, 2, statistics)
        self.join = nn.Conv1d(2 * statistics, statistics, 1)
        self.query = nn.Conv1d(statistics, statistics, 1)
        self.key = nn.Conv1d(statistics, statistics, 1)
        self.value = nn.Conv1d(statistics, statistics, 1)
        self.out = conv_group(statistics, c_out, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, c_in, h, w) -> (n, c_out, h, w)."""
        height, width = x.shape[-2:]
        x = self.reduce(x)
        pooled = x.mean((2, 3), keepdim=True)
        code, level = quantise(_similarity(x, pooled).flatten(1), self.levels, self.window)
        d = self.encode(count_1d(code, level))
        d = _joined(self.join, d, pooled.flatten(1))  # D, [B, C, N]
        weight = torch.softmax(self.query(d).transpose(1, 2) @ self.key(d), -1)
        d = self.value(d) @ weight.transpose(1, 2)  # D'
        texture = d @ code.transpose(1, 2)  # R = D' E, [B, C, K]
        return self.out(texture.unflatten(2, (height, width)))


class PyramidTexture(nn.Module):
    """PTFEM: 2-D statistics of sub-regions at several scales, up-sampled and fused.

    Args:
        c_in: Channels of the input.
        c_out: Channels of the texture returned.
        statistics: Channels of the statistics of one scale.
        levels: N.
        scales: Sub-regions a side; h and w must be multiples of each, and hold two pixels a region.
        window: See `quantise`.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        statistics: int,
        levels: int,
        scales: tuple[int, ...],
        window: Window,
    ) -> None:
        super().__init__()
        self.reduce = nn.Sequential(conv_group(c_in, c_out), nn.Conv2d(c_out, statistics, 1))
        self.scales = nn.ModuleList(_Regions(statistics, levels, s, window) for s in scales)
        self.out = conv_group(statistics * len(scales), c_out, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, c_in, h, w) -> (n, c_out, h, w)."""
        x = self.reduce(x)
        size = x.shape[-2:]
        textures = [
            F.interpolate(scale(x), size=size, mode="bilinear", align_corners=False)
            for scale in self.scales
        ]
        return self.out(torch.cat(textures, 1))


class _Regions(nn.Module):
    """Texture feature of each of S x S sub-regions from its 2-D statistics."""

    def __init__(self, channels: int, levels: int, regions: int, window: Window) -> None:
        super().__init__()
        self.levels, self.regions, self.window = levels, regions, window
        self.encode = _mlp(nn.Conv2d, 3, channels)
        self.join = nn.Sequential(nn.Conv2d(2 * channels, channels, 1), nn.ReLU(inplace=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, C, h, w) -> (n, C, S, S)."""
        s = self.regions
        h, w = x.shape[2] // s, x.shape[3] // s
        pooled = F.avg_pool2d(x, (h, w))
        # Similarities are cut into regions, never the map itself: engines would copy it for each scale.
        cut = _similarity(x, pooled).unflatten(2, (s, w)).unflatten(1, (s, h)).transpose(2, 3)
        code, level = quantise(cut.flatten(3).flatten(0, 2), self.levels, self.window)
        counts = self.encode(count_2d(code.unflatten(1, (h, w)), level))
        convolution, activate = self.join
        rows = pooled.permute(0, 2, 3, 1).flatten(0, 2)  # [B S S, C]
        texture = activate(_joined(convolution, counts, rows)).mean((2, 3))
        return texture.unflatten(0, (-1, s, s)).permute(0, 3, 1, 2)


def _mlp(layer: type[nn.Conv1d] | type[nn.Conv2d], c_in: int, c_out: int) -> nn.Sequential:
    """The same two-layer perceptron at each level or pair of levels."""
    hidden = max(c_out // 2, 8)
    return nn.Sequential(
        layer(c_in, hidden, 1), nn.LeakyReLU(inplace=True), layer(hidden, c_out, 1)
    )
