"""The same function in a form that loses less to eight bits.

* A convolution of a concatenation becomes a sum of convolutions of its parts: each part has a scale of
  its own. (OpenVINO 2026.4 moves a quantisation behind a concatenation into its parts, and there
  computes Resize without rounding: half a level is lost on average.)
* Pixels are whole numbers: less 128 instead of the data set's mean they fit int8 as they are, with a step
  of 1. Rounding after a mean of 123.7 costs half a grey level, more than most layers do.
* ReLU6 before a 1x1 convolution is centred: Clip(x, 0, 6) = Clip(x - 3, -3, 3) + 3, and both 3s go into
  biases. A symmetric int8 spends half its levels on negative values; now there are some.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["centred", "split"]

_POINT: Final[Mapping[str, Any]] = {"pads": [0, 0, 0, 0], "group": 1}


def split(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convolutions of concatenations as sums; what stays keeps its name.

    Parts are named after their convolution: ``scorer.0/Conv_part1``.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _split(result)
    onnx.checker.check_model(result)
    return result


def centred(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]
) -> tuple[onnx.ModelProto, dict[str, tuple[float, float]]]:
    """The graph with pixels and clips from 0 centred where that makes steps finer, and its ranges.

    Args:
        model: The graph.
        ranges: (low, high) of each float activation.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    moved = _whole_pixels(result) | _centre(result, ranges)
    onnx.checker.check_model(result)
    return result, {**ranges, **moved}


def _split(model: onnx.ModelProto) -> None:
    graph = model.graph
    weights = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    channels = _channels(model)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        source = makers.get(node.input[0]) if node.input else None
        parts = [channels.get(name, 0) for name in source.input] if source is not None else []
        if (
            source is None
            or source.op_type != "Concat"
            or _attribute(source, "axis", 0) != 1
            or not all(parts)
            or node.op_type != "Conv"
            or node.input[1] not in weights
            or _attribute(node, "group", 1) != 1
        ):
            nodes.append(node)
            continue
        cuts = np.split(weights[node.input[1]], np.cumsum(parts)[:-1], axis=1)
        for index, (name, cut) in enumerate(zip(source.input, cuts, strict=True), 1):
            part = onnx.NodeProto()
            part.CopyFrom(node)
            part.name, made = f"{node.name}_part{index}", f"{node.output[0]}_part{index}"
            inputs = [name, _add(graph, f"{node.input[1]}_part{index}", cut)]
            inputs += node.input[2:] if index == 1 else []
            del part.input[:], part.output[:]
            part.input.extend(inputs)
            part.output.append(made)
            nodes.append(part)
        # Sum, not Add: the parts of one layer are no residual to quantise.
        outputs = [f"{node.output[0]}_part{index}" for index in range(1, len(cuts) + 1)]
        nodes.append(helper.make_node("Sum", outputs, node.output, name=f"{node.name}_sum"))
    _replace(graph, nodes)


def _whole_pixels(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """Sub(pixels, mean) before a convolution gives whole numbers from -128 to 127."""
    moved: dict[str, tuple[float, float]] = {}
    graph = model.graph
    items = {item.name: item for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    nodes = list(graph.node)
    for node in graph.node:
        sub = makers.get(node.input[0]) if node.input else None
        if (
            sub is None or sub.op_type != "Sub" or node.op_type != "Conv" or len(node.input) < 3
            or not {*node.input[1:], sub.input[1]} <= items.keys() or not _is_image(sub, makers)
        ):  # fmt: skip
            continue
        mean = numpy_helper.to_array(items[sub.input[1]]).reshape(1, -1, 1, 1)
        if np.isin(mean, (127.0, 128.0)).all():
            moved[sub.output[0]] = (-127.0, 127.0)  # one of 256 values is clipped by one
            continue
        # Zeros are padded where the mean is 0, so padding comes first.
        pads = _attribute(node, "pads", [0, 0, 0, 0])
        whole, padded, offset = (f"{sub.output[0]}_{n}" for n in ("whole", "padded", "offset"))
        sizes = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], dtype=np.int64)
        graph.initializer.append(numpy_helper.from_array(sizes, f"{padded}_sizes"))
        _add(graph, offset, (mean - 128).astype(np.float32))
        at = nodes.index(node)
        nodes[at:at] = [
            helper.make_node("Pad", [sub.output[0], f"{padded}_sizes"], [padded], name=padded),
            helper.make_node("Add", [padded, offset], [whole], name=whole),
        ]
        weight = numpy_helper.to_array(items[node.input[1]]).sum(axis=(2, 3), dtype=np.float64)
        _shift(items[node.input[2]], -weight @ (mean - 128).reshape(-1))
        node.input[0] = whole
        for attribute in [a for a in node.attribute if a.name == "pads"]:
            node.attribute.remove(attribute)
        moved[whole] = (-127.0, 127.0)
    if len(nodes) > len(graph.node):
        _replace(graph, nodes)
    return moved


