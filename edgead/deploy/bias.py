"""Bias correction: what rounding weights and activations adds to a layer on average is taken back.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV
2019, section 4.2. Each layer's shift is measured on the FP32 network's own activations, E[W x] -
E[Q(W) Q(x)], so that no layer is corrected for what another one does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgead.deploy.activations import watch

__all__ = ["corrected"]

_FRAMES = 16
_STEPS = 127  # of a symmetric int8


def corrected(
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    nodes: Collection[str],
    tensors: Sequence[NDArray[np.uint8]],
) -> onnx.ModelProto:
    """The FP32 graph with the biases of its quantised convolutions corrected.

    Args:
        model: The FP32 graph.
        ranges: (low, high) of each float activation.
        nodes: Quantised nodes; convolutions with a bias among them are corrected.
        tensors: Engine inputs (1, h, w, 3) uint8; the first sixteen are used.
    """
    weights = {item.name: item for item in model.graph.initializer}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    layers: list[tuple[str, str]] = []  # output, bias
    for node in model.graph.node:
        if node.name not in nodes or node.op_type != "Conv" or len(node.input) < 3:
            continue
        source, weight, bias = node.input[:3]
        if weight in weights and bias in weights and source in ranges:
            _add_twin(probe.graph, node, numpy_helper.to_array(weights[weight]), ranges[source])
            layers.append((node.output[0], bias))
    if not layers:
        return model
    names = [name for output, _ in layers for name in (output, _twin(output))]
    totals: dict[str, NDArray[np.float64]] = {}
    used = tensors[:_FRAMES]
    for values in watch(probe, used, names):
        for name, array in values.items():
            mean = array.mean(axis=(0, 2, 3), dtype=np.float64)
            totals[name] = totals[name] + mean if name in totals else mean
    result = onnx.ModelProto()
    result.CopyFrom(model)
    shift = {bias: (totals[out] - totals[_twin(out)]) / len(used) for out, bias in layers}
    for item in result.graph.initializer:
        if item.name in shift:
            value = numpy_helper.to_array(item) + shift[item.name].astype(np.float32)
            item.CopyFrom(numpy_helper.from_array(value, item.name))
    return result


def _twin(name: str) -> str:
    return f"{name}_rounded"


def _add_twin(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    weight: NDArray[np.float32],
    span: tuple[float, float],
) -> None:
    """A second convolution with rounded weights that reads the same activation, rounded."""
    source, output = node.input[0], node.output[0]
    axes = tuple(range(1, weight.ndim))
    scale = np.maximum(np.abs(weight).max(axis=axes, keepdims=True) / _STEPS, 1e-12)
    rounded = (np.round(weight / scale) * scale).astype(np.float32)
    step = np.float32(max(abs(span[0]), abs(span[1])) / _STEPS)
    made = {
        f"{output}_step": np.array(step),
        f"{output}_zero": np.array(0, dtype=np.int8),
        f"{output}_weight": rounded,
    }
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in made.items())
    step_name, zero, weight_name = made
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.name = _twin(node.name)
    twin.input[0], twin.input[1] = f"{output}_in", weight_name
    twin.output[0] = _twin(output)
    graph.node.extend(
        [
            helper.make_node("QuantizeLinear", [source, step_name, zero], [f"{output}_int"]),
            helper.make_node(
                "DequantizeLinear", [f"{output}_int", step_name, zero], [f"{output}_in"]
            ),
            twin,
        ]
    )
