"""OpenVINO: the default on CPUs."""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.backends.base import Array, TensorSpec
from edgead.errors import BackendError

__all__ = ["OpenVinoBackend"]

#: OpenVINO computes in bf16 where the CPU can, unless told otherwise: also FP16 graphs (one's map was
#: seen to move by 0.4 score_scale). What is not quantised in an INT8 graph is left to bf16: it is what
#: the speed is wanted for, and the graph's certificate was made on just that.
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
#: Where OpenVINO keeps the ONNX note on what an INT8 graph's floating-point parts must be computed in.
_FLOAT_PARTS = ["framework", "float_parts"]


class OpenVinoBackend:
    """An ONNX model compiled by OpenVINO for the CPU.

    Args:
        model: The ONNX file's bytes.
        precision: Name for `edgead.backends.base.Backend.precision`; sets the inference hint.
        batch: Fixed batch of the input.
        threads: CPU threads; 0 leaves the choice to OpenVINO.
        hint: ``latency`` or ``throughput``, see `edgead.backends.open_backend`.
        cache_dir: Folder for compiled blobs; None compiles at each start.

    Attributes:
        float_parts: What floating-point operations compute in: f32, bf16 or f16.
        in_flight: Requests that keep it busy while others are prepared and finished.

    Raises:
        BackendError: PROVIDER when OpenVINO is not installed, MODEL_REFUSED when it refuses the
            model, MODEL_IO when it has not one input.
    """

    name = "openvino"

    def __init__(
        self,
        model: bytes,
        *,
        precision: str = "fp32",
        batch: int = 1,
        threads: int = 0,
        hint: str = "latency",
        cache_dir: str | None = None,
    ) -> None:
        try:
            self._ov: Any = importlib.import_module("openvino")
        except ImportError as error:
            raise BackendError(
                "PROVIDER",
                f"asked for openvino, which does not import ({error}).",
                "pip install 'edgead[cpu]'.",
            ) from error
        self.version = str(self._ov.__version__).split("-")[0]
        self.precision = precision
        models = 1
        if hint == "throughput":
            # A model for each thread, and not OpenVINO's streams: two streams share their weights, and
            # 2026.4 so computed an INT8 graph wrong (NF-BMR's, in 12 of 50 compilations).
            models, threads = threads or len(os.sched_getaffinity(0)), 1
        config = _config(threads, cache_dir)
        try:
            core = self._ov.Core()
            graph = core.read_model(model, b"")
            hints = _hints(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
            if graph.has_rt_info(_FLOAT_PARTS):
                hints = [str(graph.get_rt_info(_FLOAT_PARTS).value)]
            if len(graph.inputs) != 1:
                raise BackendError(
                    "MODEL_IO", f"the graph has {len(graph.inputs)} inputs; need one, 'image'."
                )
            name = graph.inputs[0].get_any_name()
            shape = [batch, *list(graph.inputs[0].get_partial_shape())[1:]]
            graph.reshape({name: self._ov.PartialShape(shape)})
            compiled = [_compile(core, graph, config, hints) for _ in range(models)]
        except BackendError:
            raise
        except RuntimeError as error:
            raise BackendError(
                "MODEL_REFUSED",
                f"openvino {self.version} refuses the model: {_first_line(error)}",
                "Check the bundle: edgead verify BUNDLE --backend onnxruntime.",
            ) from error
        self._compiled: list[Any] = [model for model, _ in compiled]
        self.float_parts = compiled[0][1]
        self._opened = 0
        self.in_flight = models + 2  # one is prepared and one finished meanwhile
        self.device = str(core.get_property("CPU", "FULL_DEVICE_NAME"))
        self.inputs: Mapping[str, TensorSpec] = {
            spec.name: spec for spec in map(_spec, self._compiled[0].inputs)
        }
        self.outputs: Mapping[str, TensorSpec] = {
            spec.name: spec for spec in map(_spec, self._compiled[0].outputs)
        }

    def open_request(self) -> OpenVinoRequest:
        """A new request with buffers of its own."""
        if not self._compiled:
            raise BackendError("CLOSED", "this back end is closed.", "Open the detector again.")
        model = self._compiled[self._opened % len(self._compiled)]
        self._opened += 1
        return OpenVinoRequest(
            model.create_infer_request(), self._ov.Tensor, self.inputs, tuple(self.outputs)
        )

    def each_copy(self) -> list[OpenVinoBackend]:
        """This back end with one of its models at a time, so that each can be checked."""
        found = [copy.copy(self) for _ in self._compiled]
        for one, model in zip(found, self._compiled, strict=True):
            vars(one).update(_compiled=[model])
        return found

    def close(self) -> None:
        """Free what was compiled."""
        self._compiled = []


def _config(threads: int, cache_dir: str | None) -> dict[str, Any]:
    """OpenVINO's properties but for the precision."""
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    if cache_dir:
        config["CACHE_DIR"] = cache_dir
    if 0 < threads < len(os.sched_getaffinity(0)):
        # Pinned, the threads of every process would take the same first CPUs: two processes of one
        # thread each judged no more than one did.
        config["ENABLE_CPU_PINNING"] = False
    return config


def _hints(precision: str, able: Collection[str]) -> list[str]:
    """What to ask the CPU to compute floating point in, best first."""
    if precision == "fp16" and "FP16" not in able:
        return ["f32"]  # asked for f16 it would take bf16, with fewer bits than the graph has
    if precision == "int8":
        return ["bf16", "f32"] if "BF16" in able else ["f32"]
    return [_HINTS[precision]]


def _compile(core: Any, graph: Any, config: dict[str, Any], hints: list[str]) -> tuple[Any, str]:
    """The compiled model, and the hint that it was compiled with."""
    hint, *others = hints
    try:
        model = core.compile_model(graph, "CPU", {**config, "INFERENCE_PRECISION_HINT": hint})
    except RuntimeError:
        if not others:
            raise
        # 2026.4 fails on some mixtures of INT8 and bf16 layers: "object is not initialized".
        return _compile(core, graph, config, others)
    return model, hint


class OpenVinoRequest:
    """One OpenVINO inference in flight."""

    device = "cpu"

    def __init__(
        self,
        request: Any,
        tensor: Callable[..., Any],
        inputs: Mapping[str, TensorSpec],
        outputs: tuple[str, ...],
    ) -> None:
        self._request, self._tensor = request, tensor
        self._inputs, self._outputs = inputs, outputs
        self._held: list[Array] = []
        self._is_started = False

    def start(self, feeds: Mapping[str, Array]) -> None:
        """Start without copying the inputs."""
        for name, array in feeds.items():  # OpenVINO would convert another type without a word
            spec = self._inputs.get(name)
            if spec is not None and array.dtype != spec.dtype:
                raise BackendError(
                    "BACKEND_ERROR",
                    f"openvino failed: input {name!r} is {array.dtype}; want {spec.dtype}.",
                )
        try:  # its own way of taking arrays costs a hundredth of a small model's time
            # OpenVINO refuses others than these. It does not own what it reads: that is kept here.
            self._held = [np.require(array, requirements=["C", "W"]) for array in feeds.values()]
            for name, usable in zip(feeds, self._held, strict=True):
                self._request.set_tensor(name, self._tensor(usable, shared_memory=True))
            self._request.start_async()
        except RuntimeError as error:
            raise _failed(error) from error
        self._is_started = True

    def wait(self, timeout_s: float | None = None) -> Mapping[str, Array]:
        """Outputs as views of the request's own buffers."""
        if not self._is_started:
            raise BackendError("NOT_STARTED", "wait() before start().", "Call start() first.")
        try:
            if timeout_s is None:
                self._request.wait()
            elif not self._request.wait_for(int(timeout_s * 1000)):
                raise BackendError(
                    "INFER_TIMEOUT", f"inference took longer than {timeout_s * 1000:.0f} ms."
                )
            return {name: self._request.get_tensor(name).data for name in self._outputs}
        except RuntimeError as error:
            if isinstance(error, BackendError):
                raise
            raise _failed(error) from error

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, NDArray[np.generic]]:
        """`start`, `wait` and copy."""
        self.start(feeds)
        return {name: np.array(data) for name, data in self.wait().items()}


def _spec(port: Any) -> TensorSpec:
    partial = port.get_partial_shape()
    shape = tuple(d.get_length() if d.is_static else -1 for d in partial)
    return TensorSpec(port.get_any_name(), shape, port.get_element_type().to_dtype().name)


def _failed(error: Exception) -> BackendError:
    return BackendError("BACKEND_ERROR", f"openvino failed: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