def _is_image(node: onnx.NodeProto | None, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a tensor holds pixel values: the image, cast and rearranged."""
    while node is not None:
        source = node.input[0]
        if source == "image":
            return True
        node = makers.get(source)
        if node is not None and node.op_type not in ("Cast", "Transpose", "Gather"):
            return False
    return False


def _centre(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    moved: dict[str, tuple[float, float]] = {}
    graph = model.graph
    items = {item.name: item for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    outputs = {output.name for output in graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def has_own_bias(node: onnx.NodeProto | None) -> bool:
        return (
            node is not None and node.op_type == "Conv" and len(node.input) > 2
            and node.input[1] in items and node.input[2] in items
            and len(readers[node.input[2]]) == 1
        )  # fmt: skip

    for clip in graph.node:
        if clip.op_type != "Clip" or not {*clip.input[1:]} <= items.keys() or len(clip.input) < 3:
            continue
        low, high = (float(numpy_helper.to_array(items[name])) for name in clip.input[1:])
        maker, after = makers.get(clip.input[0]), readers.get(clip.output[0], [])
        if (
            low != 0.0 or maker is None or not has_own_bias(maker) or not after
            or len(readers[clip.input[0]]) > 1 or {*maker.output, *clip.output} & outputs
            or not all(has_own_bias(node) and _is_point(node) for node in after)
        ):  # fmt: skip
            continue
        half = high / 2
        if ranges.get(clip.output[0], (0.0, 0.0))[1] <= half:
            continue
        moved[clip.output[0]] = (-half, half)
        _shift(items[maker.input[2]], np.float32(-half))
        for node in after:
            weight = numpy_helper.to_array(items[node.input[1]])
            _shift(items[node.input[2]], half * weight.sum(axis=(1, 2, 3), dtype=np.float64))
        clip.input[1] = _add(graph, f"{clip.output[0]}_low", np.array(-half, dtype=np.float32))
        clip.input[2] = _add(graph, f"{clip.output[0]}_high", np.array(half, dtype=np.float32))
    return moved


def _is_point(node: onnx.NodeProto) -> bool:
    """Whether nothing is padded, and every output reads every channel."""
    return all(_attribute(node, name, usual) == usual for name, usual in _POINT.items())


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return list(value) if isinstance(default, list) else value
    return default


def _channels(model: onnx.ModelProto) -> dict[str, int]:
    """Channels of every tensor (n, c, h, w) where they are known."""
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    found = {}
    for value in typed.graph.value_info:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            found[value.name] = dims[1].dim_value
    return found


def _add(graph: onnx.GraphProto, name: str, value: NDArray[np.float32]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def _shift(item: onnx.TensorProto, by: Any) -> None:
    value = (numpy_helper.to_array(item) + by).astype(np.float32)
    item.CopyFrom(numpy_helper.from_array(value, item.name))


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes in, without those that nobody reads and without unread constants."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(nodes):
        if wanted & {*node.output}:
            wanted |= {*node.input}
            kept.append(node)
    fresh = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    items = [item for item in graph.initializer if item.name in wanted]
    items = [onnx.TensorProto.FromString(item.SerializeToString()) for item in items]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(fresh)
    graph.initializer.extend(items)
