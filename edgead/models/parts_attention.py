"""The two attention modules of DFDA-AD: a changed CBAM and a query-key attention without projections.

Letters: n images, C channels, (h, w) map, N = h * w positions.
Sources: Masoudi, J. Modeling in Engineering 22(79), 2024, sections 2-3 and 2-4; Woo et al., ECCV 2018
(CBAM); Ishida et al., IEEE Access 11, 2023 (SA-PatchCore).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["ChannelAttention", "QueryKeyAttention", "SpatialAttention"]


class ChannelAttention(nn.Module):
    """CBAM's channel attention: M_c = sigmoid(MLP(avg F) + MLP(max F)), multiplied onto F.

    The MLP's last layer starts at zero, so that attention starts out even: ours.

    Args:
        channels: C.
        reduction: The MLP's hidden width is C / reduction.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """(n, C, h, w) -> the same shape."""
        average, peak = feature.mean(dim=(2, 3)), feature.amax(dim=(2, 3))
        logits = self._mlp(average) + self._mlp(peak)
        return feature * torch.sigmoid(logits)[:, :, None, None]

    def _mlp(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.excite(F.relu(self.squeeze(pooled)))


class SpatialAttention(nn.Module):
    """DFDA-AD's weights of positions: pooled maps aggregated, three fully connected layers, sigmoid.

    Args:
        size: (h, w) of the map.
        hidden: Width of the two hidden layers.
        aggregate: How the average- and the max-pooled map become one; the paper's word covers both.
        layers: ``flatten`` connects all positions; ``position`` works on each position alone.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        hidden: int,
        aggregate: Literal["sum", "concatenate"] = "sum",
        layers: Literal["flatten", "position"] = "flatten",
    ) -> None:
        super().__init__()
        self.aggregate, self.layers = aggregate, layers
        positions = size[0] * size[1] if layers == "flatten" else 1
        maps = 1 if aggregate == "sum" else 2
        last = nn.Linear(hidden, positions)
        nn.init.zeros_(last.weight)  # even weights at the start, as for the channels
        nn.init.zeros_(last.bias)
        self.fully_connected = nn.Sequential(
            nn.Linear(maps * positions, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            last,
        )

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """(n, C, h, w) -> weights M_s in 0..1. (n, 1, h, w)."""
        n, _, h, w = feature.shape
        average, peak = feature.mean(dim=1), feature.amax(dim=1)  # (n, h, w)
        if self.aggregate == "sum":
            maps = (average + peak)[:, None]
        else:
            maps = torch.stack([average, peak], dim=1)
        if self.layers == "flatten":
            logits = self.fully_connected(maps.flatten(1))
        else:
            logits = self.fully_connected(maps.permute(0, 2, 3, 1))
        return torch.sigmoid(logits).reshape(n, 1, h, w)


class QueryKeyAttention(nn.Module):
    """Query-key attention over positions: S = X Y^T, X max-pooled and Y average-pooled features.

    ``centred`` (ours): pools 3x3 of stride 1, spatial means of X and Y subtracted, S scaled by a learned
    factor over sqrt(C), A = sigmoid(S) with rows that sum to 1, output F + g A F with a gate g that
    starts at 0. ``paper``: A = sigmoid(X Y^T), output A F. After ReLU those products are large and
    positive, the sigmoid is 1 everywhere, and every position gets the same sum over all positions: the
    branch then says what is in the image and no longer where.

    Args:
        channels: C.
        form: ``centred`` or ``paper``.
    """

    def __init__(self, channels: int, form: Literal["centred", "paper"] = "centred") -> None:
        super().__init__()
        self.form = form
        self.root = float(channels) ** 0.5
        if form == "centred":
            self.scale = nn.Parameter(torch.ones(()))
            self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """(n, C, h, w) -> the same shape."""
        values = feature.flatten(2)  # F, (n, C, N)
        query = F.max_pool2d(feature, 3, stride=1, padding=1).flatten(2)  # X
        key = F.avg_pool2d(feature, 3, stride=1, padding=1, count_include_pad=False).flatten(2)  # Y
        if self.form == "paper":
            weights = torch.sigmoid(query.transpose(1, 2) @ key)  # (n, N, N)
            return (values @ weights.transpose(1, 2)).reshape(feature.shape)
        query = query - query.mean(dim=2, keepdim=True)
        key = key - key.mean(dim=2, keepdim=True)
        weights = torch.sigmoid(query.transpose(1, 2) @ key * (self.scale / self.root))
        weights = weights / weights.sum(dim=2, keepdim=True)
        attended = (values @ weights.transpose(1, 2)).reshape(feature.shape)
        return feature + self.gate * attended
