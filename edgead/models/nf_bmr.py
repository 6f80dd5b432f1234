"""NF-BMR: a normalizing flow makes a second feature space; errors of mapping between both show defects.

Zhang et al., "A normalizing flow-based bidirectional mapping residual network for unsupervised defect
detection", Computers, Materials & Continua 78(2), 2024.

======== ======================================================= ================================
symbol   name                                                    shape [EfficientNet-B5 at 768]
======== ======================================================= ================================
x        image                                                   (h, w, 3) [768, 768, 3]
Y, y     source domain: one stage of the frozen network (SNN)    (C, h', w') [304, 24, 24]
Z, z     target domain, z = TNF(y)                               (C, h', w') [304, 24, 24]
TNF      `flow`: Real-NVP, prior N(0, I)                         C -> C
SMNN     `mapping.smnn`, y' = SMNN(z)                            C -> W -> C
TMNN     `mapping.tmnn`, z' = TMNN(y)                            C -> W -> C
ASM      anomaly map                                             (h', w') [24, 24]
======== ======================================================= ================================

Differences from the paper:

* Its formulas are lost in the text that we have. Reconstructed: the flow's loss 1/2 |z|^2 - log|det J|,
  the mapping's loss |SMNN(z) - y|^2 + |TMNN(y) - z|^2 (means), the map from both errors at each position.
* Lost too: learning rates and epochs. The flow's are CS-Flow's, whose setting the paper's is; the mapping's
  those of its predecessor B-PFM.
* Open, ours: the map is each direction's squared error summed over channels, divided by its mean over
  held-out good images, then averaged (``join="bpfm"``: channels brought to unit length first, errors averaged);
  W = 512, 256 channels between a block's convolutions, 1x1 convolutions at both ends; batch normalisation in
  the blocks is an option, the two networks share a block's convolutions but never its statistics; score =
  maximum of the map; a tenth of the good images is held out for the two means.
* ``last_relu``: a ReLU after each convolution, as the paper says, makes a block's branch non-negative.
* ``NfBmrConfig.edge`` is ours: see there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from edgead.errors import CalibrationError, ConfigError
from edgead.manifest import HeadSpec
from edgead.models.backbones import DEFAULT_BACKBONE, Backbone
from edgead.models.base import ExportSpec, Images
from edgead.models.parts_flow import Flow, negative_log_likelihood
from edgead.models.parts_mapping import BidirectionalMapping
from edgead.models.parts_stage import StageBackbone
from edgead.train.best import Best
from edgead.train.features import FeatureCache
from edgead.train.loop import Loop

__all__ = ["NfBmr", "NfBmrConfig", "mapping_loss"]


@dataclass(frozen=True)
class NfBmrConfig:
    """Settings; the defaults are the paper's, and CS-Flow's, B-PFM's or ours where it is silent.

    Attributes:
        image_size: (h, w) of the engine input.
        layer: Module of the network whose output is Y; None takes ``stride``.
        stride: Level of the network when no layer is named.
        standardise: Scale each channel of Y to unit variance over the good images first.
        flow_blocks: Coupling blocks of the TNF.
        flow_hidden: Channels of their hidden layer.
        flow_kernels: Sides of their convolutions; the last one repeats.
        flow_clamp: Bound of the log-scales.
        flow_learning_rate: Of Adam.
        flow_gradient_norm: Largest norm of the gradient.
        flow_epochs: Passes over the images.
        width: W.
        inner: Channels between a residual block's convolutions.
        blocks: n on either side of the shared block.
        norm: Normalisation inside the blocks.
        last_relu: ReLU after a block's last convolution.
        map_learning_rate: Of Adam.
        map_weight_decay: Of Adam.
        map_epochs: Passes over the images.
        batch_images: Images a step.
        precision: Of the convolutions while training.
        join: How both directions become one map.
        held_out: Share of the good images that end the stages and calibrate the map.
        patience: Epochs without a lower loss on them after which a stage ends with its best weights; None
            trains on and keeps the last.
        smoothing: Gaussian sigma of the map, input pixels.
    """

    image_size: tuple[int, int] = (768, 768)
    layer: str | None = "blocks.5"
    stride: int = 32
    standardise: bool = False
    flow_blocks: int = 4
    flow_hidden: int = 1024
    flow_kernels: tuple[int, ...] = (3, 3, 3, 5)
    flow_clamp: float = 3.0
    flow_learning_rate: float = 2e-4
    flow_gradient_norm: float = 1.0
    flow_epochs: int = 240
    width: int = 512
    inner: int = 256
    blocks: int = 2
    norm: Literal["none", "batch"] = "batch"
    last_relu: bool = True
    map_learning_rate: float = 3e-4
    map_weight_decay: float = 1e-5
    map_epochs: int = 200
    batch_images: int = 16
    precision: Literal["float32", "bfloat16"] = "float32"
    join: Literal["calibrated", "bpfm"] = "calibrated"
    held_out: float = 0.1
    patience: int | None = None
    smoothing: float = 0.0

    @classmethod
    def edge(cls, image_size: tuple[int, int] = (256, 256)) -> NfBmrConfig:
        """Ours, for any backbone and minutes on a CPU."""
        return cls(
            image_size=image_size,
            layer=None,
            stride=16,
            standardise=True,
            flow_hidden=128,
            flow_kernels=(3,),
            flow_learning_rate=1e-3,
            flow_epochs=20,
            width=256,
            inner=64,
            norm="none",
            map_learning_rate=1e-3,
            map_epochs=30,
        )


class NfBmr:
    """The method; see `edgead.models.base.Method`."""

    name = "nf-bmr"

    def __init__(
        self,
        config: NfBmrConfig | None = None,
        *,
        backbone: str = DEFAULT_BACKBONE,
        weights: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        self.config = cfg = config or NfBmrConfig()
        if not 0 < cfg.held_out < 1:
            raise ConfigError("HELD_OUT", f"held_out is {cfg.held_out}; want 0 < share < 1.")
        self.image_size, self.backbone = cfg.image_size, backbone
        net = _source(cfg, backbone, weights, seed)
        self.weights, channels = net.weights, net.channels[0]
        self.network = Network(
            net,
            Flow(
                channels,
                blocks=cfg.flow_blocks,
                hidden=cfg.flow_hidden,
                kernels=cfg.flow_kernels,
                clamp=cfg.flow_clamp,
                seed=seed,
            ),
            BidirectionalMapping(
                channels,
                width=cfg.width,
                inner=cfg.inner,
                blocks=cfg.blocks,
                norm=cfg.norm,
                last_relu=cfg.last_relu,
                seed=seed,
            ),
            cfg.join,
        )

    def fit(self, images: Images, loop: Loop) -> None:
        """Source features once, then the flow, then the mapping between both domains.

        Raises:
            CalibrationError: TOO_FEW_IMAGES, LOSS_NOT_FINITE.
        """
        cfg, network = self.config, self.network.to(loop.device)
        rows = torch.from_numpy(loop.rng.permutation(len(images)))
        held, train = rows.tensor_split([max(1, round(cfg.held_out * len(rows)))])
        if len(train) < 2:
            raise CalibrationError(
                "TOO_FEW_IMAGES",
                f"{len(train)} good images to train on beside {len(held)} held out; NF-BMR wants 2 or more.",
                "Take more pictures of good parts.",
            )
        source = FeatureCache(network.source_of, images, device=loop.device)
        try:
            if cfg.standardise:
                network.set_moments(*source.moments())
            self._train_flow(source, train, held, loop)
            self._train_mapping(source, train, held, loop)
            if cfg.join == "calibrated":
                self._calibrate(source, held, loop)
        finally:
            source.close()
            network.cpu().eval()

    def _train_flow(
        self, source: FeatureCache, rows: torch.Tensor, held: torch.Tensor, loop: Loop
    ) -> None:
        """Stage 2: the target domain, by the flow's likelihood."""
        cfg, flow = self.config, self.network.flow
        optimiser = torch.optim.Adam(flow.parameters(), lr=cfg.flow_learning_rate)
        best = Best(flow, patience=cfg.patience)
        loop.register(flow=flow, flow_optimiser=optimiser, best_flow=best)
        flow.train()
        for _ in loop.stage("flow", epochs=cfg.flow_epochs, share=0.5):
            for y in self._batches(source, rows, loop):
                loss = self._flow_loss(y, loop)
                loop.record(nll=loss.detach())
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(flow.parameters(), cfg.flow_gradient_norm)
                optimiser.step()
            self._judge(best, self._flow_loss, source, held, loop)
        best.restore()
        flow.requires_grad_(False).eval()

    def _train_mapping(
        self, source: FeatureCache, rows: torch.Tensor, held: torch.Tensor, loop: Loop
    ) -> None:
        """Stage 3: both mapping networks, by the mean squared errors in both directions."""
        cfg, mapping = self.config, self.network.mapping
        optimiser = torch.optim.Adam(
            mapping.parameters(), lr=cfg.map_learning_rate, weight_decay=cfg.map_weight_decay
        )
        best = Best(mapping, patience=cfg.patience)
        loop.register(mapping=mapping, map_optimiser=optimiser, best_mapping=best)
        mapping.train()
        for _ in loop.stage("mapping", epochs=cfg.map_epochs, share=0.5):
            for y in self._batches(source, rows, loop):
                loss = self._mapping_loss(y, loop)
                loop.record(mse=loss.detach())
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            self._judge(best, self._mapping_loss, source, held, loop)
        best.restore()
        mapping.eval()

    def _flow_loss(self, y: torch.Tensor, loop: Loop) -> torch.Tensor:
        with self._autocast(loop):
            return negative_log_likelihood(*self.network.flow(y))

    def _mapping_loss(self, y: torch.Tensor, loop: Loop) -> torch.Tensor:
        with self._autocast(loop):
            with torch.no_grad():
                z, _ = self.network.flow(y)
            mapped_y, mapped_z = self.network.mapping(y, z)
        return mapping_loss(y, z, mapped_y.float(), mapped_z.float())

    def _judge(
        self,
        best: Best,
        loss: Callable[[torch.Tensor, Loop], torch.Tensor],
        source: FeatureCache,
        rows: torch.Tensor,
        loop: Loop,
    ) -> None:
        """Loss on the held-out images; ends the stage when it has not fallen for long."""
        network = self.network.eval()
        with torch.no_grad():
            parts = rows.split(self.config.batch_images)
            losses = [loss(self._standardised(source, part, loop), loop) for part in parts]
        network.train()
        found = float(torch.stack(losses).mean())
        loop.record(held_out=found)
        best.update(found)
        if best.is_done:
            loop.end_stage()

    def _calibrate(self, source: FeatureCache, rows: torch.Tensor, loop: Loop) -> None:
        """Mean error of either direction over held-out good images."""
        network, sums = self.network, torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for part in rows.split(self.config.batch_images):
                errors = network.errors(self._standardised(source, part, loop))
                sums += torch.stack([one.double().mean(dim=(1, 2)).sum().cpu() for one in errors])
        network.level.copy_((sums / len(rows)).float().clamp(min=1e-12))

    def _batches(
        self, source: FeatureCache, rows: torch.Tensor, loop: Loop
    ) -> Iterator[torch.Tensor]:
        """Source features of one epoch. (n, C, h', w') each."""
        order = rows[torch.randperm(len(rows), generator=loop.generator)]
        parts = order.split(self.config.batch_images)
        for step in loop.steps(len(parts)):
            yield self._standardised(source, parts[step], loop)

    def _standardised(self, source: FeatureCache, rows: torch.Tensor, loop: Loop) -> torch.Tensor:
        patches = source.images(rows).to(loop.device)
        y = patches.reshape(len(rows), *source.shape[1:]).permute(0, 3, 1, 2)
        return self.network.standardised(y)

    def _autocast(self, loop: Loop) -> Any:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(loop.device.type, dtype=torch.bfloat16)

    def export_spec(self) -> ExportSpec:
        """Image to map."""
        net = self.network.source
        return ExportSpec(
            module=self.network.eval(),
            outputs=("anomaly_map",),
            head=HeadSpec(kind="max", sigma=self.config.smoothing),
            mean=net.mean,
            std=net.std,
            keep_high=("flow",),
        )


