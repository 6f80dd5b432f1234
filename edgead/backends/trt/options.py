"""Options of the TensorRT back ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgead.errors import ConfigError

__all__ = ["PRECISIONS", "TrtOptions"]

PRECISIONS = ("fp32", "fp16", "int8")
_MEMORY = ("auto", "pinned", "mapped")


@dataclass(frozen=True)
class TrtOptions:
    """How to run, and where needed how to build, an engine.

    Attributes:
        device_index: CUDA device.
        batch: (smallest, best, largest) batch of a graph with a free batch size; a graph of fixed
            size ignores it.
        memory: ``pinned`` copies through pinned buffers, ``mapped`` lets the GPU read and write
            host memory that it touches once, ``auto`` maps on integrated GPUs (Jetson) only.
        cuda_graph: Capture the engine's launches once and replay them.
        optimization_level: Builder effort 0..5.
        timing: Time copy in, compute and copy out of each inference with CUDA events.
        force: Build although a camera loop runs on this machine.
        bundle: Name of the bundle for messages, e.g. ``part.edgead``.
        on_progress: Called with one dict for each step of a build; None prints nothing.
    """

    device_index: int = 0
    batch: tuple[int, int, int] = (1, 1, 1)
    memory: str = "auto"
    cuda_graph: bool = True
    optimization_level: int = 3
    timing: bool = False
    force: bool = False
    bundle: str = "BUNDLE"
    on_progress: Callable[[dict[str, Any]], None] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise ConfigError(
                "OPTIMIZATION_LEVEL", f"optimization level {self.optimization_level} is not 0..5."
            )
        if self.memory not in _MEMORY:
            raise ConfigError("MEMORY", f"memory {self.memory!r} is not one of {_MEMORY}.")
        small, best, large = self.batch
        if not 1 <= small <= best <= large:
            raise ConfigError(
                "BATCH", f"batch {self.batch} is not 1 <= smallest <= best <= largest."
            )
