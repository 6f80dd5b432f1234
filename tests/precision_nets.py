"""Small networks of real shape for precision: convolutions, a residual sum, an output that feeds on."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def residual_net(
    size: int = 32, width: int = 8, *, gain: float = 1.0, seed: int = 0
) -> onnx.ModelProto:
    """Image [n, size, size, 3] uint8 -> anomaly_map [n, size/4, size/4], ``features`` an output too.

    Args:
        size: Side of the image.
        width: Channels.
        gain: Factor on one activation, to overflow float16 with.
        seed: Of the weights.
    """
    rng = np.random.default_rng(seed)
    weights = {
        "stem.weight": rng.normal(0, 0.3, (width, 3, 3, 3)),
        "stem.bias": rng.normal(0, 0.1, width),
        "block.weight": rng.normal(0, 0.2, (width, width, 3, 3)),
        "block.bias": rng.normal(0, 0.1, width),
        "score.weight": rng.normal(0, 0.3, (1, width, 1, 1)) / gain,
        "mean": np.full((1, 3, 1, 1), 127.0),
        "scale": np.full((1, 3, 1, 1), 1 / 128),
        "gain": np.array(gain),
    }
    items = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    items.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"))

    def node(kind, inputs, output, name, **attributes):
        return helper.make_node(kind, inputs, [output], name=f"{name}/{kind}", **attributes)

    same = {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    nodes = [
        node("Transpose", ["image"], "chw", "input", perm=[0, 3, 1, 2]),
        node("Cast", ["chw"], "float", "input", to=TensorProto.FLOAT),
        node("Sub", ["float", "mean"], "centred", "input"),
        node("Mul", ["centred", "scale"], "normal", "input"),
        node("Conv", ["normal", "stem.weight", "stem.bias"], "stem", "stem", **same),
        node("Relu", ["stem"], "stem_act", "stem"),
        node(
            "Conv", ["stem_act", "block.weight", "block.bias"], "block", "block", pads=[1, 1, 1, 1]
        ),
        node("Add", ["block", "stem_act"], "sum", "block"),
        node("Relu", ["sum"], "features", "block"),
        node("Mul", ["features", "gain"], "large", "gain"),
        node("AveragePool", ["large"], "pooled", "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["pooled", "score.weight"], "score", "score"),
        node("Squeeze", ["score", "axis"], "anomaly_map", "score"),
    ]
    side = size // 2
    graph = helper.make_graph(
        nodes,
        "edgead",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", size, size, 3])],
        [
            helper.make_tensor_value_info(
                "anomaly_map", TensorProto.FLOAT, ["n", side // 2, side // 2]
            ),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width, side, side]),
        ],
        items,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def pictures(count: int, size: int = 32, seed: int = 0) -> list[np.ndarray]:
    """Engine inputs (1, size, size, 3) uint8."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 255, (1, size, size, 3), dtype=np.uint8) for _ in range(count)]
