"""Which back end and precision run a bundle here, and why."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgead.backends import BACKENDS, PRECISIONS, member_for
from edgead.backends.kind import device_kind
from edgead.backends.whole_frame import why_on_cpu
from edgead.bundle import CERTIFICATES, Bundle
from edgead.errors import BackendError, BundleError, ConfigError

__all__ = ["Choice", "Tuned", "certificates", "certified", "choose", "tuned_path"]

_MODULES = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
}
#: ``auto`` never takes a GPU engine by itself unless it is certified for this device.
_AUTO = ("openvino", "onnxruntime")


@dataclass(frozen=True)
class Choice:
    """A back end, a precision, and the reason in words.

    ``threads`` 0 leaves it to the engine; ``memory`` is that of `edgead.backends.trt.TrtOptions`.
    """

    backend: str
    precision: str
    why: str
    threads: int = 0
    memory: str = "auto"


class Tuned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `edgead tune` found best on this machine for one bundle."""

    backend: str
    precision: str
    threads: int
    p90_ms: float
    latency_ms: float
    device: str
    memory: Literal["auto", "pinned", "mapped"] = "auto"


class _Figures(msgspec.Struct):
    speedup: float


class _Certificate(msgspec.Struct):
    """What a choice is made by; other keys are for people."""

    backend: str
    precision: str
    passed: bool
    arithmetic: str
    figures: _Figures
    device: str = ""


def certificates(bundle: Bundle) -> list[dict[str, Any]]:
    """The bundle's precision certificates; none when it was never quantised.

    Raises:
        BundleError: CERTIFICATES when they are not what `edgead certify` writes.
    """
    data = bundle.members.get(CERTIFICATES)
    if data is None:
        return []
    try:
        tree = msgspec.json.decode(data)
        msgspec.convert(tree, list[_Certificate])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            "CERTIFICATES", f"{CERTIFICATES}: {error}.", "Make them again: edgead certify BUNDLE."
        ) from error
    return list(tree)


def choose(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Choice:
    """Resolve ``auto``; what is asked for by name is taken or raises.

    A precision other than fp32 is taken by ``auto`` only with a certificate that passed on that back
    end and was not made under emulation.

    Raises:
        ConfigError: BACKEND_UNKNOWN, PRECISION_UNKNOWN.
        BackendError: PROVIDER when no back end is installed.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ConfigError(
            "BACKEND_UNKNOWN",
            f"backend is {backend!r}; want one of {', '.join(BACKENDS)} or auto.",
        )
    if backend == "auto" and precision == "auto" and (tuned := _tuned(bundle)) is not None:
        why = f"tuned on this machine for {tuned.latency_ms:g} ms: {tuned.p90_ms:.3g} ms (p90)"
        why += _where(tuned.backend, bundle)
        return Choice(tuned.backend, tuned.precision, why, tuned.threads, tuned.memory)
    name, why = (backend, "asked for") if backend != "auto" else _first_installed()
    why += _where(name, bundle)
    if precision != "auto":
        member_for(name, precision, bundle.members)
        return Choice(name, precision, f"{name}: {why}; {precision}: asked for")
    passed = certified(bundle, name)
    if not passed:
        return Choice(name, "fp32", f"{name}: {why}; fp32: no other precision is certified here")
    kept = max(passed, key=passed.__getitem__)
    speed = passed[kept]
    if speed <= 1:
        return Choice(name, "fp32", f"{name}: {why}; fp32: no certified precision is faster")
    return Choice(name, kept, f"{name}: {why}; {kept}: certified, {speed:.2f}x fp32 when measured")


def certified(bundle: Bundle, backend: str) -> dict[str, float]:
    """Precisions that ``backend`` may use here -> how many times fp32's speed they had when measured.

    A certificate counts when it passed, in native arithmetic, on this kind of device, and when the
    bundle holds the model. A GPU back end without its GPU has none.
    """
    table = [one for one in certificates(bundle) if one["backend"] == backend]
    if not table:
        return {}
    try:
        here = device_kind(backend)
    except BackendError:
        return {}
    found: dict[str, float] = {}
    for one in table:
        if one["passed"] and one["arithmetic"] == "native" and one.get("device") == here:
            try:
                member_for(backend, one["precision"], bundle.members)
            except (BackendError, BundleError, ConfigError):
                continue
            found[one["precision"]] = float(one["figures"]["speedup"])
    return found


def tuned_path(bundle: Bundle) -> Path:
    """Where this user's choice for the bundle is kept: never in the bundle, which also runs elsewhere."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "edgead" / "choices" / f"{bundle.hash}.json"


def _tuned(bundle: Bundle) -> Tuned | None:
    """The choice that was tuned, when it still holds on this machine; anything else is passed over."""
    try:
        tuned = msgspec.json.decode(tuned_path(bundle).read_bytes(), type=Tuned)
        is_here = tuned.device == device_kind(tuned.backend)
    except (OSError, RuntimeError, ValueError, BackendError):  # RuntimeError: no home folder
        return None
    if tuned.backend not in BACKENDS or tuned.precision not in PRECISIONS or tuned.threads < 0:
        return None
    allowed = tuned.precision == "fp32" or tuned.precision in certified(bundle, tuned.backend)
    is_installed = importlib.util.find_spec(_MODULES[tuned.backend]) is not None
    return tuned if is_here and allowed and is_installed else None


def _where(backend: str, bundle: Bundle) -> str:
    """On which side of a GPU back end frames are prepared and heat maps made; empty on the CPU."""
    if not backend.startswith("tensorrt"):
        return ""
    manifest = bundle.manifest
    why = why_on_cpu(backend, manifest.view, manifest.frame.format)
    return f" (resize and heat map on the CPU: {why})" if why else " (the whole frame on the GPU)"


def _first_installed() -> tuple[str, str]:
    for name in _AUTO:
        if importlib.util.find_spec(_MODULES[name]) is not None:
            return name, "first installed"
    raise BackendError(
        "PROVIDER",
        "no inference back end is installed.",
        "pip install 'edgead[cpu]', or name one: backend=\"tensorrt\".",
    )
