"""MLFF: texture statistics and semantics fused into one feature a pixel, scored by one linear layer.

"Image anomaly detection algorithm using multi-level feature fusion network" (Chinese journal article;
title translated), with STLNet's texture modules (Zhu et al., CVPR 2021) and a self-calibrated convolution
(Liu et al., CVPR 2020).

========= ========================================== =========================
symbol    name                                       shape (256 x 256 input)
========= ========================================== =========================
F12       `stem`: stages 1 and 2 fused               (n, 256, 64, 64)
T1        `texture_map`: TEM(F12)                    (n, 256, 64, 64)
T2        `texture_pyramid`: PTFEM([F12, T1])        (n, 256, 64, 64)
SC        `semantic`: self-calibrated stage 3        (n, 1024, 16, 16)
psi       [F12, T1, T2, up(SC)]                      (n, 1792, 64, 64)
A         distance to the origin (after Eq. 3)       (n, 64, 64)
S         `score`: one linear layer on psi (Eq. 9)   (n, 64, 64)
P, Q      distances of features, of scores (Eq. 6)   (n, K, K), K patches
========= ========================================== =========================

Differences from the paper:

* Open there, ours: feature maps at stride 4, widths 256 / 128 / 256, N = 128 levels (8 for pairs), r = 4, a
  position is a defect when any of its pixels is, the normal pixel paired with a defect in Eq. 5 is a random
  one of the same image, patches of Eq. 6 are 4 x 4 positions.
* "Decay rate" 3e-5 is read as weight decay, with momentum 0.9 and a constant learning rate.
* ``window="stlnet"`` by default: Eq. 1's window ignores the range of similarities, so that a pixel has many
  levels or none; ``window="paper"`` is Eq. 1.
* PTFEM's pair is a pixel and its (+1, +1) neighbour, and a sub-region's texture the mean over level pairs.
* ``MlffConfig.edge`` is ours: narrower textures, smaller batches, a higher learning rate with cosine decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from edgead.errors import ConfigError
from edgead.evaluate.textures import procedural_texture
from edgead.manifest import HeadSpec
from edgead.models.backbones import DEFAULT_BACKBONE, feature_network, norm_of
from edgead.models.base import ExportSpec, Images, InputLayer
from edgead.models.parts_conv import SelfCalibratedConv, conv_group
from edgead.models.parts_defects import DefectSource, Pair, stacked
from edgead.models.parts_precision import autocast, laid_out
from edgead.models.parts_texture import PyramidTexture, TextureEnhancement, Window
from edgead.train.loop import Loop

__all__ = ["FusionNet", "Mlff", "MlffConfig", "consistency_loss", "feature_loss", "score_loss"]


@dataclass(frozen=True)
class MlffConfig:
    """Settings; the defaults are the paper's.

    Attributes:
        image_size: (h, w) of the engine input, multiples of 32.
        stem: Channels of F12.
        texture: Channels of T1 and of T2.
        statistics: Channels of the texture statistics.
        levels: N of the 1-D operator.
        pair_levels: N of the 2-D operator.
        scales: Sub-regions a side in PTFEM.
        window: See `edgead.models.parts_texture.quantise`.
        rate: r of the self-calibrated convolution.
        gamma: Highest score of a normal pixel that costs nothing (Eq. 5).
        margin: lambda of Eq. 5.
        patch: Positions a side of a patch of Eq. 6.
        weights: alpha, beta, xi of Eq. 8: feature, score and consistency loss.
        defects: Kinds of simulated defects.
        defect_share: Share of training images that get one.
        repeats: Times that an epoch sees each image.
        batch: Images a step.
        learning_rate: Of SGD.
        schedule: ``constant``, or ``cosine`` down to 1 % over the training.
        momentum: Of SGD.
        weight_decay: Of SGD.
        epochs: Passes over the repeated images.
        smoothing: Gaussian sigma of the map, input pixels.
    """

    image_size: tuple[int, int] = (256, 256)
    stem: int = 256
    texture: int = 256
    statistics: int = 128
    levels: int = 128
    pair_levels: int = 8
    scales: tuple[int, ...] = (1, 2, 4, 8)
    window: Window = "stlnet"
    rate: int = 4
    gamma: float = 2.5
    margin: float = 5.0
    patch: int = 4
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    defects: tuple[str, ...] = ("confetti", "cutpaste")
    defect_share: float = 0.5
    repeats: int = 10
    batch: int = 32
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = 0.9
    weight_decay: float = 3e-5
    epochs: int = 200
    smoothing: float = 0.0

    @classmethod
    def edge(cls, image_size: tuple[int, int] = (256, 256)) -> MlffConfig:
        """Ours, for a small backbone and half an hour on a CPU."""
        return cls(
            image_size=image_size,
            stem=64,
            texture=64,
            statistics=32,
            levels=32,
            batch=8,
            learning_rate=1e-2,
            schedule="cosine",
            epochs=12,
        )


class Mlff:
    """The method; see `edgead.models.base.Method`. The whole network is trained.

    Raises:
        ConfigError: IMAGE_SIZE, and those of the backbone.
    """

    name = "mlff"

    def __init__(
        self,
        config: MlffConfig | None = None,
        *,
        backbone: str = DEFAULT_BACKBONE,
        weights: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        self.config = config or MlffConfig()
        self.image_size = self.config.image_size
        _check_size(self.config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = FusionNet(self.config, backbone, weights=weights, seed=seed)
        self.backbone, self.weights = backbone, self.net.source
        self.mean, self.std = norm_of(backbone).mean, norm_of(backbone).std
        self.input = InputLayer(self.mean, self.std)

    def fit(self, images: Images, loop: Loop) -> None:
        """Train backbone, texture and score together on good images and simulated defects.

        Raises:
            CalibrationError: TOO_FEW_IMAGES, ANOMALY_INVISIBLE, LOSS_NOT_FINITE.
        """
        cfg, device = self.config, loop.device
        source = DefectSource(images, loop.rng, textures=procedural_texture)
        net, prepare = laid_out(self.net.to(device)).train(), self.input.to(device)
        optimiser = torch.optim.SGD(
            net.parameters(),
            lr=cfg.learning_rate,
            momentum=cfg.momentum,
            weight_decay=cfg.weight_decay,
        )
        loop.register(net=net, optimiser=optimiser)
        steps = max(1, cfg.repeats * len(images) // cfg.batch)
        for _ in loop.stage("fusion", epochs=cfg.epochs):
            order = source.order(steps * cfg.batch).reshape(steps, cfg.batch)
            for step in loop.steps(steps):
                _set_rate(optimiser, cfg, loop.share_done)
                image, mask = stacked([self._draw(source, int(i)) for i in order[step]], device)
                with autocast(device):
                    psi, score = net(prepare(image))
                losses = self._losses(psi.float(), score.float(), mask, loop.generator)
                loop.record(**{name: value.detach() for name, value in losses.items()})
                optimiser.zero_grad()
                sum(w * v for w, v in zip(cfg.weights, losses.values(), strict=True)).backward()
                optimiser.step()
        self.net, self.input = net.cpu().eval(), prepare.cpu()

    def _draw(self, source: DefectSource, index: int) -> Pair:
        if source.rng.random() >= self.config.defect_share:
            return source.good(index)
        kinds = source.rng.permutation(self.config.defects)
        return source.defective(index, str(kinds[0]), spare=[str(kind) for kind in kinds[1:]])

    def _losses(
        self, psi: torch.Tensor, score: torch.Tensor, mask: torch.Tensor, rng: torch.Generator
    ) -> dict[str, torch.Tensor]:
        cfg = self.config
        defect = F.adaptive_max_pool2d(mask[:, None].float(), score.shape[-2:])[:, 0] > 0
        return {
            "feature": feature_loss(psi, defect),
            "score": score_loss(score, defect, rng, gamma=cfg.gamma, margin=cfg.margin),
            "consistency": consistency_loss(psi, score, defect, cfg.patch),
        }

    def export_spec(self) -> ExportSpec:
        """Input layer, network and score as one module."""
        return ExportSpec(
            module=_Network(self.input, self.net).eval(),
            outputs=("anomaly_map",),
            head=HeadSpec(kind="max", sigma=self.config.smoothing),
            mean=self.mean,
            std=self.std,
            # Levels lie 1/N of a range apart: half precision would move pixels between them.
            keep_high=("net.texture_map", "net.texture_pyramid"),
        )


class FusionNet(nn.Module):
    """psi and S: (n, 3, H, W) -> (n, C, H/4, W/4), (n, H/4, W/4)."""

    def __init__(
        self, config: MlffConfig, backbone: str, *, weights: str | Path | None, seed: int
    ) -> None:
        super().__init__()
        self.levels, self.source = feature_network(
            backbone, strides=(4, 8, 16), weights=weights, seed=seed
        )
        first, second, third = self.levels.feature_info.channels()
        self.stem = conv_group(first + second, config.stem, kernel=1)
        self.texture_map = TextureEnhancement(
            config.stem,
            config.texture,
            statistics=config.statistics,
            levels=config.levels,
            window=config.window,
        )
        self.texture_pyramid = PyramidTexture(
            config.stem + config.texture,
            config.texture,
            statistics=config.statistics,
            levels=config.pair_levels,
            scales=config.scales,
            window=config.window,
        )
        self.semantic = SelfCalibratedConv(third, rate=config.rate)
        self.channels = config.stem + 2 * config.texture + third
        self.score = nn.Conv2d(self.channels, 1, 1)  # S, Eq. 9

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Feature and score of each position."""
        first, second, third = self.levels(x)
        size = first.shape[-2:]
        f12 = self.stem(torch.cat((first, _enlarged(second, size)), 1))
        t1 = self.texture_map(f12)
        t2 = self.texture_pyramid(torch.cat((f12, t1), 1))
        psi = torch.cat((f12, t1, t2, _enlarged(self.semantic(third), size)), 1)
        return psi, self.score(psi)[:, 0]


