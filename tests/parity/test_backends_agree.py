"""ONNX Runtime, OpenVINO and ONNX's own evaluator on photographs: the same scores, verdicts and maps.

Torch joins them in tests/e2e/test_train_export_detect.py, where there is a trained network.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from data.make_bundle import SIDE, pieces
from gravel import PATH, gravel_bundle, with_blot
from onnx.reference import ReferenceEvaluator
from tolerances import TOLERANCES

from edgead import Detector, Verdict
from edgead.backends import open_backend
from edgead.frame import Frame, PixelFormat
from edgead.scorer import Scorer


def frames():
    """24 photographs, every third with a white square: good ones and defects."""
    found = []
    for index, piece in enumerate(pieces(83)[:24]):
        frame = Frame(piece, PixelFormat.MONO8)
        place = index * 7 % (SIDE - 20)
        found.append(with_blot(frame, place, place) if index % 3 == 0 else frame)
    return found


@pytest.fixture(scope="module")
def judged():
    found = {}
    for name in ("openvino", "onnxruntime"):
        with Detector(PATH, backend=name, precision="fp32", threads=1) as detector:
            found[name] = [detector(frame) for frame in frames()]
    return found


def test_both_engines_give_every_frame_the_same_verdict(judged):
    pairs = list(zip(judged["openvino"], judged["onnxruntime"], strict=True))
    assert [a.verdict for a, _ in pairs] == [b.verdict for _, b in pairs]
    assert {a.verdict for a, _ in pairs} == {Verdict.GOOD, Verdict.DEFECT}
    scale = gravel_bundle().manifest.thresholds.score_scale
    worst = max(abs(a.score - b.score) for a, b in pairs) / scale
    assert worst <= TOLERANCES["export_score"].atol


def test_both_engines_give_the_same_maps_and_regions(judged):
    for a, b in zip(judged["openvino"], judged["onnxruntime"], strict=True):
        room = TOLERANCES["export_map"].atol * np.ptp(a.anomaly_map)
        np.testing.assert_allclose(a.anomaly_map, b.anomaly_map, rtol=0, atol=room)
        level = gravel_bundle().manifest.thresholds.pixel_threshold
        clear = np.abs(a.anomaly_map - level) > room  # masks may differ only at the level itself
        np.testing.assert_array_equal(a.mask[clear], b.mask[clear])


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_engines_against_the_readable_evaluator_of_onnx(backend):
    """The onnx package's own NumPy evaluator: slow, plain, and made by others."""
    bundle = gravel_bundle()
    peer = ReferenceEvaluator(onnx.load_from_string(bundle.members["model.onnx"]))
    scorer = Scorer(bundle, open_backend(backend, bundle.members, threads=1))
    for frame in frames()[:3]:
        scored = scorer(frame)
        (expected,) = peer.run(None, {"image": scored.tensor[None]})
        room = TOLERANCES["export_map"].atol * np.ptp(expected)
        np.testing.assert_allclose(scored.anomaly_map, expected[0], rtol=0, atol=room)


def test_the_graph_holds_colour_order_and_scaling_inside():
    """Golden pixels: grey frames hide a swapped order, so the model is fed colour."""
    model = gravel_bundle().members["model.onnx"]
    request = open_backend("onnxruntime", {"model.onnx": model}, threads=1).open_request()
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    straight = request.infer({"image": image})["anomaly_map"]
    swapped = request.infer({"image": np.ascontiguousarray(image[..., ::-1])})["anomaly_map"]
    assert np.abs(straight - swapped).max() > 1e-2 * np.ptp(straight)
    first = onnx.load_from_string(model).graph.node[0]
    assert (first.op_type, list(first.input)) == ("Cast", ["image"])
