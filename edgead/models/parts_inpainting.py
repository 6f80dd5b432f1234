"""What GPT-Net is shown: an image of which most is hidden."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["inpainting_mask"]


def inpainting_mask(
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    grid: int = 8,
    hidden: float = 0.8,
    rectangles: int = 2,
    sides: tuple[int, int] = (40, 150),
) -> NDArray[np.float32]:
    """What stays visible of an image, (h, w): hidden patches and large rectangles are 0.

    Args:
        size: (h, w), pixels.
        rng: The only source of chance.
        grid: Side of the patches, pixels.
        hidden: Share of the patches that is hidden.
        rectangles: Large masks on top.
        sides: Their shortest and longest side, pixels of a 256-pixel image.

    Source: SLSG, sections 3.1 and 4.2.
    """
    height, width = size
    rows, columns = -(-height // grid), -(-width // grid)
    cells = np.ones(rows * columns, dtype=np.float32)
    cells[rng.permutation(len(cells))[: round(hidden * len(cells))]] = 0
    grown = cells.reshape(rows, columns).repeat(grid, 0).repeat(grid, 1)
    mask = np.ascontiguousarray(grown[:height, :width])
    low, high = (side / 256 for side in sides)
    for _ in range(rectangles):
        h, w = (int(rng.uniform(low, high) * side) for side in size)
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        mask[y : y + h, x : x + w] = 0
    return mask
