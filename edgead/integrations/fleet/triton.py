"""`edgead export-triton`: a bundle as a Triton model repository of two models.

``NAME_engine`` is the graph, run by Triton's onnxruntime, openvino or tensorrt back end, with dynamic
batching and warm-up from the golden images. ``NAME`` is what clients ask: a Python step that takes a camera
frame and gives verdict, score, map and regions. It is the run-time's own code (`edgead.scorer`,
`edgead.postprocess`) with Triton as its engine, so the server's verdicts are `Detector`'s; it holds the
bundle whole and judges its golden images before the first frame. Triton's Python needs ``edgead`` installed.

Source: Triton Inference Server documentation, "Model configuration", "Model repository", "Python back end:
business logic scripting"; the configuration is written with Triton's own protobuf schema.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgead import files
from edgead.backends import member_for, open_backend
from edgead.backends.base import TensorSpec
from edgead.backends.trt.header import MAGIC, unpack_vouched
from edgead.bundle import Bundle, read_bundle
from edgead.errors import BundleError, ConfigError, StorageError
from edgead.frame import PixelFormat
from edgead.golden import golden_frame
from edgead.integrations.fleet.optional import triton_config
from edgead.manifest import FrameSpec
from edgead.preprocess import Preprocess

__all__ = ["BUNDLE_FILE", "export_triton"]

BUNDLE_FILE = "part.edgead"
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*$")
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "float16": "TYPE_FP16"}
#: Requests wait so long for company; far below what an engine takes for one of them.
_QUEUE_US = 500
#: The Python step: Triton wants a class of this name.
_STEP = '''"""A camera frame's verdict; see edgead.integrations.fleet.triton_step."""

from edgead.integrations.fleet.triton_step import Step as TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
_ENGINES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt"}
Engine = Literal["onnxruntime", "openvino", "tensorrt"]
Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class _Plan:
    """What is exported, settled before anything is written."""

    name: str
    bundle: Bundle
    backend: str
    precision: str
    model: bytes
    file: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    batch: int  # 0: the graph takes one frame at a time
    device: str
    instances: int


def export_triton(
    bundle: str | Path,
    folder: str | Path,
    *,
    name: str = "edgead",
    backend: Engine = "onnxruntime",
    precision: str = "fp32",
    engine: str | Path | None = None,
    device: Device = "auto",
    max_batch: int = 8,
    instances: int = 2,
) -> dict[str, Any]:
    """Write a model repository.

    Args:
        bundle: The bundle.
        folder: The repository; made when missing. Other models in it are left alone.
        name: The model that clients ask; the graph is ``<name>_engine``.
        backend: Triton's back end for the graph; ``tensorrt`` needs ``engine``.
        precision: fp32, fp16 or int8: which of the bundle's graphs.
        engine: A TensorRT engine of this bundle: a file of ``edgead build``, or a bare plan.
        device: Where the graph runs; ``auto`` leaves it to Triton.
        max_batch: Frames that one inference takes at most, where the graph takes several.
        instances: Python steps, each a process; as many frames are judged at a time.

    Returns:
        ``repository``, ``models``, ``backend``, ``precision``, ``max_batch``, ``bundle_hash``.

    Raises:
        ConfigError: TRITON_OPTION, TRITON_MISSING.
        BundleError: TRITON_ENGINE when the engine is another model's; PRECISION_MISSING.
        StorageError: TRITON_EXISTS when the models are there already; DISK_FULL and its like.
    """
    _check(name, backend, engine, device, max_batch, instances)
    loaded = read_bundle(bundle)
    model, file, most = _model(loaded, backend, precision, engine, max_batch)
    # The CPU engine tells inputs and outputs, which every precision and engine of the bundle shares.
    opened = open_backend("onnxruntime", loaded.members)
    takes_any = opened.inputs["image"].shape[0] == -1
    plan = _Plan(
        name, loaded, backend, precision, model, file, dict(opened.inputs), dict(opened.outputs),
        most if takes_any else 0, device, instances,
    )  # fmt: skip
    opened.close()
    root = Path(folder)
    made = {f"{name}_engine": _engine_files(plan), name: _step_files(plan)}
    for model_name in made:
        if (root / model_name).exists():
            raise StorageError(
                "TRITON_EXISTS",
                f"{root / model_name} exists; a model in use is never overwritten.",
                "Give another --name, or delete it first.",
            )
    for model_name, contents in made.items():
        for path, data in contents.items():
            target = root / model_name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(target, data)
    return {
        "repository": str(root),
        "models": sorted(made),
        "backend": backend,
        "precision": precision,
        "max_batch": plan.batch,
        "bundle_hash": loaded.hash,
    }