class Network(nn.Module):
    """What is exported: (n, h, w, 3) uint8 -> ASM (n, h', w') float32."""

    def __init__(
        self,
        source: Backbone,
        flow: Flow,
        mapping: BidirectionalMapping,
        join: Literal["calibrated", "bpfm"],
    ) -> None:
        super().__init__()
        self.source, self.flow, self.mapping, self.join = source, flow, mapping, join
        channels = source.channels[0]
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("scale", torch.ones(1, channels, 1, 1))
        #: Mean errors over held-out good images: to the source domain, to the target domain.
        self.register_buffer("level", torch.ones(2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """ASM of a batch."""
        (y,) = self.source(image)
        to_source, to_target = self.errors(self.standardised(y))
        return 0.5 * (to_source / self.level[0] + to_target / self.level[1])

    def errors(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """|SMNN(z) - y|^2 and |TMNN(y) - z|^2 at each position. (n, h', w') each."""
        z, _ = self.flow(y)
        mapped_y, mapped_z = self.mapping(y, z)
        if self.join == "bpfm":
            y, z, mapped_y, mapped_z = (
                F.normalize(one, dim=1) for one in (y, z, mapped_y, mapped_z)
            )
        return (mapped_y - y).square().sum(dim=1), (mapped_z - z).square().sum(dim=1)

    def source_of(self, image: torch.Tensor) -> torch.Tensor:
        """Raw Y, channels last. (n, h', w', C)."""
        (y,) = self.source(image)
        return y.permute(0, 2, 3, 1)

    def standardised(self, y: torch.Tensor) -> torch.Tensor:
        """Y as flow and mapping see it. (n, C, h', w')."""
        return (y - self.mean) * self.scale

    def set_moments(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Bring channels to mean 0 and deviation 1; one that never moves keeps its scale. (C,) each."""
        kept = torch.where(deviation > 1e-6, deviation, torch.ones(()))
        self.mean.copy_(mean.reshape(self.mean.shape))
        self.scale.copy_((1 / kept).reshape(self.scale.shape))


def mapping_loss(
    y: torch.Tensor, z: torch.Tensor, mapped_y: torch.Tensor, mapped_z: torch.Tensor
) -> torch.Tensor:
    """Mean squared errors of both directions, added.

    Args:
        y: Source features. (n, C, h', w')
        z: Target features, held still. (n, C, h', w')
        mapped_y: SMNN(z).
        mapped_z: TMNN(y).

    Returns:
        Scalar.
    """
    return F.mse_loss(mapped_y, y) + F.mse_loss(mapped_z, z)


def _source(config: NfBmrConfig, name: str, weights: str | Path | None, seed: int) -> Backbone:
    if config.layer is not None:
        return StageBackbone(name, layer=config.layer, weights=weights, seed=seed)
    return Backbone(name, strides=(config.stride,), weights=weights, seed=seed)
