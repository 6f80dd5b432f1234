"""Where simulated defects take their look from: a folder of textures, or textures made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgead.errors import CalibrationError
from edgead.evaluate.data import find_images, load_images
from edgead.evaluate.perlin import perlin
from edgead.frame import PixelFormat
from edgead.images import opencv

__all__ = ["TextureSource", "procedural_texture", "texture_folder"]

Image = NDArray[np.uint8]
TextureSource = Callable[[tuple[int, int], np.random.Generator], Image]
"""(H, W) and a random source -> texture (H, W, 3) uint8."""


def texture_folder(folder: str | Path, *, memory_limit_bytes: int = 512 << 20) -> TextureSource:
    """Textures from a folder of images and its subfolders: a random crop of a random one.

    Raises:
        CalibrationError: DATA_MISSING, DATA_NOT_FOLDER, DATA_EMPTY or IMAGE_FORMAT.
    """
    root = Path(folder)
    folders = sorted(path for path in root.rglob("*") if path.is_dir()) if root.is_dir() else []
    filled = [path for path in folders if any(child.is_file() for child in path.iterdir())]
    if root.is_dir() and any(path.is_file() for path in root.iterdir()):
        filled.insert(0, root)
    images = load_images(
        [path for one in filled or [root] for path in find_images(one)],
        memory_limit_bytes=memory_limit_bytes,
    )

    def draw(size: tuple[int, int], rng: np.random.Generator) -> Image:
        frame = images[int(rng.integers(len(images)))]
        if frame.format not in (PixelFormat.BGR8, PixelFormat.MONO8):
            raise CalibrationError(
                "TEXTURE_FORMAT",
                f"{frame.source_id} is {frame.format.value}; expected 8-bit grey or colour.",
                "Convert it.",
            )
        pixels = frame.pixels
        colour = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels
        return _cropped(colour, size, rng)

    return draw


def procedural_texture(size: tuple[int, int], rng: np.random.Generator) -> Image:
    """A random texture: clouds, grain, stripes, cells or marble in two to three random colours."""
    make = _FIELDS[int(rng.integers(len(_FIELDS)))]
    field = make(size, rng)
    low, high = np.percentile(field[::2, ::2], (2, 98))
    shade = np.clip((field - low) * (255 / max(float(high - low), 1e-6)), 0, 255).astype(np.uint8)
    colours = rng.uniform(0, 255, (3, 3))
    if rng.random() < 0.5:  # half of the textures are grey, as most industrial surfaces are
        colours = np.repeat(colours.mean(axis=1, keepdims=True), 3, axis=1)
    ramp = np.stack([np.interp(np.arange(256), (0, 127.5, 255), c) for c in colours.T], axis=1)
    noise = rng.normal(0, rng.uniform(0, 12), (*size, 1)).astype(np.float32)
    mixed = ramp.astype(np.float32)[shade] + noise
    return np.asarray(np.clip(mixed, 0, 255), dtype=np.uint8)


def _cropped(image: Image, size: tuple[int, int], rng: np.random.Generator) -> Image:
    """A random piece between half and all of the image, resized to ``size``."""
    height, width = image.shape[:2]
    share = rng.uniform(0.5, 1.0)
    h, w = max(1, int(height * share)), max(1, int(width * share))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    piece = image[top : top + h, left : left + w]
    cv2 = opencv()
    resized: Image = cv2.resize(piece, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return resized


def _clouds(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Fractal sum of Perlin octaves, each half as high as the one before."""
    total = np.zeros(size, dtype=np.float32)
    start = int(rng.integers(1, 4))
    for octave in range(start, start + 4):
        cells = min(2**octave, *size)
        total += perlin(size, (cells, cells), rng) * np.float32(0.5 ** (octave - start))
    return total


def _grain(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    noise = rng.normal(0, 1, size).astype(np.float32)
    blurred: NDArray[np.float32] = opencv().GaussianBlur(noise, (0, 0), rng.uniform(0.5, 2.5))
    return blurred


def _stripes(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, max(size) / 4)
    wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / period)
    return np.asarray(wave + 0.3 * _clouds(size, rng), dtype=np.float32)


def _cells(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Distance to the nearest of some random points: pebbles, bubbles."""
    seeds = np.full(size, 255, dtype=np.uint8)
    count = int(rng.integers(10, 120))
    seeds[rng.integers(size[0], size=count), rng.integers(size[1], size=count)] = 0
    cv2 = opencv()
    distance: NDArray[np.float32] = cv2.distanceTransform(seeds, cv2.DIST_L2, 5)
    return distance


def _marble(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    return np.asarray(np.sin(_clouds(size, rng) * rng.uniform(4, 14)), dtype=np.float32)


_FIELDS = (_clouds, _grain, _stripes, _cells, _marble)
