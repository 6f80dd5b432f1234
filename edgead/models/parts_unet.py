"""SLSG's networks: encoder, U-shaped decoder, inpainting generator, discriminator, segmentation.

All maps are (n, C, h, w); H x W is the input size. The encoder gives five levels: its first
convolution at stride 2, then strides 2, 4, 8 and 16.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from edgead.models.backbones import feature_network
from edgead.models.parts_conv import conv_group
from edgead.models.parts_graph import SGBlock

__all__ = ["Decoder", "Discriminator", "Encoder", "Generator", "SegNet"]


class Encoder(nn.Module):
    """Five levels of a timm network; a residual network loses its max-pool, which halves its strides.

    Raises:
        ConfigError: As `feature_network`.
    """

    def __init__(self, name: str, *, weights: str | Path | None, seed: int) -> None:
        super().__init__()
        has_pool = "resnet" in name
        strides = (2, 4, 8, 16, 32) if has_pool else (2, 4, 8, 16)
        self.net, self.weights = feature_network(name, strides=strides, weights=weights, seed=seed)
        channels = list(self.net.feature_info.channels())
        if has_pool:
            self.net.maxpool = nn.Identity()
        self.has_pool = has_pool
        self.channels: tuple[int, ...] = tuple(channels if has_pool else [channels[0], *channels])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Normalised image -> levels at strides 2 (first convolution), 2, 4, 8, 16."""
        levels = list(self.net(x))
        return levels if self.has_pool else [levels[0], *levels]


class Decoder(nn.Module):
    """Four up-sampling steps with skips from the encoder and, if wanted, from the bottleneck X'.

    Args:
        channels: Of the encoder's five levels.
        widths: At strides 8, 4 and 2; the full size has half of the last.
        outputs: Channels of the result.
        bottleneck_skips: Give X' to every step, too (section 3.3, end).
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        *,
        widths: tuple[int, int, int],
        outputs: int,
        bottleneck_skips: bool,
    ) -> None:
        super().__init__()
        stem, *skips, bottom = channels
        extra = 2 if bottleneck_skips else 1
        self.up, self.block, self.context = (nn.ModuleList() for _ in range(3))
        below = bottom
        for skip, width in zip(reversed(skips), widths, strict=True):
            self.up.append(conv_group(below, width))
            joined = extra * width + skip
            self.block.append(nn.Sequential(conv_group(joined, width), conv_group(width, width)))
            if bottleneck_skips:
                self.context.append(conv_group(bottom, width))
            below = width
        last = below // 2
        self.last, self.stem = conv_group(below, last), conv_group(stem, last)
        self.head = nn.Sequential(
            conv_group(2 * last, last),
            conv_group(last, last // 2),
            nn.Conv2d(last // 2, outputs, 1),
        )

    def forward(self, levels: list[torch.Tensor], bottleneck: torch.Tensor) -> torch.Tensor:
        """Five levels and X' in the last one's place -> (n, outputs, H, W)."""
        x = bottleneck
        for i, (up, block) in enumerate(zip(self.up, self.block, strict=True)):
            parts = [up(_scaled(x, 2)), levels[3 - i]]
            if self.context:
                # Convolved before it is enlarged: the same map at a fraction of the work.
                parts.append(_scaled(self.context[i](bottleneck), 2 ** (i + 1)))
            x = block(torch.cat(parts, 1))
        first = _scaled(self.stem(levels[0]), 2)
        return self.head(torch.cat((self.last(_scaled(x, 2)), first), 1))


def _scaled(x: torch.Tensor, factor: int) -> torch.Tensor:
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


class Generator(nn.Module):
    """GPT-Net: paints in what a mask hides, from the decoder and from the bottleneck alone."""

    def __init__(self, encoder: Encoder, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(encoder.channels, widths=widths, outputs=3, bottleneck_skips=False)
        self.auxiliary = _auxiliary(encoder.channels[-1], widths[0], 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked image (n, 3, H, W) -> image, and the image at the bottleneck's stride."""
        levels = self.encoder(x)
        return self.decoder(levels, levels[-1]), self.auxiliary(levels[-1])


class Discriminator(nn.Module):
    """D-Net: four convolution groups of stride 2, one value a patch; a Markov discriminator."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        groups: list[nn.Module] = []
        c_in = 3
        for i in range(4):
            c_out = width * 2**i
            groups.append(nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=i == 0))
            if i:
                groups.append(nn.BatchNorm2d(c_out))
            groups.append(nn.LeakyReLU(0.2, inplace=True))
            c_in = c_out
        self.net = nn.Sequential(*groups, nn.Conv2d(c_in, 1, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) -> (n, 1, H / 16, W / 16)."""
        return self.net(x)


class SegNet(nn.Module):
    """Encoder, SG block at the bottleneck, decoder: two values a pixel, good and defect.

    Args:
        encoder: As GPT-Net left it.
        size: (H, W), multiples of 16.
        widths: Of the decoder.
        block: Options of `SGBlock`.
    """

    def __init__(
        self,
        encoder: Encoder,
        size: tuple[int, int],
        *,
        widths: tuple[int, int, int],
        reduction: int,
        neighbours: int,
        dilation: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        bottom = encoder.channels[-1]
        self.sg = SGBlock(
            bottom,
            (size[0] // 16, size[1] // 16),
            reduction=reduction,
            neighbours=neighbours,
            dilation=dilation,
        )
        self.decoder = Decoder(encoder.channels, widths=widths, outputs=2, bottleneck_skips=True)
        self.auxiliary = _auxiliary(bottom, widths[0], 2)

    def encode(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Normalised image -> the encoder's five levels and X' (n, C, H / 16, W / 16)."""
        levels = self.encoder(x)
        return levels, self.sg(levels[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised image -> logits (n, 2, H, W)."""
        return self.decoder(*self.encode(x))


def _auxiliary(c_in: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv_group(c_in, width), nn.Conv2d(width, outputs, 1))
