"""Weights to eight bits so that what a layer computes changes least, not the weights themselves.

Rounding each weight to the nearest level ruins layers whose weights cancel, such as the first
depthwise convolution of a MobileNet: nine large weights of which little is left in the sum. Here a
weight's rounding error is carried on to the weights whose inputs move with its own, in the second
moments of the layer's inputs over calibration frames, and what is left on average goes into the bias.

Source: Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers, ICLR 2023, equations 2 and 3 with the order of section 3.3 and damping of 1 %; bias
correction: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV
2019, section 4.2. Inputs are centred where a bias can take the mean, so that both do not pull apart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgead.deploy.activations import watch

__all__ = ["LEVELS", "Rounded", "round_weights"]

LEVELS: Final = 127  # magnitudes of a symmetric int8
_FRAMES, _POSITIONS = 24, 1024  # of a layer's input: at most that many of each frame's positions
_DAMPING = 0.01  # of the mean diagonal, as in the paper's own code
_LARGEST = 4096  # inputs of one output; beyond, the matrices outgrow a small machine's memory


@dataclass(frozen=True, eq=False)
class Rounded:
    """Weights on eight-bit levels.

    Attributes:
        model: The FP32 graph with weights on their levels and corrected biases.
        levels: Initialiser -> int8 levels in the weight's shape, and the step of each output channel.
    """

    model: onnx.ModelProto
    levels: Mapping[str, tuple[NDArray[np.int8], NDArray[np.float32]]]

    def restored(self, original: onnx.ModelProto, nodes: Collection[str]) -> Rounded:
        """The same with these nodes' weights and biases as they were in ``original``."""
        given = {item.name: item for item in original.graph.initializer}
        names = {
            name
            for node in original.graph.node
            if node.name in nodes
            for name in node.input[1:3]
            if name in given
        }
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for item in model.graph.initializer:
            if item.name in names:
                item.CopyFrom(given[item.name])
        return Rounded(model, {k: v for k, v in self.levels.items() if k not in names})


