"""INT8 graphs: each form obeys its engines' rules and gives nearly FP32's map; biases; the search."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from precision_nets import pictures, residual_net
from tolerances import TOLERANCES

from edgead.backends import ov
from edgead.backends.ort import OnnxRuntimeBackend
from edgead.backends.ov import OpenVinoBackend
from edgead.calibration.calibrators import Calibrator, Histogram, clip_ranges
from edgead.deploy.activations import float_tensors, watch
from edgead.deploy.agreement import Agreement, Limits
from edgead.deploy.qdq import (
    CONV_ONLY,
    FORMS,
    costs,
    first_depthwise,
    int8_model,
    quantisable,
)
from edgead.deploy.quantize import _Plans
from edgead.deploy.rounding import Rounded
from edgead.deploy.search import CALIBRATORS, Plan, Search
from edgead.errors import BundleError
from edgead.onnx_walk import check_model

NODES = ["stem/Conv", "block/Conv", "block/Add", "score/Conv"]


def ranges(model):
    histograms = {name: Histogram() for name in float_tensors(model)}
    for values in watch(model, pictures(4), list(histograms)):
        for name, array in values.items():
            histograms[name].add(array)
    return clip_ranges(histograms, Calibrator("minmax"))


def int8(form, nodes=NODES):
    model = residual_net()
    return int8_model(model, ranges(model), nodes, form)


def anomaly_map(data, backend, precision="int8"):
    engine = backend(data, precision=precision)
    return engine.open_request().infer({"image": pictures(1, seed=9)[0]})["anomaly_map"]


@pytest.mark.parametrize("backend", [OnnxRuntimeBackend, OpenVinoBackend])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_runs_and_is_near_fp32(form, backend):
    data = int8(form)
    check_model(data, name=form)
    wanted = anomaly_map(residual_net().SerializeToString(), backend, "fp32")
    room = TOLERANCES["int8_map"].atol * np.ptp(wanted)
    np.testing.assert_allclose(anomaly_map(data, backend), wanted, rtol=0, atol=room)


@pytest.mark.parametrize("form", ["s8", "qdq"])
def test_tensorrt_rules_hold(form):
    """Zero points of 0, signed, no quantised bias, quantisation of weights per channel."""
    graph = onnx.load_from_string(int8(form)).graph
    items = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    kinds = {i.name: i.data_type for i in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert kinds[node.input[2]] == TensorProto.INT8
            assert not items[node.input[2]].any()
    assert TensorProto.INT32 not in kinds.values()
    stem = next(node for node in graph.node if node.name == "stem/Conv")
    assert stem.input[2] == "stem.bias"
    makers = {name: node for node in graph.node for name in node.output}
    weight = makers[stem.input[1]]
    assert weight.op_type == "DequantizeLinear"
    assert items[weight.input[1]].shape == (8,)  # a scale an output channel
    if form == "s8":
        assert kinds[weight.input[0]] == TensorProto.INT8
    else:
        assert makers[weight.input[0]].op_type == "QuantizeLinear"
        assert kinds[makers[weight.input[0]].input[0]] == TensorProto.FLOAT


def test_the_graph_says_what_its_floating_point_parts_need():
    model = residual_net()
    noted = int8_model(model, ranges(model), ["stem/Conv"], "s8", float_parts="f32")
    check_model(noted, name="noted")
    assert OpenVinoBackend(noted, precision="int8").float_parts == "f32"
    free = OpenVinoBackend(int8("s8", ["stem/Conv"]), precision="int8").float_parts
    able = ov._hints(
        "int8", OpenVinoBackend(noted)._ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    )
    assert free == able[0]


def test_bf16_is_taken_where_the_cpu_has_it():
    assert ov._hints("int8", {"FP32", "BF16", "INT8"}) == ["bf16", "f32"]
    assert ov._hints("int8", {"FP32", "INT8"}) == ["f32"]
    assert ov._hints("fp16", {"FP32", "BF16"}) == ["f32"]
    assert ov._hints("fp16", {"FP32", "FP16"}) == ["f16"]
    assert ov._hints("fp32", {"BF16"}) == ["f32"]


def test_a_graph_that_fails_in_bf16_is_compiled_in_f32():
    """OpenVINO 2026.4 fails so on some mixtures of INT8 and bf16 layers."""

    class Core:
        def compile_model(self, graph, device, config):
            if config["INFERENCE_PRECISION_HINT"] == "bf16":
                raise RuntimeError("object is not initialized")
            return graph, config

    compiled, hint = ov._compile(Core(), "graph", {"CACHE_DIR": "d"}, ["bf16", "f32"])
    assert hint == "f32"
    assert compiled == ("graph", {"CACHE_DIR": "d", "INFERENCE_PRECISION_HINT": "f32"})
    with pytest.raises(RuntimeError, match="not initialized"):
        ov._compile(Core(), "graph", {}, ["bf16"])


def test_kept_nodes_read_floats():
    graph = onnx.load_from_string(int8("s8", ["stem/Conv"])).graph
    block = next(node for node in graph.node if node.name == "block/Conv")
    assert list(block.input)[1:] == ["block.weight", "block.bias"]
    assert Counter(n.op_type for n in graph.node)["QuantizeLinear"] == 1


@pytest.mark.parametrize("backend", [OnnxRuntimeBackend, OpenVinoBackend])
@pytest.mark.parametrize("form", FORMS)
def test_weights_that_stay_floats_are_stored_as_halves_where_that_saves_bytes(form, backend):
    """But for TensorRT 8.6 to 10, whose parsers want to see a layer's weights themselves."""
    model = residual_net(width=24)
    data = int8_model(model, ranges(model), ["stem/Conv", "score/Conv"], form)
    check_model(data, name=form)
    types = {item.name: item.data_type for item in onnx.load_from_string(data).graph.initializer}
    if form == "qdq":
        assert types["block.weight"] == TensorProto.FLOAT
    else:
        assert types["block.weight_half"] == TensorProto.FLOAT16
        assert "block.weight" not in types
    assert types["block.bias"] == TensorProto.FLOAT, "few"
    wanted = anomaly_map(model.SerializeToString(), backend, "fp32")
    room = TOLERANCES["int8_map"].atol * np.ptp(wanted)
    np.testing.assert_allclose(anomaly_map(data, backend), wanted, rtol=0, atol=room)