def _check(
    name: str, backend: str, engine: Any, device: str, max_batch: int, instances: int
) -> None:
    problems = [
        (not _NAME.match(name), f"name is {name!r}; want letters, digits, _ and -"),
        (backend not in _ENGINES, f"backend is {backend!r}; want {', '.join(_ENGINES)}"),
        (device not in ("auto", "cpu", "gpu"), f"device is {device!r}; want auto, cpu or gpu"),
        (max_batch < 1 or instances < 1, "max_batch and instances want 1 or more"),
        (
            (backend == "tensorrt") != (engine is not None),
            "tensorrt, and it alone, wants an engine file: edgead build BUNDLE --out FILE",
        ),
    ]
    for is_wrong, text in problems:
        if is_wrong:
            raise ConfigError("TRITON_OPTION", f"{text}.")


def _model(
    bundle: Bundle, backend: str, precision: str, engine: str | Path | None, max_batch: int
) -> tuple[bytes, str, int]:
    """The graph's bytes, their file's name, and how many frames it takes at most."""
    if engine is None:
        return (
            bundle.members[member_for(backend, precision, bundle.members)],
            "model.onnx",
            max_batch,
        )
    try:
        data = Path(engine).read_bytes()
    except OSError as error:
        raise BundleError(
            "TRITON_ENGINE", f"cannot read {engine}: {error.strerror}.", "Build it: edgead build."
        ) from error
    if not data.startswith(MAGIC):
        return data, "model.plan", max_batch  # a bare plan: its owner answers for it
    key, plan, _ = unpack_vouched(data, source=str(engine))
    models = {hashlib.sha256(m).hexdigest(): n for n, m in bundle.members.items()}
    if key.model not in models or key.backend != "tensorrt":
        raise BundleError(
            "TRITON_ENGINE",
            f"{engine} is a {key.backend} engine of model {key.model[:12]}, which is not in the bundle."
            if key.model not in models
            else f"{engine} is a {key.backend} engine; Triton loads tensorrt's.",
            "Build one of this bundle: edgead build BUNDLE --backend tensorrt --out FILE.",
        )
    return plan, "model.plan", min(max_batch, int(key.shapes["batch"][-1]))


def _engine_files(plan: _Plan) -> dict[str, bytes]:
    """Configuration, graph and warm-up of ``NAME_engine``."""
    schema = triton_config()
    config = schema.ModelConfig(name=f"{plan.name}_engine", backend=plan.backend)
    if plan.backend == "tensorrt":
        config.platform = "tensorrt_plan"
    config.max_batch_size = plan.batch
    config.default_model_filename = plan.file
    for spec in plan.inputs.values():
        config.input.add(name=spec.name, data_type=_type(spec), dims=_dims(spec, plan.batch))
    for spec in plan.outputs.values():
        config.output.add(name=spec.name, data_type=_type(spec), dims=_dims(spec, plan.batch))
    kinds = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}
    kind = {"openvino": "KIND_CPU", "tensorrt": "KIND_GPU"}.get(plan.backend, kinds[plan.device])
    config.instance_group.add(kind=schema.ModelInstanceGroup.Kind.Value(kind), count=1)
    if plan.batch:
        config.dynamic_batching.max_queue_delay_microseconds = _QUEUE_US
    found = {f"1/{plan.file}": plan.model}
    image = plan.inputs["image"]
    for name, tensor in _golden_tensors(plan.bundle).items():
        sample = config.model_warmup.add(name=name, batch_size=1)
        entry = sample.inputs["image"]
        entry.data_type, entry.input_data_file = _type(image), name
        entry.dims.extend(_dims(image, plan.batch))
        found[f"warmup/{name}"] = tensor.tobytes()
    return {"config.pbtxt": _text(config), **found}


