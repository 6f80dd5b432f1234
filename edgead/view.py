"""What of the frame is looked at: region of interest, ignored places, tiles.

Applied before anything is scored, in training, commissioning and on the line alike: the region's box
is cut out and resized, and every pixel of the result that any ignored frame pixel has a part in is
painted with the mean colour of the others. What is ignored therefore cannot reach a score, a map, a
mask or a region, whatever the network's receptive field; only what is ignored *within* a few pixels
of its outline is given up besides. Cells of the native map whose centre is painted are left out of
the score (`edgead.heads`), and painted pixels out of mask and regions (`edgead.postprocess`).

Thresholds hold for the view that they were learnt with: `check_commissioned`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from edgead import images
from edgead.bundle import Bundle
from edgead.errors import BundleError, ConfigError
from edgead.frame import PixelFormat
from edgead.kernels.tables import resize_table
from edgead.manifest import IGNORE_MASK, FrameSpec, Manifest, Polygon, Tiles, View
from edgead.tiles import canvas_size
from edgead.types import Placement

__all__ = [
    "Layout",
    "Sketch",
    "check_commissioned",
    "check_mask",
    "ignore_pixels",
    "lay_out",
    "make_view",
    "polygon_mask",
    "view_key",
    "with_view",
]

_Box = tuple[int, int, int, int]
_Size = tuple[int, int]
#: The mean colour is taken from about so many pixels that are looked at.
_SAMPLES = 4096


@dataclass(frozen=True, eq=False)
class Layout:
    """A view laid over frames of one size.

    Attributes:
        crop: x0, y0, x1, y1 in frame pixels.
        size: (h, w) of the resized picture: the engine input's, or the canvas of the tiles.
        placement: Where it lies in the frame, and what of it is ignored.
        samples: Indices into its h * w pixels that the mean colour is taken from, or None.
    """

    crop: _Box
    size: _Size
    placement: Placement
    samples: NDArray[np.intp] | None

    def paint(self, picture: NDArray[np.uint8]) -> None:
        """Paint what is ignored, in place: (h, w, 3) uint8."""
        if self.samples is None or self.placement.ignored is None:
            return
        seen = picture.reshape(-1, 3)[self.samples]
        mean = (seen.sum(axis=0, dtype=np.int64) + len(seen) // 2) // len(seen)
        np.copyto(picture, mean.astype(np.uint8), where=self.placement.ignored[:, :, None])


@dataclass(frozen=True)
class Sketch:
    """A view as a person draws it, before the frames are known.

    Attributes:
        roi: Polygons, points x, y in frame pixels: what lies outside all of them is not looked at.
            One rectangle with whole-numbered corners is cut out as it is.
        ignore: Polygons that are not looked at.
        mask: A grey PNG as large as the frame, not 0 where a pixel is never looked at.
        tiles: For large images.
    """

    roi: Sequence[Polygon] = ()
    ignore: Sequence[Polygon] = ()
    mask: bytes | None = None
    tiles: Tiles | None = None

    def on(self, frame: FrameSpec) -> View:
        """The view on frames like this.

        Raises:
            ConfigError: VIEW_ROI when the region has no pixel inside the frame.
            BundleError: VIEW_MASK.
        """
        if self.mask is not None:
            check_mask(self.mask, frame.size)
        return make_view(
            frame,
            roi=self.roi,
            ignore=self.ignore,
            tiles=self.tiles,
            has_mask=self.mask is not None,
        )


def lay_out(
    view: View,
    input_size: _Size,
    frame_size: _Size,
    fmt: PixelFormat = PixelFormat.BGR8,
    mask: NDArray[np.bool_] | None = None,
) -> Layout:
    """Lay a view over frames of one size.

    Args:
        view: What is looked at; its region lies inside the frame.
        input_size: (h, w) of the engine input.
        frame_size: (H, W) of the frames.
        fmt: Their format: subsampled colours reach farther.
        mask: (H, W), True where never looked at: the view's own, as `ignore_pixels` reads it.

    Raises:
        BundleError: VIEW_EMPTY when nothing is left to look at; VIEW_MASK as `check_mask`.
        FrameError: VIEW_TILES as `canvas_size`.
    """
    height, width = frame_size
    x0, y0, x1, y1 = crop = view.roi or (0, 0, width, height)
    size = input_size
    if view.tiles is not None:
        size = canvas_size(view.tiles, input_size, (y1 - y0, x1 - x0))
    ignored = _ignored(view, frame_size, crop, mask)
    samples = None
    if ignored is not None:
        rows, columns = _reads((y0, y1), size[0], fmt), _reads((x0, x1), size[1], fmt)
        ignored = _any_of(_any_of(ignored, rows).T, columns).T
        seen = np.flatnonzero(~ignored)
        if not len(seen):
            raise BundleError(
                "VIEW_EMPTY",
                "the ignore polygons and the mask leave nothing to look at.",
                "Set another view: edgead view BUNDLE, then commission it.",
            )
        samples = seen[:: max(1, len(seen) // _SAMPLES)]
        ignored = np.ascontiguousarray(ignored)
    placement = Placement(
        offset_xy=(float(x0), float(y0)),
        scale_xy=((x1 - x0) / size[1], (y1 - y0) / size[0]),
        frame_size=frame_size,
        size=size,
        ignored=ignored,
    )
    return Layout(crop, size, placement, samples)


def polygon_mask(
    polygons: Sequence[Polygon], size: _Size, origin: tuple[int, int] = (0, 0)
) -> NDArray[np.bool_]:
    """Which pixels of a (rows, columns) grid have their centre in a polygon, even-odd rule.

    Args:
        polygons: Points x, y in frame pixels; their insides are united.
        size: (rows, columns), one cell a pixel.
        origin: x, y of the grid's upper left corner in the frame.
    """
    rows, columns = size
    inside = np.zeros(size, dtype=bool)
    for polygon in polygons:
        # How many edges cross each row right of a pixel: odd is inside.
        crossings = np.zeros((rows, columns + 1), dtype=np.uint8)
        for (ax, ay), (bx, by) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
            low, high = sorted((ay - origin[1], by - origin[1]))
            first = min(max(math.floor(low - 0.5), 0), rows)
            ys = np.arange(first, min(max(math.ceil(high + 0.5), first), rows))
            centres = ys + 0.5 + origin[1]
            ys, centres = (v[(ay <= centres) != (by <= centres)] for v in (ys, centres))
            if not len(ys):
                continue
            crossed = (bx - ax) * (centres - ay) / (by - ay) + ax - origin[0]
            # Pixels 0..n-1 have x + 1/2 < crossed.
            count = np.clip(np.ceil(crossed - 0.5), 0, columns).astype(np.intp)
            crossings[ys, count] ^= 1
        parity = np.bitwise_xor.accumulate(crossings[:, :0:-1], axis=1)[:, ::-1]
        inside |= parity.astype(bool)
    return inside


def ignore_pixels(bundle: Bundle) -> NDArray[np.bool_] | None:
    """The view's mask, (H, W) True where never looked at; None without one.

    Raises:
        BundleError: VIEW_MASK.
    """
    if not bundle.manifest.view.mask:
        return None
    size = bundle.manifest.frame.size
    return check_mask(bundle.members[IGNORE_MASK], size)


def check_mask(png: bytes, size: _Size | None) -> NDArray[np.bool_]:
    """Read a mask image: grey, as large as the frame, not 0 where a pixel is never looked at.

    Raises:
        BundleError: VIEW_MASK when it is another kind or size, or frames come in several sizes.
        FrameError: IMAGE_* when it cannot be read.
    """
    if size is None:
        raise BundleError(
            "VIEW_MASK",
            "a mask image needs frames of one size, and this bundle takes several.",
            "Give polygons, or train on images of one size.",
        )
    frame = images.decode(png, name=IGNORE_MASK)
    if frame.pixels.ndim != 2 or frame.size != tuple(size):
        raise BundleError(
            "VIEW_MASK",
            f"the mask is {frame.format.value} {frame.size[1]}x{frame.size[0]}; want a grey image of "
            f"the frame's {size[1]}x{size[0]}.",
            "Paint it over a frame: black is looked at, white is not.",
        )
    return np.asarray(frame.pixels != 0)


def make_view(
    frame: FrameSpec,
    *,
    roi: Sequence[Polygon] = (),
    ignore: Sequence[Polygon] = (),
    tiles: Tiles | None = None,
    has_mask: bool = False,
) -> View:
    """A view from what a person draws.

    Args:
        frame: The frames that it is for.
        roi: As in `Sketch`, like the others.
        ignore: Polygons.
        tiles: For large images.
        has_mask: The bundle has a mask image.

    Raises:
        ConfigError: VIEW_ROI when the region has no pixel inside the frame.
    """
    polygons = [[(float(x), float(y)) for x, y in polygon] for polygon in roi]
    box = _box_of(polygons, frame) if polygons else None
    is_box = box is not None and len(polygons) == 1 and _is_rectangle(polygons[0], box)
    return View(
        roi=box,
        ignore=[[(float(x), float(y)) for x, y in polygon] for polygon in ignore],
        tiles=tiles,
        polygons=polygons if polygons and not is_box else UNSET,
        mask=IGNORE_MASK if has_mask else UNSET,
    )


def with_view(bundle: Bundle, view: View, mask: bytes | None = None) -> Bundle:
    """The bundle with another view, which has no threshold until it is commissioned again.

    Args:
        bundle: Its model, head and everything else stay.
        view: From `make_view`.
        mask: The mask image's bytes, where ``view.mask`` names it.

    Raises:
        BundleError: VIEW_MASK as `check_mask`; MANIFEST when the region lies outside the frame.
    """
    if mask is not None:
        check_mask(mask, bundle.manifest.frame.size)
    return bundle.with_members({IGNORE_MASK: mask if view.mask else None}, view=view)


def view_key(manifest: Manifest) -> str | None:
    """SHA-256 of all that makes up a view; None for the whole frame."""
    if manifest.view == View():
        return None
    tree = {"view": msgspec.to_builtins(manifest.view)}
    if manifest.view.mask:
        tree["mask"] = manifest.members[IGNORE_MASK].sha256
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def check_commissioned(manifest: Manifest) -> None:
    """Refuse thresholds that were learnt with another view.

    Raises:
        BundleError: VIEW_CHANGED.
    """
    if (manifest.thresholds.view or None) != view_key(manifest):
        raise BundleError(
            "VIEW_CHANGED",
            "the view (region of interest, ignored places or tiles) was changed after the "
            "thresholds were learnt: this bundle has no threshold.",
            "Learn it again from good images: edgead commission BUNDLE GOOD.",
        )


def _ignored(
    view: View, frame_size: _Size, crop: _Box, mask: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """(H, W) frame pixels that are never looked at, None where all of the crop is."""
    if view.mask and (mask is None or mask.shape != frame_size):
        found = "none was given" if mask is None else f"it is {mask.shape[1]}x{mask.shape[0]}"
        raise BundleError(
            "VIEW_MASK",
            f"the view has a mask image for frames of {frame_size[1]}x{frame_size[0]}; {found}.",
            "Set the mask again: edgead view BUNDLE --ignore-mask FILE.",
        )
    if not (view.polygons or view.ignore or view.mask):
        return None
    x0, y0, x1, y1 = crop
    size = (y1 - y0, x1 - x0)
    inside = np.zeros(size, dtype=bool)
    if view.polygons:
        inside |= ~polygon_mask(view.polygons, size, (x0, y0))
    if view.ignore:
        inside |= polygon_mask(view.ignore, size, (x0, y0))
    if view.mask and mask is not None:
        inside |= mask[y0:y1, x0:x1]
    # Subsampled colours of the crop's edge may reach outside it.
    whole = np.ones(frame_size, dtype=bool)
    whole[y0:y1, x0:x1] = inside
    return whole


def _reads(
    crop: tuple[int, int], count: int, fmt: PixelFormat
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Frame pixels [first, stop) along one axis that each of ``count`` resized pixels is made of."""
    lo, hi = crop
    luma = _taps(lo, hi, count)
    if fmt is PixelFormat.NV12:  # two pixels share a colour
        first, stop = _taps(lo // 2, -(-hi // 2), count)
        return np.minimum(luma[0], 2 * first), np.maximum(luma[1], 2 * stop)
    if fmt is PixelFormat.BAYER_RG8:  # two pixels are one
        first, stop = _taps(lo // 2, max(hi // 2, lo // 2 + 1), count)
        return 2 * first, 2 * stop
    return luma


def _taps(lo: int, hi: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    table = resize_table(hi - lo, count)
    used = table.weights != 0
    first = lo + table.start.astype(np.intp) + used.argmax(axis=1)
    stop = lo + table.start.astype(np.intp) + used.shape[1] - used[:, ::-1].argmax(axis=1)
    return first, stop


def _any_of(
    pixels: NDArray[np.bool_], spans: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> NDArray[np.bool_]:
    """Row i is true where any of rows [first[i], stop[i]) is."""
    return np.stack([pixels[a:b].any(axis=0) for a, b in zip(*spans, strict=True)])


def _box_of(polygons: Sequence[Polygon], frame: FrameSpec) -> _Box:
    """Smallest box of whole pixels, inside the frame."""
    points = np.array([point for polygon in polygons for point in polygon])
    low, high = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    if frame.format in (PixelFormat.NV12, PixelFormat.BAYER_RG8):  # whole colour cells
        low, high = low // 2 * 2, -(-high // 2) * 2
    low = np.maximum(low, 0)
    if frame.size is not None:
        high = np.minimum(high, frame.size[::-1])
    (x0, y0), (x1, y1) = low.astype(int).tolist(), high.astype(int).tolist()
    if x0 >= x1 or y0 >= y1:
        size = "any size" if frame.size is None else f"{frame.size[1]}x{frame.size[0]}"
        raise ConfigError(
            "VIEW_ROI",
            f"the region of interest has no pixel inside the frame ({size}).",
            "Give points x,y in frame pixels, x to the right and y down.",
        )
    return x0, y0, x1, y1


def _is_rectangle(polygon: Polygon, box: _Box) -> bool:
    x0, y0, x1, y1 = box
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return (
        len(polygon) == len(corners)
        and set(polygon) == set(corners)
        and all(
            (a[0] == b[0]) != (a[1] == b[1])
            for a, b in zip(polygon, [*polygon[1:], polygon[0]], strict=True)
        )
    )
