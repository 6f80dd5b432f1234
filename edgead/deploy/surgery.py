"""Exact changes to an exported graph that make it cheaper on every engine.

A 1x1 convolution and an interpolation commute: both are linear, one over channels, the other over places,
and an interpolation's weights add up to one, so that a bias stays a bias. A convolution that reads enlarged
maps, alone or beside others in a concatenation, is computed before they are enlarged, where that costs
less: on a quarter of the places, say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgead.deploy.graph import add_constant, attribute, readers, replace_nodes, shapes

__all__ = ["commuted"]

#: Multiply-adds that a CPU with vectors of sixteen floats does while it moves one value.
_MOVE = 16


def commuted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Interpolations behind the 1x1 convolutions that read them, where that costs less.

    Nodes keep their convolution's name and gain ``_low1``, ``_low2`` ... or, for what was not enlarged,
    ``_rest``.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    sizes, reading = shapes(result), readers(graph)
    makers = {name: node for node in graph.node for name in node.output}
    weights = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in weights and _is_point(node, weights):
            weight = weights[node.input[1]]
            parts = _parts(node, makers, reading, sizes)
            low = [p for p in parts if p.resize is not None and _pays(p, len(weight), sizes)]
            if low and sum(p.channels for p in parts) == weight.shape[1]:
                nodes += _cheaper(graph, node, weight, parts, low)
                continue
        nodes.append(node)
    if len(nodes) > len(graph.node):
        replace_nodes(graph, nodes)
    onnx.checker.check_model(result)
    return result


@dataclass(frozen=True, eq=False)
class _Part:
    """Channels of a convolution's input.

    Attributes:
        name: Tensor.
        start: First of the weight's columns that reads it.
        channels: How many.
        resize: The interpolation that made it, if nothing else reads what that gives.
        target: Its output size (h, w), where it is given as constants.
    """

    name: str
    start: int
    channels: int
    resize: onnx.NodeProto | None
    target: str = ""


def _is_point(node: onnx.NodeProto, weights: dict[str, NDArray[np.float32]]) -> bool:
    return (
        weights[node.input[1]].shape[2:] == (1, 1)
        and attribute(node, "group", 1) == 1
        and attribute(node, "strides", [1, 1]) == [1, 1]
        and not any(attribute(node, "pads", [0, 0, 0, 0]))
    )


def _parts(
    node: onnx.NodeProto,
    makers: dict[str, onnx.NodeProto],
    reading: dict[str, list[onnx.NodeProto]],
    sizes: dict[str, tuple[int, ...]],
) -> list[_Part]:
    """What a convolution reads, in the order of its weight's columns."""
    source = makers.get(node.input[0])
    is_joined = (
        source is not None and source.op_type == "Concat" and attribute(source, "axis", 0) == 1
        and len(reading[source.output[0]]) == 1
    )  # fmt: skip
    names = list(source.input) if source is not None and is_joined else [node.input[0]]
    found: list[_Part] = []
    start = 0
    for name in names:
        channels = sizes.get(name, (0, 0))[1]
        made = makers.get(name)
        target = _target(made, makers) if made is not None and len(reading[name]) == 1 else ""
        found.append(_Part(name, start, channels, made if target else None, target))
        start += channels
    return found


def _target(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> str:
    """Name of the constant (h, w) that an interpolation enlarges to; empty where it is none."""
    if node.op_type != "Resize" or len(node.input) < 4 or node.input[2]:
        return ""
    mode = attribute(node, "mode", b"nearest")
    where = attribute(node, "coordinate_transformation_mode", b"half_pixel")
    whole = makers.get(node.input[3])
    if (
        mode not in (b"linear", b"nearest") or where == b"tf_crop_and_resize"
        or whole is None or whole.op_type != "Concat" or len(whole.input) != 2
        or whole.input[1] in makers
    ):  # fmt: skip
        return ""
    return whole.input[1]


def _pays(part: _Part, outputs: int, sizes: dict[str, tuple[int, ...]]) -> bool:
    """Whether the convolution saves more than an interpolation of its outputs costs beyond its inputs'."""
    assert part.resize is not None
    small, large = sizes.get(part.resize.input[0]), sizes.get(part.name)
    if small is None or large is None:
        return False
    places, saved = large[2] * large[3], large[2] * large[3] - small[2] * small[3]
    return outputs * part.channels * saved > 2 * _MOVE * (outputs - part.channels) * places


def _cheaper(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    weight: NDArray[np.float32],
    parts: list[_Part],
    low: list[_Part],
) -> list[onnx.NodeProto]:
    """The convolution as a sum: each enlarged part by itself, the rest together; the bias once."""
    made: list[onnx.NodeProto] = []
    terms: list[str] = []
    bias = list(node.input[2:])

    def convolve(source: str, columns: NDArray[np.float32], suffix: str) -> str:
        nonlocal bias
        name = add_constant(graph, f"{node.input[1]}{suffix}", columns)
        output = f"{node.output[0]}{suffix}"
        made.append(
            helper.make_node(
                "Conv", [source, name, *bias], [output], name=f"{node.name}{suffix}",
                kernel_shape=[1, 1],
            )
        )  # fmt: skip
        bias = []
        return output

    rest = [part for part in parts if part not in low]
    if rest:
        source = rest[0].name
        if len(rest) > 1:
            source = f"{node.output[0]}_rest_input"
            names = [part.name for part in rest]
            made.append(helper.make_node("Concat", names, [source], name=source, axis=1))
        cuts = [weight[:, part.start : part.start + part.channels] for part in rest]
        terms.append(convolve(source, np.concatenate(cuts, axis=1), "_rest"))
    for index, part in enumerate(low, 1):
        assert part.resize is not None
        columns = weight[:, part.start : part.start + part.channels]
        small = convolve(part.resize.input[0], columns, f"_low{index}")
        size, large = f"{small}_size", f"{small}_large"
        made.append(
            helper.make_node("Shape", [small], [f"{size}_nc"], name=f"{size}_nc", start=0, end=2)
        )
        whole = [f"{size}_nc", part.target]
        made.append(helper.make_node("Concat", whole, [size], name=size, axis=0))
        enlarge = helper.make_node("Resize", [small, "", "", size], [large], name=large)
        enlarge.attribute.extend(part.resize.attribute)
        made.append(enlarge)
        terms.append(large)
    if len(terms) == 1:
        made[-1].output[0] = node.output[0]
    else:
        made.append(helper.make_node("Sum", terms, node.output, name=f"{node.name}_sum"))
    return made