def round_weights(
    model: onnx.ModelProto, nodes: Collection[str], tensors: Sequence[NDArray[np.uint8]]
) -> Rounded:
    """Round the weights of convolutions and of fully connected layers, symmetric per output channel.

    Args:
        model: The FP32 graph.
        nodes: Names of nodes; other kinds of them stay as they are. Fully connected layers, and
            convolutions that share their weights, are rounded to the nearest level.
        tensors: Engine inputs (1, h, w, 3) uint8; 24 of them, evenly spread, are used.
    """
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    layers = [
        _Layer(node, weights[node.input[1]])
        for node in model.graph.node
        if node.name in nodes and node.op_type == "Conv" and weights[node.input[1]].ndim == 4
        and readers[node.input[1]] == 1
    ]  # fmt: skip
    names = sorted({layer.node.input[0] for layer in layers})
    used = tensors[:: max(1, len(tensors) // _FRAMES)][:_FRAMES]
    for values in watch(model, used, names) if layers else ():
        for layer in layers:
            layer.see(values[layer.node.input[0]])
    result = onnx.ModelProto()
    result.CopyFrom(model)
    items = {item.name: item for item in result.graph.initializer}
    levels = _nearest(model, nodes, weights, {layer.node.input[1] for layer in layers})
    for name, (kept, step) in levels.items():
        value = kept * step.reshape(-1, *[1] * (kept.ndim - 1))
        items[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    for layer in layers:
        name, bias = layer.node.input[1], layer.bias
        kept, step, shift = layer.rounded(is_centred=bias in weights)
        levels[name] = (kept, step)
        value = kept.astype(np.float32) * step[:, None, None, None]
        items[name].CopyFrom(numpy_helper.from_array(value, name))
        if bias in weights:
            items[bias].CopyFrom(numpy_helper.from_array(weights[bias] + shift, bias))
    return Rounded(result, levels)


def _nearest(
    model: onnx.ModelProto,
    nodes: Collection[str],
    weights: Mapping[str, NDArray[Any]],
    without: Collection[str],
) -> dict[str, tuple[NDArray[np.int8], NDArray[np.float32]]]:
    """Levels of the layers whose outputs lie on the weight's first axis."""
    found = {}
    for node in model.graph.node:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.name not in nodes or not (
            node.op_type == "Conv" or (node.op_type == "Gemm" and given.get("transB") == 1)
        ):
            continue
        name = node.input[1]
        if name in without or name not in weights:
            continue
        flat = weights[name].reshape(len(weights[name]), -1)
        step = np.maximum(np.abs(flat).max(axis=1) / LEVELS, 1e-12).astype(np.float32)
        kept = np.round(flat / step[:, None]).astype(np.int8).reshape(weights[name].shape)
        found[name] = (kept, step)
    return found


class _Layer:
    """A convolution, and the moments of its inputs."""

    def __init__(self, node: onnx.NodeProto, weight: NDArray[np.float32]) -> None:
        self.node, self._weight = node, weight
        given: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._groups = int(given.get("group", 1))
        self._strides = given.get("strides", [1, 1])
        self._pads = given.get("pads", [0, 0, 0, 0])
        self._dilations = given.get("dilations", [1, 1])
        inputs = int(np.prod(weight.shape[1:]))
        # H of the paper, one matrix a group; None where it would be too large.
        self._second = (
            np.zeros((self._groups, inputs, inputs)) if inputs <= _LARGEST else None
        )  # (groups, d, d)
        self._first = np.zeros((self._groups, inputs))
        self._seen = 0

    @property
    def bias(self) -> str:
        """Its initialiser, or an empty name."""
        return self.node.input[2] if len(self.node.input) > 2 else ""

    def see(self, source: NDArray[np.float32]) -> None:
        """Add one frame's input (1, c, h, w)."""
        x = self._patches(source)
        self._seen += x.shape[1]
        self._first += x.sum(axis=1)
        if self._second is not None:
            self._second += x.transpose(0, 2, 1) @ x

    def _patches(self, source: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the kernel sees at evenly spread positions: (groups, positions, d)."""
        top, left, bottom, right = self._pads
        padded = np.pad(source[0], ((0, 0), (top, bottom), (left, right)))
        (dy, dx), (sy, sx) = self._dilations, self._strides
        height, width = (
            (k - 1) * d + 1 for k, d in zip(self._weight.shape[2:], (dy, dx), strict=True)
        )
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
        windows = windows[:, ::sy, ::sx, ::dy, ::dx]
        total = windows.shape[1] * windows.shape[2]
        places = np.linspace(0, total - 1, min(total, _POSITIONS)).astype(np.int64)
        rows, columns = np.divmod(places, windows.shape[2])
        picked = windows[:, rows, columns]  # (c, positions, kh, kw)
        parts = picked.reshape(self._groups, -1, *picked.shape[1:])
        return parts.transpose(0, 2, 1, 3, 4).reshape(self._groups, len(places), -1)

    def rounded(
        self, *, is_centred: bool
    ) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
        """Levels in the weight's shape, the step of each output, what its bias must gain."""
        outputs = len(self._weight)
        weight = self._weight.reshape(self._groups, outputs // self._groups, -1).astype(np.float64)
        step = np.maximum(np.abs(weight).max(axis=2) / LEVELS, 1e-12).astype(np.float32)
        mean = self._first / self._seen
        if self._second is None:
            kept = np.clip(np.round(weight / step[:, :, None]), -LEVELS, LEVELS)
        else:
            moments = self._second / self._seen
            if is_centred:
                moments = moments - mean[:, :, None] * mean[:, None, :]
            kept = _carried(weight, moments, step.astype(np.float64))
        lost = weight - kept * step[:, :, None]
        shift = np.einsum("grd,gd->gr", lost, mean).reshape(-1).astype(np.float32)
        return kept.reshape(self._weight.shape).astype(np.int8), step.reshape(-1), shift


def _carried(
    weight: NDArray[np.float64], moments: NDArray[np.float64], step: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Round column by column; each one's error goes to the columns not yet rounded.

    Args:
        weight: W, (groups, outputs, d).
        moments: H, (groups, d, d).
        step: Of each output, (groups, outputs).
    """
    size = weight.shape[2]
    diagonal = np.einsum("gii->gi", moments)
    damping = _DAMPING * diagonal.mean(axis=1) + 1e-10
    order = np.argsort(-diagonal, axis=1)  # what moves most is rounded first
    h = moments + np.eye(size) * damping[:, None, None]
    h = np.take_along_axis(np.take_along_axis(h, order[:, :, None], 1), order[:, None, :], 2)
    left = np.take_along_axis(weight, order[:, None, :], 2)
    upper = np.linalg.cholesky(np.linalg.inv(h)).transpose(0, 2, 1)
    kept = np.empty_like(left)
    for i in range(size):
        kept[:, :, i] = np.clip(np.round(left[:, :, i] / step), -LEVELS, LEVELS)
        error = (left[:, :, i] - kept[:, :, i] * step) / upper[:, i, i, None]  # (2)
        left[:, :, i + 1 :] -= error[:, :, None] * upper[:, None, i, i + 1 :]  # (3)
    return np.take_along_axis(kept, np.argsort(order, axis=1)[:, None, :], 2)
