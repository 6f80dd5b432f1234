"""The build itself, alone in a process of its own: one JSON job in, JSON lines out.

A build takes gigabytes and may be killed by the kernel for it, so it must not share a process with
anything, and it imports nothing but TensorRT and the version table. The parent is
`edgead.backends.trt.build`. Lines on stdout: ``{"progress": ...}``, ``{"note": ...}``, and last
``{"result": ...}`` or ``{"error": {"code", "message"}}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from edgead.backends.trt import api
from edgead.backends.trt.log import Log, make_logger, says_out_of_memory
from edgead.errors import BackendError

__all__ = ["build", "main"]

_PR_SET_PDEATHSIG = 1
#: Layers whose type is their purpose; pinning a precision on them is refused or meaningless.
_UNPINNED = {
    *("CONSTANT", "SHAPE", "CAST", "QUANTIZE", "DEQUANTIZE", "IDENTITY", "SHUFFLE", "SLICE"),
    *("GATHER", "CONCATENATION", "CONDITION", "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT"),
    *("ITERATOR", "LOOP_OUTPUT", "TRIP_LIMIT", "RECURRENCE"),
}


def build(job: dict[str, Any], say: Any) -> dict[str, Any]:
    """Parse and build one model; returns what the engine is.

    Args:
        job: name, model (path), plan (path), precision, typing, batch, optimization_level,
            workspace_bytes or None, timing_cache (path to read) or None, timings_out (path), target
            or None.
        say: Called with one JSON-able dict for each event.

    Raises:
        BackendError: MODEL_REFUSED when the parser refuses the model, BUILD_REFUSED when the
            builder does, DEVICE_OOM when it says that memory ran out.
    """
    trt = api.load(job["name"])
    row = api.api_for(job["name"], str(trt.__version__))
    log = Log()
    logger = make_logger(trt, log)
    started = time.monotonic()
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # pybind11's word for a factory that returned nothing
        raise _refused(log, job) from error
    network = builder.create_network(_network_flags(trt, row, job["typing"]))
    _parse(trt, network, logger, job)
    config = builder.create_builder_config()
    _configure(trt, row, config, job, say)
    if job["typing"] == "flags":
        _allow_types(trt, config, network, job["precision"], say)
    is_dynamic = _add_profile(builder, config, network, job["batch"])
    cache = _load_timings(row, config, job)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refused(log, job)
    Path(job["plan"]).write_bytes(plan)
    if cache is not None:
        Path(job["timings_out"]).write_bytes(config.get_timing_cache().serialize())
    return {
        "seconds": time.monotonic() - started,
        "bytes": plan.nbytes,
        "version": str(trt.__version__),
        "typing": job["typing"],
        "layers": network.num_layers,
        "is_dynamic": is_dynamic,
        "inputs": [_described(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_described(network.get_output(i)) for i in range(network.num_outputs)],
    }


def _network_flags(trt: Any, row: api.Api, typing: str) -> int:
    flags = 0
    if row.explicit_batch:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if typing == "strong":
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def _parse(trt: Any, network: Any, logger: Any, job: dict[str, Any]) -> None:
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(Path(job["model"]).read_bytes())
    if parsed and network.num_outputs > 0:
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    said = "; ".join(f"node {error.node()}: {error.desc()}" for error in errors[:3])
    # Some rubbish is parsed without an error, into a network without outputs.
    said = said or "it holds no graph with outputs"
    raise BackendError(
        "MODEL_REFUSED",
        f"the parser of {job['name']} {trt.__version__} refuses the {job['precision']} model: "
        f"{said}.",
    )


def _configure(trt: Any, row: api.Api, config: Any, job: dict[str, Any], say: Any) -> None:
    config.builder_optimization_level = job["optimization_level"]
    if job["precision"] == "fp32":
        # TF32 keeps 10 of 23 mantissa bits: on by default, and not FP32.
        config.clear_flag(trt.BuilderFlag.TF32)
    if job["workspace_bytes"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace_bytes"])
    if row.has_targets:
        name = "CURRENT" if job["target"] is None else job["target"].upper()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    if row.has_progress:
        config.progress_monitor = _make_monitor(trt, say)


def _make_monitor(trt: Any, say: Any) -> Any:
    """Reports the outermost phase only: the inner ones repeat hundreds of times."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.steps[phase_name] = num_steps
                say({"progress": {"phase": phase_name, "step": 0, "steps": num_steps}})

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                steps = self.steps[phase_name]
                say({"progress": {"phase": phase_name, "step": step + 1, "steps": steps}})
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _allow_types(trt: Any, config: Any, network: Any, precision: str, say: Any) -> None:
    """Allow what the graph's types need, and hold the layers that the graph keeps in FP32."""
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    half = [layer for layer in layers if _output_types(layer) == {"HALF"}]
    if precision != "fp16" and not half:
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if not half:
        say(
            {"note": "this version does not show the graph's FP16 types: no layer was held in FP32"}
        )
        return
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for layer in layers:
        if _output_types(layer) == {"FLOAT"} and _enum_name(layer.type) not in _UNPINNED:
            layer.precision = trt.DataType.FLOAT
            for output in range(layer.num_outputs):
                layer.set_output_type(output, trt.DataType.FLOAT)


