"""Weights on eight-bit levels: the paper's own steps, what layers give, and graphs that say the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from precision_nets import pictures, residual_net
from tolerances import TOLERANCES

from edgead.deploy import qdq, rounding
from edgead.deploy.activations import watch
from edgead.deploy.qdq import int8_model
from edgead.deploy.rewrite import centred, split
from edgead.deploy.rounding import round_weights

SIZE = 16


def net(layers: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """uint8 image -> centred ``x`` (n, 3, 16, 16) -> layers, of which the last gives ``anomaly_map``."""
    before = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["chw"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["chw", "small"], ["x"]),
    ]
    items = {"small": np.array(1 / 64), **weights}
    graph = helper.make_graph(
        [*before, *layers],
        "edgead",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(np.asarray(v, dtype=np.float32), k) for k, v in items.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def conv(source: str, name: str, made: str, *, bias: bool = True, **attributes) -> onnx.NodeProto:
    inputs = [source, f"{name}.w", *([f"{name}.b"] if bias else [])]
    return helper.make_node("Conv", inputs, [made], name=f"{name}/Conv", **attributes)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape)


def outputs(model: onnx.ModelProto, name: str = "anomaly_map", count: int = 4) -> np.ndarray:
    return np.concatenate([v[name] for v in watch(model, pictures(count, SIZE), [name])])


def one_by_one(weight: np.ndarray, moments: np.ndarray, step: float) -> np.ndarray:
    """Optimal brain quantisation in the paper's fixed order: the inverse loses a row at each step."""
    size = len(weight)
    h = moments + np.eye(size) * (0.01 * np.trace(moments) / size + 1e-10)
    inverse, left, kept = np.linalg.inv(h), weight.copy(), np.zeros(size)
    for i in np.argsort(-np.diag(moments)):
        kept[i] = np.clip(np.round(left[i] / step), -127, 127)
        left -= (left[i] - kept[i] * step) / inverse[i, i] * inverse[:, i]  # (2)
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]  # (3)
        inverse[i, i] = 1.0  # never read again
    return kept


def test_levels_are_the_papers():
    rng = np.random.default_rng(3)
    inputs = rng.normal(0, 1, (200, 12)) @ rng.normal(0, 1, (12, 12))
    moments = inputs.T @ inputs / len(inputs)
    weight, step = rng.normal(0, 1, (5, 12)), np.full(5, 0.1)
    wanted = [one_by_one(row, moments, 0.1) for row in weight]
    found = rounding._carried(weight[None], moments[None], step[None])[0]
    np.testing.assert_array_equal(found, wanted)


