"""Agreement figures with known answers, certificates of a real bundle, and when one decides."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gravel import gravel_bundle, gravel_frame, with_blot
from scipy import stats

from edgead.backends import kind
from edgead.bundle import CERTIFICATES
from edgead.calibration.frames import ProofFrame
from edgead.choice import choose
from edgead.deploy.agreement import Agreement, Limits, Scores, agreement
from edgead.deploy.certificate import encoded, issue, merged


def frames(count=8):
    good = gravel_frame()
    size = gravel_bundle().manifest.input.size
    empty, marked = np.zeros(size, bool), np.zeros(size, bool)
    marked[:12, :12] = True
    half = count // 2
    return [
        *(ProofFrame(with_blot(good, 8 + i, 70, side=2), False, empty) for i in range(half)),
        *(ProofFrame(with_blot(good, 4 * i, 0), True, marked) for i in range(half)),
    ]


def compared(reference, found, limits=None, count=None) -> Agreement:
    manifest = gravel_bundle().manifest
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(16, 16)).astype(np.float32) for _ in reference]
    first = Scores(np.asarray(reference, float), maps)
    second = Scores(np.asarray(found, float), maps)
    return agreement(manifest, frames(count or len(maps)), first, second, limits or Limits())


def thresholds():
    limits = gravel_bundle().manifest.thresholds
    return limits.threshold, limits.score_scale


def test_equal_scores_agree_in_everything():
    at, scale = thresholds()
    scores = at + scale * np.array([-1, -0.8, -0.6, -0.4, 1, 2, 3, 4])
    same = compared(scores, scores)
    assert (same.flips, same.score_change_max, same.auroc_loss) == (0, 0.0, 0.0)
    assert same.rank_correlation == pytest.approx(1)
    assert (same.map_correlation, same.mask_iou) == (pytest.approx(1), pytest.approx(1))
    assert same.misses(Limits()) == []


def test_how_far_beyond_a_defect_scores_is_no_error():
    at, scale = thresholds()
    before = at + scale * np.array([-1, -0.8, -0.6, -0.4, 1, 2, 50, 900])
    after = before + scale * np.array([0.1, 0, 0, 0, 0, 0, 9, -300])
    found = compared(before, after)
    assert found.score_change_max == pytest.approx(300)
    assert found.score_change_rms == pytest.approx((0.1**2 / 8) ** 0.5)


def test_a_flip_counts_outside_the_band_alone():
    at, scale = thresholds()
    before = at + scale * np.array([-1, -0.8, -0.005, -0.4, 1, 2, 3, 4])
    after = before.copy()
    after[2] += 0.02 * scale  # crosses from inside the band
    assert (compared(before, after).flips, compared(before, after).flips_in_band) == (0, 1)
    after[3] += 0.5 * scale
    found = compared(before, after)
    assert (found.flips, found.flips_in_band) == (1, 1)
    assert found.score_change_max == pytest.approx(0.5)
    assert found.misses(Limits())[0] == (
        "1 verdicts flip (limit 0), the farthest 0.400 score_scale from the threshold (band 0.01)"
    )
    assert found.misses(Limits(flips=1, rank_correlation=0.5)) == []


def test_rank_correlation_is_spearmans_with_ties():
    before = [1.0, 2.0, 2.0, 3.0, 5.0, 4.0, 7.0, 7.0]
    after = [1.5, 2.0, 1.0, 3.0, 4.0, 5.0, 5.0, 8.0]
    expected = stats.spearmanr(before, after).statistic
    assert compared(before, after).rank_correlation == pytest.approx(expected)


def test_auroc_loss_and_its_words():
    at, scale = thresholds()
    before = at + scale * np.array([-4, -3, -2, -1, 1, 2, 3, 4])
    after = before.copy()
    after[4] = at - 2.5 * scale
    found = compared(before, after)
    assert found.auroc_fp32 == 1
    assert found.auroc_loss == pytest.approx(2 / 16)
    assert found.misses(Limits(flips=9, rank_correlation=0)) == [
        "image AUROC loss 0.1250 (limit 0.002)"
    ]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_fp32_against_itself_passes_on_a_real_bundle(backend, monkeypatch):
    """bf16 served by FP32's own graph, with OpenVINO told to compute f32: nothing may differ."""
    from edgead.backends import ov

    monkeypatch.setitem(ov._HINTS, "bf16", "f32")
    bundle, precision = gravel_bundle(), "bf16"
    if backend == "onnxruntime":
        bundle = bundle.with_members({"model.fp16.onnx": bundle.members["model.onnx"]})
        precision = "fp16"
    made = issue(bundle, frames(), backend=backend, precision=precision, threads=1)
    assert (made["reasons"], made["passed"]) == ([], True)
    assert made["figures"]["flips"] == 0
    assert made["figures"]["frames"] == 8
    assert made["figures"]["speedup"] > 0
    assert made["device"] == kind.device_kind(backend)
    assert set(made) >= {
        "precision", "backend", "backend_version", "device", "arithmetic", "limits", "figures",
        "passed",
    }  # fmt: skip
    json.dumps(made, allow_nan=False)