def test_weights_beyond_fp16_stay_as_they_are():
    model = residual_net(width=24)
    (large,) = (item for item in model.graph.initializer if item.name == "block.weight")
    values = numpy_helper.to_array(large).copy()
    values[0, 0, 0, 0] = 70_000
    large.CopyFrom(numpy_helper.from_array(values, large.name))
    data = int8_model(model, ranges(model), ["stem/Conv", "score/Conv"], "s8")
    types = {item.name: item.data_type for item in onnx.load_from_string(data).graph.initializer}
    assert types["block.weight"] == TensorProto.FLOAT


@pytest.mark.parametrize("form", ["s8", "qdq"])
def test_what_a_floating_point_node_shares_with_a_quantised_one_it_reads_unrounded(form):
    """The activation after the stem feeds a quantised layer and, here, a sum in floating point."""
    graph = onnx.load_from_string(int8(form, ["stem/Conv", "block/Conv"])).graph
    total = next(node for node in graph.node if node.name == "block/Add")
    assert list(total.input) == ["block", "stem_act"]


def test_the_first_depthwise_layer_is_found_and_a_grouped_one_is_none():
    def net(*weights):
        nodes = [
            helper.make_node("Conv", ["x", name], [f"y{name}"], name=name, group=group)
            for name, group, _ in weights
        ]
        items = [numpy_helper.from_array(np.zeros(s, np.float32), n) for n, _, s in weights]
        return helper.make_model(helper.make_graph(nodes, "g", [], [], items))

    stem, grouped = ("stem", 1, (8, 3, 3, 3)), ("grouped", 4, (8, 2, 3, 3))
    first, second = ("first", 8, (8, 1, 3, 3)), ("second", 8, (8, 1, 3, 3))
    assert first_depthwise(net(stem, grouped, first, second)) == {"first"}
    assert first_depthwise(net(stem, grouped)) == set()


def test_residual_sums_are_quantised_unless_only_layers_are_asked_for():
    assert quantisable(residual_net()) == NODES
    assert quantisable(residual_net(), layout="conv-only") == [
        "stem/Conv",
        "block/Conv",
        "score/Conv",
    ]


def quantised_sums(model):
    """Additions that read eight bits on both sides."""
    graph = onnx.load_from_string(model).graph
    read = {name for n in graph.node if n.op_type == "DequantizeLinear" for name in n.output}
    return sum(n.op_type == "Add" and set(n.input) <= read for n in graph.node)


