"""Running an engine: load, requests with buffers of their own, one stream each."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from edgead.backends.base import TensorSpec
from edgead.backends.trt import api, device
from edgead.backends.trt.build import Candidate, build_plan, make_key
from edgead.backends.trt.cache import EngineStore
from edgead.backends.trt.cuda import Context, primary_context, translated
from edgead.backends.trt.header import EngineKey
from edgead.backends.trt.log import Log, make_logger, says_out_of_memory
from edgead.backends.trt.options import PRECISIONS, TrtOptions
from edgead.backends.trt.request import TrtRequest
from edgead.errors import BackendError, ConfigError, StateError
from edgead.forks import keep_in_children

__all__ = ["TrtBackend", "open_backend"]

#: TensorRT's type names; its own table breaks with NumPy 1.24 and newer in version 8.6.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
#: Deserialising from several threads at once has ended processes (onnxruntime issue 20089).
_deserialise_lock = threading.Lock()


def open_backend(
    model: bytes,
    *,
    name: str,
    precision: str,
    cache_dir: str | Path | None = None,
    allow_build: bool = False,
    fallbacks: Sequence[Candidate] = (),
    options: TrtOptions | None = None,
) -> TrtBackend:
    """Load the engine of ``model``, and build it where that is allowed.

    CUDA is asked for a device before any object of TensorRT's run-time is made.

    Args:
        model: Bytes of the ONNX file.
        name: tensorrt or tensorrt-rtx.
        precision: fp32, fp16 or int8: what the model is.
        cache_dir: Engine cache; None is the user's own.
        allow_build: Build a missing engine now, which takes seconds to minutes. Never set it in a
            camera loop.
        fallbacks: (precision, model) to take in turn when the engine before cannot be had; what was
            taken is in the back end's ``precision`` and ``notes``.
        options: How to run and build.

    Raises:
        ConfigError: BACKEND_UNKNOWN or PRECISION_UNKNOWN.
        BackendError: NO_DRIVER, NO_GPU, PROVIDER, TENSORRT_TOO_OLD, the ENGINE_ codes of the cache,
            the codes of `build_engine`, ENGINE_REFUSED when TensorRT does not take the engine,
            DEVICE_OOM.
    """
    options = options or TrtOptions()
    candidates = [(precision, model), *fallbacks]
    for kind, _ in candidates:
        if kind not in PRECISIONS:
            raise ConfigError(
                "PRECISION_UNKNOWN", f"precision {kind!r} is not one of {PRECISIONS}."
            )
    if name not in api.MODULES:
        api.api_for(name, "0")
    cuda, gpu = device.require_gpu(name, device_index=options.device_index)
    context = primary_context(options.device_index)
    trt = api.load(name)
    store = EngineStore(cache_dir)
    notes: list[str] = []
    for position, (kind, data) in enumerate(candidates):
        key = make_key(
            data, name=name, precision=kind, version=str(trt.__version__), cuda=cuda, gpu=gpu,
            target=None, options=options,
        )  # fmt: skip
        try:
            plan = _plan_of(data, key, store, gpu, options, allow_build=allow_build)
        except BackendError as error:
            if position + 1 == len(candidates) or not _can_fall_back(error):
                raise
            notes.append(f"{kind} could not be had: {error}")
            continue
        return TrtBackend(
            trt,
            plan,
            key=key,
            gpu=gpu,
            context=context,
            options=options,
            store=store,
            notes=tuple(notes),
        )
    raise AssertionError("unreachable: the last candidate returns or raises")


def _plan_of(
    model: bytes,
    key: EngineKey,
    store: EngineStore,
    gpu: device.Gpu,
    options: TrtOptions,
    *,
    allow_build: bool,
) -> bytes:
    try:
        return store.load(key, bundle=options.bundle)
    except BackendError:
        if not allow_build:
            raise
    with store.no_camera_loop(force=options.force):
        return store.get_or_build(
            key, lambda: build_plan(model, key, store=store, gpu=gpu, options=options)
        )


def _can_fall_back(error: BackendError) -> bool:
    return error.code.startswith("ENGINE_") or error.code in ("BUILD_REFUSED", "MODEL_REFUSED")


class TrtBackend:
    """A loaded engine; see `edgead.backends.base.Backend`.

    Attributes:
        key: What the engine was built for.
        gpu: The device.
        notes: What differs from what was asked for, in words.
        activation_bytes: Device memory of one request beside its inputs and outputs.
        largest_batch: Images that one inference takes at the most, where its batch is free.
        maps_memory: The GPU reads and writes host memory that it touches once.
    """

    def __init__(
        self,
        trt: ModuleType,
        plan: bytes,
        *,
        key: EngineKey,
        gpu: device.Gpu,
        context: Context,
        options: TrtOptions,
        store: EngineStore,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name = key.backend
        self.version = key.backend_version
        self.device = gpu.name
        self.precision = key.precision
        self.key, self.gpu, self.notes, self.options = key, gpu, notes, options
        self.largest_batch = options.batch[2]
        is_own = options.memory == "auto" and gpu.integrated
        self.maps_memory = options.memory == "mapped" or is_own
        self.context = context
        self.is_lost = False
        self._row = api.api_for(key.backend, key.backend_version)
        self._store, self._held = store, contextlib.ExitStack()
        self._pid = os.getpid()
        self._requests: weakref.WeakSet[TrtRequest] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._runtime, self._log = _runtime(trt)
        keep_in_children(self)
        self._log.clear()
        with context.active(), translated(), _deserialise_lock:
            self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._refused("ENGINE_REFUSED", "did not take the engine")
        self.activation_bytes = int(getattr(self._engine, self._row.memory_size))
        specs = [_spec(trt, self._engine, i) for i in range(self._engine.num_io_tensors)]
        self.inputs: Mapping[str, TensorSpec] = {s.name: s for is_in, s in specs if is_in}
        self.outputs: Mapping[str, TensorSpec] = {s.name: s for is_in, s in specs if not is_in}

    def open_request(self, *, device_io: bool = False) -> TrtRequest:
        """A request with an execution context, stream and buffers of its own, run once.

        Args:
            device_io: Inputs and outputs are in device memory, for kernels that write and read
                them there: `wait` copies nothing back, and nothing is mapped.

        Raises:
            BackendError: DEVICE_OOM when the GPU cannot hold it; CLOSED; DEVICE_LOST.
        """
        self.check_usable()
        self._log.clear()
        with self.context.active() as driver, translated():
            execution = self._engine.create_execution_context()
            if execution is None:
                free, _ = driver.mem_get_info()
                raise self._refused(
                    "BACKEND_ERROR",
                    f"made no execution context (it needs {self.activation_bytes / 1e6:.0f} MB, "
                    f"{free / 1e6:.0f} MB are free on {self.device})",
                )
        request = TrtRequest(
            self,
            execution,
            asks_capturable=self._row.asks_capturable,
            device_io=device_io,
        )
        with self._lock:
            self._requests.add(request)
        try:
            request.warm_up()
        except BaseException:
            self._discard(request)
            raise
        return request

    def hold_off_builds(self) -> None:
        """Say that a camera loop runs: until `close`, builds on this machine are refused."""
        self.check_usable()
        with self._lock:
            self._held.close()
            self._held.enter_context(self._store.camera_loop())

    def close(self) -> None:
        """Free the requests and the engine; safe to call twice. In a forked child does nothing."""
        with self._lock:
            requests = list(self._requests)
            self._requests.clear()
            self._held.close()
        if self._engine is None or os.getpid() != self._pid:
            return
        with self.context.active():
            for request in requests:
                request.close()
            self._engine = None

    def check_usable(self) -> None:
        """Refuse use after close, after the device was lost, and in a forked child."""
        if os.getpid() != self._pid:
            raise StateError(
                "FORKED",
                f"this back end was opened in process {self._pid}, this is {os.getpid()}.",
                "Open it after the fork; CUDA does not survive one.",
            )
        if self._engine is None:
            raise BackendError("CLOSED", "this back end is closed.", "Open the detector again.")
        if self.is_lost:
            raise BackendError(
                "DEVICE_LOST",
                "the GPU's context was lost in an earlier call.",
                "Restart the process; nothing in it can use the GPU any more.",
            )

    def reason(self) -> str:
        """What the library logged last."""
        return self._log.reason()

    def _discard(self, request: TrtRequest) -> None:
        with self._lock:
            self._requests.discard(request)
        with self.context.active():
            request.close()

    def _refused(self, code: str, what: str) -> BackendError:
        reason = self._log.reason()
        if says_out_of_memory(reason):
            code = "DEVICE_OOM"
        return BackendError(
            code,
            f"{self.name} {self.version} on {self.device} {what}: {reason}.",
            "Close other programs that use the GPU."
            if code == "DEVICE_OOM"
            else f"Build it again: edgead build {self.options.bundle} --backend {self.name} "
            f"--precision {self.precision}.",
        )


@functools.cache
def _runtime(trt: ModuleType) -> tuple[Any, Log]:
    """The process's one run-time of a library: it wants a single logger for all its objects."""
    log = Log()
    try:
        return trt.Runtime(make_logger(trt, log)), log
    except TypeError as error:  # pybind11's word for a factory that returned nothing
        raise BackendError(
            "PROVIDER_BROKEN", f"{trt.__name__} made no run-time: {log.reason()}."
        ) from error


def _spec(trt: Any, engine: Any, index: int) -> tuple[bool, TensorSpec]:
    name = engine.get_tensor_name(index)
    dtype = str(engine.get_tensor_dtype(name)).rpartition(".")[2]
    if dtype not in _DTYPES:
        raise BackendError("ENGINE_REFUSED", f"engine tensor {name} has type {dtype}.")
    shape = tuple(int(n) for n in engine.get_tensor_shape(name))
    if any(n < 0 for n in shape[1:]):
        raise BackendError("ENGINE_REFUSED", f"engine tensor {name} has the free shape {shape}.")
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    return is_input, TensorSpec(name, shape, _DTYPES[dtype])
