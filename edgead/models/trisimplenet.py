"""TrisimpleNet: a linear adaptor and a small discriminator on frozen features, with a triplet loss.

Mao, "TrisimpleNet: defect detection network based on triplet loss and feature synthesis", 2024; built
on SimpleNet (Liu et al., CVPR 2023).

======== ===================================== ==========================
symbol   name                                  shape
======== ===================================== ==========================
x        image                                 (h, w, 3)
F(x), o  `features`: averaged, joined levels   (h', w', C), C = 1536 [WRN50-2]
G, q     `adaptor`, adapted feature            C -> C, no bias
D        `discriminator`, positive = normal    C -> hidden -> 1
q-, q'   simulated defect, simulated normal    C
S        `anomaly map` = -D(G(F(x)))           (h', w'), 36 x 36 at 288
======== ===================================== ==========================

Differences from the paper:

* The triplet term is the hinge ``max(0, alpha - (D(q) - D(q-)))`` of the pseudo-code; (3.11) writes the
  opposite sign without a hinge. ``|D(q)' - D(q')'|`` is taken from (3.11).
* Open in the paper, ours: p = 3 and smoothing sigma 4 (SimpleNet's), hidden width 1024, input 288 (which
  gives the paper's 36 x 36), averaging that does not count the padding.
* ``TrisimpleConfig.edge`` is ours: features standardised per channel over the good images, so that
  the noise has one meaning for every backbone (0.25 standard deviations; the paper's 0.015 belongs to
  raw WideResNet50-2 features), steps on patches drawn across all images, learning rate 1e-3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from edgead.errors import CalibrationError
from edgead.manifest import HeadSpec
from edgead.models.backbones import DEFAULT_BACKBONE, Backbone
from edgead.models.base import ExportSpec, Images
from edgead.models.parts_precision import autocast
from edgead.train.features import FeatureCache
from edgead.train.loop import Loop

__all__ = ["TrisimpleConfig", "TrisimpleNet", "triplet_loss"]


@dataclass(frozen=True)
class TrisimpleConfig:
    """Settings; the defaults are the paper's.

    Attributes:
        image_size: (h, w) of the engine input.
        strides: Levels that are joined.
        neighbourhood: p of (3.1), the side of the averaging window.
        sigma_defect: Standard deviation of the noise that makes q- (3.6).
        sigma_normal: Standard deviation of the noise that makes q' (3.7).
        margin: th+ = -th- of (3.10).
        alpha: Triplet margin of (3.11).
        hidden: Width of the discriminator.
        learning_rate: Of Adam, for G and D.
        weight_decay: Of Adam.
        epochs: Passes over all patches.
        batch_images: Images a step, when ``step_patches`` is None.
        step_patches: Patches a step, drawn across all images; None takes whole images.
        least_steps: Steps at the least: with few images an epoch is a handful of them.
        standardise: Scale each feature channel to unit variance over the good images first.
        smoothing: Gaussian sigma of the map, input pixels.
    """

    image_size: tuple[int, int] = (288, 288)
    strides: tuple[int, ...] = (8, 16)
    neighbourhood: int = 3
    sigma_defect: float = 0.015
    sigma_normal: float = 0.00015
    margin: float = 0.5
    alpha: float = 1.0
    hidden: int = 1024
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    epochs: int = 160
    batch_images: int = 4
    step_patches: int | None = None
    least_steps: int = 0
    standardise: bool = False
    smoothing: float = 4.0

    @classmethod
    def edge(cls, image_size: tuple[int, int] = (288, 288)) -> TrisimpleConfig:
        """Ours, for any backbone and minutes on a CPU."""
        return cls(
            image_size=image_size,
            sigma_defect=0.25,
            sigma_normal=0.0025,
            learning_rate=1e-3,
            epochs=12,
            step_patches=4096,
            least_steps=400,
            standardise=True,
        )


class TrisimpleNet:
    """The method; see `edgead.models.base.Method`."""

    name = "trisimplenet"

    def __init__(
        self,
        config: TrisimpleConfig | None = None,
        *,
        backbone: str = DEFAULT_BACKBONE,
        weights: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        self.config = config or TrisimpleConfig()
        self.image_size = self.config.image_size
        net = Backbone(backbone, strides=self.config.strides, weights=weights, seed=seed)
        self.backbone, self.weights = backbone, net.weights
        self.features = Features(net, self.config.neighbourhood)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.adaptor, self.discriminator = _networks(sum(net.channels), self.config.hidden)
        self._mean = torch.zeros(sum(net.channels))
        self._deviation = torch.ones(sum(net.channels))

    def fit(self, images: Images, loop: Loop) -> None:
        """Train G and D on features computed once.

        Raises:
            CalibrationError: TOO_FEW_IMAGES, LOSS_NOT_FINITE.
        """
        device = loop.device
        self.features.to(device)
        cache = FeatureCache(self.features, images, device=device)
        try:
            if self.config.standardise:
                self._mean, self._deviation = cache.moments()
            self._train(cache, loop)
        finally:
            cache.close()
        for part in (self.features, self.adaptor, self.discriminator):
            part.cpu().eval()

    def _train(self, cache: FeatureCache, loop: Loop) -> None:
        cfg, device = self.config, loop.device
        adaptor, discriminator = self.adaptor.to(device), self.discriminator.to(device)
        adaptor.train()
        discriminator.train()
        optimiser = torch.optim.Adam(
            [*adaptor.parameters(), *discriminator.parameters()],
            lr=cfg.learning_rate,
            weight_decay=cfg.weight_decay,
        )
        noise = torch.Generator(device=device).manual_seed(loop.seed)
        mean, deviation = self._mean.to(device), self._scale().to(device)
        loop.register(
            adaptor=adaptor, discriminator=discriminator, optimiser=optimiser, noise=noise
        )
        for _ in loop.stage("discriminator", epochs=_epochs(cache, cfg)):
            for patches in _batches(cache, cfg, loop):
                q = adaptor((patches.to(device) - mean) / deviation)  # (3.5)
                drawn = torch.randn(q.shape, generator=noise, device=device)
                defect = q + cfg.sigma_defect * drawn  # q-, (3.6)
                drawn = torch.randn(q.shape, generator=noise, device=device)
                normal = q + cfg.sigma_normal * drawn  # q', (3.7)
                with autocast(device):
                    # Two batches, since batch norm sees what it is given: (3.8) and (3.9).
                    d_q, d_defect = discriminator(torch.cat([q, defect])).chunk(2)
                    d_q2, d_normal = discriminator(torch.cat([q, normal])).chunk(2)
                scores = (d.float().squeeze(1) for d in (d_q, d_defect, d_q2, d_normal))
                loss = triplet_loss(*scores, margin=cfg.margin, alpha=cfg.alpha)
                loop.record(loss=loss.detach())
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

    def _scale(self) -> torch.Tensor:
        """Standard deviations; a channel that never moves keeps its scale."""
        return torch.where(self._deviation > 1e-6, self._deviation, torch.ones(()))

    def export_spec(self) -> ExportSpec:
        """Backbone, averaging, and G, standardisation, batch norm folded into one layer."""
        net = self.features.backbone
        scorer = _folded(self.adaptor, self.discriminator, self._mean, self._scale())
        return ExportSpec(
            module=_Network(self.features, scorer).eval(),
            outputs=("anomaly_map",),
            head=HeadSpec(kind="max", sigma=self.config.smoothing),
            mean=net.mean,
            std=net.std,
            keep_high=("scorer",),
        )


class Features(nn.Module):
    """F of (3.4): (n, h, w, 3) uint8 -> (n, h', w', C), levels averaged, resized and joined."""

    def __init__(self, backbone: Backbone, neighbourhood: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.neighbourhood = neighbourhood

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features of a batch, channels last."""
        levels = [
            F.avg_pool2d(
                level,
                self.neighbourhood,
                stride=1,
                padding=self.neighbourhood // 2,
                count_include_pad=False,
            )
            for level in self.backbone(image)
        ]  # (3.2)
        size = levels[0].shape[-2:]
        same = [
            level
            if level.shape[-2:] == size
            else F.interpolate(level, size, mode="bilinear", align_corners=False)
            for level in levels
        ]
        return torch.cat(same, dim=1).permute(0, 2, 3, 1)  # (3.3)


