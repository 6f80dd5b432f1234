"""SLSG's SG block: self-attention for dense relations, a top-K graph for sparse ones.

Letters: B images, C channels, N = h * w nodes, K neighbours.

Source: Yang et al., SLSG, section 3.3; max-relative graph convolution of Li et al., DeepGCNs, ICCV 2019.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from edgead.kernels import topk_neighbours

__all__ = ["SGBlock", "max_relative", "position_code"]


def position_code(size: tuple[int, int], channels: int) -> torch.Tensor:
    """P: sines and cosines of the row in one half of the channels, of the column in the other.

    Args:
        size: (h, w).
        channels: C_p, a multiple of 4.

    Returns:
        [N, C_p] float32, rows of the map one after the other.
    """
    quarter = channels // 4
    frequency = 10000 ** (-torch.arange(quarter, dtype=torch.float32) / quarter)
    codes = []
    for length in size:
        angle = torch.arange(length, dtype=torch.float32)[:, None] * frequency
        codes.append(torch.cat((angle.sin(), angle.cos()), 1))
    rows = codes[0][:, None].expand(*size, -1)
    columns = codes[1][None].expand(*size, -1)
    return torch.cat((rows, columns), -1).flatten(0, 1)


def max_relative(v: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """v'_i = max_j (v_i^j - v_i) over the K neighbours j of node i (Eq. 6).

    Args:
        v: Nodes. [B, N, C]
        index: Neighbours, 0..N-1. [B, N, K] int64

    Returns:
        [B, N, C]
    """
    batch, nodes, channels = v.shape
    first = torch.arange(batch, device=v.device)[:, None, None] * nodes
    flat = v.reshape(batch * nodes, channels)[(index + first).flatten()]
    # The node itself is the same in all K differences, so it is taken off after the maximum.
    return flat.unflatten(0, (batch * nodes, index.shape[2])).amax(1).unflatten(0, (-1, nodes)) - v


class SGBlock(nn.Module):
    """X' = u([Z', V'']): global attention Z' beside the max-relative graph convolution V'' (Eq. 7).

    Args:
        channels: C_in = C_out.
        size: (h, w) of the map.
        reduction: z; f and g map to C / z channels.
        neighbours: K.
        dilation: d; of the K * d best neighbours every d-th is kept.
        without_position: Subtract the position similarity W_p (Eq. 5).
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        *,
        reduction: int = 2,
        neighbours: int = 9,
        dilation: int = 1,
        without_position: bool = True,
    ) -> None:
        super().__init__()
        self.neighbours, self.dilation = neighbours, dilation
        self.f = nn.Conv2d(channels, channels // reduction, 1)
        self.g = nn.Conv2d(channels, channels // reduction, 1)
        self.h = nn.Conv2d(channels, channels, 1)
        self.u = nn.Conv2d(2 * channels, channels, 1)
        code = F.normalize(position_code(size, channels // 4 * 4), dim=1)
        self.register_buffer("position", code if without_position else None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, C, h, w) -> (n, C, h, w)."""
        f, g, dense, nodes = self.relate(x)
        return self.update(dense, max_relative(nodes, self.nearest(f, g)), x.shape[-2:])

    def relate(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """f(X), g(X) [B, N, C/z], the attention's Z [B, N, C] (Eqs. 2, 3) and the nodes [B, N, C]."""
        f, g, h, nodes = (
            part.flatten(2).transpose(1, 2) for part in (self.f(x), self.g(x), self.h(x), x)
        )
        weight = torch.softmax(f @ g.transpose(1, 2) / f.shape[2] ** 0.5, -1)  # W_d
        return f, g, weight @ h, nodes

    def nearest(self, f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Top-K of W_s = cos(f, g) - cos(P, P) in each row (Eqs. 4, 5): [B, N, K] int64."""
        if self.training and f.device.type == "cpu":
            return self._nearest_by_kernel(f, g)
        f, g = F.normalize(f.float(), dim=2), F.normalize(g.float(), dim=2)
        if self.position is not None:
            # [f, -P] [g, P]^T is the difference in one product, with no N x N constant in the graph.
            code = self.position.expand(f.shape[0], -1, -1)
            f, g = torch.cat((f, -code), 2), torch.cat((g, code), 2)
        sparse = f @ g.transpose(1, 2)
        index = sparse.topk(self.neighbours * self.dilation, dim=2).indices
        return index[:, :, :: self.dilation]

    def _nearest_by_kernel(self, f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """The same by `edgead.kernels.topk_neighbours`; an exported graph has standard operators only."""
        code = None if self.position is None else self.position.numpy()
        index = topk_neighbours(
            f.detach().float().numpy(),
            g.detach().float().numpy(),
            None if code is None else code @ code.T,  # W_p
            self.neighbours * self.dilation,
        )
        return torch.from_numpy(index).long()[:, :, :: self.dilation]

    def update(
        self, dense: torch.Tensor, sparse: torch.Tensor, size: torch.Size | tuple[int, int]
    ) -> torch.Tensor:
        """u([Z', V'']): two [B, N, C] -> (n, C, h, w)."""
        joined = torch.cat((dense, sparse), 2).transpose(1, 2)
        return self.u(joined.unflatten(2, tuple(size)))