class _Network(nn.Module):
    """What is exported: (n, h, w, 3) uint8 -> (n, h / 4, w / 4) float32."""

    def __init__(self, prepare: InputLayer, net: FusionNet) -> None:
        super().__init__()
        self.input, self.net = prepare, net

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """S of each position."""
        return self.net(self.input(image))[1]


def feature_loss(psi: torch.Tensor, defect: torch.Tensor) -> torch.Tensor:
    """L_f = 1/2 mean_normal A - 1/2 mean_defect ln(1 - exp(-A)), A = sqrt(|psi|^2 + 1) - 1 (Eq. 4).

    Args:
        psi: (n, C, h, w).
        defect: (n, h, w) bool.
    """
    distance = torch.sqrt((psi * psi).sum(1) + 1) - 1  # A
    loss = 0.5 * distance[~defect].mean() if (~defect).any() else distance.new_zeros(())
    if defect.any():
        # expm1 keeps 1 - exp(-A) exact near the origin, where its logarithm matters most.
        near = -torch.expm1(-distance[defect].clamp_min(1e-6))
        loss = loss - 0.5 * near.log().mean()
    return loss


def score_loss(
    score: torch.Tensor,
    defect: torch.Tensor,
    rng: torch.Generator,
    *,
    gamma: float = 2.5,
    margin: float = 5.0,
) -> torch.Tensor:
    """L_s = mean_i max(0, S_i^n - gamma) + mean_j max(0, lambda - (S_j^a - S_j^n)) (Eq. 5).

    Args:
        score: S. (n, h, w)
        defect: (n, h, w) bool.
        rng: Draws the normal pixel that each defect pixel is compared with.
        gamma: See `MlffConfig`.
        margin: lambda.
    """
    loss = F.relu(score[~defect] - gamma).mean() if (~defect).any() else score.new_zeros(())
    gaps = []
    for s, d in zip(score, defect, strict=True):
        normal, wrong = s[~d], s[d]
        if len(normal) and len(wrong):
            partner = torch.randint(len(normal), (len(wrong),), generator=rng)
            gaps.append(F.relu(margin - (wrong - normal[partner.to(s.device)])))
    return loss + torch.cat(gaps).mean() if gaps else loss


