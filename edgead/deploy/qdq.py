"""Explicit symmetric Q/DQ: INT8 as a property of the graph, in the forms that engines take.

========= ============================== ================================================
form      member                         for
========= ============================== ================================================
``s8``    ``model.int8.onnx``            OpenVINO, TensorRT-RTX, TensorRT 11; int8 weights
``u8s8``  ``model.int8-u8s8.onnx``       ONNX Runtime on x86, whose S8S8 is slower than FP32
``qdq``   ``model.int8-qdq.onnx``        TensorRT 8.6-10: FP32 weights and Q/DQ on them
``qdq``   ``model.int8-conv.onnx``       the same without quantised sums: the coarser layout that
                                         TensorRT falls back to when it refuses the finer one
========= ============================== ================================================

Weights are symmetric per output channel, activations per tensor; ``s8`` and ``qdq`` have zero points
of 0 and no quantised bias, as TensorRT demands. A layer whose activations stay in floating point
keeps its eight-bit weights all the same: they cost little accuracy and three quarters of its bytes.
What must have finer weights stores them as FP16, which engines read back as FP32. The layout is ONNX
Runtime's `QDQQuantizer`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgead.deploy.rewrite import centred
from edgead.errors import BundleError

__all__ = [
    "CONV_ONLY",
    "FLOAT_PARTS",
    "FORMS",
    "Form",
    "Layout",
    "Levels",
    "costs",
    "first_depthwise",
    "int8_model",
    "quantisable",
]

Form = Literal["s8", "u8s8", "qdq"]
#: Initialiser -> int8 levels, and the step of each output channel.
Levels = Mapping[str, tuple[NDArray[np.int8], NDArray[np.float32]]]
Layout = Literal["all", "conv-only"]
#: Form -> bundle member.
FORMS: Final[dict[Form, str]] = {
    "s8": "model.int8.onnx",
    "u8s8": "model.int8-u8s8.onnx",
    "qdq": "model.int8-qdq.onnx",
}
#: Bundle member in the coarser layout, in the form that every TensorRT takes.
CONV_ONLY: Final = "model.int8-conv.onnx"
#: Key of the graph's note on what its floating-point parts must be computed in.
FLOAT_PARTS: Final = "float_parts"
#: Weights of a floating-point layer that save nothing as eight bits (OpenVINO's kernel for a 1x1
#: convolution with eight-bit weights took five times as long for 1,024 of them).
_FEW: Final = 4096
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Between quantised layers ONNX Runtime computes these on the integers, when they are quantised too.
#: Averages and interpolation are not among them: they would round once more.
_PASSED_ON_U8 = ("Clip", "Relu", "LeakyRelu", "MaxPool")


def quantisable(model: onnx.ModelProto, *, layout: Layout = "all") -> list[str]:
    """Names of the nodes that INT8 pays for: layers with constant weights, and residual additions.

    Args:
        model: The FP32 graph.
        layout: ``conv-only`` leaves the additions in floating point: the coarser layout to fall
            back to where an engine refuses the finer one.
    """
    constants = {item.name for item in model.graph.initializer}
    weighted = [
        node.name
        for node in model.graph.node
        if node.op_type in _WEIGHTED
        and node.input[1] in constants
        and node.input[0] not in constants
    ]
    if layout == "conv-only":
        return weighted
    # Only sums of what quantised layers make: elsewhere an addition is part of some arithmetic.
    makers = {name: node for node in model.graph.node for name in node.output}
    sums: list[str] = []
    taken = set(weighted)
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        if all(_comes_from(name, makers, taken) for name in node.input):
            sums.append(node.name)
            taken.add(node.name)
    return [node.name for node in model.graph.node if node.name in taken]


def first_depthwise(model: onnx.ModelProto) -> set[str]:
    """Name of the first depthwise convolution, the one layer that eight bits hurt on every backbone.

    It reads the stem, whose channels differ most in range, and has nine weights an output to average
    rounding over. Measured on bottle with EfficientNet-Lite0, INT8 moved scores by 0.14, 0.07 and
    0.32 score_scale (TrisimpleNet, MLFF, SLSG; root mean square); with this layer in floating point
    TrisimpleNet's moved by 0.045 and MLFF's by 0.047.
    """
    shapes = {item.name: list(item.dims) for item in model.graph.initializer}
    for node in model.graph.node:
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        if node.op_type == "Conv" and group > 1 and shapes.get(node.input[1], [0, 0])[1] == 1:
            return {node.name}
    return set()


def costs(model: onnx.ModelProto) -> dict[str, float]:
    """Time of each layer and sum in floating point, in multiply-adds.

    A value read or written is taken for sixteen multiply-adds, about what a CPU with vectors of
    sixteen floats does meanwhile: depthwise layers and sums wait for memory.
    """
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {item.name: list(item.dims) for item in typed.graph.initializer}
    for value in (*typed.graph.value_info, *typed.graph.input, *typed.graph.output):
        shapes[value.name] = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    sizes = {name: float(np.prod(shape)) for name, shape in shapes.items()}
    found = {}
    for node in typed.graph.node:
        moved = sum(sizes.get(name, 0.0) for name in (*node.input, *node.output))
        work = 0.0
        if node.op_type in _WEIGHTED and node.input[1] in shapes:
            # Each weight is used once an output position.
            out = shapes.get(node.output[0], [])
            places = out[2:] if node.op_type.startswith("Conv") else out[:-1]
            work = sizes[node.input[1]] * float(np.prod(places))
        found[node.name] = work + 16 * moved
    return found


def int8_model(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    nodes: Collection[str],
    form: Form,
    levels: Levels | None = None,
    *,
    float_parts: str = "",
) -> bytes:
    """Quantise the named nodes.

    Args:
        model: The FP32 graph; weights in ``levels`` lie on them already.
        ranges: (low, high) of each float activation.
        nodes: Names to quantise; the rest computes in floating point.
        form: Which engines it is for.
        levels: Of `edgead.deploy.rounding.round_weights`; these weights are stored as eight bits,
            also where their layer is not among ``nodes``.
        float_parts: What an engine must compute the rest in, ``f32``; empty leaves it the choice.

    Raises:
        BundleError: QUANTIZE_FAILED with the tool's own reason in ``__cause__``.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    unsigned = form == "u8s8"
    if not unsigned:
        model, ranges = centred(model, ranges)
    typed = onnx.shape_inference.infer_shapes(model)
    spans: dict[str, Any] = {name: _span(low, high) for name, (low, high) in ranges.items()}
    chosen, operators = _chosen(typed, set(nodes), unsigned)
    options = _options(form, operators)
    activation = QuantType.QUInt8 if unsigned else QuantType.QInt8
    level = logging.getLogger().level
    try:
        logging.getLogger().setLevel(logging.ERROR)  # the tool warns through the root logger
        quantizer = QDQQuantizer(
            typed, True, False, QuantType.QInt8, activation,
            TensorsData(CalibrationMethod.MinMax, spans), sorted(chosen), [], sorted(operators),
            options,
        )  # fmt: skip
        if chosen:  # no names would mean every node
            quantizer.quantize_model()
        made = quantizer.model.model
        _read_floats(made, typed, chosen, unsigned=unsigned)
        _store_levels(made, levels or {}, in_float=form == "qdq")
        if form != "qdq":
            _store_halves(made)
        quantizer.model.topological_sort()
        _tidy(made)
        if float_parts:
            made.metadata_props.add(key=FLOAT_PARTS, value=float_parts)
        onnx.checker.check_model(made, full_check=True)
    except Exception as error:  # the tool raises plain ValueError, KeyError and AttributeError
        raise BundleError(
            "QUANTIZE_FAILED",
            f"INT8 ({form}) cannot be written: {str(error).splitlines()[0] if str(error) else error!r}",
            "Keep the failing part in floating point, or use layout conv-only.",
        ) from error
    finally:
        logging.getLogger().setLevel(level)
    return bytes(made.SerializeToString())


