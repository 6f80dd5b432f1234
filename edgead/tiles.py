"""Large images in overlapping tiles: one picture, one grid of map cells, no seams.

The view is resized once, to a picture (the canvas) in which a tile has the engine's input size.
Tiles are cut from it without resampling, at corners that every cell of a tile's native map shares
with the others' cells, so that the maps are parts of one map over the whole canvas. Each cell of it
is taken from the tile in whose middle it lies most: from the one whose centre is nearest, rows and
columns apart, the upper or left one on a tie. What a tile sees near its own border, where a network
pads, is thereby used only at the border of the canvas. Score, smoothing, thresholds and regions then
are those of one large map.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import BundleError, FrameError
from edgead.manifest import Tiles

__all__ = ["TileGrid", "canvas_size"]

_Size = tuple[int, int]

#: Corners lie on multiples of this many input pixels, or of what of it divides the input's side:
#: a multiple of every method's cell.
_UNIT = 32
_MAX_PIXELS = 64_000_000
_MAX_TILES = 4096


def canvas_size(tiles: Tiles, input_size: _Size, view_size: _Size) -> _Size:
    """(h, w) of the picture that tiles are cut from.

    A tile's scale, brought to the nearest size that corners fit: a side is stretched by 1 / (2 k) at
    the most, where k is how many times `_UNIT` pixels it is long.

    Args:
        tiles: Size of a tile, frame pixels.
        input_size: (h, w) of the engine input.
        view_size: (H, W) of what is cut out of the frame.

    Raises:
        FrameError: VIEW_TILES when the view is smaller than a tile, or the picture too large.
    """
    if view_size[0] < tiles.size[0] or view_size[1] < tiles.size[1]:
        raise FrameError(
            "VIEW_TILES",
            f"the view is {view_size[1]}x{view_size[0]}, smaller than a tile of "
            f"{tiles.size[1]}x{tiles.size[0]}.",
            "Train with tiles that are at most as large as the view: --tiles WIDTHxHEIGHT.",
        )
    sides = []
    for side, tile, frame in zip(input_size, tiles.size, view_size, strict=True):
        unit = math.gcd(side, _UNIT)
        sides.append(max(side, round(frame * side / tile / unit) * unit))
    if sides[0] * sides[1] > _MAX_PIXELS:
        raise FrameError(
            "VIEW_TILES",
            f"tiles of {tiles.size[1]}x{tiles.size[0]} enlarge the view to {sides[1]}x{sides[0]} "
            f"pixels; at most {_MAX_PIXELS / 1e6:.0f} Mpx are judged.",
            "Train with larger tiles.",
        )
    return sides[0], sides[1]


class TileGrid:
    """Where the tiles of one canvas lie, and how their maps become one.

    Args:
        canvas: (h, w) from `canvas_size`.
        tiles: Size and overlap, frame pixels.
        input_size: (h, w) of the engine input, and of a tile on the canvas.

    Attributes:
        corners: (y, x) of each tile's upper left pixel, row by row.

    Raises:
        BundleError: VIEW_TILES when the overlap leaves no step, or there are too many tiles.
    """

    def __init__(self, canvas: _Size, tiles: Tiles, input_size: _Size) -> None:
        self.canvas, self.tile = canvas, input_size
        self._starts = tuple(
            _starts(canvas[axis], input_size[axis], tiles.overlap / tiles.size[axis])
            for axis in (0, 1)
        )
        rows, columns = self._starts
        if len(rows) * len(columns) > _MAX_TILES:
            raise BundleError(
                "VIEW_TILES",
                f"{len(rows)} x {len(columns)} tiles for one frame; at most {_MAX_TILES} are judged.",
                "Train with larger tiles or less overlap.",
            )
        self.corners = tuple((y, x) for y in rows for x in columns)

    def __len__(self) -> int:
        return len(self.corners)

    def cut(self, canvas: NDArray[Any]) -> list[NDArray[Any]]:
        """Views of the tiles, (h, w, ...) each, in the order of ``corners``."""
        h, w = self.tile
        return [canvas[y : y + h, x : x + w] for y, x in self.corners]

    def seen(self, ignored: NDArray[np.bool_] | None) -> list[int]:
        """Which tiles have a pixel that is looked at, of (h, w) on the canvas."""
        if ignored is None:
            return list(range(len(self)))
        return [i for i, part in enumerate(self.cut(ignored)) if not part.all()]

    def stitch(self, maps: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32]:
        """Native maps (h', w') of the tiles -> the map of the canvas.

        Args:
            maps: One a tile, in the order of ``corners``; None for a tile that was not looked at,
                whose cells become the lowest of the others.

        Raises:
            BundleError: VIEW_TILES when cells of such a map do not fit the corners.
        """
        seen = [one for one in maps if one is not None]
        cells = (seen[0].shape[0], seen[0].shape[1])
        rows, columns = (self._parts(axis, cells[axis]) for axis in (0, 1))
        low = np.float32(min(float(one.min()) for one in seen))
        whole: NDArray[np.float32] = np.empty((rows[-1][2], columns[-1][2]), np.float32)
        for index, one in enumerate(maps):
            top, y0, y1 = rows[index // len(columns)]
            left, x0, x1 = columns[index % len(columns)]
            part = low if one is None else one[y0 - top : y1 - top, x0 - left : x1 - left]
            whole[y0:y1, x0:x1] = part
        return whole

    def _parts(self, axis: int, cells: int) -> list[tuple[int, int, int]]:
        """Of each tile along an axis: its first cell, and the cells [from, to) that it gives."""
        side, starts = self.tile[axis], self._starts[axis]
        stride, rest = divmod(side, cells)
        if rest or any(start % stride for start in starts):
            raise BundleError(
                "VIEW_TILES",
                f"the method's map has {cells} cells on {side} pixels; tiles need cells of 1, 2, 4, "
                f"8, 16 or {_UNIT} whole pixels.",
                "Train with another image size, or without tiles.",
            )
        # A cell's centre (c + 1/2) stride is nearest to the first of two tiles up to the middle of
        # their centres, (a + b + side) / 2.
        ends = [(a + b + side + stride) // (2 * stride) for a, b in itertools.pairwise(starts)]
        total = self.canvas[axis] // stride
        edges = zip([0, *ends], [*ends, total], strict=True)
        return [(start // stride, lo, hi) for start, (lo, hi) in zip(starts, edges, strict=True)]


def _starts(canvas: int, side: int, overlap: float) -> tuple[int, ...]:
    """First pixels of tiles that cover an axis exactly; the last one is flush with the end."""
    unit = math.gcd(side, _UNIT)
    step = int(side * (1 - overlap)) // unit * unit
    if step < 1:
        raise BundleError(
            "VIEW_TILES",
            f"tiles of {side} pixels that overlap by {overlap:.0%} leave no step of {unit}.",
            "Train with less overlap.",
        )
    last = canvas - side
    return (*range(0, last, step), last)
