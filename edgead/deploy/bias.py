"""Bias correction: what rounding the weights and activations adds to a layer on average is taken back.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV
2019, section 4.2, in its empirical form (appendix D): E[y_int8] - E[y_fp32] over calibration frames.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgead.deploy.activations import watch

__all__ = ["corrected"]

_FRAMES = 8
_STEPS = 6


def corrected(
    model: onnx.ModelProto,
    quantise: Callable[[onnx.ModelProto], bytes],
    nodes: Collection[str],
    tensors: Sequence[NDArray[np.uint8]],
) -> onnx.ModelProto:
    """The FP32 graph with biases that make its quantised form right on average.

    Layers are corrected from the input on, in a few steps of neighbouring layers: what the layers
    before still do wrong must not be corrected twice.

    Args:
        model: The FP32 graph.
        quantise: Makes its quantised form.
        nodes: Quantised nodes; convolutions with a bias among them are corrected.
        tensors: Engine inputs (1, h, w, 3) uint8; the first eight are used.
    """
    weights = {item.name for item in model.graph.initializer}
    layers = [
        (node.output[0], node.input[2])
        for node in model.graph.node
        if node.name in nodes
        and node.op_type == "Conv"
        and len(node.input) > 2
        and node.input[2] in weights
    ]
    used = tensors[:_FRAMES]
    wanted = _means(model, [output for output, _ in layers], used)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    size = max(1, -(-len(layers) // _STEPS))
    for start in range(0, len(layers), size):
        part = layers[start : start + size]
        quantised = onnx.load_from_string(quantise(result))
        found = _means(quantised, [output for output, _ in part], used)
        shift = {bias: wanted[output] - found[output] for output, bias in part}
        for item in result.graph.initializer:
            if item.name in shift:
                value = numpy_helper.to_array(item) + shift[item.name].astype(np.float32)
                item.CopyFrom(numpy_helper.from_array(value, item.name))
    return result


def _means(
    model: onnx.ModelProto, outputs: Sequence[str], tensors: Sequence[NDArray[np.uint8]]
) -> dict[str, NDArray[np.float64]]:
    """Mean of each channel of each tensor (n, C, h, w) over frames and positions. [C]"""
    totals = {name: np.zeros(1) for name in outputs}
    for values in watch(model, tensors, outputs):
        for name, array in values.items():
            totals[name] = totals[name] + array.mean(axis=(0, 2, 3), dtype=np.float64)
    return {name: total / len(tensors) for name, total in totals.items()}
