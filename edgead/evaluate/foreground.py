"""Where the part lies in the image: defects are simulated on it and not on the background."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgead.images import opencv

__all__ = ["Otsu", "foreground_mask", "otsu"]

# Share of the variance that two classes explain: 0.64 for a normal histogram, 0.75 for a flat one,
# over 0.9 for a part on a plain background. Below this there is one class, a texture.
MIN_SEPARATION = 0.8


class Otsu(NamedTuple):
    """A grey level and how well it parts the histogram.

    Attributes:
        level: One class is ``grey <= level``; the lowest of equal ones, 0 for a constant image.
        separation: Variance between the classes over total variance, 0..1.
    """

    level: int
    separation: float


def otsu(grey: NDArray[np.uint8]) -> Otsu:
    """Grey level that parts the histogram with the largest variance between classes.

    Source: Otsu, IEEE Trans. SMC 9 (1979), Eq. 18 and 19 (sigma_B^2 and eta).
    """
    levels = np.arange(256)
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    omega, mu = np.cumsum(share), np.cumsum(share * levels)  # class probability, first moment
    total = float(np.sum(share * (levels - mu[-1]) ** 2))
    inner = (omega > 0) & (omega < 1)
    between = np.zeros(256)
    between[inner] = (mu[-1] * omega - mu)[inner] ** 2 / (omega * (1 - omega))[inner]
    level = int(np.argmax(between))
    return Otsu(level, float(between[level]) / total if total else 0.0)


def foreground_mask(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Otsu's class that the image border does not show, its holes filled.

    All ones where it covers under 5 % or over 95 %, and (ours) where the two classes are not well
    parted, so that no part of a texture is taken for its background. The image is blurred first
    (ours, sigma = longer side / 128), so that grain leaves no specks.

    Args:
        image: (H, W, 3) or (H, W) uint8.

    Returns:
        (H, W) bool.

    Source: SLSG, section 3.2.
    """
    cv2 = opencv()
    grey: NDArray[Any] = image if image.ndim == 2 else image.mean(axis=2).astype(np.uint8)
    grey = cv2.GaussianBlur(np.ascontiguousarray(grey), (0, 0), max(grey.shape) / 128)
    parted = otsu(grey)
    bright = grey > parted.level
    background = bright if _border(bright).mean() > 0.5 else ~bright
    # Only what reaches the border is background: a highlight inside the part belongs to it.
    _, labels = cv2.connectedComponents(background.astype(np.uint8), connectivity=4)
    outside = np.unique(_border(labels))
    mask: NDArray[np.bool_] = ~(background & np.isin(labels, outside))
    is_part = parted.separation >= MIN_SEPARATION and 0.05 <= mask.mean() <= 0.95
    return mask if is_part else np.ones_like(mask)


def _border(field: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate((field[0], field[-1], field[1:-1, 0], field[1:-1, -1]))
