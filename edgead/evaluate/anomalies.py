"""Simulated defects: a good image in, the same image with one defect and its pixel mask out.

Training on good images alone needs something to tell them from. ``structural``, ``tiles`` and
``logical`` are SLSG's: I_A = (1 - M) I + M (delta I_N + (1 - delta) I), section 3.2. ``confetti``
and ``cutpaste`` are MLFF's; ``scratch``, ``dent`` and ``stain`` are ours, for golden images.
Everything is drawn from the random source given: same seed, same defect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgead.errors import CalibrationError, ConfigError
from edgead.evaluate import blemishes
from edgead.evaluate.foreground import foreground_mask
from edgead.evaluate.perlin import perlin_mask
from edgead.evaluate.textures import Image, TextureSource, procedural_texture
from edgead.images import opencv

__all__ = ["KINDS", "contact_sheet", "simulate"]

Mask = NDArray[np.bool_]
MIN_SIDE = 32
MIN_CHANGE = 2.0  # grey levels, mean over the mask: less teaches that nothing is a defect
_DRAWS = 20

_DRAWN: dict[str, Callable[[Image, Mask, np.random.Generator], tuple[Image, Mask]]] = {
    "confetti": blemishes.confetti,
    "cutpaste": blemishes.cutpaste,
    "scratch": blemishes.scratch,
    "dent": blemishes.dent,
    "stain": blemishes.stain,
}
KINDS: tuple[str, ...] = ("structural", "tiles", "logical", *_DRAWN)


def simulate(
    image: Image,
    kind: str,
    rng: np.random.Generator,
    *,
    textures: TextureSource = procedural_texture,
    other: Image | None = None,
    foreground: Mask | None = None,
) -> tuple[Image, Mask]:
    """Put one defect on a good image.

    Args:
        image: Good image, left as it is. (H, W, 3) uint8, sides of 32 pixels or more.
        kind: One of `KINDS`.
        rng: The only source of chance.
        textures: Texture of structural defects.
        other: Another good image for logical defects; resized when its size differs.
            (H', W', 3) uint8
        foreground: Where defects may lie; None finds it by `foreground_mask`. (H, W) bool

    Returns:
        image: (H, W, 3) uint8, equal to the input outside the mask.
        mask: (H, W) bool, never empty.

    Raises:
        ConfigError: ANOMALY_KIND, ANOMALY_IMAGE, ANOMALY_OTHER or ANOMALY_FOREGROUND.
        CalibrationError: ANOMALY_INVISIBLE when no draw of this kind changes the image, as for
            tiles of a constant image.
    """
    _check(image, kind, other, foreground)
    where = foreground_mask(image) if foreground is None else foreground
    for _ in range(_DRAWS):
        if kind in _DRAWN:
            result, mask = _DRAWN[kind](image, where, rng)
        else:
            result, mask = _blended(image, kind, where, rng, textures, other)
        if mask.any() and np.abs(result[mask].astype(int) - image[mask]).mean() >= MIN_CHANGE:
            return result, mask
    raise CalibrationError(
        "ANOMALY_INVISIBLE",
        f"{_DRAWS} draws of {kind!r} changed the image by less than {MIN_CHANGE:g} grey levels.",
        "The image is constant, or equal to the other one; leave it out or use another kind.",
    )


def contact_sheet(
    images: Sequence[Image],
    rng: np.random.Generator,
    *,
    kinds: Sequence[str] = KINDS,
    textures: TextureSource = procedural_texture,
    cell_px: int = 160,
) -> Image:
    """A sheet to look at: a row an image, the good one first, then each kind with its outline.

    Args:
        images: Good images of any size; the one after each serves its logical defect.
        rng: The only source of chance.
        kinds: Columns.
        textures: As for `simulate`.
        cell_px: Side of a cell, pixels.

    Returns:
        (rows, columns, 3) uint8, channel order of the images.

    Raises:
        ConfigError: As `simulate`, or ANOMALY_IMAGES when there are none.
    """
    if not images:
        raise ConfigError(
            "ANOMALY_IMAGES", "no images for the contact sheet; expected one or more."
        )
    cv2 = opencv()
    names = ("good", *kinds)
    gap, head = 6, 22
    height = head + len(images) * (cell_px + gap) + gap
    sheet = np.full((height, len(names) * (cell_px + gap) + gap, 3), 250, dtype=np.uint8)
    for column, name in enumerate(names):
        left = gap + column * (cell_px + gap)
        cv2.putText(
            sheet, name, (left, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40,) * 3, 1, cv2.LINE_AA
        )
        for row, image in enumerate(images):
            cell, mask = image, np.zeros(image.shape[:2], dtype=bool)
            if name != "good":
                other = images[(row + 1) % len(images)] if len(images) > 1 else None
                cell, mask = simulate(image, name, rng, textures=textures, other=other)
            top = head + row * (cell_px + gap)
            sheet[top : top + cell_px, left : left + cell_px] = _cell(cell, mask, cell_px)
    return sheet


def _blended(
    image: Image,
    kind: str,
    foreground: Mask,
    rng: np.random.Generator,
    textures: TextureSource,
    other: Image | None,
) -> tuple[Image, Mask]:
    """SLSG's blends: I_A = (1 - M) I + M (delta I_N + (1 - delta) I)."""
    height, width = image.shape[:2]
    if kind == "logical":
        # Few octaves and a lower level: a concentrated mask, the size of a part rather than a flaw.
        mask = perlin_mask(foreground, rng, max_octave=3, level=0.25)
        source = _turned(_resized(image if other is None else other, (height, width)), rng)
        keep = rng.uniform(0, 0.25)  # 1 - delta
    else:
        mask = perlin_mask(foreground, rng)
        source = textures((height, width), rng) if kind == "structural" else _shuffled(image, rng)
        keep = rng.uniform(0, 0.9)
    varied = np.clip(source[mask] * rng.uniform(0.8, 1.2) + rng.uniform(-20, 20), 0, 255)
    result = image.copy()
    result[mask] = np.round((1 - keep) * varied + keep * image[mask])
    return result, mask


