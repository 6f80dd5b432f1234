"""The command that says what of the frame is looked at, and how its options are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgead.cli.common import BundleArgument, JsonOption, emit, say, table
from edgead.errors import ConfigError

if TYPE_CHECKING:
    from edgead.manifest import Manifest, Polygon, Tiles, View
    from edgead.view import Sketch

__all__ = ["IgnoreMaskOption", "IgnoreOption", "RoiOption", "register", "sketch_of"]

RoiOption = Annotated[
    list[str] | None,
    typer.Option(
        "--roi",
        help="Look only inside: x0,y0,x1,y1 or a polygon 'x,y x,y x,y …', frame pixels; again for more.",
    ),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option("--ignore", help="Never look inside: written like --roi; again for more."),
]
IgnoreMaskOption = Annotated[
    Path | None,
    typer.Option(
        "--ignore-mask", help="Grey image as large as the frame: black is looked at, the rest not."
    ),
]

_NUMBER = r"-?\d+(?:\.\d+)?"
_POINT = re.compile(rf"({_NUMBER}),({_NUMBER})")
_BOX = re.compile(rf"({_NUMBER}),({_NUMBER}),({_NUMBER}),({_NUMBER})")
_AREA = re.compile(r"(\d+(?:\.\d+)?)\s*(px|mm2)?")
_TILE = re.compile(r"(\d+)(?:x(\d+))?")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(view)


def view(
    bundle: BundleArgument,
    roi: RoiOption = None,
    ignore: IgnoreOption = None,
    ignore_mask: IgnoreMaskOption = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Look at the whole frame again, before other options.")
    ] = False,
    mm_per_px: Annotated[
        float | None, typer.Option(help="Millimetres of one frame pixel; 0 takes the scale away.")
    ] = None,
    min_area: Annotated[
        str | None,
        typer.Option(help="Report no smaller regions: '40' or '40px', '0.5mm2'; verdicts stay."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show or set what of the frame is looked at, the scale and the smallest region reported.

    Another region or ignored place needs another threshold: run edgead commission afterwards.

    Example: edgead view part.edgead --roi 100,50,1180,950 --ignore '600,400 700,400 650,500'

    Example: edgead view part.edgead --mm-per-px 0.05 --min-area 0.5mm2
    """
    import msgspec

    from edgead.bundle import read_bundle, write_bundle
    from edgead.view import view_key, with_view

    old = read_bundle(bundle)
    units = _units(old.manifest, mm_per_px, min_area)
    new = old.with_members({}, units=units) if units != old.manifest.units else old
    if clear or roi or ignore or ignore_mask:
        new = with_view(new, *_changed(new, roi, ignore, ignore_mask, clear))
    if new is not old:
        write_bundle(bundle, new)
    manifest = new.manifest
    holds = (manifest.thresholds.view or None) == view_key(manifest)
    if not holds:
        say("this view has no threshold yet: run edgead commission BUNDLE GOOD")
    result: dict[str, Any] = {
        "bundle_hash": new.hash,
        "view": msgspec.to_builtins(manifest.view),
        "units": msgspec.to_builtins(manifest.units),
        "commissioned": holds,
    }
    emit(result, as_json, lambda: table("view", _rows(manifest, holds)))


def sketch_of(
    roi: Sequence[str] | None,
    ignore: Sequence[str] | None,
    ignore_mask: Path | None,
    tiles: str | None = None,
    overlap: int | None = None,
) -> Sketch:
    """What the options of a view say.

    Raises:
        ConfigError: OPTION.
        FrameError: IMAGE_* when the mask cannot be read.
    """
    from edgead import images
    from edgead.view import Sketch

    mask = None
    if ignore_mask is not None:  # any image file; a PNG goes into the bundle
        mask = images.encode_png(images.read(ignore_mask).pixels)
    return Sketch(
        roi=[_polygon("roi", text) for text in roi or ()],
        ignore=[_polygon("ignore", text) for text in ignore or ()],
        mask=mask,
        tiles=_tiles(tiles, overlap),
    )


