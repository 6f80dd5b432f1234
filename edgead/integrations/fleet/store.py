"""Bundles by digest: in any store that fsspec reaches, or in an OCI registry.

The digest is the bundle hash, which every detection, journal row and result carries: a line is rolled out
to ``URL@sha256:<bundle hash>``, and whatever arrives under that name is parsed, hashed and, where a key is
configured, its signature checked before it stands under its own name on this machine. So a store need not
be trusted, nor a transfer be whole.

In a store of files (``file://``, ``s3://`` with s3fs, ``gs://`` with gcsfs …) a bundle is
``URL/sha256-<bundle hash>.edgead``, its signature the same with ``.sig``. In a registry (``oci://``) it is
the tag ``sha256-<bundle hash>``: an OCI artifact whose layers are the two files.

Source: OCI image and distribution specifications 1.1; the tag's form is that of cosign.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, Protocol

from edgead import files
from edgead.bundle import read_bundle
from edgead.errors import BundleError, ConfigError, EdgeadError, StorageError
from edgead.integrations.fleet.oci import OciStore
from edgead.integrations.fleet.optional import fsspec
from edgead.sign import signature_path
from edgead.urls import SourceUrl

__all__ = ["pull", "push"]

_REFERENCE = re.compile(r"^(?P<url>.+)@sha256:(?P<digest>[0-9a-f]{64})$", re.DOTALL)
_MAX_BYTES = 1 << 30
_MAX_SIGNATURE = 1024


class Store(Protocol):
    """Where bundles lie."""

    def put(self, name: str, parts: dict[str, bytes]) -> None:
        """Store the parts of one bundle: ``.edgead`` and perhaps ``.edgead.sig``."""
        ...

    def get(self, name: str, part: str, *, max_bytes: int) -> bytes | None:
        """One part, or None where there is none."""
        ...


def push(bundle: str | Path, url: str) -> dict[str, Any]:
    """Store a bundle, and its signature where it has one, under its digest.

    Args:
        bundle: A ``.edgead`` file; where a key is configured it must be signed.
        url: Folder of a store, e.g. ``s3://models/line3``, or ``oci://registry/repository``.

    Returns:
        ``reference`` (for `pull`), ``digest``, ``bytes``, ``signed``.

    Raises:
        BundleError: As `edgead.bundle.read_bundle`.
        ConfigError: STORE_URL, FSSPEC_MISSING, ORAS_MISSING.
        StorageError: STORE_FAILED.
    """
    path = Path(bundle)
    digest = read_bundle(path).hash
    parts = {".edgead": path.read_bytes()}
    signature = signature_path(path)
    if signature.exists():
        parts[".edgead.sig"] = files.read_bytes(signature, max_bytes=_MAX_SIGNATURE)
    _opened(url).put(f"sha256-{digest}", parts)
    return {
        "reference": f"{url.rstrip('/')}@sha256:{digest}",
        "digest": digest,
        "bytes": len(parts[".edgead"]),
        "signed": len(parts) > 1,
    }


def pull(reference: str, out: str | Path | None = None) -> dict[str, Any]:
    """Fetch a bundle by digest; nothing appears under ``out`` before all of it was checked.

    Args:
        reference: ``URL@sha256:<bundle hash>``.
        out: The file to write; ``<first 12 digits>.edgead`` here by default.

    Returns:
        ``bundle``, ``digest``, ``bytes``, ``signed``.

    Raises:
        BundleError: DIGEST when another bundle lies under that name; BUNDLE_DAMAGED and its like for
            a piece of one; SIGNATURE_MISSING, SIGNATURE_WRONG where a key is configured.
        StorageError: STORE_MISSING, STORE_FAILED; DISK_FULL and its like.
        ConfigError: STORE_URL, FSSPEC_MISSING, ORAS_MISSING.
    """
    url, digest = _parted(reference)
    target = Path(f"{digest[:12]}.edgead") if out is None else Path(out)
    files.check_target(target)
    store, name = _opened(url), f"sha256-{digest}"
    data = store.get(name, ".edgead", max_bytes=_MAX_BYTES)
    if data is None:
        raise StorageError(
            "STORE_MISSING",
            f"{SourceUrl(url)} holds no bundle sha256:{digest}.",
            "Check URL and digest, or store it: edgead push BUNDLE URL.",
        )
    signature = store.get(name, ".edgead.sig", max_bytes=_MAX_SIGNATURE)
    _check(data, signature, digest, url)
    beside = signature_path(target)
    if signature is None:
        beside.unlink(missing_ok=True)  # of the bundle that was there before
    else:
        files.write_bytes(beside, signature)
    files.write_bytes(target, data)
    return {
        "bundle": str(target),
        "digest": digest,
        "bytes": len(data),
        "signed": signature is not None,
    }


def _check(data: bytes, signature: bytes | None, digest: str, url: str) -> None:
    """Read what came exactly as a detector will, under a name of its own."""
    with tempfile.TemporaryDirectory(prefix="edgead-pull-") as scratch:
        path = Path(scratch, f"sha256-{digest}.edgead")
        files.write_bytes(path, data)
        if signature is not None:
            files.write_bytes(signature_path(path), signature)
        try:
            found = read_bundle(path).hash
        except BundleError as error:
            told = error.message.replace(str(path), f"{SourceUrl(url)} sha256:{digest[:12]}…")
            raise BundleError(error.code, told, error.hint) from error
    if found != digest:
        raise BundleError(
            "DIGEST",
            f"{SourceUrl(url)} holds bundle {found} under the name of {digest}; nothing was written.",
            "Store the right one again: edgead push BUNDLE URL.",
        )


def _parted(reference: str) -> tuple[str, str]:
    found = _REFERENCE.match(reference)
    if found is None:
        raise ConfigError(
            "STORE_URL",
            f"{SourceUrl(reference)} names no digest; want URL@sha256: and 64 hexadecimal digits.",
            "edgead push prints the reference; edgead inspect prints a bundle's hash.",
        )
    return found["url"], found["digest"]


def _opened(url: str) -> Store:
    address = SourceUrl(url)
    if address.scheme == "oci":
        return OciStore(url)
    if not address.scheme:
        raise ConfigError(
            "STORE_URL",
            f"{address} is no URL; want e.g. file:///shelf, s3://bucket/models or oci://host/name.",
        )
    return _FileStore(address)


class _FileStore:
    """A folder of any file system that fsspec knows; an object is put whole or not at all."""

    def __init__(self, address: SourceUrl) -> None:
        self._address = address
        package = fsspec()
        try:
            self._system, self._root = package.core.url_to_fs(address.reveal().rstrip("/"))
        except (ImportError, ValueError) as error:
            raise ConfigError(
                "STORE_URL",
                f"fsspec cannot open {address}: {address.scrub(_first_line(error))}",
                "Install the package it names, or use another store.",
            ) from error
        except Exception as error:  # every file system has errors of its own
            raise self._failed("reach", error) from error

    def put(self, name: str, parts: dict[str, bytes]) -> None:
        """The signature first: who finds the bundle finds it too."""
        try:
            self._system.makedirs(self._root, exist_ok=True)
            for part, data in sorted(parts.items(), reverse=True):
                if "file" in self._protocols():  # an object store's put is atomic; a disk's is not
                    files.write_bytes(Path(self._path(name, part)), data)
                else:
                    self._system.pipe_file(self._path(name, part), data)
        except EdgeadError:
            raise
        except Exception as error:  # every file system has errors of its own
            raise self._failed("write to", error) from error

    def get(self, name: str, part: str, *, max_bytes: int) -> bytes | None:
        """At most ``max_bytes``, whatever the store says the size is."""
        try:
            with self._system.open(self._path(name, part), "rb") as stream:
                data: bytes = stream.read(max_bytes + 1)
        except FileNotFoundError:
            return None
        except Exception as error:  # every file system has errors of its own
            raise self._failed("read from", error) from error
        if len(data) > max_bytes:
            raise BundleError(
                "BUNDLE_TOO_LARGE", f"{self._address}: {name}{part} is over {max_bytes} bytes."
            )
        return data

    def _protocols(self) -> tuple[str, ...]:
        protocol: str | tuple[str, ...] = self._system.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def _path(self, name: str, part: str) -> str:
        return f"{self._root}/{name}{part}"

    def _failed(self, what: str, error: BaseException) -> StorageError:
        return StorageError(
            "STORE_FAILED",
            f"cannot {what} {self._address}: {self._address.scrub(_first_line(error))}.",
            "Check the address, the network and your rights there.",
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0][:300] if lines else type(error).__name__).rstrip(".")
