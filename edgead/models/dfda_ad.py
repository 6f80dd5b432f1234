"""DFDA-AD: two frozen extractors, an attention module each, and k-means on the joined patches.

Masoudi, "DFDA-AD: an approach with dual feature extraction architecture and dual attention mechanism for
image anomaly detection", J. Modeling in Engineering 22(79), 2024.

======== ============================================== =====================================
symbol   name                                           shape [DenseNet121 + ResNet50 at 224]
======== ============================================== =====================================
x        image                                          (h, w, 3) [224, 224, 3]
F_A      branch A: dense block 2, before the transition (C_A, h', w') [512, 28, 28]
F_B      branch B: block 3 (stage of stride 16)         (C_B, h'', w'') [1024, 14, 14]
M_c, M_s `channel`, `spatial` attention of branch A     (C_A), (h', w')
S_QK     `query_key` attention of branch B, X Y^T       (h'' w'', h'' w'') [196, 196]
.        patches                                        (h', w', D), D = C_A + C_B = 1536
.        centroids                                      (K, D)
======== ============================================== =====================================

Differences from the paper:

* Section 2-4 once names the third block of DenseNet for branch B; section 2 and table 2 say ResNet50, as here.
* S_QK taken literally has no parameters and saturates (`QueryKeyAttention`); ours is centred, scaled and
  gated. ``attention="paper"`` is the literal form.
* Open in the paper, ours: each position's vector of either branch is brought to unit length before the join
  (the spatial weights of branch A apply after that, or they would cancel) and the spatial weights are doubled,
  so that even ones are 1; the three fully connected layers act on the flattened map, 784 -> 49 -> 49 -> 784, on
  the *sum* of both pooled maps; K = min(1024, patches / 50); the distance to the nearest centroid is the
  map, its maximum before smoothing the score; Gaussian sigma 4.
* What Adam minimises is open. Ours: k-means alternates with Adam on the attention; the loss is a patch's squared
  distance to its nearest centroid relative to the mean one to the others, plus a term that keeps each
  channel's deviation, since compactness alone is best where nothing differs any more. Adam's attention is kept
  only where it tells simulated defects from held-out good images better than the untrained one, which leaves the
  features as they are; a collapse of the deviations ends it.
* The 20 % of the good images that the paper evaluates on choose the attention here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from edgead.errors import CalibrationError, ConfigError
from edgead.kernels import kmeans_assign
from edgead.manifest import HeadSpec
from edgead.models.backbones import DEFAULT_BACKBONE
from edgead.models.base import ExportSpec, Images
from edgead.models.parts_attention import ChannelAttention, QueryKeyAttention, SpatialAttention
from edgead.models.parts_extractors import PAPER_BACKBONES, Extractors
from edgead.models.parts_kmeans import compactness, kmeans, retained_deviation
from edgead.models.parts_simulated import separation, simulated_defects
from edgead.train.best import Best
from edgead.train.checkpoint import Values
from edgead.train.features import FeatureCache
from edgead.train.loop import Loop

__all__ = ["PAPER_BACKBONES", "DfdaAd", "DfdaConfig", "DualAttention"]

Floats = NDArray[np.float32]
Indices = NDArray[np.integer]


@dataclass(frozen=True)
class DfdaConfig:
    """Settings; the defaults are the paper's, and ours where it is silent.

    Attributes:
        image_size: (h, w) of the engine input, multiples of 32.
        attention: Form of branch B's attention.
        reduction: Of the channel attention's hidden layer.
        spatial_hidden: Width of the spatial attention's hidden layers.
        aggregate: How the two pooled maps become one.
        spatial_layers: Whether the fully connected layers see the flattened map or one position.
        clusters: K; None takes min(1024, patches / 50).
        iterations: Of k-means, at most.
        draw_patches: Patches that k-means sees, at most, drawn across all training images.
        train_attention: Let Adam try; False keeps the features as they are.
        epochs: Rounds of k-means and Adam.
        patience: Rounds without a better separation after which the stage ends.
        learning_rate: Of Adam.
        batch_images: Images a step.
        retention: Weight of the term that keeps the channels' deviations.
        collapse: Share of the deviations below which training has collapsed.
        held_out: Share of the good images that choose the attention.
        final_images: Whose patches the final centroids are made of.
        smoothing: Gaussian sigma of the map, input pixels.
    """

    image_size: tuple[int, int] = (224, 224)
    attention: Literal["centred", "paper"] = "centred"
    reduction: int = 16
    spatial_hidden: int = 49
    aggregate: Literal["sum", "concatenate"] = "sum"
    spatial_layers: Literal["flatten", "position"] = "flatten"
    clusters: int | None = None
    iterations: int = 100
    draw_patches: int = 200_000
    train_attention: bool = True
    epochs: int = 20
    patience: int = 4
    learning_rate: float = 2e-4
    batch_images: int = 10
    retention: float = 1.0
    collapse: float = 0.5
    held_out: float = 0.2
    final_images: Literal["train", "all"] = "train"
    smoothing: float = 4.0

    @classmethod
    def edge(cls, image_size: tuple[int, int] = (256, 256)) -> DfdaConfig:
        """Ours, for any backbone and minutes on a CPU."""
        return cls(
            image_size=image_size,
            draw_patches=100_000,
            epochs=10,
            learning_rate=2e-3,
            final_images="all",
        )


class DfdaAd:
    """The method; see `edgead.models.base.Method`.

    Args:
        config: Settings.
        backbone: One timm network whose strides 8 and 16 serve both branches, or two joined by a
            comma, branch A's (stride 8) first: `PAPER_BACKBONES` are the paper's.
        weights: Checkpoint file; two joined by a comma for two backbones.
        seed: Of everything that is drawn.
    """

    name = "dfda-ad"

    def __init__(
        self,
        config: DfdaConfig | None = None,
        *,
        backbone: str = DEFAULT_BACKBONE,
        weights: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        self.config = cfg = config or DfdaConfig()
        _check(cfg)
        self.image_size, self.backbone = cfg.image_size, backbone
        self.extractors = Extractors(backbone, weights, seed)
        self.weights = self.extractors.weights
        channels_a, channels_b = self.extractors.channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.attention = DualAttention(channels_a, channels_b, cfg)
        self.centroids: Floats = np.zeros((0, channels_a + channels_b), np.float32)

    def fit(self, images: Images, loop: Loop) -> None:
        """Features once, then k-means and Adam in turns, then the final centroids.

        Raises:
            CalibrationError: TOO_FEW_IMAGES, CLUSTERS, PATCHES_NOT_FINITE, LOSS_NOT_FINITE.
        """
        if len(images) < 2:
            raise CalibrationError(
                "TOO_FEW_IMAGES",
                f"{len(images)} good image to train on; DFDA-AD wants 2 or more.",
                "Take more pictures of good parts.",
            )
        cfg, device = self.config, loop.device
        self.extractors.to(device)
        self.attention.to(device)
        cache = FeatureCache(self.extractors.packed, images, device=device)
        try:
            rows = loop.rng.permutation(len(images))
            held = rows[: max(1, round(cfg.held_out * len(rows)))]
            train = rows[len(held) :]
            if cfg.train_attention:
                self._train(cache, images, train, held, loop)
            self.attention.eval()
            chosen = train if cfg.final_images == "train" else rows
            self.centroids = self._cluster(self._draw(cache, chosen, loop), loop.rng)
        finally:
            cache.close()
            self.extractors.cpu()
            self.attention.cpu().eval()

    def _train(
        self, cache: FeatureCache, images: Images, train: Indices, held: Indices, loop: Loop
    ) -> None:
        """Alternate k-means and Adam; keep the attention that separates best, the untrained one on a tie."""
        cfg, attention = self.config, self.attention
        defects, masks = simulated_defects(images, held, loop.rng)
        simulated = FeatureCache(self.extractors.packed, defects, device=loop.device)
        optimiser = torch.optim.Adam(attention.parameters(), lr=cfg.learning_rate)
        deviation = torch.from_numpy(self._draw(cache, train, loop).std(axis=0))
        best, state = Best(attention, patience=cfg.patience), Values(centroids=None)
        loop.register(attention=attention, optimiser=optimiser, best=best, state=state)
        for _ in loop.stage("attention", epochs=cfg.epochs):
            patches = self._draw(cache, train, loop)
            kept = retained_deviation(torch.from_numpy(patches), deviation)
            if kept < cfg.collapse:
                loop.record(retained=kept)
                loop.end_stage()
                continue
            state.centroids = self._cluster(patches, loop.rng, start=state.centroids)
            good = self._distances(cache, held, state.centroids, loop)
            bad = self._distances(simulated, np.arange(len(defects)), state.centroids, loop)
            found = separation(good, bad, masks)
            loop.record(retained=kept, separation=found)
            best.update(-found)  # the first is the untrained attention's
            if best.is_done:
                loop.end_stage()
                continue
            self._adam(cache, train, state.centroids, deviation, optimiser, loop)
        best.restore()
        simulated.close()

    def _adam(
        self,
        cache: FeatureCache,
        train: Indices,
        centroids: Floats,
        deviation: torch.Tensor,
        optimiser: torch.optim.Optimizer,
        loop: Loop,
    ) -> None:
        """One pass over the training images, towards the centroids as they stand."""
        cfg, device = self.config, loop.device
        self.attention.train()
        order = torch.from_numpy(loop.rng.permutation(train))
        parts = order.split(cfg.batch_images)
        points, spread = torch.from_numpy(centroids).to(device), deviation.to(device)
        for step in loop.steps(len(parts)):
            patches = self._attended(cache, parts[step], device).flatten(0, 2)
            index, _ = kmeans_assign(patches.detach().cpu().numpy(), centroids)
            near = torch.from_numpy(index.astype(np.int64)).to(device)
            compact = compactness(patches, points, near)
            lost = F.relu(1 - patches.std(dim=0) / spread.clamp(min=1e-6)).mean()
            loss = compact + cfg.retention * lost
            loop.record(loss=loss.detach(), compactness=compact.detach(), lost=lost.detach())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self.attention.eval()

    def _attended(
        self, cache: FeatureCache, rows: torch.Tensor, device: torch.device
    ) -> torch.Tensor:
        """Patches of cached images. (n, h', w', D)."""
        packed = cache.images(rows).reshape(len(rows), *cache.shape[1:])
        return self.attention(*self.extractors.unpacked(packed.to(device)))

    def _batches(self, cache: FeatureCache, rows: Indices, loop: Loop) -> Iterator[torch.Tensor]:
        with torch.no_grad():
            for part in torch.from_numpy(rows).split(self.config.batch_images):
                yield self._attended(cache, part, loop.device).cpu()

    def _draw(self, cache: FeatureCache, rows: Indices, loop: Loop) -> Floats:
        """Attended patches of some images, the same number of each, within the bound. [N, D]."""
        each = max(1, min(cache.patches // cache.shape[0], self.config.draw_patches // len(rows)))
        drawn = []
        for patches in self._batches(cache, rows, loop):
            for image in patches.flatten(1, 2):
                drawn.append(image[loop.rng.permutation(len(image))[:each]])
        return torch.cat(drawn).numpy()

    def _cluster(
        self, patches: Floats, rng: np.random.Generator, start: Floats | None = None
    ) -> Floats:
        wanted = self.config.clusters or max(1, min(1024, len(patches) // 50))
        return kmeans(patches, wanted, rng, iterations=self.config.iterations, start=start)

    def _distances(
        self, cache: FeatureCache, rows: Indices, centroids: Floats, loop: Loop
    ) -> list[Floats]:
        """Distance maps of cached images, (h', w') each."""
        maps = []
        for patches in self._batches(cache, rows, loop):
            flat = np.ascontiguousarray(patches.flatten(0, 2).numpy())
            maps.extend(kmeans_assign(flat, centroids)[1].reshape(patches.shape[:3]))
        return maps

    def export_spec(self) -> ExportSpec:
        """Patches; the head measures their distance to the centroids."""
        net = self.extractors.first
        return ExportSpec(
            module=_Network(self.extractors, self.attention).eval(),
            outputs=("patches",),
            head=HeadSpec(kind="kmeans", sigma=self.config.smoothing),
            mean=net.mean,
            std=net.std,
            head_tensors={"centroids": self.centroids},
            keep_high=("attention",),
        )


class DualAttention(nn.Module):
    """Both attention modules and the join: all that Adam trains."""

    def __init__(self, channels_a: int, channels_b: int, config: DfdaConfig) -> None:
        super().__init__()
        height, width = config.image_size
        self.channel = ChannelAttention(channels_a, config.reduction)
        self.spatial = SpatialAttention(
            (height // 8, width // 8),
            hidden=config.spatial_hidden,
            aggregate=config.aggregate,
            layers=config.spatial_layers,
        )
        self.query_key = QueryKeyAttention(channels_b, config.attention)

    def forward(self, feature_a: torch.Tensor, feature_b: torch.Tensor) -> torch.Tensor:
        """F_A (n, C_A, h', w') and F_B (n, C_B, h'/2, w'/2) -> patches (n, h', w', C_A + C_B)."""
        refined = self.channel(feature_a)
        branch_a = F.normalize(refined, dim=1) * (2 * self.spatial(refined))
        attended = F.interpolate(
            self.query_key(feature_b), feature_a.shape[-2:], mode="bilinear", align_corners=False
        )
        branch_b = F.normalize(attended, dim=1)
        return torch.cat([branch_a, branch_b], dim=1).permute(0, 2, 3, 1)


class _Network(nn.Module):
    """What is exported: (n, h, w, 3) uint8 -> patches (n, h', w', D)."""

    def __init__(self, extractors: Extractors, attention: DualAttention) -> None:
        super().__init__()
        self.extractors, self.attention = extractors, attention

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Attended patches of a batch."""
        return self.attention(*self.extractors(image))


def _check(config: DfdaConfig) -> None:
    if any(side < 64 or side % 32 for side in config.image_size):
        raise ConfigError(
            "IMAGE_SIZE", f"image size is {config.image_size}; want multiples of 32 from 64."
        )
    if config.clusters is not None and config.clusters < 1:
        raise ConfigError("CLUSTERS", f"clusters is {config.clusters}; want 1 or more.")
    if not 0 < config.held_out < 1:
        raise ConfigError("HELD_OUT", f"held_out is {config.held_out}; want 0 < share < 1.")