def _shuffled(image: Image, rng: np.random.Generator) -> Image:
    """Tiles of the image in random order: 4 x 8 or 8 x 8 of them."""
    height, width = image.shape[:2]
    rows, columns = (4, 8) if rng.random() < 0.5 else (8, 8)
    h, w = height // rows, width // columns
    tiles = image[: rows * h, : columns * w].reshape(rows, h, columns, w, 3)
    flat = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * columns, h, w, 3)
    mixed = rng.permutation(flat).reshape(rows, columns, h, w, 3).transpose(0, 2, 1, 3, 4)
    result: Image = image.copy()  # the rest of a side that is no multiple stays
    result[: rows * h, : columns * w] = mixed.reshape(rows * h, columns * w, 3)
    return result


def _turned(image: Image, rng: np.random.Generator) -> Image:
    """Rotated by up to 90 degrees either way, the border reflected."""
    cv2 = opencv()
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-90, 90), 1.0)
    turned: Image = cv2.warpAffine(
        image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return turned


def _resized(image: Image, size: tuple[int, int]) -> Image:
    if image.shape[:2] == size:
        return image
    cv2 = opencv()
    resized: Image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return resized


def _cell(image: Image, mask: Mask, side: int) -> Image:
    """The image centred in a square, its aspect kept, a line drawn just outside the mask."""
    cv2 = opencv()
    scale = side / max(image.shape[:2])
    h, w = (max(1, round(n * scale)) for n in image.shape[:2])
    small = _resized(image, (h, w)).copy()
    covered = _resized(mask.astype(np.uint8) * np.uint8(255), (h, w)) > 0
    wide = cv2.dilate(covered.astype(np.uint8), np.ones((5, 5), np.uint8))
    contours, _ = cv2.findContours(wide, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(small, contours, -1, (60, 60, 255), 1, cv2.LINE_AA)
    cell = np.full((side, side, 3), 235, dtype=np.uint8)
    top, left = (side - h) // 2, (side - w) // 2
    cell[top : top + h, left : left + w] = small
    return cell


def _check(image: Image, kind: str, other: Image | None, foreground: Mask | None) -> None:
    if kind not in KINDS:
        raise ConfigError("ANOMALY_KIND", f"kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    for name, one in (("ANOMALY_IMAGE", image), ("ANOMALY_OTHER", other)):
        if one is not None and (one.dtype != np.uint8 or one.ndim != 3 or one.shape[2] != 3):
            raise ConfigError(name, f"got {one.dtype} {one.shape}; expected uint8 (H, W, 3).")
    if min(image.shape[:2]) < MIN_SIDE:
        raise ConfigError(
            "ANOMALY_IMAGE",
            f"image is {image.shape[1]} x {image.shape[0]} pixels; "
            f"expected at least {MIN_SIDE} a side.",
        )
    if foreground is not None and (
        foreground.dtype != np.bool_ or foreground.shape != image.shape[:2] or not foreground.any()
    ):
        raise ConfigError(
            "ANOMALY_FOREGROUND",
            f"foreground is {foreground.dtype} {foreground.shape} with "
            f"{np.count_nonzero(foreground)} pixels; expected bool {image.shape[:2]} with some.",
        )
