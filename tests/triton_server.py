"""Triton's Python back end for tests: `triton_python_backend_utils` over ONNX Runtime, and Triton's gRPC service.

Models are loaded from the repository's own files, by the configuration in its own schema.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import triton_to_np_dtype

__all__ = ["Server", "config_of", "grpc_service"]

MODULE = "triton_python_backend_utils"


def config_of(folder: Path) -> Any:
    """A model's ``config.pbtxt``, read with Triton's own schema."""
    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def dtype_of(data_type: int) -> Any:
    name = model_config_pb2.DataType.Name(data_type).removeprefix("TYPE_")
    return triton_to_np_dtype(name)


class Tensor:
    def __init__(self, name: str, value: NDArray[Any]) -> None:
        self.name, self._value = name, value

    @staticmethod
    def from_dlpack(name: str, value: NDArray[Any]) -> Tensor:
        return Tensor(name, np.from_dlpack(value))

    def __dlpack__(self, **options: Any) -> Any:
        return self._value.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._value.__dlpack_device__()

    def as_numpy(self) -> NDArray[Any]:
        return self._value


class Error:
    def __init__(self, text: str) -> None:
        self._text = text

    def message(self) -> str:
        return self._text


class Response:
    def __init__(self, output_tensors: Any = (), error: Error | None = None) -> None:
        self.tensors = {tensor.name: tensor for tensor in output_tensors}
        self._error = error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> Error | None:
        return self._error


class Server:
    """A repository's models: graphs on ONNX Runtime, the Python step as Triton would call it."""

    def __init__(self, repository: Path, name: str = "edgead") -> None:
        self.repository, self.name = repository, name
        self.configs = {path.name: config_of(path) for path in sorted(repository.iterdir())}
        self.sessions = {
            model: onnxruntime.InferenceSession(
                repository / model / "1" / config.default_model_filename,
                providers=["CPUExecutionProvider"],
            )
            for model, config in self.configs.items()
            if config.backend == "onnxruntime"
        }
        self.asked = 0
        sys.modules[MODULE] = self._module()
        code = runpy.run_path(str(repository / name / "1" / "model.py"))
        self.step = code["TritonPythonModel"]()
        self.step.initialize(
            {
                "model_config": json.dumps(
                    json_format.MessageToDict(self.configs[name], preserving_proto_field_name=True)
                ),
                "model_repository": str(repository / name),
                "model_version": "1",
            }
        )

    def close(self) -> None:
        self.step.finalize()
        sys.modules.pop(MODULE, None)

    def judge(self, pixels: NDArray[Any]) -> Response:
        (response,) = self.step.execute([Response([Tensor("FRAME", pixels)])])
        return response

    def infer(self, model: str, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """A graph's outputs; types and shapes must be the configuration's."""
        config, self.asked = self.configs[model], self.asked + 1
        for spec in config.input:
            batch = [-1] if config.max_batch_size else []
            assert feeds[spec.name].dtype == dtype_of(spec.data_type)
            self._fits(feeds[spec.name].shape, [*batch, *spec.dims])
            assert not batch or feeds[spec.name].shape[0] <= config.max_batch_size
        names = [spec.name for spec in config.output]
        found = dict(zip(names, self.sessions[model].run(names, feeds), strict=True))
        for spec in config.output:
            assert found[spec.name].dtype == dtype_of(spec.data_type)
        return found

    def check_outputs(self, response: Response) -> None:
        """What the step answers is what its configuration promises."""
        for spec in self.configs[self.name].output:
            value = response.tensors[spec.name].as_numpy()
            assert value.dtype == dtype_of(spec.data_type), spec.name
            self._fits(value.shape, list(spec.dims))

    @staticmethod
    def _fits(shape: tuple[int, ...], dims: list[int]) -> None:
        assert len(shape) == len(dims)
        assert all(d in (-1, n) for n, d in zip(shape, dims, strict=True)), (shape, dims)

    def _module(self) -> ModuleType:
        server, module = self, ModuleType(MODULE)

        class InferenceRequest:
            def __init__(
                self,
                model_name: str,
                requested_output_names: Any,
                inputs: Any,
                preferred_memory: Any,
            ) -> None:
                self.model, self.inputs = model_name, {one.name: one for one in inputs}

            def exec(self) -> Response:
                try:
                    feeds = {name: one.as_numpy() for name, one in self.inputs.items()}
                    found = server.infer(self.model, feeds)
                except Exception as error:  # the server answers whatever happens
                    return Response(error=Error(f"{type(error).__name__}"))
                return Response([Tensor(name, value) for name, value in found.items()])

        def by_name(holder: Any, name: str) -> Any:
            return holder.tensors[name]

        module.__dict__.update(
            Tensor=Tensor, TritonError=Error, InferenceResponse=Response,
            InferenceRequest=InferenceRequest, PreferredMemory=lambda *_: None,
            TRITONSERVER_MEMORY_CPU=0, get_input_tensor_by_name=by_name,
            get_output_tensor_by_name=by_name,
        )  # fmt: skip
        return module


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, server: Server) -> None:
        self._server = server

    def ModelInfer(self, request: Any, context: Any) -> Any:
        import grpc

        (given,) = request.inputs
        pixels = np.frombuffer(request.raw_input_contents[0], triton_to_np_dtype(given.datatype))
        response = self._server.judge(pixels.reshape(given.shape))
        if response.has_error():
            context.abort(grpc.StatusCode.INTERNAL, response.error().message())  # type: ignore[union-attr]
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        for spec in self._server.configs[request.model_name].output:
            value = response.tensors[spec.name].as_numpy()
            kind = model_config_pb2.DataType.Name(spec.data_type).removeprefix("TYPE_")
            answer.outputs.add(name=spec.name, datatype=kind, shape=value.shape)
            answer.raw_output_contents.append(value.tobytes())
        return answer


@contextmanager
def grpc_service(server: Server) -> Iterator[str]:
    """Triton's inference service on a free port of the loopback: its address."""
    import grpc

    service = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(server), service)
    port = service.add_insecure_port("127.0.0.1:0")
    service.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        service.stop(None).wait()
