"""A bundle is whole, canonical and exactly what its manifest lists, or it is refused by name."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
from pathlib import Path

import pytest
from bundles import tiny_bundle, tiny_manifest, tiny_model

from edgead.bundle import Bundle, bundle_from_bytes, read_bundle, write_bundle
from edgead.errors import BundleError


def _message(data: bytes) -> str:
    with pytest.raises(BundleError) as error:
        bundle_from_bytes(data, name="part.edgead")
    return str(error.value)


def _zip(members: list[tuple[str, bytes]], **options: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", options.get("method", zipfile.ZIP_STORED)) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = options.get("mode", 0o100644) << 16
            info.compress_type = options.get("method", zipfile.ZIP_STORED)
            archive.writestr(info, data)
    return buffer.getvalue()


def _contents(bundle: Bundle) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(bundle.to_bytes())) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def test_round_trip_is_byte_for_byte(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    path = tmp_path / "part.edgead"
    write_bundle(path, bundle)
    again = read_bundle(path)
    assert again == bundle
    assert again.to_bytes() == path.read_bytes() == bundle.to_bytes()
    assert again.hash == hashlib.sha256(_contents(bundle)[0][1]).hexdigest()


def test_writing_sweeps_what_a_killed_writer_left(tmp_path: Path) -> None:
    left = tmp_path / ".part.edgead.edgead-999999999-x.tmp"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    write_bundle(tmp_path / "part.edgead", tiny_bundle())
    assert not left.exists()


def test_container_is_what_a_zip_library_writes() -> None:
    bundle = tiny_bundle()
    assert _zip(_contents(bundle)) == bundle.to_bytes()


def test_every_single_byte_change_is_refused() -> None:
    data = tiny_bundle().to_bytes()
    survivors = []
    for index, byte in enumerate(data):
        for change in (byte ^ 1, byte ^ 0x80, 0 if byte else 0xFF):
            damaged = bytearray(data)
            damaged[index] = change
            try:
                bundle_from_bytes(bytes(damaged))
                survivors.append((index, change))
            except BundleError:
                pass
    assert survivors == []


def test_every_cut_and_every_extension_is_refused() -> None:
    data = tiny_bundle().to_bytes()
    for length in range(len(data)):
        with pytest.raises(BundleError):
            bundle_from_bytes(data[:length])
    for tail in (b"\0", b"PK\x05\x06", data):
        with pytest.raises(BundleError):
            bundle_from_bytes(data + tail)
    with pytest.raises(BundleError):
        bundle_from_bytes(b"\0" + data)


def test_cut_in_half() -> None:
    data = tiny_bundle().to_bytes()
    model = tiny_model()
    position = data.index(model) - len("model.onnx") - 30
    assert _message(data[: data.index(model) + 5]) == (
        f"[BUNDLE_DAMAGED] part.edgead: it ends inside the member at byte {position}. "
        "Copy it again from where it was made."
    )


def test_swapped_member_names_both_hashes() -> None:
    contents = dict(_contents(tiny_bundle()))
    listed = hashlib.sha256(contents["model.onnx"]).hexdigest()
    other = b"\x09" + contents["model.onnx"][1:]
    found = hashlib.sha256(other).hexdigest()
    contents["model.onnx"] = other
    assert _message(_zip(list(contents.items()))) == (
        f"[BUNDLE_DAMAGED] part.edgead: model.onnx: SHA-256 is {found[:8]}…, "
        f"manifest says {listed[:8]}…. Copy it again from where it was made."
    )


_BAD_ARCHIVES = {
    "deflated": lambda c: _zip(c, method=zipfile.ZIP_DEFLATED),
    "a link": lambda c: _zip(c, mode=0o120777),
    "an executable": lambda c: _zip(c, mode=0o100755),
    "another order": lambda c: _zip([c[0], *reversed(c[1:])]),
    "manifest last": lambda c: _zip([*c[1:], c[0]]),
    "no manifest": lambda c: _zip(c[1:]),
    "a member more": lambda c: _zip([*c, ("zz.json", b"{}")]),
    "a member less": lambda c: _zip(c[:-1]),
    "a member twice": lambda c: _zip(c) and _twice(c),
    "a path out": lambda c: _zip([*c, ("../x.json", b"{}")]),
    "an absolute path": lambda c: _zip([*c, ("/x.json", b"{}")]),
    "a folder": lambda c: _zip([*c, ("golden/", b"")]),
    "70 members": lambda c: _zip([*c, *((f"m{i:02}.json", b"{}") for i in range(70))]),
    "a comment": lambda c: _zip(c)[:-2] + struct.pack("<H", 3) + b"abc",
    "bytes before": lambda c: b"#!" + _zip(c),
    "two archives": lambda c: _zip(c) * 2,
    "only its end": lambda c: _zip(c)[-22:],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def _twice(contents: list[tuple[str, bytes]]) -> bytes:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _zip([*contents, contents[-1]])


@pytest.mark.parametrize("kind", _BAD_ARCHIVES)
def test_hostile_archives(kind: str) -> None:
    assert _message(_BAD_ARCHIVES[kind](_contents(tiny_bundle()))).startswith("[BUNDLE_")


def test_sizes_that_lie_allocate_nothing() -> None:
    data = bytearray(tiny_bundle().to_bytes())
    struct.pack_into("<LL", data, 18, 0xFFFF_FFFE, 0xFFFF_FFFE)
    assert _message(bytes(data)) == (
        "[BUNDLE_DAMAGED] part.edgead: it ends inside the member at byte 0. "
        "Copy it again from where it was made."
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "[BUNDLE_EMPTY] part.edgead is 0 bytes (disk full when it was written?)."),
        (
            b"hello world",
            "[BUNDLE_FORMAT] part.edgead starts with b'hello wo'; a bundle starts with "
            "b'PK\\x03\\x04'. Make one: edgead train GOOD --out B.",
        ),
        (
            _zip([("archive/data.pkl", b"\x80\x02}q\0.")]),
            "[MODEL_PICKLE] part.edgead is a PyTorch checkpoint, whose pickle can run code; edgead "
            "does not open it. Make a bundle where it was trained: edgead train GOOD --out B.",
        ),
    ],
)
def test_other_files(data: bytes, message: str) -> None:
    assert _message(data) == message


def test_missing_folder_pipe_and_device(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.edgead"
    os.mkfifo(pipe)
    for path, message in [
        (
            tmp_path / "no.edgead",
            f"[BUNDLE_MISSING] {tmp_path}/no.edgead does not exist. "
            "Make one: edgead train GOOD --out B.",
        ),
        (tmp_path, f"[BUNDLE_IS_FOLDER] {tmp_path} is a folder; want a .edgead file."),
        (pipe, f"[BUNDLE_UNREADABLE] cannot read '{pipe}': it is not a regular file."),
        (
            Path("/dev/zero"),
            "[BUNDLE_UNREADABLE] cannot read '/dev/zero': it is not a regular file.",
        ),
    ]:
        with pytest.raises(BundleError) as error:
            read_bundle(path)
        assert str(error.value) == message


def test_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.edgead"
    with path.open("wb") as stream:
        stream.truncate((1 << 30) + 1)
    with pytest.raises(BundleError) as error:
        read_bundle(path)
    assert str(error.value) == (
        f"[BUNDLE_TOO_LARGE] {path} is too large; at most 1073741824 bytes are read."
    )


@pytest.mark.parametrize(
    "name", ["../x.json", "a/b.json", "x.plan", "x.pt", ".json", "x" * 80 + ".json", "MODEL.onnx"]
)
def test_what_cannot_be_read_cannot_be_made(name: str) -> None:
    with pytest.raises(BundleError) as error:
        Bundle.build(tiny_manifest(), {"model.onnx": tiny_model(), name: tiny_model()})
    assert error.value.code == "MANIFEST"


def test_values_are_normalised_when_a_bundle_is_made() -> None:
    manifest = tiny_manifest(config={"layers": [2, 3], "k": 1})
    bundle = Bundle.build(manifest, {"model.onnx": tiny_model()})
    assert bundle_from_bytes(bundle.to_bytes()) == bundle
    with pytest.raises(BundleError) as error:
        Bundle.build(tiny_manifest(config={"x": object()}), {"model.onnx": tiny_model()})
    assert error.value.code == "MANIFEST"


def test_graph_is_walked_when_read() -> None:
    contents = dict(_contents(tiny_bundle()))
    contents["model.onnx"] = b"\x08\x09"
    tree = json.loads(contents["manifest.json"])
    tree["members"]["model.onnx"] = {
        "bytes": 2,
        "sha256": hashlib.sha256(contents["model.onnx"]).hexdigest(),
    }
    contents["manifest.json"] = json.dumps(
        tree, sort_keys=True, indent=1, ensure_ascii=False
    ).encode()
    assert _message(_zip(list(contents.items()))) == (
        "[MODEL_CORRUPT] model.onnx: not a whole ONNX model: it has no single graph with outputs "
        "and an operator set. Copy it again."
    )
