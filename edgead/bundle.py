"""The bundle: one canonical file that holds everything a verdict depends on.

A stored zip (fixed order, dates and flags, no extra fields, no trailing bytes) whose members are
exactly those that ``manifest.json`` lists with their SHA-256. The reader writes what it read again
and compares, so any changed byte is refused. ``Bundle.hash`` is the SHA-256 of ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from edgead import files
from edgead.errors import BundleError
from edgead.manifest import SCHEMA, Manifest, Member

__all__ = ["MODEL", "Bundle", "read_bundle", "write_bundle"]

MANIFEST = "manifest.json"
MODEL = "model.onnx"
HEAD = "head.safetensors"
CERTIFICATES = "certificates.json"
CALIBRATION = "calibration.json"

_MAX_BYTES = 1 << 30
_MAX_MEMBERS = 64
_MAX_MANIFEST_BYTES = 1 << 20
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory, every member checked against the manifest.

    Attributes:
        manifest: The parsed manifest.
        members: Member name -> bytes, without the manifest.
        hash: SHA-256 of the manifest's bytes, hexadecimal.
    """

    manifest: Manifest
    members: Mapping[str, bytes]
    hash: str

    @staticmethod
    def build(manifest: Manifest, members: Mapping[str, bytes]) -> Bundle:
        """A bundle of these members; sizes and hashes are filled into the manifest."""
        listed = {
            name: Member(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in sorted(members.items())
        }
        complete = msgspec.structs.replace(manifest, members=listed)
        return Bundle(complete, dict(members), _sha256(_manifest_bytes(complete)))

    def with_members(self, changes: Mapping[str, bytes | None], **fields: Any) -> Bundle:
        """A copy with members added, replaced or (None) removed and manifest fields replaced."""
        members = {**self.members, **changes}
        kept = {name: data for name, data in members.items() if data is not None}
        return Bundle.build(msgspec.structs.replace(self.manifest, **fields), kept)

    def to_bytes(self) -> bytes:
        """The canonical file."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
            for name, data in [
                (MANIFEST, _manifest_bytes(self.manifest)),
                *sorted(self.members.items()),
            ]:
                info = zipfile.ZipInfo(name, _DATE)
                info.create_system = 3
                info.external_attr = 0o100644 << 16
                archive.writestr(info, data)
        return buffer.getvalue()


def write_bundle(path: str | Path, bundle: Bundle) -> None:
    """Write ``bundle`` to ``path`` atomically.

    Raises:
        StorageError: The file cannot be written; the old one, if any, is unchanged.
    """
    files.write_bytes(path, bundle.to_bytes())


def read_bundle(path: str | Path) -> Bundle:
    """Read and check a bundle.

    Raises:
        BundleError: BUNDLE_MISSING, BUNDLE_IS_FOLDER, BUNDLE_TOO_LARGE, BUNDLE_FORMAT,
            BUNDLE_DAMAGED, MANIFEST, KEY_DUPLICATE, SCHEMA_NEWER.
    """
    path = Path(path)
    if path.is_dir():
        raise BundleError("BUNDLE_IS_FOLDER", f"{path} is a folder; want a .edgead file.")
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _MAX_BYTES else b""
    except FileNotFoundError as error:
        raise BundleError(
            "BUNDLE_MISSING", f"{path} does not exist.", "Make one: edgead train GOOD --out B."
        ) from error
    except OSError as error:
        raise BundleError("BUNDLE_UNREADABLE", f"cannot read {path}: {error.strerror}.") from error
    if size > _MAX_BYTES:
        raise BundleError(
            "BUNDLE_TOO_LARGE", f"{path} has {size} bytes; at most {_MAX_BYTES} are read."
        )
    return bundle_from_bytes(data, name=str(path))


def bundle_from_bytes(data: bytes, *, name: str = "bundle") -> Bundle:
    """Parse and check a bundle's bytes; see `read_bundle` for the errors."""
    members = _unpack(data, name)
    manifest_bytes = members.pop(MANIFEST, None)
    if manifest_bytes is None:
        raise _damaged(name, f"{MANIFEST} is missing")
    manifest = parse_manifest(manifest_bytes)
    if set(members) != set(manifest.members):
        odd = sorted(set(members) ^ set(manifest.members))
        raise _damaged(name, f"members differ from the manifest's list: {', '.join(odd)}")
    for member, entry in manifest.members.items():
        found = _sha256(members[member])
        if found != entry.sha256 or len(members[member]) != entry.bytes:
            raise _damaged(
                name, f"{member}: SHA-256 is {found[:8]}…, manifest says {entry.sha256[:8]}…"
            )
    bundle = Bundle(manifest, members, _sha256(manifest_bytes))
    if bundle.to_bytes() != data:
        raise _damaged(name, "it is not in canonical form")
    return bundle


def parse_manifest(data: bytes) -> Manifest:
    """Parse manifest JSON strictly: no duplicate keys, no NaN, no unknown keys.

    Raises:
        BundleError: MANIFEST, KEY_DUPLICATE, SCHEMA_NEWER.
    """
    if len(data) > _MAX_MANIFEST_BYTES:
        raise BundleError("MANIFEST", f"{len(data)} bytes; at most {_MAX_MANIFEST_BYTES} are read.")
    try:
        tree = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(
            "MANIFEST", f"not valid JSON: {error}.", "Copy the bundle again."
        ) from error
    schema = tree.get("schema") if isinstance(tree, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(
            "SCHEMA_NEWER",
            f"manifest has schema {schema}; this edgead reads up to {SCHEMA}.",
            "Upgrade edgead on this machine.",
        )
    try:
        return msgspec.convert(tree, Manifest)
    except msgspec.ValidationError as error:
        raise BundleError("MANIFEST", f"{error}.", "Make the bundle again.") from error


def _unpack(data: bytes, name: str) -> dict[str, bytes]:
    """Members of a stored zip by name; anything but plain stored files is refused."""
    if data[:4] != b"PK\x03\x04":
        raise BundleError(
            "BUNDLE_FORMAT",
            f"{name} starts with {data[:8]!r}; a bundle starts with b'PK\\x03\\x04'.",
            "Make one: edgead train GOOD --out B.",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > _MAX_MEMBERS:
                raise _damaged(name, f"{len(entries)} members; at most {_MAX_MEMBERS} are read")
            for entry in entries:
                stored = entry.compress_type == zipfile.ZIP_STORED
                if not stored or entry.file_size > len(data) or entry.flag_bits:
                    raise _damaged(name, f"member {entry.filename!r} is not plainly stored")
            if len({entry.filename for entry in entries}) != len(entries):
                raise _damaged(name, "a member is there twice")
            return {entry.filename: archive.read(entry) for entry in entries}
    except BundleError:
        raise
    except Exception as error:  # zipfile raises many types on damaged input
        raise _damaged(name, str(error) or type(error).__name__) from error


def _damaged(name: str, what: str) -> BundleError:
    return BundleError(
        "BUNDLE_DAMAGED", f"{name}: {what}.", "Copy it again from where it was made."
    )


def _manifest_bytes(manifest: Manifest) -> bytes:
    tree = msgspec.to_builtins(manifest)
    text = json.dumps(tree, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    return text.encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in pairs:
        if key in tree:
            raise BundleError("KEY_DUPLICATE", f"key {key!r} stands twice in the manifest.")
        tree[key] = value
    return tree


def _no_constant(text: str) -> NoReturn:
    raise BundleError("MANIFEST", f"{text} is not a number that a manifest may hold.")