def test_a_plan_with_sums_comes_in_the_coarser_layout_too():
    """What TensorRT falls back to when it refuses the finer one: sums in floating point, all else as planned."""
    model = residual_net()
    plans = object.__new__(_Plans)
    plans.model, plans.nodes = model, NODES
    plans._histograms = {name: Histogram() for name in float_tensors(model)}
    for values in watch(model, pictures(2), list(plans._histograms)):
        for name, array in values.items():
            plans._histograms[name].add(array)
    plans._rounded = Rounded(model, {})
    forms = plans.forms(Plan(Calibrator("minmax")))
    assert set(forms) == {*FORMS.values(), CONV_ONLY}
    assert quantised_sums(forms[FORMS["qdq"]]) == 1
    assert quantised_sums(forms[CONV_ONLY]) == 0
    check_model(forms[CONV_ONLY], name=CONV_ONLY)
    without = plans.forms(Plan(Calibrator("minmax"), frozenset({"block/Add"})))
    assert set(without) == set(FORMS.values()), "the plan itself is that layout"


def test_a_missing_range_is_named_without_a_native_error():
    with pytest.raises(BundleError) as error:
        int8_model(residual_net(), {}, NODES, "s8")
    assert error.value.code == "QUANTIZE_FAILED"
    assert str(error.value).startswith("[QUANTIZE_FAILED] INT8 (s8) cannot be written: ")
    assert str(error.value).endswith(
        "Keep the failing part in floating point, or use layout conv-only."
    )


def test_costs_count_work_and_memory():
    """A 3x3 convolution of 8 channels on 16 x 16 positions, and the sum beside it."""
    found = costs(residual_net())
    places = 16 * 16
    assert found["block/Conv"] == 8 * 8 * 9 * places + 16 * (2 * 8 * places + 8 * 8 * 9 + 8)
    assert found["block/Add"] == 16 * 3 * 8 * places


GOOD = Agreement(
    frames=10, rank_correlation=1.0, score_change_max=0.0, score_change_rms=0.0,
    score_change_mean=0.0, flips=0, flips_in_band=0, auroc_fp32=1.0, auroc=1.0, auroc_loss=0.0,
    pixel_auroc_fp32=1.0, pixel_auroc=1.0, pixel_auroc_loss=0.0, map_correlation=1.0,
    map_correlation_min=1.0, mask_iou=1.0, flip_distance=0.0,
)  # fmt: skip
HARM = {"a": 0.5, "b": 0.01, "c": 0.2, "d": 0.01, "e": 0.02}


class Simulated:
    """Layers whose harms add up; verdicts flip above 0.1."""

    def __init__(self):
        self.asked = []

    def __call__(self, plan):
        self.asked.append(plan)
        error = sum(harm for name, harm in HARM.items() if name not in plan.kept)
        fields = {**GOOD.__dict__, "score_change_rms": error, "flips": int(error > 0.1)}
        return Agreement(**fields)


def search(evaluate, **options):
    return Search(evaluate, list(HARM), frozenset(), Limits(), **options)


def test_as_few_layers_as_needed_are_restored():
    first = next(search(Simulated()).plans())
    assert first.plan.kept == {"a", "c"}


def test_a_plan_that_proof_refuses_is_followed_by_a_closer_one():
    found = [trial.plan.kept for trial in search(Simulated()).plans()]
    assert found == [{"a", "c"}, {"a", "c", "e"}, {"a", "c", "d", "e"}]


def test_proof_is_asked_of_every_calibrator_that_holds_before_layers_are_restored():
    class Calibrators(Simulated):
        """Everything quantised, one clips too much and the others differ a little."""

        def __call__(self, plan):
            self.asked.append(plan)
            order = CALIBRATORS.index(plan.calibrator)
            error = 0.05 + 0.01 * order - 0.01 * len(plan.kept)
            flips = int(order == len(CALIBRATORS) - 1)
            return Agreement(**{**GOOD.__dict__, "score_change_rms": error, "flips": flips})

    found = search(Calibrators()).plans()
    whole = [next(found) for _ in CALIBRATORS[:-1]]
    assert [one.plan for one in whole] == [Plan(one) for one in CALIBRATORS[:-1]]
    restored = next(found)
    assert restored.plan.calibrator == CALIBRATORS[0]
    assert restored.plan.kept
    assert restored.error() <= 0.7 * whole[0].error()