SHAPES = [
    {"pads": [1, 1, 1, 1]},
    {"pads": [0, 2, 1, 0], "strides": [2, 1]},
    {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
    {"pads": [1, 1, 1, 1], "group": 3},
]


@pytest.mark.parametrize("attributes", SHAPES, ids=str)
def test_what_is_lost_on_average_goes_into_the_bias(attributes):
    """Every position is seen here, so that the mean output is FP32's."""
    channels = 3 // attributes.get("group", 1)
    weights = {"a.w": draw(1, 6, channels, 3, 3), "a.b": draw(2, 6)}
    model = net([conv("x", "a", "anomaly_map", **attributes)], weights)
    found = round_weights(model, ["a/Conv"], pictures(4, SIZE))
    before, after = (outputs(m).mean(axis=(0, 2, 3)) for m in (model, found.model))
    np.testing.assert_allclose(after, before, rtol=0, atol=TOLERANCES["same_function"].atol)
    kept, step = found.levels["a.w"]
    assert kept.dtype == np.int8
    assert kept.shape == (6, channels, 3, 3)
    assert np.abs(kept).max() == 127
    items = {i.name: numpy_helper.to_array(i) for i in found.model.graph.initializer}
    np.testing.assert_array_equal(items["a.w"], kept * step[:, None, None, None])


def smooth_pictures(count: int) -> list[np.ndarray]:
    """Neighbours that hardly differ, as in photographs."""
    rng = np.random.default_rng(5)
    rows = np.arange(SIZE)[:, None, None] * rng.uniform(-6, 6, (count, 1, 1, 3))
    columns = np.arange(SIZE)[None, :, None] * rng.uniform(-6, 6, (count, 1, 1, 3))
    return list(np.clip(128 + rows + columns, 0, 255).astype(np.uint8)[:, None])


def test_weights_that_cancel_keep_their_sum():
    """Large weights of which little is left on smooth pictures: nearest rounding loses it."""
    weight = draw(4, 8, 1, 3, 3).repeat(3, axis=0)[:24]
    weight -= weight.mean(axis=(1, 2, 3), keepdims=True) - 0.02
    model = net(
        [conv("x", "a", "anomaly_map", pads=[0] * 4, group=3)], {"a.w": weight, "a.b": draw(2, 24)}
    )
    images = smooth_pictures(12)

    def error(rounded: onnx.ModelProto) -> float:
        pairs = zip(*(watch(m, images, ["anomaly_map"]) for m in (model, rounded)), strict=True)
        return float(np.mean([(a["anomaly_map"] - b["anomaly_map"]) ** 2 for a, b in pairs]) ** 0.5)

    nearest = onnx.ModelProto()
    nearest.CopyFrom(model)
    step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    item = next(i for i in nearest.graph.initializer if i.name == "a.w")
    item.CopyFrom(
        numpy_helper.from_array((np.round(weight / step) * step).astype(np.float32), "a.w")
    )
    found = error(round_weights(model, ["a/Conv"], images).model)
    assert found < error(nearest) / 5


def test_a_layer_too_large_for_its_moments_is_rounded_to_the_nearest(monkeypatch):
    monkeypatch.setattr(rounding, "_LARGEST", 10)
    weight = draw(1, 6, 3, 3, 3).astype(np.float32)
    model = net([conv("x", "a", "anomaly_map", pads=[1] * 4)], {"a.w": weight, "a.b": draw(2, 6)})
    kept, step = round_weights(model, ["a/Conv"], pictures(2, SIZE)).levels["a.w"]
    np.testing.assert_array_equal(kept, np.round(weight / step[:, None, None, None]))


def test_what_is_no_convolution_stays():
    model = residual_net()
    found = round_weights(model, ["block/Add"], pictures(1))
    assert found.levels == {}
    assert found.model.SerializeToString() == model.SerializeToString()


def joined() -> onnx.ModelProto:
    """Two branches, joined and read by a 3x3 convolution."""
    layers = [
        conv("x", "a", "left"),
        conv("x", "b", "right", bias=False),
        helper.make_node("Concat", ["left", "right"], ["both"], name="join/Concat", axis=1),
        conv("both", "c", "anomaly_map", pads=[1] * 4),
    ]
    weights = {
        "a.w": draw(1, 4, 3, 1, 1), "a.b": draw(2, 4), "b.w": draw(3, 5, 3, 1, 1),
        "c.w": draw(4, 2, 9, 3, 3), "c.b": draw(5, 2),
    }  # fmt: skip
    return net(layers, weights)


def test_a_convolution_of_a_concatenation_becomes_a_sum():
    found = split(joined())
    assert [node.name for node in found.graph.node[-3:]] == [
        "c/Conv_part1", "c/Conv_part2", "c/Conv_sum",
    ]  # fmt: skip
    assert "Concat" not in {node.op_type for node in found.graph.node}
    assert {i.name for i in found.graph.initializer} >= {"c.w_part1", "c.w_part2"}
    assert "c.w" not in {i.name for i in found.graph.initializer}
    np.testing.assert_allclose(
        outputs(found), outputs(joined()), rtol=0, atol=TOLERANCES["same_function"].atol
    )


def clipped(**last) -> onnx.ModelProto:
    layers = [
        conv("x", "a", "raw"),
        helper.make_node("Clip", ["raw", "zero", "six"], ["act"], name="a/Clip"),
        conv("act", "b", "anomaly_map", **last),
    ]
    weights = {
        "a.w": 3 * draw(1, 4, 3, 1, 1), "a.b": draw(2, 4), "b.w": draw(3, 2, 4, 1, 1),
        "b.b": draw(4, 2), "zero": np.array(0.0), "six": np.array(6.0),
    }  # fmt: skip
    return net(layers, weights)


def test_a_clip_before_a_point_convolution_is_centred():
    model, spans = centred(clipped(), {"act": (0.0, 5.0), "x": (0.0, 4.0)})
    assert spans == {"act": (-3.0, 3.0), "x": (0.0, 4.0)}
    assert outputs(model, "act").min() == -3.0
    np.testing.assert_allclose(
        outputs(model), outputs(clipped()), rtol=0, atol=TOLERANCES["same_function"].atol
    )


@pytest.mark.parametrize(
    ("model", "high"), [(clipped(pads=[1, 1, 1, 1]), 6.0), (clipped(), 2.5), (joined(), 6.0)]
)
def test_other_clips_stay(model, high):
    """Padding with zeros would mean 3; a range under half the clip is finer as it is."""
    found, spans = centred(model, {"act": (0.0, high)})
    assert spans == {"act": (0.0, high)}
    assert found.SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("form", ["s8", "u8s8", "qdq"])
def test_layers_in_floating_point_keep_weights_of_eight_bits(form, monkeypatch):
    monkeypatch.setattr(qdq, "_FEW", 100)
    model = joined()
    rounded = round_weights(model, ["a/Conv", "b/Conv", "c/Conv"], pictures(2, SIZE))
    data = int8_model(rounded.model, {"x": (0.0, 4.0)}, ["a/Conv"], form, rounded.levels)
    made = onnx.load_from_string(data)
    kinds = {i.name: i.data_type for i in made.graph.initializer}
    assert (kinds.get("c.w_quantized") == TensorProto.INT8) == (form != "qdq")
    assert ("c.w" in kinds) == (form == "qdq")
    reader = next(node for node in made.graph.node if node.name == "c/Conv")
    maker = next(node for node in made.graph.node if reader.input[1] in node.output)
    assert maker.op_type == "DequantizeLinear"
    assert "b.w" in kinds  # 15 weights save nothing
    without = outputs(rounded.model)
    room = TOLERANCES["int8_map"].atol * np.ptp(without)
    np.testing.assert_allclose(outputs(made), without, rtol=0, atol=room)


def test_restored_layers_have_the_weights_of_training():
    model = joined()
    rounded = round_weights(model, ["a/Conv", "b/Conv", "c/Conv"], pictures(2, SIZE))
    restored = rounded.restored(model, {"b/Conv", "c/Conv"})
    given, kept, changed = (
        {i.name: numpy_helper.to_array(i) for i in one.graph.initializer}
        for one in (model, restored.model, rounded.model)
    )
    assert set(restored.levels) == {"a.w"}
    for name in ("b.w", "c.w"):
        np.testing.assert_array_equal(kept[name], given[name])
        assert not np.array_equal(changed[name], given[name])
    np.testing.assert_array_equal(kept["a.w"], changed["a.w"])


def photographed(mean: list[float]) -> onnx.ModelProto:
    """Pixels less a mean into a padded, strided convolution."""
    layers = [
        helper.make_node("Sub", ["chw", "mean"], ["sub"], name="input/Sub"),
        conv("sub", "a", "anomaly_map", pads=[1, 0, 2, 1], strides=[2, 2]),
    ]
    weights = {
        "a.w": draw(1, 4, 3, 3, 3) / 64,
        "a.b": draw(2, 4),
        "mean": np.reshape(mean, (1, 3, 1, 1)),
    }
    return net(layers, weights)


def test_pixels_become_whole_numbers():
    before = photographed([123.675, 116.28, 103.53])
    model, spans = centred(before, {"sub": (-123.675, 151.47)})
    assert spans["sub_whole"] == (-127.0, 127.0)
    inside = outputs(model, "sub_whole")[:, :, 1:-2, :-1]
    np.testing.assert_allclose(
        inside, np.round(inside), rtol=0, atol=TOLERANCES["same_function"].atol
    )
    assert inside.min() >= -128
    assert inside.max() <= 127
    np.testing.assert_allclose(
        outputs(model), outputs(before), rtol=0, atol=TOLERANCES["same_function"].atol
    )


def test_pixels_less_127_are_whole_already():
    before = photographed([127.0, 127.0, 127.0])
    model, spans = centred(before, {"sub": (-127.0, 100.0)})
    assert spans == {"sub": (-127.0, 127.0)}
    assert model.SerializeToString() == before.SerializeToString()