def test_an_engine_that_refuses_the_model_fails_the_certificate():
    bundle = gravel_bundle()
    other = bundle.members["model.onnx"].replace(b"anomaly_map", b"anomaly_mop")
    made = issue(
        bundle.with_members({"model.int8.onnx": other}),
        frames(),
        backend="openvino",
        precision="int8",
    )
    assert not made["passed"]
    assert made["reasons"] == [
        "[MODEL_IO] outputs are ['anomaly_mop']; head max needs 'anomaly_map'."
    ]


def test_a_wrong_graph_is_found_by_scores_and_golden_images():
    """Another network's graph in the place of INT8's: a certificate must not pass."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(gravel_bundle().members["model.onnx"])
    for item in model.graph.initializer:
        if item.name.startswith("scorer.2"):
            item.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(item), item.name))
    bundle = gravel_bundle().with_members({"model.int8.onnx": model.SerializeToString()})
    made = issue(bundle, frames(), backend="openvino", precision="int8")
    assert not made["passed"]
    assert any("golden image" in reason for reason in made["reasons"])
    bare = bundle.with_members({}, golden=[])  # the frames alone then: no figure, and no praise
    made = issue(bare, frames(), backend="openvino", precision="int8")
    assert not made["passed"]
    assert made["figures"]["golden_worst"] is None


def test_a_new_certificate_takes_the_old_ones_place():
    def one(precision, device, value):
        return {"precision": precision, "backend": "openvino", "device": device, "value": value}

    old = [one("int8", "cpu a", 1), one("int8", "cpu b", 2), one("bf16", "cpu a", 3)]
    table = merged(old, [one("int8", "cpu a", 4)])
    assert [entry["value"] for entry in table] == [2, 3, 4]


def test_a_certificate_decides_only_when_native_and_of_this_kind_of_device(monkeypatch):
    member = {"model.int8.onnx": gravel_bundle().members["model.onnx"]}
    made = issue(
        gravel_bundle().with_members(member), frames(), backend="openvino", precision="int8"
    )
    made["figures"]["speedup"] = 3.0
    assert made["passed"]
    bundle = gravel_bundle().with_members({**member, CERTIFICATES: encoded([made])})
    assert choose(bundle, "openvino").precision == "int8"
    monkeypatch.setattr("edgead.choice.device_kind", lambda _name: "cpu another")
    assert choose(bundle, "openvino").precision == "fp32"


def test_arithmetic_follows_the_instructions_at_hand(monkeypatch):
    monkeypatch.setattr(kind, "cpu_features", lambda: frozenset({"avx512_vnni", "avx512_bf16"}))
    assert kind.arithmetic("openvino", "bf16") == "native"
    assert kind.arithmetic("openvino", "fp16") == "emulated"
    assert kind.arithmetic("onnxruntime", "fp16") == "emulated"
    assert kind.arithmetic("onnxruntime", "int8") == "native"
    monkeypatch.setattr(kind, "cpu_features", lambda: frozenset({"avx2"}))
    assert kind.arithmetic("openvino", "bf16") == "emulated"
    assert kind.arithmetic("tensorrt", "fp16") == "native"