def _add_profile(builder: Any, config: Any, network: Any, batch: list[int]) -> bool:
    """Give a graph of free batch size its range; True when it has one."""
    free = [
        tensor
        for tensor in (network.get_input(i) for i in range(network.num_inputs))
        if -1 in tuple(tensor.shape)
    ]
    if not free:
        return False
    profile = builder.create_optimization_profile()
    for tensor in free:
        sizes = tuple(tensor.shape)
        if -1 in sizes[1:]:
            raise BackendError(
                "MODEL_REFUSED",
                f"input {tensor.name} has shape {sizes}; only the first size, the batch, "
                "may be free.",
            )
        shapes = [(n, *sizes[1:]) for n in batch]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    return True


def _load_timings(row: api.Api, config: Any, job: dict[str, Any]) -> Any:
    if not row.has_timing_cache or job["timing_cache"] is None:
        return None
    path = Path(job["timing_cache"])
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    # Timings of another GPU or version are refused here (False); then this build starts without.
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _described(tensor: Any) -> dict[str, Any]:
    dtype = _enum_name(tensor.dtype)
    return {"name": tensor.name, "shape": [int(n) for n in tensor.shape], "dtype": dtype}


def _output_types(layer: Any) -> set[str]:
    return {_enum_name(layer.get_output(i).dtype) for i in range(layer.num_outputs)}


def _enum_name(value: Any) -> str:
    return str(value).rpartition(".")[2]


def _refused(log: Log, job: dict[str, Any]) -> BackendError:
    reason = log.reason()
    if says_out_of_memory(reason):
        return BackendError(
            "DEVICE_OOM", f"{job['name']} ran out of memory while building: {reason}."
        )
    return BackendError(
        "BUILD_REFUSED", f"{job['name']} cannot build the {job['precision']} engine: {reason}."
    )


def _follow_parent(parent: int) -> None:
    """Die with the parent: the lock it held is free, and the next builder must find a free GPU."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    with contextlib.suppress(OSError):
        # If memory runs out the kernel shall take the build, not the camera loop beside it.
        Path("/proc/self/oom_score_adj").write_text("1000")


def main(arguments: list[str]) -> int:
    """Run the job file named by the first argument for the parent named by the second."""
    _follow_parent(int(arguments[1]))
    # The library may print on stdout; our lines go to a private copy of it.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(event: dict[str, Any]) -> None:
        lines.write(json.dumps(event) + "\n")

    try:
        say({"result": build(json.loads(Path(arguments[0]).read_text()), say)})
    except BackendError as error:
        say({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
        return 3
    except MemoryError as error:
        say({"error": {"code": "DEVICE_OOM", "message": f"no memory: {error}.", "hint": ""}})
        return 3
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        say({"error": {"code": "BUILD_REFUSED", "message": text, "hint": ""}})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
