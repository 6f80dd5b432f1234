"""TensorRT in Python, of any of the eight versions in ``tensorrt_api/api.json``.

Its classes have exactly the members that the real ones of that version have: using another one raises
AttributeError. A "model" is JSON that says what the fake shall do with it; a "plan" is JSON that says how it was
built; an engine computes ``out.flat[i] = mean(image) + i`` for each frame.

As a module of its own (``python -c "import tensorrt"`` with `shadow` on the path) it serves the build's child.
"""

from __future__ import annotations

import base64
import enum
import functools
import json
import os
import signal
import types
from pathlib import Path
from typing import Any

API = json.loads((Path(__file__).parent / "tensorrt_api" / "api.json").read_text())
VERSIONS: list[str] = API["versions"]
NUMPY = {"FLOAT": "f4", "HALF": "f2", "UINT8": "u1", "INT32": "i4", "INT8": "i1", "BF16": "u2"}


def generation(version: str) -> str:
    """8.6, 10, 11 or rtx."""
    return "rtx" if version.startswith("rtx") else "8.6" if version[0] == "8" else version[:2]


def members(version: str, name: str) -> set[str]:
    """Members of a class in a version; empty when the version lacks the class."""
    column = VERSIONS.index(version)
    return {m for m, mask in API["classes"][name].items() if mask[column] == "1"}


class Enum(enum.Enum):
    def __int__(self) -> int:
        return int(self.value)


def held(version: str, name: str, base: type) -> type:
    """``base`` with the public members of the real class, and no others."""
    allowed = members(version, name)

    def look(self: Any, attribute: str) -> Any:
        if not attribute.startswith("_") and attribute not in allowed:
            raise AttributeError(f"TensorRT {version}: {name} has no {attribute}")
        return base.__getattribute__(self, attribute)

    def put(self: Any, attribute: str, value: Any) -> None:
        if not attribute.startswith("_") and attribute not in allowed:
            raise AttributeError(f"TensorRT {version}: {name} has no {attribute}")
        base.__setattr__(self, attribute, value)

    return type(name, (base,), {"__getattribute__": look, "__setattr__": put})


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class IProgressMonitor:
    pass


class Tensor:
    def __init__(self, trt: Any, name: str, shape: list[int], dtype: str) -> None:
        self._trt = trt
        self.name, self.shape, self.dtype = name, tuple(shape), trt.DataType[dtype]


class Layer:
    def __init__(self, trt: Any, name: str, kind: str, dtype: str) -> None:
        self._trt, self._pins = trt, {}
        self.name, self.type, self.num_outputs = name, trt.LayerType[kind], 1
        self._output = trt._make("ITensor", Tensor, name, [1], dtype)

    def get_output(self, index: int) -> Tensor:
        return self._output

    @property
    def precision(self) -> str:
        return self._pins.get("precision", "")

    @precision.setter
    def precision(self, dtype: Any) -> None:
        self._pins["precision"] = str(dtype)

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._pins["output"] = str(dtype)


class Network:
    def __init__(self, trt: Any, flags: int) -> None:
        self._trt, self._flags, self._told = trt, flags, {}
        self._layers: list[Any] = []

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    @property
    def num_inputs(self) -> int:
        return len(self._told["inputs"])

    @property
    def num_outputs(self) -> int:
        return len(self._told["outputs"])

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    def get_input(self, index: int) -> Any:
        return self._trt._make("ITensor", Tensor, *self._told["inputs"][index])

    def get_output(self, index: int) -> Any:
        return self._trt._make("ITensor", Tensor, *self._told["outputs"][index])


class ParserError:
    def __init__(self, node: int, text: str) -> None:
        self._node, self._text = node, text

    def node(self) -> int:
        return self._node

    def desc(self) -> str:
        return self._text


class Parser:
    def __init__(self, network: Network, logger: Any) -> None:
        self._network, self._errors = network, []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        trt = self._network._trt
        told = json.loads(model) if model.startswith(b"{") else _told_of(model)
        if "parse_error" in told:
            self._errors = [trt._make("ParserError", ParserError, 7, told["parse_error"])]
            return False
        self._network._told = told
        self._network._layers = [
            trt._make("ILayer", Layer, *layer) for layer in told.get("layers", [])
        ]
        return True


class Profile:
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self._shapes[name] = [list(low), list(best), list(high)]


class TimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> bytes:
        return self._data + b"t"