def triplet_loss(
    d_q: torch.Tensor,
    d_defect: torch.Tensor,
    d_q2: torch.Tensor,
    d_normal: torch.Tensor,
    *,
    margin: float = 0.5,
    alpha: float = 1.0,
) -> torch.Tensor:
    """Loss of one step, averaged over positions.

    Args:
        d_q: D(q) from the batch [q, q-]. (N,)
        d_defect: D(q-). (N,)
        d_q2: D(q)' from the batch [q, q']. (N,)
        d_normal: D(q')'. (N,)
        margin: th.
        alpha: Triplet margin.

    Source: TrisimpleNet, (3.10) to (3.12) and its pseudo-code.
    """
    separate = F.relu(margin - d_q) + F.relu(margin + d_defect)  # (3.10)
    triplet = F.relu(alpha - (d_q - d_defect)) + (d_q2 - d_normal).abs()  # (3.11)
    return (separate + triplet).mean()  # (3.12), (3.13)


def _networks(channels: int, hidden: int) -> tuple[nn.Linear, nn.Sequential]:
    adaptor = nn.Linear(channels, channels, bias=False)  # G
    discriminator = nn.Sequential(  # D
        nn.Linear(channels, hidden),
        nn.BatchNorm1d(hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, 1, bias=False),
    )
    for layer in (adaptor, *discriminator):
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
    return adaptor, discriminator


