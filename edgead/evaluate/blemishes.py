"""Single drawn defects: confetti, CutPaste, scratches, dents and stains.

Each takes a good image (H, W, 3) uint8, the foreground (H, W) bool and a random source, and returns
a new image and the mask (H, W) bool of what it changed on purpose.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgead.evaluate.textures import Image
from edgead.images import opencv

__all__ = ["confetti", "cutpaste", "dent", "scratch", "stain"]

Mask = NDArray[np.bool_]
Simulated = tuple[Image, Mask]


def confetti(image: Image, foreground: Mask, rng: np.random.Generator) -> Simulated:
    """Small rectangles of random colour; half of the time each pixel has its own colour.

    Source: Liznerski et al., ICLR 2021 (FCDD), appendix: confetti noise.
    """
    result, mask = image.copy(), np.zeros(image.shape[:2], dtype=bool)
    side = max(2, min(image.shape[:2]) // 12)
    for _ in range(int(rng.integers(1, 9))):
        h, w = (int(n) for n in rng.integers(2, side + 1, 2))
        y, x = _place(foreground, (h, w), rng)
        box = np.s_[y : y + h, x : x + w]
        shape = (h, w, 3) if rng.random() < 0.5 else (1, 1, 3)
        result[box] = rng.integers(0, 256, shape, dtype=np.uint8)
        mask[box] = True
    return result, mask


def cutpaste(image: Image, foreground: Mask, rng: np.random.Generator) -> Simulated:
    """A patch of the image pasted elsewhere, colours jittered; a third are thin rotated scars.

    Source: Li et al., CVPR 2021, section 2.1: area 2 % to 15 % of the image, aspect 0.3 to 3.3;
    scars 2-16 x 10-25 pixels of a 256-pixel image, rotated by up to 45 degrees.
    """
    height, width = image.shape[:2]
    if rng.random() < 1 / 3:
        unit = min(height, width) / 256
        w, h = max(2, int(rng.uniform(2, 16) * unit)), max(4, int(rng.uniform(10, 25) * unit))
        angle = rng.uniform(-45, 45)
    else:
        area, aspect = rng.uniform(0.02, 0.15) * height * width, _log_uniform(rng, 0.3, 3.3)
        h, w = (int(math.sqrt(area * ratio)) for ratio in (aspect, 1 / aspect))
        angle = 0.0
    h, w = max(2, min(h, height - 1)), max(2, min(w, width - 1))
    y, x = _place(foreground, (h, w), rng)
    patch = _jittered(image[y : y + h, x : x + w], rng)
    patch, shape = _rotated(patch, angle)
    h, w = min(patch.shape[0], height), min(patch.shape[1], width)
    y, x = _place(foreground, (h, w), rng)
    result, mask = image.copy(), np.zeros((height, width), dtype=bool)
    mask[y : y + h, x : x + w] = shape[:h, :w]
    result[y : y + h, x : x + w][shape[:h, :w]] = patch[:h, :w][shape[:h, :w]]
    return result, mask


def scratch(image: Image, foreground: Mask, rng: np.random.Generator) -> Simulated:
    """A thin, slightly bent line, darker or brighter than the surface, its ends fading."""
    height, width = image.shape[:2]
    y, x = _point(foreground, rng)
    length = rng.uniform(0.08, 0.4) * min(height, width)
    steps = 24
    bend = np.cumsum(rng.normal(0, 0.06, steps)) + rng.uniform(0, 2 * math.pi)
    points = np.stack((np.cos(bend), np.sin(bend)), axis=1) * length / steps
    line = np.cumsum(points, axis=0) + np.array((x, y))
    cv2 = opencv()
    coverage = np.zeros((height, width), dtype=np.uint8)
    thickness = int(rng.integers(1, max(2, min(height, width) // 128) + 1))
    fixed = np.round(line * 16).astype(np.int32)[None]  # 4 fractional bits
    cv2.polylines(coverage, fixed, False, 255, thickness, cv2.LINE_AA, 4)
    alpha = coverage.astype(np.float32) / 255 * np.float32(rng.uniform(0.5, 1.0))
    return _mixed(image, alpha, _contrast(image, (y, x), rng), foreground)


def dent(image: Image, foreground: Mask, rng: np.random.Generator) -> Simulated:
    """A round pit or bump: shaded on one side, lit on the other, its inside displaced."""
    height, width = image.shape[:2]
    y0, x0 = _point(foreground, rng)
    radius = rng.uniform(0.03, 0.12) * min(height, width)
    squash, turn = rng.uniform(0.5, 1.0), rng.uniform(0, math.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u = (x - x0) * math.cos(turn) + (y - y0) * math.sin(turn)
    v = (-(x - x0) * math.sin(turn) + (y - y0) * math.cos(turn)) / squash
    r = np.sqrt(u * u + v * v) / np.float32(radius)
    depth = np.where(r < 1, (1 - r * r) ** 2, 0).astype(np.float32)
    pull = np.float32(rng.choice((-1, 1)) * rng.uniform(0.2, 0.5))
    cv2 = opencv()
    moved = cv2.remap(
        image,
        x + depth * pull * (x - np.float32(x0)),
        y + depth * pull * (y - np.float32(y0)),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    light = rng.uniform(0, 2 * math.pi)
    slope = np.where(r < 1, r * (1 - r * r), 0) * 2.6  # its largest value is 1
    facing = ((x - x0) * math.cos(light) + (y - y0) * math.sin(light)) / (r * radius + 1e-3)
    shade = slope * facing * rng.uniform(30, 90)
    mask = (r < 1) & foreground
    shaded = np.clip(moved + shade[:, :, None], 0, 255).astype(np.uint8)
    return np.where(mask[:, :, None], shaded, image), mask


def stain(image: Image, foreground: Mask, rng: np.random.Generator) -> Simulated:
    """An irregular translucent blot with a soft rim, of one random colour."""
    height, width = image.shape[:2]
    y0, x0 = _point(foreground, rng)
    radius = rng.uniform(0.03, 0.15) * min(height, width)
    turns = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    wobble = sum(
        rng.normal(0, 0.35 / k) * np.cos(k * turns + rng.uniform(0, 2 * math.pi))
        for k in range(1, 7)
    )
    outline = radius * np.clip(1 + wobble, 0.2, 2.0)
    points = np.stack((x0 + outline * np.cos(turns), y0 + outline * np.sin(turns)), axis=1)
    cv2 = opencv()
    blot = np.zeros((height, width), dtype=np.uint8)
    cv2.fillPoly(blot, np.round(points).astype(np.int32)[None], 255)
    soft = cv2.GaussianBlur(blot, (0, 0), max(0.8, radius * 0.08)).astype(np.float32) / 255
    alpha = soft * np.float32(rng.uniform(0.25, 0.8))
    return _mixed(image, alpha, _contrast(image, (y0, x0), rng), foreground)


def _mixed(
    image: Image, alpha: NDArray[np.float32], colour: NDArray[np.float64], foreground: Mask
) -> Simulated:
    """Lay a colour over the image; the mask is where at least an eighth of it shows."""
    mask: Mask = (alpha > 0.125) & foreground
    weight = alpha[mask][:, None]
    result = image.copy()
    result[mask] = np.clip(np.round(image[mask] * (1 - weight) + colour * weight), 0, 255)
    return result, mask


def _contrast(
    image: Image, point: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float64]:
    """A colour [3] at least 40 grey levels off the surface at the point."""
    here = image[point].astype(np.float64)
    room = here.mean() / 255
    away = -1 if rng.random() < room else 1  # a bright surface is mostly marked dark
    tint = rng.normal(0, 20, 3) if rng.random() < 0.5 else np.zeros(3)
    return np.asarray(np.clip(here + away * rng.uniform(40, 140) + tint, 0, 255))


def _jittered(patch: Image, rng: np.random.Generator) -> Image:
    """Brightness and contrast, and a little each channel, as CutPaste's colour jitter of 0.1."""
    gain, offset = rng.uniform(0.85, 1.15), rng.uniform(-25, 25)
    channel = rng.normal(0, 6, 3)
    jittered = (patch - patch.mean()) * gain + patch.mean() + offset + channel
    return np.asarray(np.clip(jittered, 0, 255), dtype=np.uint8)


def _rotated(patch: Image, angle: float) -> tuple[Image, Mask]:
    """The patch turned by ``angle`` degrees in a box that holds it, and its place in the box."""
    h, w = patch.shape[:2]
    if angle == 0:
        return patch, np.ones((h, w), dtype=bool)
    cv2 = opencv()
    side = math.ceil(math.hypot(h, w))
    turn = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), angle, 1.0)
    turn[:, 2] += ((side - w) / 2, (side - h) / 2)
    turned = cv2.warpAffine(patch, turn, (side, side), flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(np.full((h, w), 255, np.uint8), turn, (side, side))
    return turned, inside > 254  # full pixels only: the rim is mixed with nothing


def _place(foreground: Mask, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Upper left corner of a box whose centre lies on the foreground, inside the image."""
    y, x = _point(foreground, rng)
    top, left = y - size[0] // 2, x - size[1] // 2
    height, width = foreground.shape
    return min(max(top, 0), height - size[0]), min(max(left, 0), width - size[1])


def _point(foreground: Mask, rng: np.random.Generator) -> tuple[int, int]:
    flat = np.flatnonzero(foreground)
    chosen = int(flat[rng.integers(flat.size)])
    return chosen // foreground.shape[1], chosen % foreground.shape[1]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
