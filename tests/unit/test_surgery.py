"""Exact changes to graphs: interpolations behind 1x1 convolutions give the same map, and only where it pays."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tolerances import TOLERANCES

from edgead.deploy.surgery import commuted


def net(
    *, outputs=6, kernel=1, joined=True, mode="linear", where="half_pixel", shared=False
) -> onnx.ModelProto:
    """Two maps of 8 and 4 channels, the second enlarged 2x, joined or alone, into a convolution."""
    rng = np.random.default_rng(0)
    wide = 12 if joined else 4
    weights = {
        "w": rng.normal(size=(outputs, wide, kernel, kernel)),
        "b": rng.normal(size=outputs),
    }
    items = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    items.append(numpy_helper.from_array(np.array([16, 16], dtype=np.int64), "size"))
    nodes = [
        helper.make_node("Shape", ["low"], ["nc"], start=0, end=2),
        helper.make_node("Concat", ["nc", "size"], ["sizes"], axis=0),
        helper.make_node(
            "Resize", ["low", "", "", "sizes"], ["large"],
            mode=mode, coordinate_transformation_mode=where,
        ),
        helper.make_node("Concat", ["high", "large"], ["cat"], axis=1),
        helper.make_node(
            "Conv", ["cat" if joined else "large", "w", "b"], ["y"], name="score/Conv",
            kernel_shape=[kernel, kernel], pads=[kernel // 2] * 4,
        ),
    ]  # fmt: skip
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs, 16, 16])]
    if shared:
        made.append(helper.make_tensor_value_info("large2", TensorProto.FLOAT, ["n", 4, 16, 16]))
        nodes.append(helper.make_node("Relu", ["large"], ["large2"]))
    graph = helper.make_graph(
        nodes if joined else [n for n in nodes if n.output[0] != "cat"],
        "g",
        [
            helper.make_tensor_value_info("high", TensorProto.FLOAT, ["n", 8, 16, 16]),
            helper.make_tensor_value_info("low", TensorProto.FLOAT, ["n", 4, 8, 8]),
        ],
        made,
        items,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto, batch: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    given = {
        "high": rng.normal(size=(batch, 8, 16, 16)).astype(np.float32),
        "low": rng.normal(size=(batch, 4, 8, 8)).astype(np.float32),
    }
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [one.name for one in session.get_inputs()]
    return session.run(["y"], {name: given[name] for name in names})[0]


def resized_channels(model: onnx.ModelProto) -> int:
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*typed.value_info, *typed.input, *typed.output)
    }
    return sum(shapes[n.input[0]][1] for n in typed.node if n.op_type == "Resize")


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("where", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_map_with_the_convolution_before_the_interpolation(mode, where, joined, batch):
    model = net(outputs=1, mode=mode, where=where, joined=joined)
    cheaper = commuted(model)
    assert resized_channels(model) == 4
    assert resized_channels(cheaper) == 1
    room = TOLERANCES["same_function"]
    np.testing.assert_allclose(run(cheaper, batch), run(model, batch), rtol=0, atol=room.atol)


def test_the_bias_is_added_once():
    cheaper = commuted(net(outputs=2))
    convolutions = [node for node in cheaper.graph.node if node.op_type == "Conv"]
    assert [node.name for node in convolutions] == ["score/Conv_rest", "score/Conv_low1"]
    assert [len(node.input) for node in convolutions] == [3, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"outputs": 40},  # enlarging forty channels instead of four costs more than is saved
        {"kernel": 3},
        {"where": "tf_crop_and_resize"},
        {"mode": "cubic"},
        {"shared": True},
    ],
)
def test_what_does_not_pay_or_does_not_commute_stays(options):
    model = net(**{"outputs": 2, **options})
    if options.get("where"):
        resize = next(node for node in model.graph.node if node.op_type == "Resize")
        resize.input[1] = "roi"
        roi = np.array([0, 0, 0, 0, 1, 1, 1, 1], dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(roi, "roi"))
    assert commuted(model).SerializeToString() == model.SerializeToString()
