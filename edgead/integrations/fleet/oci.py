"""An OCI registry as a store of bundles, by oras: artifacts with the bundle and its signature as layers."""

from __future__ import annotations

import importlib
import re
import tempfile
from pathlib import Path
from typing import Any

from edgead import files
from edgead.errors import BundleError, ConfigError, StorageError
from edgead.integrations.fleet.optional import oras_client
from edgead.urls import SourceUrl

__all__ = ["OciStore"]

_ADDRESS = re.compile(r"^oci://(?P<host>[^/@]+)/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)/?$")
#: Plain HTTP only to this machine, as container tools do.
_LOCAL = re.compile(r"^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$")
_TITLE = "org.opencontainers.image.title"
_MEDIA = {
    ".edgead": "application/vnd.edgead.bundle.v1+zip",
    ".edgead.sig": "application/vnd.edgead.signature.v1",
}
_PIECE = 1 << 20


class OciStore:
    """A repository of a registry; credentials are those of ``docker login``.

    Args:
        url: ``oci://host[:port]/name``; plain HTTP is spoken to this machine only.

    Raises:
        ConfigError: STORE_URL, ORAS_MISSING.
    """

    def __init__(self, url: str) -> None:
        found = _ADDRESS.match(url)
        if found is None:
            raise ConfigError(
                "STORE_URL",
                f"{SourceUrl(url)} is no repository; want oci://host/name in lower case.",
                "Credentials come from docker login, never from the address.",
            )
        self._shown, self._target = url.rstrip("/"), f"{found['host']}/{found['name']}"
        client = oras_client()
        importlib.import_module("oras.logger").setup_logger(quiet=True)
        self._client: Any = client.OrasClient(
            hostname=found["host"], insecure=bool(_LOCAL.match(found["host"]))
        )

    def put(self, name: str, parts: dict[str, bytes]) -> None:
        """One artifact; a registry shows its tag when every layer is there."""
        with tempfile.TemporaryDirectory(prefix="edgead-push-") as scratch:
            layers = []
            for part, data in sorted(parts.items()):
                path = Path(scratch, f"{name}{part}")
                files.write_bytes(path, data)
                layers.append(f"{path}:{_MEDIA[part]}")
            try:
                self._client.push(
                    target=f"{self._target}:{name}", files=layers, disable_path_validation=True
                )
            except Exception as error:  # requests' and oras' own
                raise self._failed("write to", error) from error

    def get(self, name: str, part: str, *, max_bytes: int) -> bytes | None:
        """A layer by its title; its own digest is not looked at: the bundle hash is."""
        try:
            container = self._client.get_container(f"{self._target}:{name}")
            manifest = self._manifest(container)
            if manifest is None:
                return None
            for layer in manifest.get("layers", []):
                if layer.get("annotations", {}).get(_TITLE) == f"{name}{part}":
                    return self._blob(container, layer["digest"], max_bytes, f"{name}{part}")
        except (BundleError, StorageError):
            raise
        except Exception as error:  # requests' and oras' own
            raise self._failed("read from", error) from error
        return None

    def _manifest(self, container: Any) -> dict[str, Any] | None:
        """The artifact's manifest; None where the tag is not there."""
        try:
            manifest: dict[str, Any] = self._client.get_manifest(container)
        except ValueError as error:
            if "404" in str(error) or "not found" in str(error).lower():
                return None
            raise
        return manifest

    def _blob(self, container: Any, digest: str, max_bytes: int, name: str) -> bytes:
        """A layer's bytes; what is cut off on the way fails the bundle's own hash."""
        with self._client.get_blob(container, digest, stream=True) as response:
            response.raise_for_status()
            pieces, count = [], 0
            for piece in response.iter_content(_PIECE):
                count += len(piece)
                if count > max_bytes:
                    raise BundleError(
                        "BUNDLE_TOO_LARGE", f"{self._shown}: {name} is over {max_bytes} bytes."
                    )
                pieces.append(piece)
        return b"".join(pieces)

    def _failed(self, what: str, error: BaseException) -> StorageError:
        lines = str(error).strip().splitlines()
        reason = (lines[0][:300] if lines else type(error).__name__).rstrip(".")
        return StorageError(
            "STORE_FAILED",
            f"cannot {what} {self._shown}: {reason}.",
            "Check the address, the network and your rights there (docker login).",
        )
