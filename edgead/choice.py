"""Which back end and precision run a bundle here, and why."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import msgspec

from edgead.backends import BACKENDS, member_for
from edgead.bundle import CERTIFICATES, Bundle
from edgead.errors import BackendError, BundleError, ConfigError

__all__ = ["Choice", "certificates", "choose"]

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
    """A back end, a precision, and the reason in words."""

    backend: str
    precision: str
    why: str


class _Figures(msgspec.Struct):
    speedup: float


class _Certificate(msgspec.Struct):
    """What a choice is made by; other keys are for people."""

    backend: str
    precision: str
    passed: bool
    arithmetic: str
    figures: _Figures


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
    name, why = (backend, "asked for") if backend != "auto" else _first_installed()
    if precision != "auto":
        member_for(name, precision, bundle.members)
        return Choice(name, precision, f"{name}: {why}; {precision}: asked for")
    passed = [
        certificate
        for certificate in certificates(bundle)
        if certificate["backend"] == name
        and certificate["passed"]
        and certificate["arithmetic"] == "native"
    ]
    if not passed:
        return Choice(name, "fp32", f"{name}: {why}; fp32: no other precision is certified here")
    best = max(passed, key=lambda certificate: float(certificate["figures"]["speedup"]))
    speed = float(best["figures"]["speedup"])
    if speed <= 1:
        return Choice(name, "fp32", f"{name}: {why}; fp32: no certified precision is faster")
    kept = str(best["precision"])
    return Choice(name, kept, f"{name}: {why}; {kept}: certified, {speed:.2f}x fp32 when measured")


def _first_installed() -> tuple[str, str]:
    for name in _AUTO:
        if importlib.util.find_spec(_MODULES[name]) is not None:
            return name, "first installed"
    raise BackendError(
        "PROVIDER",
        "no inference back end is installed.",
        "pip install 'edgead[cpu]', or name one: backend=\"tensorrt\".",
    )
