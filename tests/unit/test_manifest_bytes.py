"""The manifest to the byte: what is written today must be read, and hash alike, for ever."""

from __future__ import annotations

import hashlib
import json

import pytest
from bundles import TINY_MODEL, tiny_bundle, tiny_manifest
from gravel import PATH, gravel_bundle

from edgead.bundle import Bundle, bundle_from_bytes
from edgead.errors import BundleError
from edgead.manifest_reader import parse_manifest

#: Of a manifest whose fields are all set here. A change of this line is a new schema version.
_SHA256 = "c339c6b49e9328c2b4a12b9fa8a42c2babec3ad2625e023edff8d203220211fe"


def written() -> bytes:
    manifest = tiny_manifest(edgead="0.0.0")
    data = Bundle.build(manifest, {"model.onnx": TINY_MODEL}).to_bytes()
    start = data.index(b"{")
    return data[start : data.index(b"PK\x03\x04", start)]


def test_the_canonical_bytes_of_schema_1():
    assert hashlib.sha256(written()).hexdigest() == _SHA256


def test_the_first_lines_as_a_person_reads_them():
    lines = written().decode().splitlines()
    assert lines[:4] == ["{", ' "backbone": "resnet18",', ' "config": {', '  "layers": [']
    assert lines[-2:] == [" }", "}"]
    tree = json.loads(written())
    assert list(tree) == sorted(tree)
    assert (tree["schema"], tree["program"]) == (1, None)


def test_the_committed_bundle_is_canonical_and_has_its_hash():
    data = PATH.read_bytes()
    bundle = bundle_from_bytes(data)
    assert bundle.to_bytes() == data
    assert bundle.hash == gravel_bundle().hash == hashlib.sha256(manifest_of(data)).hexdigest()


def manifest_of(data: bytes) -> bytes:
    """The first member of a stored zip, by its header."""
    size, name = int.from_bytes(data[18:22], "little"), int.from_bytes(data[26:28], "little")
    assert data[30 : 30 + name] == b"manifest.json"
    return data[30 + name : 30 + name + size]


def test_reading_and_writing_again_changes_nothing():
    manifest = parse_manifest(written())
    again = Bundle.build(manifest, {"model.onnx": TINY_MODEL})
    assert manifest_of(again.to_bytes()) == written()


@pytest.mark.parametrize("key", ["schema", "method", "frame", "thresholds", "golden", "members"])
def test_every_part_is_needed(key):
    tree = json.loads(manifest_of(tiny_bundle().to_bytes()))
    del tree[key]
    with pytest.raises(BundleError) as error:
        parse_manifest(json.dumps(tree).encode())
    assert error.value.code == "KEY_MISSING"


def test_a_program_is_reserved_and_refused():
    tree = json.loads(written())
    tree["program"] = []
    with pytest.raises(BundleError) as error:
        parse_manifest(json.dumps(tree).encode())
    assert error.value.code == "MANIFEST"
    tree = json.loads(written())
    tree["programme"] = None
    with pytest.raises(BundleError) as error:
        parse_manifest(json.dumps(tree).encode())
    assert str(error.value) == (
        "[KEY_UNKNOWN] manifest.json: unknown key 'programme' at the top (did you mean 'program'?). "
        "Make the bundle with this edgead, or upgrade it."
    )


def test_a_score_scale_of_zero_divides_nothing():
    tree = json.loads(written())
    tree["thresholds"]["score_scale"] = 0.0
    with pytest.raises(BundleError) as error:
        parse_manifest(json.dumps(tree).encode())
    assert str(error.value) == (
        "[MANIFEST] manifest.json: thresholds.score_scale is 0.0; want above 0. Make the bundle again."
    )