def _changed(
    bundle: Any,
    roi: Sequence[str] | None,
    ignore: Sequence[str] | None,
    ignore_mask: Path | None,
    clear: bool,
) -> tuple[View, bytes | None]:
    """The view that there is, with those of its parts replaced that were given; tiles stay."""
    import msgspec

    from edgead.manifest import IGNORE_MASK

    old = bundle.manifest.view
    asked = sketch_of(roi, ignore, ignore_mask)
    mask = asked.mask if clear or ignore_mask else bundle.members.get(IGNORE_MASK)
    drawn = msgspec.structs.replace(asked.on(bundle.manifest.frame), tiles=old.tiles)
    if not clear:
        if not roi:
            drawn = msgspec.structs.replace(drawn, roi=old.roi, polygons=old.polygons)
        if not ignore:
            drawn = msgspec.structs.replace(drawn, ignore=old.ignore)
        if not ignore_mask:
            drawn = msgspec.structs.replace(drawn, mask=old.mask)
    return drawn, mask


def _units(manifest: Manifest, mm_per_px: float | None, min_area: str | None) -> Any:
    import msgspec

    units = manifest.units
    if mm_per_px is not None:
        if not 0 <= mm_per_px < 1e6:
            raise ConfigError("OPTION", f"--mm-per-px is {mm_per_px}; want more than 0.")
        units = msgspec.structs.replace(units, mm_per_px=mm_per_px or None)
    if min_area is not None:
        found = _AREA.fullmatch(min_area.strip())
        if found is None:
            raise ConfigError(
                "OPTION", f"--min-area is {min_area!r}; want e.g. 40, 40px or 0.5mm2."
            )
        area = float(found[1])
        if found[2] == "mm2":
            if units.mm_per_px is None:
                raise ConfigError(
                    "OPTION",
                    "--min-area is in mm2, and the bundle has no scale.",
                    "Give --mm-per-px too, or the area in pixels.",
                )
            area /= units.mm_per_px**2
        units = msgspec.structs.replace(units, min_area_px=round(area, 6))
    return units


def _polygon(option: str, text: str) -> Polygon:
    box = _BOX.fullmatch(text.strip())
    if box:
        x0, y0, x1, y1 = (float(value) for value in box.groups())
        if x0 < x1 and y0 < y1:
            return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    points = [_POINT.fullmatch(part) for part in text.split()]
    if box or len(points) < 3 or not all(points):
        raise ConfigError(
            "OPTION",
            f"--{option} is {text!r}; want x0,y0,x1,y1 with x0 < x1 and y0 < y1, or three points "
            "'x,y x,y x,y' or more, in frame pixels.",
        )
    return [(float(point[1]), float(point[2])) for point in points if point]


def _tiles(text: str | None, overlap: int | None) -> Tiles | None:
    from edgead.manifest import Tiles

    if text is None:
        if overlap is not None:
            raise ConfigError("OPTION", "--overlap is of tiles: give --tiles too.")
        return None
    found = _TILE.fullmatch(text)
    sides = (0, 0) if found is None else (int(found[2] or found[1]), int(found[1]))
    if not 8 <= min(sides) <= max(sides) <= 65_536:
        raise ConfigError(
            "OPTION", f"--tiles is {text!r}; want a side or WIDTHxHEIGHT of 8 pixels and more."
        )
    shared = min(sides) // 8 if overlap is None else overlap
    if not 0 <= shared <= min(sides) // 2:
        raise ConfigError("OPTION", f"--overlap is {shared}; want 0 to half a tile.")
    return Tiles(size=sides, overlap=shared)


def _rows(manifest: Manifest, holds: bool) -> list[tuple[str, Any]]:
    seen, units = manifest.view, manifest.units
    tiles = seen.tiles
    area = f"{units.min_area_px:g} px"
    if units.mm_per_px is not None:
        area += f" = {units.min_area_px * units.mm_per_px**2:.4g} mm2"
    return [
        ("region", "whole frame" if seen.roi is None else ",".join(map(str, seen.roi))),
        ("  polygons", str(len(seen.polygons or ()))),
        ("ignored polygons", str(len(seen.ignore))),
        ("ignore mask", "yes" if seen.mask else "no"),
        (
            "tiles",
            "no"
            if tiles is None
            else f"{tiles.size[1]}x{tiles.size[0]}, {tiles.overlap} px shared",
        ),
        ("scale", "none" if units.mm_per_px is None else f"{units.mm_per_px:g} mm a pixel"),
        ("smallest region", area),
        ("threshold", "learnt with this view" if holds else "none: run edgead commission"),
    ]
