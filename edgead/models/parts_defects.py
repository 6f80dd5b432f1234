"""Training batches of good images, some with a simulated defect and its pixel mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edgead.errors import CalibrationError
from edgead.evaluate.anomalies import simulate
from edgead.evaluate.textures import TextureSource
from edgead.models.base import Images

__all__ = ["DefectSource", "Pair", "relit", "stacked"]

Pair = tuple[NDArray[np.uint8], NDArray[np.bool_]]


class DefectSource:
    """Draws good and defective versions of training images.

    Args:
        images: Good images, (h, w, 3) uint8 each, all of one size.
        rng: The only source of chance.
        textures: Textures of structural defects.
        light: How far `relit` changes every image that is drawn; 0 leaves them as they are.

    Raises:
        CalibrationError: TOO_FEW_IMAGES when there is no other image to take logical defects from.
    """

    def __init__(
        self,
        images: Images,
        rng: np.random.Generator,
        *,
        textures: TextureSource,
        light: float = 0.0,
    ) -> None:
        if len(images) < 2:
            raise CalibrationError(
                "TOO_FEW_IMAGES",
                f"got {len(images)} good images; simulated defects need at least 2.",
                "Take more pictures of different good parts.",
            )
        self.images, self.rng, self.textures, self.light = images, rng, textures, light

    def order(self, count: int) -> NDArray[np.int64]:
        """``count`` image numbers of an epoch: every image once before any comes again."""
        rounds = -(-count // len(self.images))
        turns = [self.rng.permutation(len(self.images)) for _ in range(rounds)]
        return np.concatenate(turns)[:count]

    def good(self, index: int) -> Pair:
        """A good image and its empty mask."""
        image = self._drawn(index)
        return image, np.zeros(image.shape[:2], dtype=bool)

    def defective(self, index: int, kind: str, *, spare: Sequence[str] = ()) -> Pair:
        """An image with a defect of ``kind``, or of the first of ``spare`` that shows on it.

        Raises:
            CalibrationError: ANOMALY_INVISIBLE when none shows.
        """
        image = self._drawn(index)
        step = int(self.rng.integers(1, len(self.images)))
        other = self._drawn((index + step) % len(self.images))
        for one in (kind, *spare):
            try:
                return simulate(image, one, self.rng, textures=self.textures, other=other)
            except CalibrationError as error:
                # Tiles of an even surface change nothing; another kind does.
                if error.code != "ANOMALY_INVISIBLE" or one == (kind, *spare)[-1]:
                    raise
        raise AssertionError  # the loop returns or raises

    def _drawn(self, index: int) -> NDArray[np.uint8]:
        image = self.images[index]
        return relit(image, self.rng, self.light) if self.light else image


def relit(image: NDArray[np.uint8], rng: np.random.Generator, amount: float) -> NDArray[np.uint8]:
    """The image as under another light: brightness, contrast and colour balance drawn anew.

    A person's hand, a cloud or a lamp's age changes a whole image and is no defect. Ours, no paper's.

    Args:
        image: (h, w, 3) uint8, left as it is.
        rng: The only source of chance.
        amount: Brightness times exp(+-amount); contrast about the mean, and each channel of its own,
            times exp(+-amount / 2).

    Returns:
        (h, w, 3) uint8.
    """
    brightness = np.exp(rng.uniform(-amount, amount))
    contrast = np.exp(rng.uniform(-amount / 2, amount / 2))
    gain = brightness * np.exp(rng.uniform(-amount / 2, amount / 2, 3))
    mean = image.mean(axis=(0, 1))
    # Worked out for each value that a pixel can have, not for each pixel.
    levels = np.arange(256.0)[:, None]
    table = np.clip(((levels - mean) * contrast + mean) * gain, 0, 255).round().astype(np.uint8)
    return np.stack([table[:, c][image[..., c]] for c in range(3)], axis=-1)


def stacked(pairs: Sequence[Pair], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs as one batch: images (n, h, w, 3) uint8, masks (n, h, w) bool."""
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).to(device)
    masks = torch.from_numpy(np.stack([mask for _, mask in pairs])).to(device)
    return images, masks
