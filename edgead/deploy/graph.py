"""Small steps of rewriting an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["add_constant", "attribute", "readers", "replace_nodes", "shapes", "shift"]


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute; a list where the default is one."""
    for one in node.attribute:
        if one.name == name:
            value = helper.get_attribute_value(one)
            return list(value) if isinstance(default, list) else value
    return default


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor (n, c, h, w) whose channels and size are known; the batch is 0 where it is free."""
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    found: dict[str, tuple[int, ...]] = {}
    for value in (*typed.graph.value_info, *typed.graph.input, *typed.graph.output):
        dims = tuple(one.dim_value for one in value.type.tensor_type.shape.dim)
        if len(dims) == 4 and all(dims[1:]):
            found[value.name] = dims
    return found


def readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Tensor -> the nodes that read it."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def add_constant(graph: onnx.GraphProto, name: str, value: NDArray[np.float32]) -> str:
    """Add an initialiser; its name."""
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def shift(item: onnx.TensorProto, by: Any) -> None:
    """Add to an initialiser's values, in place."""
    value = (numpy_helper.to_array(item) + by).astype(np.float32)
    item.CopyFrom(numpy_helper.from_array(value, item.name))


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
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
