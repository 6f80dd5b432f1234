"""TensorRT and TensorRT-RTX: engines built on this machine, kept in a signed cache, run on GPUs.

`open_backend` loads an engine (and builds it when allowed), `build_engine` builds one ahead of
time. Nothing here is imported before it is asked for: the build runs in a child process that must
not pay for NumPy, and a machine without CUDA must be able to ask why there is no GPU.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgead.backends.trt.build import build_engine
    from edgead.backends.trt.options import TrtOptions
    from edgead.backends.trt.run import open_backend

__all__ = ["TrtOptions", "build_engine", "open_backend"]

_HOMES = {"TrtOptions": "options", "build_engine": "build", "open_backend": "run"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
