"""An anomaly model that another program exported -> a bundle: its network, our thresholds.

What is taken: a graph from one float32 RGB picture in 0..1, (n, 3, h, w), to an ``anomaly_map`` (n, 1, h', w'), as
anomalib exports its models (normalisation inside). Its own score, label and mask are left out: they hold a
threshold that was baked in. Here the score is the map's maximum, and the threshold is learnt from good images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxsim
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgead import files
from edgead._version import __version__
from edgead.backends import open_backend
from edgead.bundle import MODEL, Bundle, write_bundle
from edgead.errors import BundleError, ConfigError
from edgead.evaluate import data
from edgead.evaluate.commission import ENGINE_TOLERANCE, commission, frame_spec
from edgead.evaluate.threshold import Threshold
from edgead.manifest import NOT_COMMISSIONED, HeadSpec, InputSpec, Manifest, Training

__all__ = ["Imported", "import_model", "wrapped"]

MAP = "anomaly_map"
_MAX_BYTES = 1 << 30
_OLDEST_OPSET = 13  # the first whose Squeeze takes its axes as an input


@dataclass(frozen=True)
class Imported:
    """A model in a bundle of its own.

    Attributes:
        bundle: The bundle, as written.
        promise: What its threshold promises.
        parity: Largest difference of a map from the original's, over score_scale.
    """

    bundle: Bundle
    promise: Threshold
    parity: float


def import_model(
    model: str | Path,
    good: str | Path,
    out: str | Path,
    *,
    image_size: int | None = None,
    false_reject_rate: float = 0.01,
    confidence: float = 0.95,
    seed: int = 0,
) -> Imported:
    """Bundle an ONNX file; threshold, score_scale and golden images come from good images.

    Args:
        model: The ONNX file, one picture in, ``anomaly_map`` out.
        good: Folder of good images that the model was *not* trained on.
        out: The ``.edgead`` file.
        image_size: Side of the engine input, where the graph leaves it open.
        false_reject_rate: Share of good parts that the line may reject.
        confidence: How surely.
        seed: Of the simulated defects among the golden images.

    Raises:
        BundleError: IMPORT_GRAPH, IMPORT_PARITY, and those of a bundle's model.
        ConfigError: IMAGE_SIZE.
        CalibrationError: As `edgead.evaluate.commission.commission`.
    """
    files.check_target(out)
    original = files.read_bytes(model, max_bytes=_MAX_BYTES)
    graph, size = wrapped(original, image_size)
    paths = data.find_images(good)
    frames = data.load_images(paths)
    manifest = Manifest(
        edgead=__version__,
        method="imported",
        config={"file": Path(model).name, "sha256": data.file_hash(Path(model))},
        backbone="imported",
        frame=frame_spec(frames),
        input=InputSpec(size=size, mean=[0.0] * 3, std=[255.0] * 3),
        head=HeadSpec(kind="max", sigma=0.0),
        thresholds=NOT_COMMISSIONED,
        training=Training(
            set_hash="", images=0, seed=seed, epochs=0, seconds=0.0, weights=Path(model).name,
            versions={"onnx": onnx.__version__},
        ),
        golden=[],
        members={},
    )  # fmt: skip
    draft = Bundle.build(manifest, {MODEL: graph})
    ready = commission(
        draft,
        open_backend("onnxruntime", draft.members),
        frames,
        false_reject_rate=false_reject_rate,
        confidence=confidence,
        seed=seed,
    )
    scale = ready.bundle.manifest.thresholds.score_scale
    parity = _parity(original, [(one.tensor, one.anomaly_map) for one in ready.scored]) / scale
    if not parity <= ENGINE_TOLERANCE:
        raise BundleError(
            "IMPORT_PARITY",
            f"the bundled graph's map differs by {parity:.2g} of score_scale from {model}'s own; "
            f"at most {ENGINE_TOLERANCE:g} is allowed.",
            "The bundle was not written.",
        )
    write_bundle(out, ready.bundle)
    return Imported(ready.bundle, ready.promise, parity)


def wrapped(model: bytes, image_size: int | None = None) -> tuple[bytes, tuple[int, int]]:
    """The graph with our input, (n, h, w, 3) uint8 BGR, and its ``anomaly_map`` as (n, h', w').

    Args:
        model: ONNX file.
        image_size: As `import_model`.

    Returns:
        ONNX file, and (h, w).

    Raises:
        BundleError: IMPORT_GRAPH with what was found and what is wanted.
        ConfigError: IMAGE_SIZE.
    """
    try:
        proto = onnx.load_from_string(model)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf's and the checker's errors share no base class
        raise _refused(f"it is no ONNX model: {str(error).splitlines()[0]}") from error
    graph = proto.graph
    initial = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initial]
    outputs = {value.name: value for value in graph.output}
    if len(inputs) != 1 or MAP not in outputs:
        raise _refused(
            f"its inputs are {[value.name for value in inputs]} and its outputs {list(outputs)}; "
            f"want one picture in and {MAP!r} among the outputs"
        )
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise _refused(f"its opset is {opset}; want {_OLDEST_OPSET} or later")
    size = _check_input(inputs[0], image_size)
    old_input, old_map = inputs[0].name, outputs[MAP]
    rank = len(old_map.type.tensor_type.shape.dim)
    if rank not in (3, 4):
        raise _refused(f"its {MAP} has {rank} dimensions; want (n, 1, h, w) or (n, h, w)")
    inner = f"{MAP}/imported"
    for node in graph.node:
        node.output[:] = [inner if name == MAP else name for name in node.output]
        node.input[:] = [inner if name == MAP else name for name in node.input]
    nodes = [*_before(old_input), *graph.node, _after(inner, rank)]
    constants = [
        helper.make_tensor("edgead/order", TensorProto.INT64, [3], [2, 1, 0]),
        helper.make_tensor("edgead/scale", TensorProto.FLOAT, [1], [1 / 255]),
        helper.make_tensor("edgead/axis", TensorProto.INT64, [1], [1]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", *size, 3])
    native = helper.make_tensor_value_info(MAP, TensorProto.FLOAT, ["n", None, None])
    made = helper.make_graph(nodes, "edgead", [image], [native], [*graph.initializer, *constants])
    result = helper.make_model(made, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    simplified, fits = onnxsim.simplify(result)  # what led to the outputs left out goes, too
    if not fits:
        raise _refused("the simplified graph computes something else")
    onnx.checker.check_model(simplified, full_check=True)
    return bytes(simplified.SerializeToString()), size


def _before(name: str) -> list[onnx.NodeProto]:
    """(n, h, w, 3) uint8 BGR -> what the graph expects: (n, 3, h, w) float32 RGB in 0..1."""
    return [
        # Cast first: TensorRT takes a uint8 input into a Cast and into nothing else.
        helper.make_node("Cast", ["image"], ["edgead/float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["edgead/float"], ["edgead/planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["edgead/planes", "edgead/order"], ["edgead/rgb"], axis=1),
        helper.make_node("Mul", ["edgead/rgb", "edgead/scale"], [name]),
    ]


def _after(inner: str, rank: int) -> onnx.NodeProto:
    if rank == 3:
        return helper.make_node("Identity", [inner], [MAP])
    return helper.make_node("Squeeze", [inner, "edgead/axis"], [MAP])


def _check_input(value: onnx.ValueInfoProto, asked: int | None) -> tuple[int, int]:
    """(h, w) of the input."""
    kind = value.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT or len(shape) != 4 or shape[1] not in (3, None):
        raise _refused(f"its input is {shape}; want float32 (n, 3, h, w), RGB in 0..1")
    if shape[0] not in (1, None):
        raise _refused(
            f"a batch of {shape[0]} is baked into its input {shape}; a camera gives one frame"
        )
    height, width = shape[2] or asked, shape[3] or asked
    if height is None or width is None:
        raise ConfigError(
            "IMAGE_SIZE", f"the graph leaves its input size open: {shape}.", "Give --image-size."
        )
    if asked is not None and (height, width) != (asked, asked):
        raise ConfigError(
            "IMAGE_SIZE", f"image size is {asked}; the graph wants {height} x {width}."
        )
    return height, width


def _parity(original: bytes, judged: list[tuple[NDArray[np.uint8], NDArray[np.float32]]]) -> float:
    """Largest difference of our maps from the original graph's, fed as its makers feed it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(original, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    worst = 0.0
    for picture, ours in judged:
        planes = picture[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
        (theirs,) = session.run([MAP], {given.name: np.ascontiguousarray(planes)})
        worst = max(worst, float(np.abs(theirs.reshape(ours.shape) - ours).max()))
    return worst


def _refused(what: str) -> BundleError:
    return BundleError(
        "IMPORT_GRAPH",
        f"the model cannot be imported: {what}.",
        "anomalib: engine.export(model, ExportType.ONNX, input_size=(256, 256)).",
    )
