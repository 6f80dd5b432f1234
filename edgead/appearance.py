"""How pictures of a line look: what drift of camera, light and product is told by.

`measure` takes a few figures of each engine input, the same at commissioning and on the line, all of
what the view looks at. Brightness aside, they do not change with exposure, so that a dimmer lamp is
not taken for a lens out of focus. `Looks` is what commissioning keeps of them in the bundle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgead.errors import BundleError

__all__ = [
    "FIGURES",
    "LOOKS",
    "Appearance",
    "Looks",
    "decode_looks",
    "encode_looks",
    "learn_looks",
    "measure",
]

#: The bundle's member that `Looks` is kept in.
LOOKS = "appearance.json"
#: What is measured of each picture, in this order; the last one needs the others of the line.
FIGURES = ("brightness", "contrast", "sharpness", "red", "blue", "likeness")

_CELLS = 16
#: Every fourth pixel and line, as `edgead.preprocess.frame_statistics`, but no more than these a side:
#: beyond about 10,000 numbers NumPy's OpenBLAS takes all cores, and its threads spin on for some 25 ms
#: after. On two cores an engine at 512 x 512 judged at half its speed for that.
_STEP, _MOST = 4, 96
_LINES = slice(None, None, 8)
_MAX_IMAGES = 1000
_MAX_BYTES = 1 << 20
_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Appearance:
    """Figures of one picture.

    Attributes:
        brightness: Mean of all channels, grey levels.
        contrast: Standard deviation of green over brightness.
        sharpness: Mean difference of neighbours in a line over the standard deviation.
        red: Share of red in the sum of the channels; 1/3 is grey.
        blue: Share of blue.
        layout: Where it is bright, (rows, columns) of at most 16 x 16 cells, without mean and scale.
    """

    brightness: float
    contrast: float
    sharpness: float
    red: float
    blue: float
    layout: NDArray[np.float32]


class Looks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Figures of the good images that a bundle was commissioned on.

    Attributes:
        figures: Name -> value for each image, sorted.
        layout: Mean layout, [rows][columns].
    """

    schema: Literal[1] = 1
    images: int
    figures: dict[str, list[float]]
    layout: list[list[float]]


def measure(picture: NDArray[np.uint8]) -> Appearance:
    """Figures of an engine input (h, w, 3) uint8 BGR."""
    down_step, across_step = (max(_STEP, -(-side // _MOST)) for side in picture.shape[:2])
    sample = picture[::down_step, ::across_step].astype(np.float32)
    rows, columns = sample.shape[:2]
    green = np.ascontiguousarray(sample[:, :, 1])
    blue_mean, green_mean, red_mean = (_share(rows * columns) @ sample.reshape(-1, 3)).tolist()
    total = max(blue_mean + green_mean + red_mean, 1e-3)
    brightness = total / 3
    variance = float(np.vdot(green, green)) / green.size - green_mean * green_mean
    spread = math.sqrt(max(variance, 0.01))
    lines = picture[_LINES, :, 1].astype(np.int16)
    steps = np.abs(lines[:, 1:] - lines[:, :-1])
    down, across = _averaging(rows), _averaging(columns)
    return Appearance(
        brightness=brightness,
        contrast=spread / max(brightness, 1.0),
        sharpness=float(steps.mean()) / spread if steps.size else 0.0,
        red=red_mean / total,
        blue=blue_mean / total,
        layout=_normalised(down @ green @ across.T),
    )


def learn_looks(pictures: Sequence[Appearance]) -> Looks:
    """What good pictures have in common.

    Each one's likeness is to the mean of the others: part of that mean itself, it would be more alike
    than a new picture is.

    Args:
        pictures: At least 2, of one size.
    """
    kept = pictures[:: max(1, -(-len(pictures) // _MAX_IMAGES))]
    figures = {
        name: sorted(round(float(getattr(one, name)), _DIGITS) for one in kept)
        for name in FIGURES
        if name != "likeness"
    }
    shape = kept[0].layout.shape
    layouts = np.stack([one.layout for one in kept if one.layout.shape == shape])
    total = layouts.sum(axis=0)
    likeness = [float((_normalised(total - one) * one).sum()) for one in layouts]
    figures["likeness"] = sorted(round(value, _DIGITS) for value in likeness)
    mean = np.round(_normalised(total).astype(float), _DIGITS)
    return Looks(images=len(kept), figures=figures, layout=mean.tolist())


def encode_looks(looks: Looks) -> bytes:
    """The bundle's member."""
    return json.dumps(msgspec.to_builtins(looks), sort_keys=True, allow_nan=False).encode()


def decode_looks(data: bytes) -> Looks:
    """Read the bundle's member.

    Raises:
        BundleError: APPEARANCE.
    """
    if len(data) > _MAX_BYTES:
        raise _wrong(f"it has {len(data)} bytes; at most {_MAX_BYTES} are read")
    try:
        looks = msgspec.json.decode(data, type=Looks)
    except msgspec.DecodeError as error:
        raise _wrong(str(error)) from error
    if set(looks.figures) != set(FIGURES) or not all(looks.figures.values()):
        raise _wrong(f"its figures are {sorted(looks.figures)}; want {sorted(FIGURES)}, none empty")
    sides = {len(row) for row in looks.layout}
    if len(sides) != 1 or not 0 < max(sides) <= _CELLS or not 0 < len(looks.layout) <= _CELLS:
        raise _wrong(f"its layout is no grid of at most {_CELLS} x {_CELLS} cells")
    if not all(map(math.isfinite, chain(*looks.figures.values(), *looks.layout))):
        raise _wrong("a value is not finite")
    return looks


def _wrong(what: str) -> BundleError:
    return BundleError("APPEARANCE", f"{LOOKS}: {what}.", "Commission the bundle again.")


def _normalised(cells: NDArray[Any]) -> NDArray[np.float32]:
    """Mean 0 and length 1; zeros for an even picture."""
    centred = cells - cells.mean()
    length = float(np.sqrt((centred * centred).sum()))
    result: NDArray[np.float32] = (centred / max(length, 1e-6)).astype(np.float32)
    return result


@lru_cache(maxsize=32)
def _share(count: int) -> NDArray[np.float32]:
    """[count]: a product with it is a mean."""
    weights: NDArray[np.float32] = np.full(count, 1 / count, dtype=np.float32)
    weights.setflags(write=False)
    return weights


@lru_cache(maxsize=32)
def _averaging(count: int) -> NDArray[np.float32]:
    """[cells, count]: means of equal spans of an axis, fractions of pixels shared."""
    cells = min(_CELLS, count)
    edges = np.arange(cells + 1) * count / cells
    pixels = np.arange(count)
    spans = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    matrix: NDArray[np.float32] = (np.clip(spans, 0, None) * cells / count).astype(np.float32)
    matrix.setflags(write=False)
    return matrix
