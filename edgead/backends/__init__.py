"""Inference engines behind one seam; see `edgead.backends.base`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgead.errors import BackendError, BundleError, ConfigError

if TYPE_CHECKING:
    # Not at run time: the engine build's child process passes here and must not load NumPy.
    from edgead.backends.base import Backend

__all__ = ["BACKENDS", "HINTS", "PRECISIONS", "member_for", "members_for", "open_backend"]

BACKENDS = ("openvino", "onnxruntime", "tensorrt", "tensorrt-rtx")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
HINTS = ("latency", "throughput")

#: (back end, precision) -> bundle members that can serve it, best first.
_MEMBERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("openvino", "bf16"): ("model.onnx",),
    ("onnxruntime", "int8"): ("model.int8-u8s8.onnx", "model.int8.onnx"),
    ("tensorrt", "int8"): ("model.int8-qdq.onnx", "model.int8.onnx", "model.int8-conv.onnx"),
    ("tensorrt-rtx", "int8"): ("model.int8.onnx", "model.int8-conv.onnx"),
}
_DEFAULTS = {
    "fp32": ("model.onnx",),
    "fp16": ("model.fp16.onnx",),
    "int8": ("model.int8.onnx",),
}


def member_for(backend: str, precision: str, members: Mapping[str, bytes]) -> str:
    """Name of the bundle member that serves ``precision`` on ``backend`` best.

    Raises:
        As `members_for`.
    """
    return members_for(backend, precision, members)[0]


def members_for(backend: str, precision: str, members: Mapping[str, bytes]) -> list[str]:
    """Names of the bundle members that can serve ``precision`` on ``backend``, best first.

    Raises:
        ConfigError: BACKEND_UNKNOWN or PRECISION_UNKNOWN.
        BackendError: PRECISION when the back end cannot compute it.
        BundleError: PRECISION_MISSING when the bundle does not hold it.
    """
    if backend not in BACKENDS:
        raise ConfigError(
            "BACKEND_UNKNOWN", f"backend is {backend!r}; want one of {', '.join(BACKENDS)} or auto."
        )
    if precision not in PRECISIONS:
        raise ConfigError(
            "PRECISION_UNKNOWN",
            f"precision is {precision!r}; want one of {', '.join(PRECISIONS)} or auto.",
        )
    names = _MEMBERS.get((backend, precision), _DEFAULTS.get(precision))
    if names is None:
        raise BackendError("PRECISION", f"{backend} does not compute in {precision}.")
    found = [name for name in names if name in members]
    if found:
        return found
    raise BundleError(
        "PRECISION_MISSING",
        f"the bundle holds no {precision} model for {backend}.",
        "Add it: edgead quantize BUNDLE --images DIR.",
    )


def open_backend(
    name: str,
    members: Mapping[str, bytes],
    *,
    precision: str = "fp32",
    threads: int = 0,
    hint: str = "latency",
    cache_dir: str | None = None,
    memory: str = "auto",
    source: str | None = None,
) -> Backend:
    """Compile a bundle's model on the back end asked for; nothing is fallen back to.

    Args:
        name: The back end.
        members: The bundle's.
        precision: Which of its models.
        threads: CPU threads; 0 leaves the choice to the back end.
        hint: ``latency`` gives all threads to one frame; ``throughput`` gives each frame one thread, and
            wants as many frames in flight as the back end's ``in_flight``. A GPU knows no difference.
        cache_dir: What OpenVINO compiles is kept there; GPU engines have a cache of their own.
        memory: ``auto``, ``pinned`` or ``mapped``, for GPUs.
        source: The bundle's file, for messages that name a command.

    Raises:
        BackendError: The back end is missing or refuses the model.
        ConfigError: HINT.
    """
    if hint not in HINTS:
        raise ConfigError("HINT", f"hint is {hint!r}; want {' or '.join(HINTS)}.")
    model = members[member_for(name, precision, members)]
    if name == "openvino":
        from edgead.backends.ov import OpenVinoBackend

        return OpenVinoBackend(
            model, precision=precision, threads=threads, hint=hint, cache_dir=cache_dir
        )
    if name == "onnxruntime":
        from edgead.backends.ort import OnnxRuntimeBackend

        return OnnxRuntimeBackend(model, precision=precision, threads=threads, hint=hint)
    from edgead.backends import trt

    # One engine may refuse a form of Q/DQ that its sister takes; the last one quantises less.
    others = members_for(name, precision, members)[1:]
    opened = trt.open_backend(
        model,
        name=name,
        precision=precision,
        fallbacks=[(precision, members[other]) for other in others],
        options=trt.TrtOptions(memory=memory, bundle=source or "BUNDLE"),
    )
    for note in opened.notes:
        logging.getLogger("edgead").warning("%s", note)
    return opened
