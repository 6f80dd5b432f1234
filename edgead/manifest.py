"""Schema of a bundle's ``manifest.json``, version 1. Unknown keys are refused.

Every field that changes a verdict is here; nothing about a verdict lives in a graph or an engine.
Sizes are (height, width) in pixels, rectangles x0, y0, x1, y1 with an exclusive end.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from edgead.frame import PixelFormat

__all__ = [
    "IGNORE_MASK",
    "NOT_COMMISSIONED",
    "SCHEMA",
    "FrameSpec",
    "Golden",
    "HeadSpec",
    "InputRanges",
    "InputSpec",
    "Manifest",
    "Member",
    "Polygon",
    "Thresholds",
    "Tiles",
    "Training",
    "Units",
    "View",
]

SCHEMA: Final = 1
#: The member that `View.mask` names.
IGNORE_MASK: Final = "ignore.png"

Polygon = list[tuple[float, float]]
Size = tuple[int, int]
Range = tuple[float, float]
ConfigValue = None | bool | int | float | str | list[int | float | str]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all parts: immutable, unknown keys refused.

    Fields that came after the first release are UNSET by default, which is not written: a bundle
    without them keeps its bytes and its hash, and older readers still take it.
    """


class FrameSpec(_Strict, frozen=True, kw_only=True):
    """The camera frame that the bundle was commissioned on; another one is an error."""

    format: PixelFormat
    #: None: images of several sizes were trained; any size is taken.
    size: Size | None
    depth: int = 8


class Tiles(_Strict, frozen=True, kw_only=True):
    """Large images are judged in tiles, each resized to the input; see `edgead.tiles`.

    ``size`` is a tile's and ``overlap`` what neighbours share at the least, both in frame pixels.
    """

    size: Size
    overlap: int


class View(_Strict, frozen=True, kw_only=True):
    """What of the frame is looked at; applied before score and threshold, see `edgead.view`."""

    #: What is cut out before resizing; the box of ``polygons`` where there are any.
    roi: tuple[int, int, int, int] | None = None
    #: Polygons in frame pixels whose inside is never looked at.
    ignore: list[Polygon] = []
    tiles: Tiles | None = None
    #: Polygons in frame pixels: what lies outside all of them is never looked at.
    polygons: list[Polygon] | UnsetType = UNSET
    #: A member, a grey PNG as large as the frame: pixels that are not 0 are never looked at.
    mask: Literal["ignore.png"] | UnsetType = UNSET


class InputSpec(_Strict, frozen=True, kw_only=True):
    """Engine input: (1, h, w, 3) uint8. Order, scaling and normalisation are inside the graph."""

    size: Size
    channel_order: Literal["BGR"] = "BGR"
    #: Our own fixed-point antialiasing triangle filter; the same bits on every machine.
    resize: Literal["triangle"] = "triangle"
    fit: Literal["stretch"] = "stretch"
    #: What the graph does: (x - mean) / std on 0..255 pixels, RGB; for the reader only.
    mean: list[float]
    std: list[float]


class HeadSpec(_Strict, frozen=True, kw_only=True):
    """How the graph's outputs become a native map and a score."""

    kind: Literal["max", "top_mean", "kmeans"]
    #: Gaussian smoothing of the up-sampled map, engine-input pixels; 0 means none.
    sigma: float
    #: For ``top_mean``: how many of the highest pixels are averaged.
    top: int | None = None


class Units(_Strict, frozen=True, kw_only=True):
    """Scale of the picture and the smallest region that is reported."""

    mm_per_px: float | None = None
    min_area_px: float = 0.0


class Thresholds(_Strict, frozen=True, kw_only=True):
    """One pair for every precision, learnt at FP32 from good images only.

    ``bound`` is what is proven: the false-reject rate stays under it with ``confidence``.
    """

    threshold: float
    pixel_threshold: float
    score_scale: float
    false_reject_rate: float
    bound: float
    confidence: float
    images: int
    needed: int
    how: Literal["held_out", "cross_fitted", "commissioned"]
    good_scores: list[float]
    #: `edgead.view.view_key` of the view that they were learnt with; UNSET is the whole frame.
    view: str | UnsetType = UNSET


class InputRanges(_Strict, frozen=True, kw_only=True):
    """Ranges of simple frame statistics over the good images of this line."""

    mean: Range
    std: Range
    sharpness: Range


#: Of a model that `edgead.evaluate.commission` has not seen yet.
NOT_COMMISSIONED = Thresholds(
    threshold=0.0,
    pixel_threshold=0.0,
    score_scale=1.0,
    false_reject_rate=1.0,
    bound=1.0,
    confidence=0.0,
    images=0,
    needed=0,
    how="held_out",
    good_scores=[0.0],
)


class Training(_Strict, frozen=True, kw_only=True):
    """Where the model came from."""

    set_hash: str
    images: int
    seed: int
    epochs: int
    seconds: float
    weights: str
    versions: dict[str, str]
    #: Loss name -> value an epoch.
    losses: dict[str, list[float]] = {}


class Golden(_Strict, frozen=True, kw_only=True):
    """An image inside the bundle with its expected score."""

    name: str
    kind: Literal["good", "simulated_defect"]
    score: float
    verdict: Literal["GOOD", "DEFECT"]


class Member(_Strict, frozen=True, kw_only=True):
    """Size and SHA-256 of one file of the bundle."""

    bytes: int
    sha256: str


class Manifest(_Strict, frozen=True, kw_only=True):
    """Everything that a verdict depends on."""

    schema: Literal[1] = SCHEMA
    edgead: str
    method: str
    config: dict[str, ConfigValue]
    backbone: str
    frame: FrameSpec
    view: View = View()
    input: InputSpec
    head: HeadSpec
    units: Units = Units()
    thresholds: Thresholds
    input_ranges: InputRanges | None = None
    training: Training
    golden: list[Golden]
    #: Reserved: a bundle has one graph until a split around a kernel has won.
    program: None = None
    members: dict[str, Member]