class Config:
    def __init__(self, trt: Any) -> None:
        self._trt, self._set, self._cleared, self._pools = trt, [], [], {}
        self._profiles: list[Profile] = []
        self._targets: list[str] = []
        self._timings: Any = None
        self.builder_optimization_level = 3

    def set_flag(self, flag: Any) -> None:
        self._set.append(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._cleared.append(flag.name)

    def set_memory_pool_limit(self, pool: Any, nbytes: int) -> None:
        self._pools[pool.name] = nbytes

    def add_optimization_profile(self, profile: Profile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        self._targets.append(capability.name)
        return True

    def create_timing_cache(self, data: bytes) -> Any:
        return self._trt._make("ITimingCache", TimingCache, data)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._data.startswith(b"foreign"):
            return False
        self._timings = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timings


def host_memory(version: str, data: bytes) -> Any:
    class IHostMemory(bytes):
        @property
        def nbytes(self) -> int:
            return len(self)

    assert "nbytes" in members(version, "IHostMemory")
    return IHostMemory(data)


class Builder:
    def __init__(self, trt: Any, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    def create_network(self, flags: int = 0) -> Any:
        return self._trt._make("INetworkDefinition", Network, self._trt, flags)

    def create_builder_config(self) -> Any:
        return self._trt._make("IBuilderConfig", Config, self._trt)

    def create_optimization_profile(self) -> Any:
        return self._trt._make("IOptimizationProfile", Profile)

    def build_serialized_network(self, network: Network, config: Config) -> Any:
        trt, told = self._trt, network._told
        names = [n for n in ("EXPLICIT_BATCH", "STRONGLY_TYPED")
                 if n in members(trt._version, "NetworkDefinitionCreationFlag")
                 and network._flags >> int(trt.NetworkDefinitionCreationFlag[n]) & 1]  # fmt: skip
        does = told.get("build", "ok")
        if does == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if does == "abort":
            os.abort()
        if does == "oom":
            self._logger.log(ILogger.ERROR, "Cuda Runtime (out of memory)")
            return None
        if does == "refuse" or (does == "refuse strong" and "STRONGLY_TYPED" in names):
            self._logger.log(
                ILogger.ERROR, f"Error Code 10: Could not find any implementation ({does})"
            )
            return None
        if generation(trt._version) != "8.6":
            monitor = config.progress_monitor
            monitor.phase_start("Building engine", None, 2)
            monitor.phase_start("Timing", "Building engine", 9)
            for step in range(2):
                assert monitor.step_complete("Building engine", step)
            monitor.phase_finish("Building engine")
        plan = {
            "version": trt._version, "network": names, "flags": config._set, "cleared": config._cleared,
            "pools": config._pools, "targets": config._targets, "inputs": told["inputs"],
            "profiles": [p._shapes for p in config._profiles],
            "outputs": told["outputs"], "run": told.get("run", "ok"), "onnx": told.get("onnx"),
            "pins": {layer.name: layer._pins for layer in network._layers if layer._pins},
        }  # fmt: skip
        return host_memory(trt._version, json.dumps(plan).encode())


class Runtime:
    def __init__(self, trt: Any, logger: Any) -> None:
        self._trt, self._logger = trt, logger
        trt._counts["runtime"] += 1

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        self._trt._counts["deserialise"] += 1
        told = json.loads(plan)
        if told["run"] == "none":
            self._logger.log(
                ILogger.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: magicTag"
            )
            return None
        return self._trt._make("ICudaEngine", Engine, self._trt, told, self._logger)


class Engine:
    device_memory_size = device_memory_size_v2 = 5_000_000

    def __init__(self, trt: Any, told: dict[str, Any], logger: Any) -> None:
        self._trt, self._told, self._logger = trt, told, logger
        self._tensors = [*told["inputs"], *told["outputs"]]

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index][0])

    def _tensor(self, name: str) -> Any:
        return next(t for t in self._tensors if t[0] == name)

    def get_tensor_dtype(self, name: str) -> Any:
        return self._trt.DataType[self._tensor(name)[2]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensor(name)[1])

    def get_tensor_mode(self, name: str) -> Any:
        is_input = any(t[0] == name for t in self._told["inputs"])
        return self._trt.TensorIOMode["INPUT" if is_input else "OUTPUT"]

    def create_execution_context(self) -> Any:
        if self._told["run"] == "context oom":
            self._logger.log(ILogger.ERROR, "Requested amount of GPU memory: out of memory")
            return None
        return self._trt._make("IExecutionContext", Execution, self._trt, self)


class Execution:
    def __init__(self, trt: Any, engine: Engine) -> None:
        self._trt, self._engine, self._at, self._batch = trt, engine, {}, None

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._at[name] = int(address)
        return address % 256 == 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._batch = shape[0]
        low, _, high = self._engine._told["profiles"][0][name]
        return bool(low[0] <= shape[0] <= high[0])

    def is_stream_capturable(self, stream: int) -> bool:
        return self._engine._told["run"] != "not capturable"

    def execute_async_v3(self, stream: int) -> bool:
        trt, engine, at, batch = self._trt, self._engine, dict(self._at), self._batch
        trt._counts["enqueue"] += 1
        if engine._told["run"] == "false":
            engine._logger.log(
                ILogger.ERROR, "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime"
            )
            return False
        trt._cuda.enqueue(stream, functools.partial(_compute, trt._cuda, engine, at, batch))
        return True


def _compute(cuda: Any, engine: Engine, at: dict[str, int], batch: int | None) -> None:
    import numpy as np  # not at import: the build's child starts faster without

    def array(tensor: Any) -> Any:
        name, shape, dtype = tensor
        sizes = [batch if n == -1 else n for n in shape]
        nbytes = int(np.prod(sizes)) * np.dtype(NUMPY[dtype]).itemsize
        return cuda.at(at[name], nbytes).view(NUMPY[dtype]).reshape(sizes)

    image = array(engine._told["inputs"][0])
    if engine._told["onnx"]:
        import onnxruntime

        session = onnxruntime.InferenceSession(base64.b64decode(engine._told["onnx"]))
        outputs = session.run([t[0] for t in engine._told["outputs"]], {"image": image})
        for tensor, value in zip(engine._told["outputs"], outputs, strict=True):
            array(tensor)[...] = value
        return
    for tensor in engine._told["outputs"]:
        out = array(tensor)
        for row, frame in zip(out.reshape(len(image), -1), image, strict=True):
            row[:] = np.float64(frame.mean()) + np.arange(row.size)


def _told_of(model: bytes) -> dict[str, Any]:
    """A real ONNX file: its engine computes with ONNX Runtime."""
    import onnx

    graph = onnx.load_from_string(model).graph
    names = {onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.FLOAT: "FLOAT"}

    def described(value: Any) -> list[Any]:
        kind = value.type.tensor_type
        sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
        return [value.name, sizes, names[kind.elem_type]]

    return {
        "inputs": [described(value) for value in graph.input],
        "outputs": [described(value) for value in graph.output],
        "onnx": base64.b64encode(model).decode(),
    }


def make(version: str, cuda: Any = None) -> types.ModuleType:
    """A module that behaves as TensorRT of ``version``, running on ``cuda``."""
    trt = types.ModuleType("tensorrt_rtx" if version.startswith("rtx") else "tensorrt")
    trt.__version__ = version.removeprefix("rtx-")
    trt._version, trt._cuda = version, cuda
    trt._counts = {"runtime": 0, "deserialise": 0, "enqueue": 0}

    @functools.cache
    def class_of(name: str, base: type) -> type:
        return held(version, name, base)

    def construct(name: str, base: type, *arguments: Any) -> Any:
        if base in (Tensor, Layer):
            arguments = (trt, *arguments)
        return class_of(name, base)(*arguments)

    trt._make = construct
    for name in ("BuilderFlag", "ComputeCapability", "DataType", "LayerType", "MemoryPoolType",
                 "NetworkDefinitionCreationFlag", "TensorIOMode"):  # fmt: skip
        names = sorted(members(version, name))
        if names:
            setattr(trt, name, Enum(name, {n: i for i, n in enumerate(names)}))
    trt.ILogger = class_of("ILogger", ILogger)
    if members(version, "IProgressMonitor"):
        trt.IProgressMonitor = IProgressMonitor
    trt.Builder = lambda logger: construct("Builder", Builder, trt, logger)
    trt.OnnxParser = lambda network, logger: construct("OnnxParser", Parser, network, logger)
    trt.Runtime = lambda logger: construct("Runtime", Runtime, trt, logger)
    return trt


def model(**told: Any) -> bytes:
    """A model with an image in, a score and a map out, and what else ``told`` says."""
    batch = told.pop("batch", 1)
    return json.dumps({
        "inputs": [["image", [batch, 4, 6, 3], "UINT8"]],
        "outputs": [["score", [batch], "FLOAT"], ["anomaly_map", [batch, 1, 2, 3], "FLOAT"]],
        **told,
    }).encode()  # fmt: skip


def shadow(folder: Path, version: str) -> Path:
    """A folder that holds this fake as the installed module, for the build's child process."""
    name = "tensorrt_rtx" if version.startswith("rtx") else "tensorrt"
    here = Path(__file__).resolve().parent
    (folder / f"{name}.py").write_text(
        f"import sys\nsys.path.append({str(here)!r})\nimport fake_tensorrt\n"
        f"globals().update(vars(fake_tensorrt.make({version!r})))\n"
    )
    return folder