def consistency_loss(
    psi: torch.Tensor, score: torch.Tensor, defect: torch.Tensor, patch: int
) -> torch.Tensor:
    """L_fs: mean over rows of KL(softmax Q_i || softmax P_i), over normal patches (Eqs. 6, 7).

    Args:
        psi: (n, C, h, w).
        score: S. (n, h, w)
        defect: (n, h, w) bool; a patch that holds one counts in no row and no column.
        patch: Positions a side of a patch.
    """
    features = F.avg_pool2d(psi, patch).flatten(2).transpose(1, 2)
    scores = F.avg_pool2d(score[:, None], patch).flatten(2).transpose(1, 2)
    normal = F.max_pool2d(defect[:, None].float(), patch).flatten(1) == 0  # [n, K]
    log_p, log_q = (_log_softmax(torch.cdist(x, x), normal) for x in (features, scores))
    rows = (log_q.exp() * (log_q - log_p)).sum(2)
    # An image without a normal patch adds nothing.
    per_image = (rows * normal).sum(1) / normal.sum(1).clamp_min(1)
    return per_image.mean()


def _log_softmax(distance: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    # A large number, not infinity: infinity minus infinity would be NaN in the divergence.
    return torch.log_softmax(distance.masked_fill(~normal[:, None], -1e9), 2)


def _enlarged(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _set_rate(optimiser: torch.optim.Optimizer, config: MlffConfig, done: float) -> None:
    if config.schedule == "cosine":
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * (0.505 + 0.495 * math.cos(math.pi * done))


def _check_size(config: MlffConfig) -> None:
    need = 4 * max(*config.scales, 8)
    if any(side % need for side in config.image_size):
        raise ConfigError(
            "IMAGE_SIZE",
            f"MLFF got an image size of {config.image_size}; want multiples of {need}.",
            "Its sub-regions must divide the feature map.",
        )