def _chosen(typed: onnx.ModelProto, nodes: set[str], unsigned: bool) -> tuple[set[str], set[str]]:
    """Names of the nodes that the tool is told to quantise, and their operators."""
    operators = {node.op_type for node in typed.graph.node if node.name in nodes}
    if not unsigned:
        return nodes, operators
    nodes = _read_as_integers(typed, nodes)
    return nodes | _between(typed, nodes), operators | set(_PASSED_ON_U8)


def _options(form: Form, operators: Collection[str]) -> dict[str, Any]:
    """ONNX Runtime's options for a form."""
    options: dict[str, Any] = {
        "ActivationSymmetric": form != "u8s8",
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "AddQDQPairToWeight": form == "qdq",
        "DedicatedQDQPair": True,
    }
    if form != "u8s8":
        options["OpTypesToExcludeOutputQuantization"] = sorted(operators)
    return options


def _span(low: float, high: float) -> tuple[np.float32, np.float32]:
    """Symmetric where there are both signs: a defect may swing as far the other way."""
    top = max(-low, high)
    return (np.float32(-top if low < 0 else low), np.float32(top))


def _comes_from(name: str, makers: Mapping[str, onnx.NodeProto], taken: Collection[str]) -> bool:
    """Whether a tensor is made by a taken node, looking through activation functions."""
    node = makers.get(name)
    while node is not None and node.op_type in ("Clip", "Relu", "LeakyRelu", "MaxPool"):
        node = makers.get(node.input[0])
    return node is not None and node.name in taken


