"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.backends.base import Array, TensorSpec
from edgead.errors import BackendError

__all__ = ["OnnxRuntimeBackend"]

#: What of a model may be too new -> how ONNX Runtime says so: the model's number, and its own.
_TOO_NEW = {
    "opset": re.compile(r"Opset (\d+) is under development.*till opset (\d+)", re.DOTALL),
    "ONNX IR version": re.compile(r"model IR version: (\d+), max supported IR version: (\d+)"),
}
#: In front of its words: its kind of error, and the line and signature of its source.
_ORIGIN = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:\S+:\d+ .+?\([^()]*\) )?")

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}


class OnnxRuntimeBackend:
    """An ONNX model run by ONNX Runtime's CPU provider; no other provider is ever fallen back to.

    Args:
        model: The ONNX file's bytes.
        precision: What the graph was made for.
        threads: CPU threads; 0 leaves the choice to ONNX Runtime.
        hint: ``latency`` or ``throughput``, see `edgead.backends.open_backend`.

    Attributes:
        in_flight: Requests that keep it busy while others are prepared and finished.

    Raises:
        BackendError: PROVIDER when ONNX Runtime is not installed, MODEL_VERSION when the model is
            newer than it is, MODEL_REFUSED when it refuses the model.
    """

    name = "onnxruntime"

    def __init__(
        self, model: bytes, *, precision: str = "fp32", threads: int = 0, hint: str = "latency"
    ) -> None:
        try:
            ort: Any = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise BackendError(
                "PROVIDER",
                f"asked for onnxruntime, which does not import ({error}).",
                "pip install 'edgead[onnxruntime]'.",
            ) from error
        self.version = str(ort.__version__)
        self.precision = precision
        self.device = "CPU"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.in_flight = 2
        if hint == "throughput":  # a request runs on a thread of its own
            self.in_flight = (threads or len(os.sched_getaffinity(0))) + 2
            threads = 1
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session: Any = ort.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises seven unrelated types here
            raise _refusal(self.version, error) from error
        self.inputs: Mapping[str, TensorSpec] = {
            s.name: s for s in map(_spec, self._session.get_inputs())
        }
        self.outputs: Mapping[str, TensorSpec] = {
            s.name: s for s in map(_spec, self._session.get_outputs())
        }

    def open_request(self) -> OnnxRuntimeRequest:
        """A new request; ONNX Runtime's sessions may be run from many threads."""
        if self._session is None:
            raise BackendError("CLOSED", "this back end is closed.", "Open the detector again.")
        return OnnxRuntimeRequest(self._session, tuple(self.outputs))

    def close(self) -> None:
        """Free the session."""
        self._session = None


class OnnxRuntimeRequest:
    """One ONNX Runtime inference in flight, on a thread of its own when started without waiting."""

    device = "cpu"

    def __init__(self, session: Any, outputs: tuple[str, ...]) -> None:
        self._session, self._outputs = session, outputs
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future[dict[str, NDArray[np.generic]]] | None = None

    def start(self, feeds: Mapping[str, Array]) -> None:
        """Run on the request's own thread."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="edgead-ort")
        self._pending = self._pool.submit(self.infer, dict(feeds))

    def wait(self, timeout_s: float | None = None) -> Mapping[str, Array]:
        """The outputs of the last `start`."""
        if self._pending is None:
            raise BackendError("NOT_STARTED", "wait() before start().", "Call start() first.")
        try:
            return self._pending.result(timeout_s)
        except FutureTimeout as error:
            raise BackendError(
                "INFER_TIMEOUT", f"inference took longer than {(timeout_s or 0) * 1000:.0f} ms."
            ) from error

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, NDArray[np.generic]]:
        """Run on the caller's thread; the arrays belong to the caller."""
        try:
            values = self._session.run(self._outputs, dict(feeds))
        except Exception as error:  # see OnnxRuntimeBackend
            raise BackendError(
                "BACKEND_ERROR", f"onnxruntime failed: {_first_line(error)}"
            ) from error
        return dict(zip(self._outputs, values, strict=True))


def _spec(node: Any) -> TensorSpec:
    shape = tuple(d if isinstance(d, int) else -1 for d in node.shape)
    return TensorSpec(node.name, shape, _DTYPES.get(node.type, node.type))


def _refusal(version: str, error: Exception) -> BackendError:
    for what, sign in _TOO_NEW.items():
        found = sign.search(str(error))
        if found is not None:
            return BackendError(
                "MODEL_VERSION",
                f"the model is of {what} {found[1]}; onnxruntime {version} reads up to {found[2]}.",
                "pip install -U onnxruntime, or judge with --backend openvino.",
            )
    return BackendError(
        "MODEL_REFUSED",
        f"onnxruntime {version} refuses the model: {_first_line(error)}",
        "Check the bundle: edgead verify BUNDLE --backend openvino.",
    )


def _first_line(error: Exception) -> str:
    lines = _ORIGIN.sub("", str(error)).splitlines()
    return lines[0][:300] if lines else type(error).__name__
