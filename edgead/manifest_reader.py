"""From the bytes of ``manifest.json`` to a `Manifest`, strictly; the only way in.

Everything that JSON leaves open is closed here: duplicate keys, NaN and infinity (also as 1e999),
other encodings than UTF-8, deep nesting, unknown keys, wrong types, values out of range, and parts
that contradict each other. A bundle is checked by the same rules when it is made, so that nothing
can be written that could not be read again.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import msgspec

from edgead import manifest as schema_module
from edgead.errors import BundleError
from edgead.manifest import IGNORE_MASK, SCHEMA, Manifest, View

__all__ = ["check_manifest", "parse_manifest"]

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 16
# The closing quote is optional: a string that never ends must not be tried again at each quote.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<key>.*?)`(?: - at `(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<key>.*?)`(?: - at `(?P<path>.*)`)?$", re.DOTALL)
#: Files that a bundle may hold: no engine, no pickle, no path that leaves the bundle.
_MEMBER_NAME = re.compile(r"(?:golden/)?[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_MEMBER_SUFFIXES = (".onnx", ".safetensors", ".json", ".png")
_MAX_MEMBERS = 64
_MAX_SIDE = 65_536
#: Of all polygons together; each costs time on the first frame.
_MAX_POINTS = 4096


def parse_manifest(data: bytes) -> Manifest:
    """Parse and check manifest JSON.

    Raises:
        BundleError: MANIFEST, KEY_DUPLICATE, KEY_UNKNOWN, KEY_MISSING, THRESHOLD, SCHEMA_NEWER.
    """
    if len(data) > _MAX_BYTES:
        raise _wrong(f"it has {len(data)} bytes; at most {_MAX_BYTES} are read")
    try:
        text = data.decode("utf-8")
        _check_depth(text)
        tree = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        json.dumps(tree, ensure_ascii=False).encode()  # a lone surrogate cannot be written again
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise BundleError(
            "MANIFEST", f"manifest.json is not valid JSON: {error}.", "Copy the bundle again."
        ) from error
    if not isinstance(tree, dict):
        raise _wrong(f"it holds a {type(tree).__name__}; want an object")
    schema = tree.get("schema", None)
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(
            "SCHEMA_NEWER",
            f"manifest.json has schema {schema}; this edgead reads up to {SCHEMA}.",
            "Upgrade edgead on this machine.",
        )
    if "schema" not in tree:
        raise BundleError("KEY_MISSING", "manifest.json: key 'schema' is missing.")
    try:
        manifest = msgspec.convert(tree, Manifest)
    except (msgspec.ValidationError, OverflowError) as error:
        raise _explained(str(error)) from error
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Refuse values out of range and parts that contradict each other.

    Raises:
        BundleError: THRESHOLD or MANIFEST.
    """
    learnt = manifest.thresholds
    for name in ("threshold", "pixel_threshold"):
        if not math.isfinite(getattr(learnt, name)):
            raise BundleError(
                "THRESHOLD",
                f"manifest.json: thresholds.{name} is {getattr(learnt, name)}; "
                "need a finite number.",
                "There is no default threshold; learn it again.",
            )
    for path, value in _numbers(manifest, ""):
        if not math.isfinite(value):
            raise _wrong(f"{path} is {value}; want a finite number")
    for path, holds, want in _RULES:
        value = _at(manifest, path)
        if value is not None and not holds(value):
            raise _wrong(f"{path} is {value!r}; want {want}")
    _check_view(manifest)
    _check_members(manifest)
    for golden in manifest.golden:
        if golden.name not in manifest.members:
            raise _wrong(f"golden image {golden.name!r} is not a member")
        judged = "DEFECT" if golden.score > learnt.threshold else "GOOD"
        if golden.verdict != judged:
            raise _wrong(
                f"golden image {golden.name!r} is listed {golden.verdict}, yet its score "
                f"{golden.score} at threshold {learnt.threshold} is {judged}"
            )


def _check_view(manifest: Manifest) -> None:
    """The region of interest, the ignore mask and the tiles fit the frame."""
    view = manifest.view
    if view.roi is not None:
        x0, y0, x1, y1 = view.roi
        height, width = manifest.frame.size or (math.inf, math.inf)
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise _wrong(f"view.roi is {view.roi}; want x0 < x1, y0 < y1 inside the frame")
    _check_polygons(view)
    if view.mask:
        if IGNORE_MASK not in manifest.members:
            raise _wrong(f"view.mask names {IGNORE_MASK!r}, which is not a member")
        if manifest.frame.size is None:
            raise _wrong("view.mask needs frames of one size, and frame.size is null")
    if view.tiles is not None:
        smallest = min(view.tiles.size)
        if smallest < 1 or not 0 <= view.tiles.overlap < smallest:
            raise _wrong(
                f"view.tiles has size {view.tiles.size}, overlap {view.tiles.overlap}; "
                "want 0 <= overlap < size"
            )
    if manifest.head.kind == "top_mean" and manifest.head.top is None:
        raise _wrong("head.top is missing; 'top_mean' needs it")


def _check_polygons(view: View) -> None:
    points = 0
    for name in ("ignore", "polygons"):
        for polygon in getattr(view, name) or ():
            points += len(polygon)
            if len(polygon) < 3:
                raise _wrong(f"view.{name} has a polygon of fewer than 3 points")
            if not all(abs(value) <= _MAX_SIDE for point in polygon for value in point):
                raise _wrong(f"view.{name} has a point farther than {_MAX_SIDE} pixels away")
    if points > _MAX_POINTS:
        raise _wrong(f"view has polygons of {points} points; at most {_MAX_POINTS} are read")
    if view.polygons and view.roi is None:
        raise _wrong("view.polygons needs view.roi, their box")


