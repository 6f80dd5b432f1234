"""One table of what differs between the TensorRT versions edgead drives.

Held to the Python API of TensorRT 8.6.1, 10.3, 10.7, 10.13, 10.16, 11.0, 11.4 and TensorRT-RTX 1.7
by ``tests/unit/test_trt_api.py``. The run-time half (deserialise, I/O tensors,
``execute_async_v3``) is the same everywhere. Standard library only: the build's child process
imports this module.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from types import ModuleType

from edgead.errors import BackendError, ConfigError

__all__ = ["MODULES", "OPTIONAL", "TARGETS", "Api", "api_for", "check_target", "load", "version_of"]

#: Back-end name -> Python module.
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}

#: Architectures that TensorRT-RTX builds for without a GPU.
TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")

#: Members that some version lacks -> generations that have them; each use is behind the table.
OPTIONAL = {
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": ("8.6", "10"),
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": ("10", "11", "rtx"),
    "BuilderFlag.FP16": ("8.6", "10"),
    "BuilderFlag.INT8": ("8.6", "10"),
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": ("8.6", "10"),
    "ILayer.precision": ("8.6", "10"),
    "ILayer.set_output_type": ("8.6", "10"),
    "IProgressMonitor": ("10", "11", "rtx"),
    "IProgressMonitor.phase_start": ("10", "11", "rtx"),
    "IProgressMonitor.phase_finish": ("10", "11", "rtx"),
    "IProgressMonitor.step_complete": ("10", "11", "rtx"),
    "IBuilderConfig.progress_monitor": ("10", "11", "rtx"),
    "ICudaEngine.device_memory_size": ("8.6", "10"),
    "ICudaEngine.device_memory_size_v2": ("10", "11", "rtx"),
    "IBuilderConfig.num_compute_capabilities": ("rtx",),
    "IBuilderConfig.set_compute_capability": ("rtx",),
    "ComputeCapability": ("rtx",),
    "IExecutionContext.is_stream_capturable": ("rtx",),
}


@dataclass(frozen=True)
class Api:
    """What one generation of the library needs.

    Attributes:
        generation: 8.6, 10, 11 or rtx.
        typings: Ways to state types, the preferred first: ``strong`` takes them from the graph;
            ``flags`` allows them to the builder and pins the layers that stay in FP32.
        explicit_batch: The network needs EXPLICIT_BATCH (8.6; the default from 10 on).
        has_progress: The builder reports its progress.
        has_timing_cache: Timings can be kept between builds (RTX ignores them).
        has_targets: Engines can be built for a named architecture without a GPU.
        asks_capturable: The context says whether a stream capture will work.
        memory_size: Engine attribute with the activation memory in bytes.
    """

    generation: str
    typings: tuple[str, ...]
    explicit_batch: bool
    has_progress: bool
    has_timing_cache: bool
    has_targets: bool
    asks_capturable: bool
    memory_size: str


_TABLE = {
    "8.6": Api("8.6", ("flags",), True, False, True, False, False, "device_memory_size"),
    "10": Api("10", ("strong", "flags"), False, True, True, False, False, "device_memory_size_v2"),
    "11": Api("11", ("strong",), False, True, True, False, False, "device_memory_size_v2"),
    "rtx": Api("rtx", ("strong",), False, True, False, True, True, "device_memory_size_v2"),
}


def version_of(text: str) -> tuple[int, ...]:
    """``10.13.3.9`` -> (10, 13, 3, 9); letters after a number are ignored."""
    return tuple(int(part) for part in re.findall(r"(?:^|\.)(\d+)", text))


def api_for(name: str, version: str) -> Api:
    """The row for a back end and its library's version.

    A version newer than the newest one known gets the newest row.

    Raises:
        ConfigError: BACKEND_UNKNOWN for another name than tensorrt or tensorrt-rtx.
        BackendError: TENSORRT_TOO_OLD below 8.6; TENSORRT_VERSION when it is not a version.
    """
    if name not in MODULES:
        raise ConfigError(
            "BACKEND_UNKNOWN", f"back end {name!r} is not one of {', '.join(sorted(MODULES))}."
        )
    found = version_of(version)
    if not found:
        raise BackendError("TENSORRT_VERSION", f"{MODULES[name]} calls itself version {version!r}.")
    if name == "tensorrt-rtx":
        return _TABLE["rtx"]
    if found < (8, 6):
        raise BackendError(
            "TENSORRT_TOO_OLD",
            f"TensorRT {version} was found; 8.6 (JetPack 6.0) is the oldest that edgead drives.",
            "JetPack 4 and 5 cannot be used: flash JetPack 6.0 or newer.",
        )
    generation = "8.6" if found[0] == 8 else "10" if found[0] in (9, 10) else "11"
    return _TABLE[generation]


def load(name: str) -> ModuleType:
    """Import the library's Python module; nothing of its run-time is touched.

    Raises:
        ConfigError: BACKEND_UNKNOWN.
        BackendError: PROVIDER with the extra to install, PROVIDER_BROKEN when the module is
            there and cannot be loaded, TENSORRT_TOO_OLD.
    """
    if name not in MODULES:
        api_for(name, "0")
    try:
        module = importlib.import_module(MODULES[name])
    except ModuleNotFoundError as error:
        if error.name == MODULES[name]:
            raise BackendError("PROVIDER", *_how_to_install(name)) from error
        raise _broken(name, error) from error
    except Exception as error:
        # The module loads shared libraries while it is imported: a missing one surfaces as
        # ImportError, OSError, FileNotFoundError or AttributeError, depending on the version.
        raise _broken(name, error) from error
    api_for(name, str(module.__version__))
    return module


def check_target(target: str | None, *, name: str) -> None:
    """Refuse a target architecture that the back end cannot build for.

    Raises:
        ConfigError: TARGET.
    """
    if target is None:
        return
    if name != "tensorrt-rtx":
        raise ConfigError(
            "TARGET",
            f"target {target!r} was asked for; {name} builds for the GPU it runs on only.",
            "Build on the device itself, or use --backend tensorrt-rtx.",
        )
    if target not in TARGETS:
        raise ConfigError("TARGET", f"target {target!r} is not one of {', '.join(TARGETS)}.")


def _how_to_install(name: str) -> tuple[str, str]:
    if name == "tensorrt-rtx":
        return (
            "back end tensorrt-rtx was asked for; the Python module tensorrt_rtx is not installed.",
            "Install it: pip install 'edgead[tensorrt-rtx]'.",
        )
    return (
        "back end tensorrt was asked for; the Python module tensorrt is not installed.",
        "On a Jetson it comes with JetPack: make the virtual environment with "
        "--system-site-packages. On a PC: pip install 'edgead[tensorrt-cu13]' or "
        "'edgead[tensorrt-cu12]'.",
    )


def _broken(name: str, error: Exception) -> BackendError:
    return BackendError(
        "PROVIDER_BROKEN",
        f"back end {name} was asked for; its module {MODULES[name]} cannot be loaded: {error}.",
        "Check that the library and its Python module are of the same version.",
    )