def _step_files(plan: _Plan) -> dict[str, bytes]:
    """Configuration, Python step and bundle of ``NAME``."""
    schema, spec = triton_config(), plan.bundle.manifest.frame
    config = schema.ModelConfig(name=plan.name, backend="python", max_batch_size=0)
    wide = "TYPE_UINT8" if spec.depth == 8 else "TYPE_UINT16"
    config.input.add(name="FRAME", data_type=_value(wide), dims=_frame_dims(spec))
    for name, kind, dims in (
        ("VERDICT", "TYPE_UINT8", [1]),
        ("SCORE", "TYPE_FP64", [1]),
        ("THRESHOLD", "TYPE_FP64", [1]),
        ("MAP", "TYPE_FP32", [-1, -1]),
        ("REGIONS", "TYPE_UINT8", [-1]),
        ("BUNDLE", "TYPE_UINT8", [64]),
    ):
        config.output.add(name=name, data_type=_value(kind), dims=dims)
    cpu = schema.ModelInstanceGroup.Kind.Value("KIND_CPU")
    config.instance_group.add(kind=cpu, count=plan.instances)
    told = {
        "engine": f"{plan.name}_engine",
        "precision": plan.precision,
        "max_batch": str(plan.batch),
        "bundle_hash": plan.bundle.hash,
    }
    for key, value in told.items():
        config.parameters[key].string_value = value
    return {
        "config.pbtxt": _text(config),
        "1/model.py": _STEP.encode(),
        f"1/{BUNDLE_FILE}": plan.bundle.to_bytes(),
    }


def _golden_tensors(bundle: Bundle) -> dict[str, np.ndarray[Any, Any]]:
    """Engine inputs of the golden images; of a tiled view the first tiles are as good as any."""
    manifest = bundle.manifest
    if manifest.view.tiles is not None:
        return {}
    prepare = Preprocess.of(bundle)
    return {
        f"golden_{i}": prepare(golden_frame(bundle, golden.name), check_ranges=False)[0]
        for i, golden in enumerate(manifest.golden)
    }


def _frame_dims(spec: FrameSpec) -> list[int]:
    """Shape of a frame's array; -1 where images of any size are judged."""
    rows, columns = (-1, -1) if spec.size is None else spec.size
    if spec.format is PixelFormat.NV12:
        return [rows if rows < 0 else rows * 3 // 2, columns]
    channels = {PixelFormat.MONO8: 0, PixelFormat.MONO16: 0, PixelFormat.BAYER_RG8: 0}
    count = channels.get(spec.format, 4 if spec.format is PixelFormat.BGRX8 else 3)
    return [rows, columns, count] if count else [rows, columns]


def _dims(spec: TensorSpec, batch: int) -> list[int]:
    """Triton adds the batch itself where there is one."""
    return list(spec.shape[1:]) if batch else [1, *spec.shape[1:]]


def _type(spec: TensorSpec) -> int:
    return _value(_TYPES[spec.dtype])


def _value(name: str) -> int:
    return int(triton_config().DataType.Value(name))


def _text(config: Any) -> bytes:
    printed: str = importlib.import_module("google.protobuf.text_format").MessageToString(config)
    return printed.encode()