def _read_as_integers(model: onnx.ModelProto, chosen: Collection[str]) -> set[str]:
    """Nodes that quantised ones read, since ONNX Runtime rounds what a quantised node gives.

    A sum that a node in floating point reads as well stays in floating point: it costs little there.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    whole: set[str] = set()  # read as integers
    parts: set[str] = set()  # read in floating point
    for node in model.graph.node:
        if node.op_type in _PASSED_ON_U8:
            continue
        for name in node.input:
            maker = makers.get(name)
            while maker is not None and maker.op_type in _PASSED_ON_U8:
                maker = makers.get(maker.input[0])
            if maker is not None and maker.name in chosen:
                (whole if node.name in chosen else parts).add(maker.name)
    sums = {node.name for node in model.graph.node if node.op_type == "Add"}
    return whole - (sums & parts)


def _between(model: onnx.ModelProto, chosen: Collection[str]) -> set[str]:
    """Nodes that only pass quantised layers' values on: made by one of them."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    for node in model.graph.node:  # in topological order
        if node.op_type not in _PASSED_ON_U8:
            continue
        sources = [makers.get(name) for name in node.input if name in makers]
        if sources and all(s is not None and s.name in {*chosen, *found} for s in sources[:1]):
            found.add(node.name)
    return found


def _read_floats(
    model: onnx.ModelProto, before: onnx.ModelProto, chosen: Collection[str], *, unsigned: bool
) -> None:
    """Let floating-point nodes read a tensor itself where the tool made them read it rounded.

    It quantises a tensor for all that read it. What a float part read so was rounded for nothing, and
    OpenVINO computed wrong values where such a rounded tensor was sliced in front of a float layer. In
    ``u8s8`` what a quantised node gives is rounded already.
    """
    inputs = {tuple(node.output): list(node.input) for node in before.graph.node}
    exact = {
        name
        for node in before.graph.node
        if not (unsigned and node.name in chosen)
        for name in node.output
    }
    for node in model.graph.node:
        if node.name in chosen:
            continue
        for index, name in enumerate(inputs.get(tuple(node.output), [])):
            if name in exact:
                node.input[index] = name


def _store_levels(model: onnx.ModelProto, levels: Levels, *, in_float: bool) -> None:
    """Put weights on their own levels, where the tool found steps of its own or left them alone."""
    graph = model.graph
    items = {item.name: item for item in graph.initializer}
    for name, (kept, step) in levels.items():
        scale, stored = f"{name}_scale", f"{name}_quantized"
        if scale in items:  # the tool's: the same weights, on steps of their largest level
            items[scale].CopyFrom(numpy_helper.from_array(step, scale))
            if not in_float:
                items[stored].CopyFrom(numpy_helper.from_array(kept, stored))
            continue
        if name not in items or kept.size < _FEW:
            continue
        zeros = np.zeros(len(step), dtype=np.int8)
        made = {scale: step, f"{name}_zero_point": zeros}
        source = name if in_float else stored
        if not in_float:
            graph.initializer.remove(items[name])
            made[stored] = kept
        graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in made.items())
        inputs = [source, scale, f"{name}_zero_point"]
        if in_float:
            graph.node.append(helper.make_node("QuantizeLinear", inputs, [stored], axis=0))
            inputs[0] = stored
        read = f"{name}_dequantized"
        for node in graph.node:
            for index, one in enumerate(node.input):
                if one == name and node.op_type != "QuantizeLinear":
                    node.input[index] = read
        graph.node.append(helper.make_node("DequantizeLinear", inputs, [read], axis=0))


def _store_halves(model: onnx.ModelProto) -> None:
    """Keep the weights that are no levels as FP16, half the bytes; a cast that engines fold reads them."""
    graph, largest = model.graph, np.finfo(np.float16).max
    steps = {n for node in graph.node if node.op_type.endswith("antizeLinear") for n in node.input}
    for item in [one for one in graph.initializer if one.data_type == TensorProto.FLOAT]:
        values, name = numpy_helper.to_array(item), item.name
        if values.size < _FEW or name in steps or not np.abs(values).max() <= largest:
            continue
        stored = f"{name}_half"
        item.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        cast = helper.make_node("Cast", [stored], [name], name=f"{name}_cast", to=TensorProto.FLOAT)
        graph.node.insert(0, cast)


def _tidy(model: onnx.ModelProto) -> None:
    """Only what the run-time's own walk over ONNX files knows: standard domain, no tool's traces."""
    del model.metadata_props[:]
    kept = [item for item in model.opset_import if item.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.producer_name, model.producer_version = "edgead", ""
    del model.graph.value_info[:]
