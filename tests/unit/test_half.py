"""FP16 graphs: valid, typed, near FP32; and the proof that no tensor can overflow."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from precision_nets import pictures, residual_net
from tolerances import TOLERANCES

from edgead.backends.ort import OnnxRuntimeBackend
from edgead.backends.ov import OpenVinoBackend
from edgead.deploy.half import FP16_LIMIT, half_model, prove_ranges
from edgead.errors import BundleError
from edgead.onnx_walk import check_model


def run(model: onnx.ModelProto, image, backend=OnnxRuntimeBackend, precision="fp16"):
    return (
        backend(model.SerializeToString(), precision=precision)
        .open_request()
        .infer({"image": image})
    )


@pytest.mark.parametrize("backend", [OnnxRuntimeBackend, OpenVinoBackend])
def test_half_graph_gives_nearly_the_same_with_float_inputs_and_outputs(backend):
    model = residual_net()
    half = half_model(model, set())
    check_model(half.SerializeToString(), name="half")
    image = pictures(1)[0]
    wanted = run(model, image, backend, "fp32")
    found = run(half, image, backend)
    tolerance = TOLERANCES["fp16_map"]
    for name in ("anomaly_map", "features"):  # an output that also feeds another node
        assert found[name].dtype == np.float32
        room = tolerance.atol * np.ptp(wanted[name])
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=room)


def test_weights_and_activations_are_half():
    half = half_model(residual_net(), set())
    kinds = {i.name: i.data_type for i in half.graph.initializer}
    assert {k for k, kind in kinds.items() if kind == TensorProto.FLOAT} == set()
    assert len(half.SerializeToString()) < 0.75 * len(residual_net().SerializeToString())


def test_kept_nodes_stay_float_between_casts():
    half = half_model(residual_net(), {"block/Conv"})
    kinds = {i.name: i.data_type for i in half.graph.initializer}
    assert kinds["block.weight"] == TensorProto.FLOAT
    assert kinds["stem.weight_half"] == TensorProto.FLOAT16
    block = next(node for node in half.graph.node if node.name == "block/Conv")
    assert list(block.input) == ["stem_act_float", "block.weight", "block.bias"]
    image = pictures(1)[0]
    assert np.isfinite(run(half, image)["anomaly_map"]).all()


def test_a_tensor_near_overflow_keeps_its_nodes_float():
    """With the factor the activations pass 65,504, which float16 cannot hold."""
    model = residual_net(gain=1e5)
    proof = prove_ranges(model, pictures(2))
    # The two nodes at the large tensor, and the reader of what the pool makes of it.
    assert set(proof.kept) == {"gain/Mul", "pool/AveragePool", "score/Conv"}
    assert 0 < proof.largest < FP16_LIMIT
    assert proof.frames == 2
    image = pictures(1)[0]
    wanted = run(model, image, precision="fp32")["anomaly_map"]
    found = run(half_model(model, set(proof.kept)), image)["anomaly_map"]
    room = TOLERANCES["fp16_map"].atol * np.ptp(wanted)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=room)


def test_ordinary_ranges_keep_nothing():
    proof = prove_ranges(residual_net(), pictures(2))
    assert proof.kept == ()
    assert (proof.largest, proof.tensor) == (pytest.approx(254, abs=2), "float")


def test_control_flow_is_refused():
    then = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "then",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    node = helper.make_node(
        "If", ["flag"], ["out"], name="branch", then_branch=then, else_branch=then
    )
    graph = helper.make_graph(
        [node],
        "edgead",
        [
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(BundleError) as error:
        half_model(model, set())
    assert str(error.value) == (
        "[HALF_SUBGRAPH] node branch holds a graph; FP16 is made of plain graphs."
    )
