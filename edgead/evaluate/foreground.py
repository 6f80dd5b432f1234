"""Where the part lies in the image: defects are simulated on it and not on the background."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["foreground_mask", "otsu"]


def otsu(grey: NDArray[np.uint8]) -> int:
    """Grey level that parts the histogram with the largest variance between classes.

    Returns:
        Level t: one class is ``grey <= t``. The lowest of equal ones; 0 for a constant image.

    Source: Otsu, IEEE Trans. SMC 9 (1979), Eq. 14.
    """
    count = np.bincount(grey.ravel(), minlength=256).astype(np.float64)
    omega = np.cumsum(count) / grey.size  # class probability up to t
    mu = np.cumsum(count * np.arange(256)) / grey.size  # first moment up to t
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mu[-1] * omega - mu) ** 2 / (omega * (1 - omega))
    return int(np.argmax(np.nan_to_num(between, nan=0.0, posinf=0.0)))


def foreground_mask(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Otsu's class that the image border does not show; all ones under 5 % or over 95 %.

    Args:
        image: (H, W, 3) or (H, W) uint8.

    Returns:
        (H, W) bool.

    Source: SLSG, section 3.2.
    """
    grey: NDArray[Any] = image if image.ndim == 2 else image.mean(axis=2).astype(np.uint8)
    bright = grey > otsu(grey)
    border = np.concatenate((bright[0], bright[-1], bright[1:-1, 0], bright[1:-1, -1]))
    mask = ~bright if border.mean() > 0.5 else bright
    return mask if 0.05 <= mask.mean() <= 0.95 else np.ones_like(mask)