def test_the_rest_in_bf16_is_proven_first_where_it_holds():
    """Each plan twice, the faster one first; bf16 that flips a verdict is not asked for."""

    class Rounds(Simulated):
        def __init__(self, harm):
            super().__init__()
            self.harm = harm

        def __call__(self, plan):
            found = super().__call__(plan)
            error = found.score_change_rms + self.harm * plan.bf16
            return Agreement(
                **{**GOOD.__dict__, "score_change_rms": error, "flips": int(error > 0.1)}
            )

    plans = search(Rounds(0.01), bf16=True).plans()
    first, second, third = next(plans), next(plans), next(plans)
    assert (first.plan.kept, first.plan.bf16) == ({"a", "c"}, True)
    assert (second.plan.kept, second.plan.bf16) == ({"a", "c"}, False)
    assert third.error() <= 0.7 * second.error()
    assert first.plan.key == "mse | bf16 a c"
    assert first.row()["bf16"]
    assert not any(trial.plan.bf16 for trial in search(Rounds(0.09), bf16=True).plans())


def test_what_need_not_be_restored_is_given_back():
    """Alone ``c`` harms more than ``e``; beside a restored ``a`` it does no harm at all."""

    class Together(Simulated):
        def __call__(self, plan):
            alone = len(plan.kept) == len(HARM) - 1
            harms = dict(HARM, c=0.2 if alone or "a" not in plan.kept else 0.0, e=0.15)
            error = sum(harm for name, harm in harms.items() if name not in plan.kept)
            fields = {**GOOD.__dict__, "score_change_rms": error, "flips": int(error > 0.1)}
            return Agreement(**fields)

    assert next(search(Together(), costs={"c": 900}).plans()).plan.kept == {"a", "e"}


def test_full_int8_is_taken_when_it_holds():
    class Harmless(Simulated):
        def __call__(self, plan):
            self.asked.append(plan)
            return GOOD

    evaluate = Harmless()
    assert next(search(evaluate).plans()).plan.kept == frozenset()
    assert len(evaluate.asked) == len(CALIBRATORS)


def test_a_cut_off_search_goes_on_where_it_stood(tmp_path):
    journal = tmp_path / "trials.json"
    cut = search(Simulated(), minutes=0.0, journal=journal)
    assert list(cut.plans()) == []
    assert cut.is_cut_off

    class Dies(Simulated):
        def __call__(self, plan):
            if len(self.asked) == 9:
                raise KeyboardInterrupt
            return super().__call__(plan)

    with pytest.raises(KeyboardInterrupt):
        next(search(Dies(), journal=journal).plans())
    rest = Simulated()
    assert next(search(rest, journal=journal).plans()).plan.kept == {"a", "c"}
    whole = Simulated()
    next(search(whole).plans())
    assert len(rest.asked) == len(whole.asked) - 9


def test_a_damaged_journal_is_begun_anew(tmp_path):
    journal = tmp_path / "trials.json"
    journal.write_text('{"mse | ": {"frames"')
    assert next(search(Simulated(), journal=journal).plans()).plan.kept == {"a", "c"}


def test_where_eight_bit_weights_alone_are_too_coarse_restored_layers_get_their_own_back():
    class Coarse(Simulated):
        """Every layer's weights harm by 0.09, restored or not, unless it has its own back."""

        def __call__(self, plan):
            self.asked.append(plan)
            coarse = [name for name in HARM if not (plan.exact and name in plan.kept)]
            error = 0.09 * len(coarse)
            return Agreement(
                **{**GOOD.__dict__, "score_change_rms": error, "flips": int(error > 0.2)}
            )

    evaluate = Coarse()
    found = next(search(evaluate).plans())
    assert found.plan.exact
    assert len(found.plan.kept) == 3
    assert found.plan.key.startswith("mse | exact ")
    whole = frozenset(HARM)
    assert [plan.exact for plan in evaluate.asked if plan.kept == whole] == [False], (
        "the floor, once"
    )
    assert found.row()["exact"]


def test_nothing_holds():
    class Hopeless(Simulated):
        def __call__(self, plan):
            return Agreement(**{**GOOD.__dict__, "flips": 3, "score_change_rms": 1.0})

    one = search(Hopeless())
    assert list(one.plans()) == []
    assert one.closest() is not None
    assert not one.is_cut_off


def test_a_plan_has_one_identity():
    plan = Plan(Calibrator("percentile", 99.9), frozenset({"b", "a"}))
    assert plan.key == "percentile 99.9 | a b"
