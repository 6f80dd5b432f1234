"""The bundle: one canonical file that holds everything a verdict depends on.

A stored zip (fixed order, dates and flags, no extra fields, no trailing bytes) whose members are
exactly those that ``manifest.json`` lists with their SHA-256. The reader writes what it read again
and compares, so any changed byte is refused. ``Bundle.hash`` is the SHA-256 of ``manifest.json``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgead import files
from edgead.errors import BundleError
from edgead.manifest import Manifest, Member
from edgead.manifest_reader import parse_manifest
from edgead.onnx_walk import check_model
from edgead.sign import check_signature, trusted_key

__all__ = ["MODEL", "Bundle", "bundle_from_bytes", "read_bundle", "write_bundle"]

MANIFEST = "manifest.json"
MODEL = "model.onnx"
HEAD = "head.safetensors"
CERTIFICATES = "certificates.json"
CALIBRATION = "calibration.json"

_MAX_BYTES = 1 << 30
_MAX_MEMBERS = 65  # the manifest and what it may list
_MAX_OVERHEAD = 2 << 20  # manifest and zip headers

# Source: PKWARE APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.16 (end).
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_STORED = 0


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
        """A bundle of these members; sizes and hashes are filled into the manifest.

        Raises:
            BundleError: What could not be read again: as `read_bundle`.
        """
        total = sum(map(len, members.values()))
        if total > _MAX_BYTES - _MAX_OVERHEAD:
            raise BundleError(
                "BUNDLE_TOO_LARGE", f"{total} bytes of members; at most {_MAX_BYTES} are read."
            )
        listed = {
            name: Member(bytes=len(data), sha256=_sha256(data))
            for name, data in sorted(members.items())
        }
        try:
            written = _manifest_bytes(msgspec.structs.replace(manifest, members=listed))
        except (TypeError, ValueError) as error:
            raise BundleError("MANIFEST", f"a value cannot be written as JSON: {error}.") from error
        complete = parse_manifest(written)  # plain types, whatever the caller's were
        _check_models(members)
        return Bundle(complete, dict(members), _sha256(_manifest_bytes(complete)))

    def with_members(self, changes: Mapping[str, bytes | None], **fields: Any) -> Bundle:
        """A copy with members added, replaced or (None) removed and manifest fields replaced."""
        members = {**self.members, **changes}
        kept = {name: data for name, data in members.items() if data is not None}
        return Bundle.build(msgspec.structs.replace(self.manifest, **fields), kept)

    def to_bytes(self) -> bytes:
        """The canonical file."""
        return b"".join(self._parts())

    def _parts(self) -> Iterator[bytes]:
        """The canonical file in pieces: each member is yielded as it is, without a copy."""
        directory: list[bytes] = []
        position = 0
        for name, data in [
            (MANIFEST, _manifest_bytes(self.manifest)),
            *sorted(self.members.items()),
        ]:
            label = name.encode()
            # Version 2.0, no flags, stored, 1980-01-01 00:00.
            common = (20, 0, 0, 0, 0x21, zlib.crc32(data), len(data), len(data), len(label), 0)
            yield _LOCAL.pack(b"PK\x03\x04", *common) + label
            yield data
            made_by_unix, mode = 3 << 8 | 20, 0o100644 << 16
            directory.append(
                _CENTRAL.pack(b"PK\x01\x02", made_by_unix, *common, 0, 0, 0, mode, position) + label
            )
            position += _LOCAL.size + len(label) + len(data)
        size = sum(map(len, directory))
        yield from directory
        yield _END.pack(b"PK\x05\x06", 0, 0, len(directory), len(directory), size, position, 0)


def write_bundle(path: str | Path, bundle: Bundle) -> None:
    """Write ``bundle`` to ``path`` atomically.

    Raises:
        StorageError: The file cannot be written; the old one, if any, is unchanged.
    """
    files.sweep(Path(path).parent, min_age_s=600)
    with files.atomic_writer(path) as stream:
        stream.writelines(bundle._parts())  # noqa: SLF001 - the same module


def read_bundle(path: str | Path, *, to_sign: bool = False) -> Bundle:
    """Read and check a bundle: every byte of it, and its ONNX graphs before any engine does.

    Args:
        path: A ``.edgead`` file.
        to_sign: It is about to be signed: no signature is asked for, also where a key is configured.

    Raises:
        BundleError: BUNDLE_MISSING, BUNDLE_IS_FOLDER, BUNDLE_UNREADABLE, BUNDLE_TOO_LARGE,
            BUNDLE_EMPTY, BUNDLE_FORMAT, BUNDLE_DAMAGED, or as `parse_manifest`,
            `edgead.onnx_walk.check_model` and, where a key is configured,
            `edgead.sign.check_signature`.
    """
    path = Path(path)
    try:
        data = files.read_bytes(path, max_bytes=_MAX_BYTES)
    except FileNotFoundError as error:
        raise BundleError(
            "BUNDLE_MISSING", f"{path} does not exist.", "Make one: edgead train GOOD --out B."
        ) from error
    except IsADirectoryError as error:
        raise BundleError(
            "BUNDLE_IS_FOLDER", f"{path} is a folder; want a .edgead file."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if getattr(error, "errno", None) == errno.EFBIG:
            raise BundleError(
                "BUNDLE_TOO_LARGE", f"{path} is too large; at most {_MAX_BYTES} bytes are read."
            ) from error
        reason = getattr(error, "strerror", None) or str(error)
        raise BundleError("BUNDLE_UNREADABLE", f"cannot read {str(path)!r}: {reason}.") from error
    bundle = bundle_from_bytes(data, name=str(path))
    key = None if to_sign else trusted_key()
    if key is not None:
        check_signature(path, bundle.hash, key)
    return bundle


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
    if not _is_canonical(bundle, data):
        raise _damaged(name, "it is not in canonical form")
    _check_models(members)
    return bundle


def _is_canonical(bundle: Bundle, data: bytes) -> bool:
    view, position = memoryview(data), 0
    for part in bundle._parts():  # noqa: SLF001 - the same module
        if view[position : position + len(part)] != part:
            return False
        position += len(part)
    return position == len(data)


def _check_models(members: Mapping[str, bytes]) -> None:
    """Walk every graph: what an engine will be given is what was hashed and looked at."""
    for name, data in members.items():
        if name.endswith(".onnx"):
            check_model(data, name=name)


_LOCAL = struct.Struct(
    "<4s5H3L2H"
)  # local file header: signature, 5 words, CRC, 2 sizes, 2 lengths


def _unpack(data: bytes, name: str) -> dict[str, bytes]:
    """Members by name, walking the local headers: their data cannot overlap, nor exceed the file.

    Only what `Bundle.to_bytes` writes is understood here; everything else that a zip can say (its
    central directory, flags, attributes) is held by the comparison that follows.
    """
    if not data:
        raise BundleError("BUNDLE_EMPTY", f"{name} is 0 bytes (disk full when it was written?).")
    if not data.startswith(b"PK\x03\x04"):
        raise BundleError(
            "BUNDLE_FORMAT",
            f"{name} starts with {data[:8]!r}; a bundle starts with b'PK\\x03\\x04'.",
            "Make one: edgead train GOOD --out B.",
        )
    if b"data.pkl" in data[:512]:
        raise BundleError(
            "MODEL_PICKLE",
            f"{name} is a PyTorch checkpoint, whose pickle can run code; edgead does not open it.",
            "Make a bundle where it was trained: edgead train GOOD --out B.",
        )
    members: dict[str, bytes] = {}
    position = 0
    while data[position : position + 4] == b"PK\x03\x04":
        if len(members) >= _MAX_MEMBERS:
            raise _damaged(name, f"more than {_MAX_MEMBERS} members")
        if position + _LOCAL.size > len(data):
            raise _damaged(name, f"it ends inside the header at byte {position}")
        fields = _LOCAL.unpack_from(data, position)
        method, packed, size, name_length, extra = fields[3], *fields[7:11]
        start = position + _LOCAL.size + name_length
        if method != _STORED or packed != size or extra:
            raise _damaged(name, f"the member at byte {position} is not plainly stored")
        if start + size > len(data):
            raise _damaged(name, f"it ends inside the member at byte {position}")
        member = data[position + _LOCAL.size : start].decode("utf-8", "replace")
        if member in members:
            raise _damaged(name, f"member {member!r} is there twice")
        members[member] = data[start : start + size]
        # The others have their SHA-256; this tells damage from a manifest written by hand.
        if member == MANIFEST and zlib.crc32(members[member]) != fields[6]:
            raise _damaged(name, f"{MANIFEST} fails its CRC")
        position = start + size
    return members


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
