"""The manifest's words: what each wrong one is answered with."""

from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest
from bundles import tiny_bundle

from edgead.errors import BundleError
from edgead.manifest_reader import parse_manifest

_BYTES = tiny_bundle().to_bytes()
_MANIFEST = _BYTES[30 + len("manifest.json") : _BYTES.index(b"PK\x03\x04", 4)]
_TREE: dict[str, Any] = json.loads(_MANIFEST)


def _refusal(data: bytes | dict[str, Any]) -> str:
    with pytest.raises(BundleError) as error:
        parse_manifest(data if isinstance(data, bytes) else json.dumps(data).encode())
    return str(error.value)


def _with(path: str, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(_TREE)
    *parents, last = path.split(".")
    part = tree
    for name in parents:
        part = part[name]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return tree


def test_the_unchanged_manifest_is_read() -> None:
    assert parse_manifest(_MANIFEST).method == "trisimplenet"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "thresholds.threshold",
            "0.5",
            "[THRESHOLD] manifest.json: Expected `float`, got `str` - at "
            "`$.thresholds.threshold`; need a finite number. "
            "There is no default threshold; learn it again.",
        ),
        (
            "thresholds.threshold",
            ...,
            "[THRESHOLD] manifest.json: thresholds.threshold is missing; need a finite number. "
            "There is no default threshold; learn it again.",
        ),
        (
            "thresholds.threshhold",
            0.5,
            "[KEY_UNKNOWN] manifest.json: unknown key 'threshhold' at thresholds (did you mean "
            "'threshold'?). Make the bundle with this edgead, or upgrade it.",
        ),
        (
            "zebra",
            1,
            "[KEY_UNKNOWN] manifest.json: unknown key 'zebra' at the top. "
            "Make the bundle with this edgead, or upgrade it.",
        ),
        (
            "method",
            ...,
            "[KEY_MISSING] manifest.json: key 'method' is missing at the top. Make it again.",
        ),
        ("schema", ..., "[KEY_MISSING] manifest.json: key 'schema' is missing."),
        (
            "schema",
            2,
            "[SCHEMA_NEWER] manifest.json has schema 2; this edgead reads up to 1. "
            "Upgrade edgead on this machine.",
        ),
        (
            "schema",
            0,
            "[MANIFEST] manifest.json: Invalid enum value 0 - at `$.schema`. "
            "Make the bundle again.",
        ),
        (
            "thresholds.bound",
            1.5,
            "[MANIFEST] manifest.json: thresholds.bound is 1.5; want 0..1. Make the bundle again.",
        ),
        (
            "input.std",
            [1, 0, 1],
            "[MANIFEST] manifest.json: input.std is [1.0, 0.0, 1.0]; want three values above 0. "
            "Make the bundle again.",
        ),
        (
            "view.roi",
            [5, 0, 2, 9],
            "[MANIFEST] manifest.json: view.roi is (5, 0, 2, 9); want x0 < x1, y0 < y1 inside the "
            "frame. Make the bundle again.",
        ),
        (
            "view.tiles",
            {"size": [8, 8], "overlap": 8},
            "[MANIFEST] manifest.json: view.tiles has size (8, 8), overlap 8; "
            "want 0 <= overlap < size. Make the bundle again.",
        ),
        (
            "golden",
            [{"name": "golden/no.png", "kind": "good", "score": 0.1, "verdict": "GOOD"}],
            "[MANIFEST] manifest.json: golden image 'golden/no.png' is not a member. "
            "Make the bundle again.",
        ),
        (
            "golden",
            [{"name": "golden/good_0.png", "kind": "good", "score": 0.9, "verdict": "GOOD"}],
            "[MANIFEST] manifest.json: golden image 'golden/good_0.png' is listed GOOD, yet its "
            "score 0.9 at threshold 0.5 is DEFECT. Make the bundle again.",
        ),
        (
            "head",
            {"kind": "top_mean", "sigma": 1.0, "top": None},
            "[MANIFEST] manifest.json: head.top is missing; 'top_mean' needs it. "
            "Make the bundle again.",
        ),
        (
            "members",
            {"../m.onnx": {"bytes": 1, "sha256": "0" * 64}},
            "[MANIFEST] manifest.json: member name '../m.onnx'; want letters, digits, '.', '_', "
            "'-' and one of .onnx, .safetensors, .json, .png. Make the bundle again.",
        ),
        (
            "members",
            {"model.onnx": {"bytes": 1, "sha256": "F" * 64}},
            "[MANIFEST] manifest.json: member 'model.onnx' has no valid size and SHA-256. "
            "Make the bundle again.",
        ),
    ],
)
def test_wrong_values(path: str, value: Any, message: str) -> None:
    assert _refusal(_with(path, value)) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b'"method"',
            b'"method": "x", "method"',
            "[KEY_DUPLICATE] manifest.json: key 'method' stands twice.",
        ),
        (
            b'"threshold": 0.5',
            b'"threshold": NaN',
            "[MANIFEST] manifest.json: NaN is not a number that it may hold. "
            "Make the bundle again.",
        ),
        (
            b'"threshold": 0.5',
            b'"threshold": 1e999',
            "[MANIFEST] manifest.json: 1e999 is too large a number. Make the bundle again.",
        ),
        (
            b'"threshold": 0.5',
            b'"threshold": -Infinity',
            "[MANIFEST] manifest.json: -Infinity is not a number that it may hold. "
            "Make the bundle again.",
        ),
    ],
)
def test_what_json_leaves_open(old: bytes, new: bytes, message: str) -> None:
    assert old in _MANIFEST
    assert _refusal(_MANIFEST.replace(old, new)) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe{\0}\0",
        _MANIFEST.decode().encode("utf-16"),
        b"\xef\xbb\xbf" + _MANIFEST,
        b"[" * 500_000,
        b'{"a":' * 100_000,
        _MANIFEST.replace(b'"trisimplenet"', b'"\\ud800"'),
        _MANIFEST.replace(b'"images": 10', b'"images": ' + b"9" * 5000),
        _MANIFEST.replace(b"0.35", b"1" + b"0" * 400),
        b" " * (1 << 20) + _MANIFEST,
        b'"' + b'\\"' * 500_000,
        b'{"a": "' + b"\\" * 999_999,
    ],
)
def test_hostile_text_is_refused_by_type_and_soon(data: bytes) -> None:
    started = time.monotonic()
    assert _refusal(data).startswith("[")
    # Not a speed test: quadratic work on a megabyte takes minutes.
    assert time.monotonic() - started < 10
