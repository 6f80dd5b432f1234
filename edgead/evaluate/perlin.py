"""Perlin noise and the defect masks cut from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.images import opencv

__all__ = ["MIN_MASK_PX", "perlin", "perlin_mask"]

MIN_MASK_PX = 49  # SLSG, section 3.2: smaller masks are redrawn
# A cell is smooth: this many pixels each way hold it, the rest is interpolated.
_PX_PER_CELL = 12


def perlin(
    size: tuple[int, int],
    cells: tuple[int, int],
    rng: np.random.Generator,
    *,
    angle: float = 0.0,
) -> NDArray[np.float32]:
    """Gradient noise in about -1..1.

    Args:
        size: (H, W) of the result.
        cells: Lattice cells down and across, each >= 1; more make finer noise.
        rng: Draws one unit gradient a lattice point.
        angle: The lattice is turned by this about the image's centre, radians.

    Returns:
        (H, W) float32.

    Source: Perlin, Improving Noise, SIGGRAPH 2002 (fade 6 t^5 - 15 t^4 + 10 t^3).
    """
    fine = _PX_PER_CELL * max(cells)
    drawn = (min(size[0], fine), min(size[1], fine))
    noise = _noise(drawn, cells, rng, angle)
    if drawn == size:
        return noise
    cv2 = opencv()
    large: NDArray[np.float32] = cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
    return large


def _noise(
    size: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator, angle: float
) -> NDArray[np.float32]:
    """`perlin`, every pixel computed."""
    y, x = (((np.arange(n, dtype=np.float32) + 0.5) / n - 0.5) for n in size)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    # A turned unit square reaches sqrt(1/2) from its centre: the lattice is that much larger.
    down = (cos * y[:, None] + sin * x[None, :] + np.float32(0.75)) * np.float32(cells[0])
    across = (cos * x[None, :] - sin * y[:, None] + np.float32(0.75)) * np.float32(cells[1])
    turn = rng.uniform(0, 2 * np.pi, (int(cells[0] * 1.5) + 2, int(cells[1] * 1.5) + 2))
    gx, gy = np.cos(turn).astype(np.float32).ravel(), np.sin(turn).astype(np.float32).ravel()
    row, column = down.astype(np.int32), across.astype(np.int32)
    v, u = down - row, across - column
    corner = row * turn.shape[1] + column  # flat index of each pixel's upper left lattice point

    def ramp(step: int, du: int, dv: int) -> NDArray[np.float32]:
        index = corner + step
        product: NDArray[np.float32] = gx[index] * (u - du) + gy[index] * (v - dv)
        return product

    fade_u, fade_v = _fade(u), _fade(v)
    top, bottom = ramp(0, 0, 0), ramp(turn.shape[1], 0, 1)
    top += fade_u * (ramp(1, 1, 0) - top)
    bottom += fade_u * (ramp(turn.shape[1] + 1, 1, 1) - bottom)
    # Two-dimensional gradient noise spans +-sqrt(1/2).
    return np.asarray((top + fade_v * (bottom - top)) * np.float32(np.sqrt(2)), dtype=np.float32)


def perlin_mask(
    foreground: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    max_octave: int = 6,
    level: float = 0.5,
    draws: int = 20,
) -> NDArray[np.bool_]:
    """Binarised Perlin noise on the foreground, at least 49 pixels (1 % of a small foreground).

    Args:
        foreground: Where defects may lie. (H, W) bool, not empty.
        rng: Random source.
        max_octave: Cells a side are 2 ** (0 .. max_octave - 1), each side its own.
        level: Noise above it is defect; lower gives larger, more connected masks.
        draws: Attempts at noise before the level is lowered to reach the size.

    Returns:
        (H, W) bool, a subset of the foreground, never empty.
    """
    size = (foreground.shape[0], foreground.shape[1])
    enough = min(MIN_MASK_PX, max(1, int(foreground.sum()) // 100))
    noise = np.zeros(size, dtype=np.float32)
    for _ in range(draws):
        down, across = (int(2 ** rng.integers(0, max_octave)) for _ in range(2))
        cells = (min(down, size[0]), min(across, size[1]))
        noise = perlin(size, cells, rng, angle=rng.uniform(0, np.pi))
        mask: NDArray[np.bool_] = (noise > level) & foreground
        if mask.sum() >= enough:
            return mask
    inside = np.sort(noise[foreground])
    return np.asarray((noise >= inside[-enough]) & foreground)


def _fade(t: NDArray[Any]) -> NDArray[Any]:
    faded: NDArray[Any] = t * t * t * (t * (t * 6 - 15) + 10)
    return faded
