"""What flows through a graph: every activation of every frame, one frame at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = ["float_tensors", "watch"]


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the float activations: outputs of nodes, not weights."""
    typed = onnx.shape_inference.infer_shapes(model)
    graph = typed.graph
    kinds = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)
    }
    made = [name for node in graph.node for name in node.output]
    return [name for name in made if kinds.get(name) == onnx.TensorProto.FLOAT]


def watch(
    model: onnx.ModelProto, tensors: Sequence[NDArray[np.uint8]], names: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Run the graph in ONNX Runtime frame by frame and hand out the tensors asked for.

    Only one frame's activations are in memory at a time.

    Args:
        model: Any graph with an input ``image``.
        tensors: Engine inputs (1, h, w, 3) uint8.
        names: Tensors to hand out.
    """
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {output.name for output in probe.graph.output}
    for name in names:
        if name not in known:
            probe.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = min(os.cpu_count() or 1, 4)
    # Fusions would hide tensors and change what is measured.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for tensor in tensors:
        yield dict(zip(names, session.run(list(names), {"image": tensor}), strict=True))
