"""The seam between edgead and inference engines: lifetime, description, inference.

Every back end offers two classes. A `Backend` owns the compiled model; a `Request` owns the
buffers of one inference in flight and belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Backend", "Request", "TensorSpec"]

#: NumPy array, or anything with ``__cuda_array_interface__``.
Array: TypeAlias = Any


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of one engine input or output.

    Attributes:
        shape: Fixed sizes; the first is the batch, -1 where the engine takes any batch.
        dtype: NumPy dtype name, e.g. ``uint8``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@runtime_checkable
class Request(Protocol):
    """One inference in flight, used by one thread at a time."""

    def start(self, feeds: Mapping[str, Array]) -> None:
        """Start inference; ``feeds`` must stay unchanged until `wait` returns."""
        ...

    def wait(self, timeout_s: float | None = None) -> Mapping[str, Array]:
        """Wait for the outputs: on the request's device, valid until the next `start`.

        Raises:
            BackendError: INFER_TIMEOUT when ``timeout_s`` passes first; BACKEND_ERROR when the
                engine fails.
        """
        ...

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, NDArray[np.generic]]:
        """`start`, `wait` and copy: the arrays belong to the caller."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A compiled model on one device.

    Attributes:
        name: openvino, onnxruntime, tensorrt or tensorrt-rtx.
        version: Version of the engine library.
        device: Kind of device, e.g. the CPU's or GPU's name.
        precision: fp32, bf16, fp16 or int8.
        inputs: Input name -> spec.
        outputs: Output name -> spec.
    """

    name: str
    version: str
    device: str
    precision: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def open_request(self) -> Request:
        """A new request with buffers of its own."""
        ...

    def close(self) -> None:
        """Free the engine; safe to call twice."""
        ...