def _check_members(manifest: Manifest) -> None:
    """Plain, distinct names of kinds that a bundle may hold, each with a whole SHA-256."""
    members = manifest.members
    if len(members) > _MAX_MEMBERS:
        raise _wrong(f"{len(members)} members; at most {_MAX_MEMBERS} are read")
    for name, entry in members.items():
        if not _MEMBER_NAME.fullmatch(name) or not name.endswith(_MEMBER_SUFFIXES):
            raise _wrong(
                f"member name {name!r}; want letters, digits, '.', '_', '-' and one of "
                f"{', '.join(_MEMBER_SUFFIXES)}"
            )
        if entry.bytes < 0 or not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
            raise _wrong(f"member {name!r} has no valid size and SHA-256")
    if len({name.lower() for name in members}) != len(members):
        raise _wrong("two member names differ only in upper and lower case")
    if "model.onnx" not in members or "manifest.json" in members:
        raise _wrong("its members must hold 'model.onnx' and not the manifest itself")


def _sizes(value: Any) -> bool:
    return all(1 <= side <= _MAX_SIDE for side in value)


_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("frame.size", _sizes, "1..65536 pixels a side"),
    ("frame.depth", lambda v: 8 <= v <= 16, "8..16"),
    ("input.size", _sizes, "1..65536 pixels a side"),
    ("input.mean", lambda v: len(v) == 3, "three values"),
    ("input.std", lambda v: len(v) == 3 and min(v) > 0, "three values above 0"),
    ("head.sigma", lambda v: v >= 0, "0 or more"),
    ("head.top", lambda v: v >= 1, "1 or more"),
    ("units.mm_per_px", lambda v: v > 0, "above 0"),
    ("units.min_area_px", lambda v: v >= 0, "0 or more"),
    ("thresholds.score_scale", lambda v: v > 0, "above 0"),
    ("thresholds.false_reject_rate", lambda v: 0 <= v <= 1, "0..1"),
    ("thresholds.bound", lambda v: 0 <= v <= 1, "0..1"),
    ("thresholds.confidence", lambda v: 0 <= v <= 1, "0..1"),
    ("thresholds.images", lambda v: v >= 0, "0 or more"),
    ("thresholds.needed", lambda v: v >= 0, "0 or more"),
    ("training.images", lambda v: v >= 0, "0 or more"),
    ("training.epochs", lambda v: v >= 0, "0 or more"),
    ("training.seconds", lambda v: v >= 0, "0 or more"),
    ("input_ranges.mean", lambda v: v[0] <= v[1], "low <= high"),
    ("input_ranges.std", lambda v: v[0] <= v[1], "low <= high"),
    ("input_ranges.sharpness", lambda v: v[0] <= v[1], "low <= high"),
)


def _at(part: Any, path: str) -> Any:
    """Value at a dotted path; None where an optional part is not there."""
    for name in path.split("."):
        part = None if part is None else getattr(part, name)
    return part


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    """Every float in the manifest, with its path."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _numbers(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{path}[{index}]")


def _wrong(what: str) -> BundleError:
    return BundleError("MANIFEST", f"manifest.json: {what}.", "Make the bundle again.")


def _explained(message: str) -> BundleError:
    """A msgspec sentence in our words: the key, where it stands, and which one was meant."""
    unknown, missing = _UNKNOWN.search(message), _MISSING.search(message)
    found = unknown or missing
    if found is None:
        if re.search(r"at `\$\.thresholds\.(pixel_)?threshold`", message):
            return BundleError(
                "THRESHOLD",
                f"manifest.json: {message}; need a finite number.",
                "There is no default threshold; learn it again.",
            )
        return _wrong(message)
    key, where = found["key"], (found["path"] or "$").removeprefix("$").lstrip(".") or "the top"
    if unknown:
        near = difflib.get_close_matches(key, _field_names(), n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        return BundleError(
            "KEY_UNKNOWN",
            f"manifest.json: unknown key {key!r} at {where}{meant}.",
            "Make the bundle with this edgead, or upgrade it.",
        )
    if key in ("threshold", "pixel_threshold"):
        return BundleError(
            "THRESHOLD",
            f"manifest.json: thresholds.{key} is missing; need a finite number.",
            "There is no default threshold; learn it again.",
        )
    return BundleError(
        "KEY_MISSING", f"manifest.json: key {key!r} is missing at {where}.", "Make it again."
    )


def _field_names() -> list[str]:
    structs = (getattr(schema_module, name) for name in schema_module.__all__)
    return sorted(
        {
            name
            for struct in structs
            if isinstance(struct, type) and issubclass(struct, msgspec.Struct)
            for name in struct.__struct_fields__
        }
    )


def _check_depth(text: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _MAX_DEPTH:
            raise _wrong(f"it is nested deeper than {_MAX_DEPTH}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in pairs:
        if key in tree:
            raise BundleError("KEY_DUPLICATE", f"manifest.json: key {key!r} stands twice.")
        tree[key] = value
    return tree


def _no_constant(text: str) -> NoReturn:
    raise _wrong(f"{text} is not a number that it may hold")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _wrong(f"{text} is too large a number")
    return value
