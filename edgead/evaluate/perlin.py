"""Perlin noise and the defect masks cut from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["perlin", "perlin_mask"]

MIN_MASK_PX = 49  # SLSG, section 3.2: smaller masks are redrawn


def perlin(
    size: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gradient noise in about -1..1.

    Args:
        size: (H, W) of the result.
        cells: Lattice cells down and across, each >= 1; more make finer noise.
        rng: Draws one unit gradient a lattice point.

    Returns:
        (H, W) float32.

    Source: Perlin, Improving Noise, SIGGRAPH 2002 (fade 6 t^5 - 15 t^4 + 10 t^3).
    """
    angle = rng.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1)).astype(np.float32)
    y, x = (
        (np.arange(n, dtype=np.float32) + 0.5) * c / n for n, c in zip(size, cells, strict=True)
    )
    row, column = y.astype(int), x.astype(int)
    v, u = (y - row)[:, None], (x - column)[None, :]

    def corner(down: int, across: int) -> NDArray[np.float32]:
        a = angle[np.ix_(row + down, column + across)]
        product: NDArray[np.float32] = np.cos(a) * (u - across) + np.sin(a) * (v - down)
        return product

    fade_u, fade_v = _fade(u), _fade(v)
    top = corner(0, 0) * (1 - fade_u) + corner(0, 1) * fade_u
    bottom = corner(1, 0) * (1 - fade_u) + corner(1, 1) * fade_u
    # One octave of gradient noise spans +-1/sqrt(2).
    return np.asarray((top * (1 - fade_v) + bottom * fade_v) * np.sqrt(2), dtype=np.float32)


def perlin_mask(
    foreground: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    max_octave: int = 6,
    level: float = 0.5,
    draws: int = 20,
) -> NDArray[np.bool_]:
    """Binarised Perlin noise on the foreground, at least 49 pixels (or 1 % of a tiny foreground).

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
        noise = perlin(size, (min(down, size[0]), min(across, size[1])), rng)
        noise = _turned(noise, rng)
        mask: NDArray[np.bool_] = (noise > level) & foreground
        if mask.sum() >= enough:
            return mask
    inside = np.sort(noise[foreground])
    return np.asarray((noise >= inside[-enough]) & foreground)


def _fade(t: NDArray[Any]) -> NDArray[Any]:
    faded: NDArray[Any] = t * t * t * (t * (t * 6 - 15) + 10)
    return faded


def _turned(noise: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Mirror at random, so that neither axis keeps a preferred end."""
    return noise[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
