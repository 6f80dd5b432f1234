"""A typed FP16 graph: float16 weights and activations, float32 where range or a recipe asks for it.

Engines on a CPU compute FP16 graphs in float32 and so hide overflow. The proof is made on the FP32
graph instead: a tensor whose magnitude comes near 16,000 on calibration frames keeps the nodes that
make and read it in float32 (float16 ends at 65,504; a factor of four is left for other parts).

Own code, since `onnxconverter_common.float16` writes an invalid model when a graph output also feeds
another node, which every multi-scale feature extractor does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgead.deploy.activations import float_tensors, watch
from edgead.errors import BundleError

__all__ = ["FP16_LIMIT", "RangeProof", "half_model", "prove_ranges"]

FP16_LIMIT: Final = 16_000.0
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
#: Their result type is an attribute or fixed; they stay as they are.
_AS_THEY_ARE = frozenset(
    {"Constant", "ConstantOfShape", "Range", "DequantizeLinear", "QuantizeLinear"}
)
#: Inputs that are float32 whatever the data is: Resize's roi and scales.
_FIXED_INPUTS = {"Resize": frozenset({1, 2})}


@dataclass(frozen=True)
class RangeProof:
    """The largest magnitudes seen.

    Attributes:
        largest: Of the tensors that are float16. 0 when there is none.
        tensor: Which one.
        kept: Nodes that stay float32 because of range.
        frames: Over how many frames.
    """

    largest: float
    tensor: str
    kept: tuple[str, ...]
    frames: int


def prove_ranges(
    model: onnx.ModelProto,
    tensors: Sequence[NDArray[np.uint8]],
    keep: Collection[str] = (),
    *,
    limit: float = FP16_LIMIT,
) -> RangeProof:
    """Measure every float tensor over frames and name the nodes that must stay float32.

    Args:
        model: The FP32 graph.
        tensors: Engine inputs (1, h, w, 3) uint8.
        keep: Nodes that stay float32 for other reasons.
        limit: Magnitude that a float16 tensor must stay under.
    """
    largest: dict[str, float] = dict.fromkeys(float_tensors(model), 0.0)
    for values in watch(model, tensors, list(largest)):
        for name, array in values.items():
            top = float(np.abs(array).max()) if array.size else 0.0
            largest[name] = max(largest[name], top if np.isfinite(top) else np.inf)
    for item in model.graph.initializer:
        if item.data_type == _FLOAT:
            array = numpy_helper.to_array(item)
            largest[item.name] = float(np.abs(array).max()) if array.size else 0.0
    wide = {name for name, top in largest.items() if top >= limit}
    kept = [
        node.name
        for node in model.graph.node
        if node.name not in keep and wide & {*node.input, *node.output}
    ]
    high = {*keep, *kept}
    half = {
        name
        for node in model.graph.node
        if node.name not in high and _is_convertible(node)
        for name in (*node.input, *node.output)
    }
    worst = max(half & largest.keys(), key=largest.__getitem__, default="")
    return RangeProof(largest.get(worst, 0.0), worst, tuple(kept), len(tensors))


def half_model(model: onnx.ModelProto, keep: Collection[str]) -> onnx.ModelProto:
    """The graph with float16 nodes; ``keep`` names nodes that stay float32. I/O stays as it is.

    Raises:
        BundleError: HALF_SUBGRAPH for a graph with control flow.
    """
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = typed.graph
    for node in graph.node:
        if any(
            a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            for a in node.attribute
        ):
            raise BundleError(
                "HALF_SUBGRAPH", f"node {node.name} holds a graph; FP16 is made of plain graphs."
            )
    floats = {v.name for v in (*graph.value_info, *graph.output, *graph.input) if _is_float(v)}
    weights = {i.name: i for i in graph.initializer if i.data_type == _FLOAT}
    rewrite = _Rewrite(floats | set(weights), weights, {o.name for o in graph.output})
    for node in graph.node:
        is_half = node.name not in keep and _is_convertible(node)
        rewrite.add(node, is_half=is_half)
    rewrite.finish(graph)
    onnx.checker.check_model(typed, full_check=True)
    return typed


class _Rewrite:
    """Nodes one by one; a cast at each boundary, one a tensor and direction."""

    def __init__(
        self, floats: set[str], weights: Mapping[str, TensorProto], outputs: set[str]
    ) -> None:
        self._floats, self._weights, self._outputs = floats, weights, outputs
        self._is_half: dict[str, bool] = dict.fromkeys(floats, False)
        self._names: dict[tuple[str, bool], str] = {}
        self._used: set[tuple[str, bool]] = set()
        self._nodes: list[onnx.NodeProto] = []

    def add(self, node: onnx.NodeProto, *, is_half: bool) -> None:
        """Append a node in one precision."""
        fresh = onnx.NodeProto()
        fresh.CopyFrom(node)
        fixed = _FIXED_INPUTS.get(node.op_type, frozenset())
        for index, name in enumerate(node.input):
            if name in self._floats:
                fresh.input[index] = self._as(name, is_half and index not in fixed)
        if is_half and node.op_type == "Cast":
            for attribute in fresh.attribute:
                if attribute.name == "to" and attribute.i == _FLOAT:
                    attribute.i = _HALF
        late = []
        for index, name in enumerate(node.output):
            if name not in self._floats or not is_half:
                continue
            self._is_half[name] = True
            if name in self._outputs:  # the world outside sees float32
                fresh.output[index] = self._names[name, True] = f"{name}_half"
                self._names[name, False] = name
                late.append(_cast(f"{name}_half", name, _FLOAT))
        self._nodes += [fresh, *late]

    def _as(self, name: str, half: bool) -> str:
        """The tensor's name in the wanted precision; a cast is added on first use."""
        if name in self._weights:
            self._used.add((name, half))
            return f"{name}_half" if half else name
        if (name, half) in self._names:
            return self._names[name, half]
        if self._is_half[name] == half:
            return name
        made = f"{name}_{'half' if half else 'float'}"
        self._nodes.append(_cast(name, made, _HALF if half else _FLOAT))
        self._names[name, half] = made
        return made

    def finish(self, graph: onnx.GraphProto) -> None:
        """Put the nodes and the weights that they use into the graph."""
        others = [i for i in graph.initializer if i.name not in self._weights]
        weights = []
        for name, half in sorted(self._used):
            item = self._weights[name]
            if half:
                item = numpy_helper.from_array(
                    numpy_helper.to_array(item).astype(np.float16), f"{name}_half"
                )
            weights.append(item)
        del graph.initializer[:], graph.value_info[:]
        graph.initializer.extend([*others, *weights])
        del graph.node[:]
        graph.node.extend(self._nodes)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=kind)


def _is_convertible(node: onnx.NodeProto) -> bool:
    return node.op_type not in _AS_THEY_ARE


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == _FLOAT)
