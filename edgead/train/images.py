"""What training sees: the view of the frames, as the run-time makes it, tiles one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgead.frame import Frame
from edgead.manifest import FrameSpec, InputSpec, View
from edgead.models.base import Images
from edgead.preprocess import Preprocess
from edgead.tiles import TileGrid
from edgead.view import check_mask

__all__ = ["Look", "TrainingImages"]

#: Engine inputs kept in memory; beyond it they are made again each time.
_KEPT_BYTES = 4 << 30


@dataclass(frozen=True)
class Look:
    """The frames, and what of them is looked at.

    Attributes:
        frame: What they have in common.
        view: Laid over each of them.
        mask: The view's mask image, a PNG's bytes.
    """

    frame: FrameSpec
    view: View
    mask: bytes | None

    def preprocess(self, input_spec: InputSpec) -> Preprocess:
        """What the run-time does with a frame."""
        mask = None if self.mask is None else check_mask(self.mask, self.frame.size)
        return Preprocess(self.frame, input_spec, self.view, mask=mask)

    @property
    def identity(self) -> str:
        """A checkpoint of another view is of another training."""
        if self.view == View():
            return ""
        return f" {self.view} {hashlib.sha256(self.mask or b'').hexdigest()}"


class TrainingImages(Images):
    """Frames as engine inputs, made once by the run-time's own pre-processing; tiles one by one."""

    def __init__(self, frames: Sequence[Frame], look: Look, input_spec: InputSpec) -> None:
        self._frames, self._tiles, self._size = frames, look.view.tiles, input_spec.size
        self._preprocess = look.preprocess(input_spec)
        self._room, self._next = _KEPT_BYTES, 0
        self._made: dict[int, NDArray[np.uint8]] = {}
        #: Frame and upper left corner of each picture.
        self._places = [(i, (0, 0)) for i in range(len(frames))]
        if self._tiles is not None:
            self._places = [(i, at) for i in range(len(frames)) for at in self._cut(i)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        if index in self._made:
            return self._made[index]
        frame, (y, x) = self._places[index]
        h, w = self._size
        picture = self._preprocess(self._frames[frame])[0][0]
        if self._tiles is not None:  # a copy, that does not keep the whole picture
            picture = picture[y : y + h, x : x + w].copy()
        self._keep(index, picture)
        return picture

    def _cut(self, frame: int) -> list[tuple[int, int]]:
        """Corners of a frame's tiles that are looked at; they are kept while there is room."""
        assert self._tiles is not None
        tensor, placement = self._preprocess(self._frames[frame])
        canvas = tensor[0]
        grid = TileGrid((canvas.shape[0], canvas.shape[1]), self._tiles, self._size)
        pictures, seen = grid.cut(canvas), grid.seen(placement.ignored)
        for i in seen:
            self._keep(self._next, pictures[i].copy())
            self._next += 1
        return [grid.corners[i] for i in seen]

    def _keep(self, index: int, picture: NDArray[np.uint8]) -> None:
        if self._room >= picture.nbytes:
            self._room -= picture.nbytes
            self._made[index] = picture
