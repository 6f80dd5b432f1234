"""Explicit symmetric Q/DQ: INT8 as a property of the graph, in the forms that engines take.

========= ============================== ================================================
form      member                         for
========= ============================== ================================================
``s8``    ``model.int8.onnx``            OpenVINO, TensorRT-RTX, TensorRT 11; int8 weights
``u8s8``  ``model.int8-u8s8.onnx``       ONNX Runtime on x86, whose S8S8 is slower than FP32
``qdq``   ``model.int8-qdq.onnx``        TensorRT 8.6-10: FP32 weights and Q/DQ on them
========= ============================== ================================================

Weights are symmetric per output channel, activations per tensor; ``s8`` and ``qdq`` have zero points
of 0 and no quantised bias, as TensorRT demands. The layout is ONNX Runtime's `QDQQuantizer`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

import numpy as np
import onnx

from edgead.errors import BundleError

__all__ = ["FORMS", "Form", "Layout", "int8_model", "quantisable", "weight_bytes"]

Form = Literal["s8", "u8s8", "qdq"]
Layout = Literal["all", "conv-only"]
#: Form -> bundle member.
FORMS: Final[dict[Form, str]] = {
    "s8": "model.int8.onnx",
    "u8s8": "model.int8-u8s8.onnx",
    "qdq": "model.int8-qdq.onnx",
}
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Between quantised layers ONNX Runtime computes these on the integers, when they are quantised too.
_PASSED_ON_U8 = ("Clip", "Relu", "LeakyRelu", "AveragePool", "MaxPool", "Concat", "Resize")


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


def weight_bytes(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of constants that each node reads."""
    sizes = {item.name: len(item.raw_data) for item in model.graph.initializer}
    return {node.name: sum(sizes.get(name, 0) for name in node.input) for node in model.graph.node}


def int8_model(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    nodes: Collection[str],
    form: Form,
) -> bytes:
    """Quantise the named nodes.

    Args:
        model: The FP32 graph.
        ranges: (low, high) of each float activation.
        nodes: Names to quantise; the rest stays as it is.
        form: Which engines it is for.

    Raises:
        BundleError: QUANTIZE_FAILED with the tool's own reason in ``__cause__``.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    typed = onnx.shape_inference.infer_shapes(model)
    spans: dict[str, Any] = {
        name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()
    }
    unsigned = form == "u8s8"
    chosen = set(nodes)
    operators = {node.op_type for node in typed.graph.node if node.name in chosen}
    if unsigned:
        passed = _between(typed, chosen)
        chosen, operators = chosen | passed, operators | set(_PASSED_ON_U8)
    options: dict[str, Any] = {
        "ActivationSymmetric": not unsigned,
        "WeightSymmetric": True,
        "QuantizeBias": unsigned,
        "AddQDQPairToWeight": form == "qdq",
        "DedicatedQDQPair": not unsigned,
    }
    if not unsigned:
        options["OpTypesToExcludeOutputQuantization"] = sorted(operators)
    activation = QuantType.QUInt8 if unsigned else QuantType.QInt8
    level = logging.getLogger().level
    try:
        logging.getLogger().setLevel(logging.ERROR)  # the tool warns through the root logger
        quantizer = QDQQuantizer(
            typed, True, False, QuantType.QInt8, activation,
            TensorsData(CalibrationMethod.MinMax, spans), sorted(chosen), [], sorted(operators),
            options,
        )  # fmt: skip
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        made = quantizer.model.model
        _tidy(made)
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


def _comes_from(name: str, makers: Mapping[str, onnx.NodeProto], taken: Collection[str]) -> bool:
    """Whether a tensor is made by a taken node, looking through activation functions."""
    node = makers.get(name)
    while node is not None and node.op_type in ("Clip", "Relu", "LeakyRelu", "MaxPool"):
        node = makers.get(node.input[0])
    return node is not None and node.name in taken


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


def _tidy(model: onnx.ModelProto) -> None:
    """Only what the run-time's own walk over ONNX files knows: standard domain, no tool's traces."""
    del model.metadata_props[:]
    kept = [item for item in model.opset_import if item.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.producer_name, model.producer_version = "edgead", ""
    del model.graph.value_info[:]
