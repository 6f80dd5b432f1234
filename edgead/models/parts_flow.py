"""Real-NVP: a normalizing flow of affine coupling blocks over feature maps, exactly invertible.

Letters: n images, C channels (even or odd), (h, w) map.
Sources: Dinh et al., arXiv:1605.08803, 2017 (Real-NVP); Rudolph et al., WACV 2022 (CS-Flow), whose setting
NF-BMR takes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["CouplingBlock", "Flow", "negative_log_likelihood"]


class Subnetwork(nn.Module):
    """One hidden layer; its output is split along channels into log-scale s and translation t.

    Args:
        channels_in: Channels that it sees.
        channels_out: Channels that s and t have each.
        hidden: Width of the hidden layer.
        kernel: Side of both convolutions, odd.
    """

    def __init__(self, channels_in: int, channels_out: int, *, hidden: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, hidden, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(hidden, 2 * channels_out, kernel, padding=kernel // 2)
        # At 0 every block starts as the identity.
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, C_in, h, w) -> s and t, (n, C_out, h, w) each."""
        out = self.second(F.leaky_relu(self.first(x), 0.1))
        out = out.to(x.dtype) * self.gain  # under autocast the convolutions answer in bfloat16
        s, t = out.chunk(2, dim=1)
        return s, t


class CouplingBlock(nn.Module):
    """A fixed random permutation of the channels, then an affine map of either half given the other.

    y1 = x1 * exp(c(s2(x2))) + t2(x2), then y2 = x2 * exp(c(s1(y1))) + t1(y1), with the soft clamp
    c(s) = 0.636 * clamp * atan(s / clamp), which stays within +-clamp.

    Args:
        channels: C, 2 or more.
        hidden: Width of the sub-networks.
        kernel: Side of their convolutions.
        clamp: Bound of the log-scale.
        generator: Draws the permutation.
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int,
        kernel: int,
        clamp: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.halves = (channels // 2, channels - channels // 2)
        self.clamp = clamp
        order = torch.randperm(channels, generator=generator)
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", torch.argsort(order))
        first, second = self.halves
        self.from_second = Subnetwork(second, first, hidden=hidden, kernel=kernel)
        self.from_first = Subnetwork(first, second, hidden=hidden, kernel=kernel)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, C, h, w) -> y of the same shape and log|det J| of each image, (n,)."""
        x1, x2 = x.index_select(1, self.order).split(self.halves, dim=1)
        s2, t2 = self._scaled(self.from_second, x2)
        y1 = x1 * torch.exp(s2) + t2
        s1, t1 = self._scaled(self.from_first, y1)
        y2 = x2 * torch.exp(s1) + t1
        return torch.cat([y1, y2], dim=1), s1.sum(dim=(1, 2, 3)) + s2.sum(dim=(1, 2, 3))

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        """(n, C, h, w) -> the x that `forward` made y of."""
        y1, y2 = y.split(self.halves, dim=1)
        s1, t1 = self._scaled(self.from_first, y1)
        x2 = (y2 - t1) * torch.exp(-s1)
        s2, t2 = self._scaled(self.from_second, x2)
        x1 = (y1 - t2) * torch.exp(-s2)
        return torch.cat([x1, x2], dim=1).index_select(1, self.inverse_order)

    def _scaled(self, network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        s, t = network(x)
        return 0.636 * self.clamp * torch.atan(s / self.clamp), t


class Flow(nn.Module):
    """Coupling blocks in a row, f: y -> z.

    Args:
        channels: C.
        blocks: How many.
        hidden: Width of the sub-networks.
        kernels: Side of the convolutions of each block; the last one repeats.
        clamp: Bound of the log-scales.
        seed: Of the permutations and the weights.
    """

    def __init__(
        self,
        channels: int,
        *,
        blocks: int,
        hidden: int,
        kernels: tuple[int, ...],
        clamp: float = 3.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sides = [kernels[min(i, len(kernels) - 1)] for i in range(blocks)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blocks = nn.ModuleList(
                CouplingBlock(
                    channels, hidden=hidden, kernel=side, clamp=clamp, generator=generator
                )
                for side in sides
            )

    def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, C, h, w) -> z of the same shape and log|det J| of each image, (n,)."""
        z, log_determinant = y, y.new_zeros(y.shape[0])
        for block in self.blocks:
            z, part = block(z)
            log_determinant = log_determinant + part
        return z, log_determinant

    def inverse(self, z: torch.Tensor) -> torch.Tensor:
        """(n, C, h, w) -> y."""
        for block in reversed(self.blocks):
            z = block.inverse(z)
        return z


def negative_log_likelihood(z: torch.Tensor, log_determinant: torch.Tensor) -> torch.Tensor:
    """1/2 |z|^2 - log|det J| under the prior N(0, I), without its constant, per dimension.

    Args:
        z: (n, C, h, w).
        log_determinant: (n,).

    Returns:
        Mean over images and dimensions, so that its size does not depend on the map's. Scalar.
    """
    per_image = 0.5 * z.square().sum(dim=(1, 2, 3)) - log_determinant
    return per_image.mean() / z[0].numel()
