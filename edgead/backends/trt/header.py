"""The header in front of every engine, and what it must agree with.

Layout, little-endian: magic 8 B, header version u32, JSON length u32, plan length u64, SHA-256 of
the plan 32 B, HMAC-SHA-256 of all of the above and the JSON 32 B, JSON, plan. Nothing follows the
plan. The HMAC's key is made on this machine and never leaves it: an engine of another machine does
not check, however well its fields agree.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from edgead.errors import BackendError

__all__ = [
    "HEADER_VERSION",
    "EngineKey",
    "command",
    "compare",
    "pack",
    "peek",
    "unpack",
    "unpack_vouched",
]

MAGIC = b"EDGEADTE"
HEADER_VERSION = 1
_FIXED = struct.Struct("<8sIIQ32s")
_MAC_BYTES = 32
_START = _FIXED.size + _MAC_BYTES
_MAX_JSON = 1 << 20


@dataclass(frozen=True)
class EngineKey:
    """All that a built engine depends on; equal keys, same engine.

    Attributes:
        model: SHA-256 of the ONNX file, hex.
        backend: tensorrt or tensorrt-rtx.
        backend_version: Version of the library.
        cuda: CUDA version of the driver; empty for an engine built for a named target.
        gpu: Facts of the device (name, arch, multiprocessors, memory_mb, module); for TensorRT-RTX
            ``{"arch": "8.6"}``.
        precision: fp32, fp16 or int8.
        shapes: Batch range.
        settings: Builder settings.
    """

    model: str
    backend: str
    backend_version: str
    cuda: str
    gpu: dict[str, Any] = field(hash=False)
    precision: str
    shapes: dict[str, Any] = field(hash=False)
    settings: dict[str, Any] = field(hash=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of all fields, hex."""
        return hashlib.sha256(_canonical(asdict(self))).hexdigest()

    @property
    def model_stem(self) -> str:
        """Common start of the file names of one model's engines."""
        return self.model[:16]

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return f"{self.model_stem}-{self.precision}-{self.digest[:24]}"

    def agreement(self, other: EngineKey) -> int:
        """In how many leading respects two keys agree; the nearest engine explains a miss best."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return sum(mine == theirs for mine, theirs in pairs)


_FIELDS = {f.name for f in fields(EngineKey)}
#: Path in the key -> (code, what the engine's side is called).
_CODES = {
    "model": ("ENGINE_MODEL", "model"),
    "backend": ("ENGINE_BACKEND", "back end"),
    "backend_version": ("ENGINE_TENSORRT", "library version"),
    "cuda": ("ENGINE_CUDA", "CUDA"),
    "gpu.arch": ("ENGINE_ARCH", "SM"),
    "gpu.module": ("ENGINE_MODULE", "module"),
    "gpu.name": ("ENGINE_GPU", "GPU"),
    "gpu.multiprocessors": ("ENGINE_MULTIPROCESSORS", "multiprocessors"),
    "gpu.memory_mb": ("ENGINE_MEMORY", "GPU memory in MiB"),
    "precision": ("ENGINE_PRECISION", "precision"),
    "shapes": ("ENGINE_SHAPES", "shapes"),
    "settings": ("ENGINE_SETTINGS", "builder settings"),
}


def pack(key: EngineKey, plan: bytes, info: dict[str, Any], secret: bytes) -> bytes:
    """Header and plan as one file."""
    text = _canonical({"key": asdict(key), "info": info})
    digest = hashlib.sha256(plan).digest()
    fixed = _FIXED.pack(MAGIC, HEADER_VERSION, len(text), len(plan), digest)
    return b"".join((fixed, _mac(secret, fixed, text), text, plan))


def unpack(data: bytes, secret: bytes, *, source: str) -> tuple[EngineKey, bytes, dict[str, Any]]:
    """Check a file as a whole and take it apart; the order of the checks is the order below.

    Raises:
        BackendError: ENGINE_EMPTY, ENGINE_FOREIGN (not edgead's: a bare plan or another file),
            ENGINE_NEWER, ENGINE_TRUNCATED, ENGINE_UNTRUSTED (signed on another machine, or header
            altered), ENGINE_DAMAGED (plan altered).
    """
    _check_envelope(data, source)
    key, info = peek(data, secret, source=source)
    _, _, text_bytes, _, digest = _FIXED.unpack_from(data)
    plan = data[_START + text_bytes :]
    if not hmac.compare_digest(hashlib.sha256(plan).digest(), digest):
        raise _refusal("ENGINE_DAMAGED", f"{source}: the engine's SHA-256 is not the header's")
    return key, plan, info


def unpack_vouched(data: bytes, *, source: str) -> tuple[EngineKey, bytes, dict[str, Any]]:
    """Take a file apart whose every byte the caller has checked against a hash that a person gave.

    The signature is another machine's and says nothing here; all other checks of `unpack` hold.

    Raises:
        BackendError: As `unpack`, less ENGINE_UNTRUSTED; ENGINE_FOREIGN for a header that is not one.
    """
    _check_envelope(data, source)
    _, _, text_bytes, _, digest = _FIXED.unpack_from(data)
    plan = data[_START + text_bytes :]
    if not hmac.compare_digest(hashlib.sha256(plan).digest(), digest):
        raise _refusal("ENGINE_DAMAGED", f"{source}: the engine's SHA-256 is not the header's")
    try:
        told = json.loads(data[_START : _START + text_bytes])
        key = EngineKey(**{name: told["key"][name] for name in _FIELDS})
        return key, plan, dict(told["info"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refusal("ENGINE_FOREIGN", f"{source}: its header cannot be read") from error


def peek(data: bytes, secret: bytes, *, source: str = "") -> tuple[EngineKey, dict[str, Any]]:
    """The signed header alone; the plan is not hashed, so it must not be used.

    Raises:
        BackendError: As `unpack`, less ENGINE_DAMAGED.
    """
    _check_envelope(data, source)
    text_bytes = _FIXED.unpack_from(data)[2]
    fixed, mac = data[: _FIXED.size], data[_FIXED.size : _START]
    text = data[_START : _START + text_bytes]
    if not hmac.compare_digest(_mac(secret, fixed, text), mac):
        raise _refusal(
            "ENGINE_UNTRUSTED",
            f"{source} was not signed on this machine; engines are executable code",
        )
    # Signed by us, so written by `pack`: the shape of the JSON needs no further defence.
    told = json.loads(text)
    return EngineKey(**{name: told["key"][name] for name in _FIELDS}), told["info"]


def compare(found: EngineKey, wanted: EngineKey, *, source: str, bundle: str) -> None:
    """Check that an engine is the one that is needed.

    Raises:
        BackendError: The code of the first difference, with both sides and the command that builds
            the right one.
    """
    for path, (code, what) in _CODES.items():
        have, want = _at(found, path), _at(wanted, path)
        if have != want:
            raise BackendError(
                code,
                f"{source} was built for {what} {_shown(have)}; needed is {_shown(want)}.",
                f"Build it again: {command(wanted, bundle)}.",
            )
    if found != wanted:
        code = "ENGINE_SETTINGS"
        raise BackendError(code, f"{source} has other settings: {found} is not {wanted}.")


def command(key: EngineKey, bundle: str) -> str:
    """The command that builds the engine of ``key``."""
    return f"edgead build {bundle} --backend {key.backend} --precision {key.precision}"


def _check_envelope(data: bytes, source: str) -> None:
    if not data:
        raise _refusal("ENGINE_EMPTY", f"{source} is 0 bytes (was the disk full?)")
    if not data.startswith(MAGIC):
        raise _refusal(
            "ENGINE_FOREIGN",
            f"{source} starts with {data[:8]!r}: it has no edgead header, and engines are "
            "executable code",
        )
    if len(data) < _START:
        raise _refusal("ENGINE_TRUNCATED", f"{source} ends after {len(data)} bytes, in its header")
    _, version, text_bytes, plan_bytes, _ = _FIXED.unpack_from(data)
    if version != HEADER_VERSION:
        raise _refusal(
            "ENGINE_NEWER",
            f"{source} has header version {version}; this edgead reads {HEADER_VERSION}",
        )
    expected = _START + text_bytes + plan_bytes
    if text_bytes > _MAX_JSON or len(data) != expected:
        raise _refusal(
            "ENGINE_TRUNCATED", f"{source} has {len(data)} bytes; its header says {expected}"
        )


def _refusal(code: str, message: str) -> BackendError:
    return BackendError(code, f"{message}.", "Delete it and build the engine again: edgead build.")


def _mac(secret: bytes, fixed: bytes, text: bytes) -> bytes:
    return hmac.new(secret, fixed + text, hashlib.sha256).digest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _at(key: EngineKey, path: str) -> Any:
    head, _, tail = path.partition(".")
    value = getattr(key, head)
    return value.get(tail) if tail else value


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return f"{text[:16]}..." if len(text) == 64 else text or "(none)"
