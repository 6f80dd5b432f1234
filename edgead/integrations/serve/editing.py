"""What the page's editor draws, saved as a bundle of its own beside the running one.

The line is never touched: it goes on with the bundle that it was started with. A saved view has no
threshold until `edgead commission` has learnt one for it, and no `Detector` takes it before.
"""

from __future__ import annotations

import logging
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgead.bundle import Bundle, read_bundle, write_bundle
from edgead.errors import ConfigError, EdgeadError
from edgead.manifest import IGNORE_MASK, Manifest, Polygon
from edgead.view import ignore_pixels, lay_out, make_view, view_key, with_view

__all__ = ["MAX_BODY", "Drawn", "Editing", "shown_view"]

_log = logging.getLogger("edgead.serve")

MAX_BODY = 256 * 1024  # of a drawing: 4,096 points are 100 KiB
_MOST_SAVED = 99
_FARTHEST = 65_536  # pixels from the frame's corner
_SAVED = re.compile(r"\.view(-\d+)?$")


class Drawn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A drawing: everything that the editor can set, not only what was changed.

    Attributes:
        roi: Polygons, points x, y in frame pixels: only their inside is looked at; none: everywhere.
        ignore: Polygons that are not looked at.
        keep_mask: Keep the bundle's mask image, where it has one.
        mm_per_px: Millimetres of one frame pixel.
        min_area_px: The smallest region that is reported.
    """

    roi: list[Polygon] = []
    ignore: list[Polygon] = []
    keep_mask: bool = True
    mm_per_px: float | None = None
    min_area_px: float = 0.0


class Editing:
    """The view of a running bundle, and where another one is saved.

    Args:
        bundle: Gives the bundle that judges now.
        path: Its file; what is saved lies beside it.
    """

    def __init__(self, bundle: Callable[[], Bundle], path: Path) -> None:
        self._bundle, self._path = bundle, path

    def about(self) -> dict[str, Any]:
        """The view as it is, as the editor draws it."""
        manifest = self._bundle().manifest
        view, units = manifest.view, manifest.units
        roi = view.polygons or ([_corners(view.roi)] if view.roi else [])
        return {
            "bundle": self._path.name,
            "roi": msgspec.to_builtins(roi),
            "ignore": msgspec.to_builtins(view.ignore),
            "has_mask": bool(view.mask),
            "has_tiles": view.tiles is not None,
            "mm_per_px": units.mm_per_px,
            "min_area_px": units.min_area_px,
            "frame_size": manifest.frame.size,
        }

    def mask(self) -> bytes | None:
        """The mask image, PNG: not 0 where a pixel is never looked at."""
        bundle = self._bundle()
        return bundle.members[IGNORE_MASK] if bundle.manifest.view.mask else None

    def save(self, drawn: Drawn) -> dict[str, Any]:
        """Write the running bundle with this view under a name of its own; one call at a time.

        A file that an earlier save wrote is replaced while nothing was learnt for it; a commissioned
        one never is.

        Returns:
            ``file`` (empty when nothing was changed), ``commissioned``, ``looked_at`` (share of the
            frame, None where frames come in several sizes) and the ``commands`` to go on with.

        Raises:
            ConfigError: VIEW_POLYGON, VIEW_ROI, VIEW_UNITS, VIEW_DRAFTS.
            BundleError: MANIFEST, VIEW_EMPTY as `edgead.view.lay_out`.
            FrameError: VIEW_TILES as `edgead.view.lay_out`.
            StorageError: It cannot be written.
        """
        running = self._bundle()
        new = _redrawn(running, drawn)
        looked_at = _looked_at(new)
        is_same = new.hash == running.hash
        holds = (new.manifest.thresholds.view or None) == view_key(new.manifest)
        name = ""
        if not is_same:
            target = self._target(running)
            write_bundle(target, new)
            name = str(target)
            _log.info("the page saved another view as %s", target)
        return {
            "file": name,
            "commissioned": holds,
            "looked_at": looked_at,
            "commands": [] if is_same else _commands(name, holds),
        }

    def _target(self, running: Bundle) -> Path:
        """The first name that is free, or whose file holds no work but a drawing."""
        stem = _SAVED.sub("", self._path.stem)
        for number in range(1, _MOST_SAVED + 1):
            path = self._path.with_name(f"{stem}.view{f'-{number}' if number > 1 else ''}.edgead")
            if path != self._path and (not path.exists() or _is_drawing(path, running)):
                return path
        raise ConfigError(
            "VIEW_DRAFTS",
            f"{stem}.view.edgead to {stem}.view-{_MOST_SAVED}.edgead hold commissioned views.",
            "Move those away that are not needed.",
        )


def shown_view(manifest: Manifest) -> str:
    """What is looked at, in a few words."""
    view = manifest.view
    said = "whole frame"
    if view.polygons:
        said = f"{len(view.polygons)} polygon{'s' if len(view.polygons) > 1 else ''}"
    elif view.roi:
        x0, y0, x1, y1 = view.roi
        said = f"{x1 - x0}x{y1 - y0} at {x0},{y0}"
    if view.ignore:
        said += f", {len(view.ignore)} ignored place{'s' if len(view.ignore) > 1 else ''}"
    if view.mask:
        said += ", mask image"
    if view.tiles:
        said += f", tiles of {view.tiles.size[1]}x{view.tiles.size[0]}"
    return said


def _redrawn(running: Bundle, drawn: Drawn) -> Bundle:
    """The running bundle with this view and these units; tiles stay."""
    old = running.manifest
    for polygon in (*drawn.roi, *drawn.ignore):
        if len(polygon) < 3 or not all(abs(v) <= _FARTHEST for point in polygon for v in point):
            raise ConfigError(
                "VIEW_POLYGON",
                f"a polygon has {len(polygon)} points, or one that is far outside the frame; "
                "want 3 or more, in frame pixels.",
            )
    for name, value, wanted in (
        ("mm_per_px", drawn.mm_per_px, "more than 0, or none"),
        ("min_area_px", drawn.min_area_px + 1, "0 or more"),
    ):
        if value is not None and not (0 < value < 1e12 and math.isfinite(value)):
            raise ConfigError("VIEW_UNITS", f"{name} is {getattr(drawn, name)}; want {wanted}.")
    units = msgspec.structs.replace(
        old.units, mm_per_px=drawn.mm_per_px, min_area_px=drawn.min_area_px
    )
    keeps_mask = bool(old.view.mask) and drawn.keep_mask
    view = make_view(
        old.frame,
        roi=drawn.roi,
        ignore=drawn.ignore,
        tiles=old.view.tiles,
        has_mask=keeps_mask,
    )
    if view.roi is not None and old.frame.size and not view.polygons:
        height, width = old.frame.size
        if view.roi == (0, 0, width, height):  # drawn around everything
            view = msgspec.structs.replace(view, roi=None)
    new = running if units == old.units else running.with_members({}, units=units)
    if view == old.view:
        return new
    mask = running.members[IGNORE_MASK] if keeps_mask else None
    return with_view(new, view, mask)


def _looked_at(bundle: Bundle) -> float | None:
    manifest = bundle.manifest
    size = manifest.frame.size
    if size is None:
        return None
    laid = lay_out(
        manifest.view, manifest.input.size, size, manifest.frame.format, ignore_pixels(bundle)
    )
    x0, y0, x1, y1 = laid.crop
    share = (x1 - x0) * (y1 - y0) / (size[0] * size[1])
    if laid.placement.ignored is not None:
        share *= 1 - float(np.mean(laid.placement.ignored))
    return round(share, 4)


def _is_drawing(path: Path, running: Bundle) -> bool:
    """Whether a file is what a save wrote, with nothing learnt since."""
    try:
        found = read_bundle(path, to_sign=True).manifest
    except EdgeadError:  # somebody's, or damaged: it stays
        return False
    return found.thresholds == running.manifest.thresholds


def _commands(name: str, is_commissioned: bool) -> list[str]:
    path = shlex.quote(name)
    first = [] if is_commissioned else [f"edgead commission {path} GOOD"]
    return [*first, f"edgead serve {path} --source URI"]


def _corners(box: tuple[int, int, int, int]) -> Polygon:
    x0, y0, x1, y1 = box
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
