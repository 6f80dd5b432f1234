"""What kind of device computes, as far as numbers depend on it: what a certificate is bound to."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path

__all__ = ["arithmetic", "cpu_features", "device_kind"]

#: Instructions that decide how eight and sixteen bits are multiplied, as Linux names them.
_TELLING = (
    "amx_int8", "amx_bf16", "amx_fp16", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "avx_vnni_int8", "avx_ne_convert", "avx512f", "avx2", "asimddp", "asimdhp", "i8mm", "bf16", "sve",
)  # fmt: skip


@lru_cache(maxsize=1)
def cpu_features() -> frozenset[str]:
    """Those of the telling instruction sets that this CPU has; empty where Linux does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split()) & frozenset(_TELLING)
    return frozenset()


def device_kind(backend: str) -> str:
    """Kind of the device that ``backend`` runs on, e.g. ``cpu x86_64 avx512_vnni`` or ``gpu Orin 8.7``.

    Two devices of one kind compute alike, so that one's certificate speaks for the other.

    Raises:
        BackendError: As `edgead.backends.trt.device.require_gpu`, for a GPU back end.
    """
    if backend.startswith("tensorrt"):
        from edgead.backends.trt import device

        _, gpu = device.require_gpu(backend)
        return f"gpu {gpu.name} {gpu.arch}"
    return " ".join(("cpu", platform.machine(), *sorted(cpu_features())))


def arithmetic(backend: str, precision: str) -> str:
    """``native`` where the device computes in that precision, ``emulated`` where it does not.

    ONNX Runtime's CPU kernels compute FP16 graphs in float32 on x86, and OpenVINO does FP16 and bf16
    in what the CPU has: such figures say how rounding alone behaves, and hide overflow.
    """
    if backend.startswith("tensorrt") or precision in ("fp32", "int8"):
        return "native"
    have = cpu_features()
    if precision == "bf16":
        return (
            "native" if have & {"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16"} else "emulated"
        )
    needed = {"asimdhp"} if backend == "onnxruntime" else {"asimdhp", "avx512_fp16", "amx_fp16"}
    return "native" if have & needed else "emulated"