def _epochs(cache: FeatureCache, config: TrisimpleConfig) -> int:
    """Epochs that give ``least_steps``, and no fewer than the config's own."""
    images, patches = config.batch_images, config.step_patches
    steps = cache.shape[0] / images if patches is None else cache.patches / patches
    return max(config.epochs, math.ceil(config.least_steps / max(steps, 1)))


def _batches(cache: FeatureCache, config: TrisimpleConfig, loop: Loop):  # type: ignore[no-untyped-def]
    """One epoch: whole images as in the paper, or patches drawn across all images."""
    if config.step_patches is None:
        order = torch.randperm(cache.shape[0], generator=loop.generator)
        parts = order.split(config.batch_images)
        for step in loop.steps(len(parts)):
            yield cache.images(parts[step])
        return
    if cache.patches < 2:
        raise CalibrationError("TOO_FEW_IMAGES", "one patch cannot be trained on.")
    order = torch.randperm(cache.patches, generator=loop.generator)
    parts = [part for part in order.split(config.step_patches) if len(part) > 1]
    for step in loop.steps(len(parts)):
        yield cache.take(parts[step].sort().values)


class _Network(nn.Module):
    """What is exported: (n, h, w, 3) uint8 -> (n, h', w') float32."""

    def __init__(self, features: Features, scorer: nn.Sequential) -> None:
        super().__init__()
        self.features, self.scorer = features, scorer

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """S = -D(G(F(x))), (3.14)."""
        levels = self.features(image).permute(0, 3, 1, 2)
        return -self.scorer(levels).squeeze(1)


def _folded(
    adaptor: nn.Linear, discriminator: nn.Sequential, mean: torch.Tensor, scale: torch.Tensor
) -> nn.Sequential:
    """Standardise, G, first layer and batch norm of D as one 1x1 convolution: all are affine."""
    first, norm, act, last = discriminator
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight = (first.weight @ adaptor.weight / scale) * gain[:, None]
    bias = (first.bias - norm.running_mean) * gain + norm.bias - weight @ mean
    wide = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    narrow = nn.Conv2d(weight.shape[0], 1, 1, bias=False)
    wide.weight.data = weight.detach()[:, :, None, None].clone()
    wide.bias.data = bias.detach().clone()
    narrow.weight.data = last.weight.detach()[:, :, None, None].clone()
    return nn.Sequential(wide, nn.LeakyReLU(act.negative_slope), narrow)
