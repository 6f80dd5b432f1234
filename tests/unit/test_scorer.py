"""Frame to map and score: order, threads, requests, and what of the view reaches the score."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from bundles import TINY_MODEL, tiny_bundle, tiny_frame, tiny_manifest

from edgead.backends import HINTS, open_backend
from edgead.bundle import Bundle
from edgead.errors import BackendError, FrameError
from edgead.frame import Frame
from edgead.manifest import View
from edgead.scorer import Scorer
from edgead.testing.fakes import FakeBackend
from edgead.testing.faults import Fault

_MAP = np.arange(64, dtype=np.float32).reshape(1, 8, 8)


def fake(**options):
    return FakeBackend({"anomaly_map": _MAP}, input_shape=(1, 8, 8, 3), **options)


def frames(count):
    return [Frame(tiny_frame(seed, 60 + 10 * seed)) for seed in range(count)]


@pytest.fixture(params=["openvino", "onnxruntime"])
def scorer(request):
    return Scorer(tiny_bundle(), open_backend(request.param, {"model.onnx": TINY_MODEL}, threads=1))


def test_a_score_is_of_the_pixels(scorer):
    one = scorer(Frame(tiny_frame(0, 150)))
    assert one.score == pytest.approx(150 / 255, abs=1e-6)
    assert one.tensor.shape == (8, 8, 3)
    assert one.anomaly_map.shape == (8, 8)
    assert one.placement.scale_xy == (2.0, 2.0)
    assert set(one.timings_ms) == {"preprocess", "infer"}


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_many_frames_come_in_order_and_score_as_one_by_one(scorer, in_flight, monkeypatch):
    monkeypatch.setattr(scorer._backend, "in_flight", in_flight)
    several = frames(7)
    together = list(scorer.each(several))
    assert [one.score for one in together] == [scorer(frame).score for frame in several]
    for one, frame in zip(together, several, strict=True):
        np.testing.assert_array_equal(one.anomaly_map, scorer(frame).anomaly_map)


def test_no_frames_no_scores(scorer):
    assert list(scorer.each([])) == []


def test_threads_do_not_mix_frames_up(scorer):
    several, wrong = frames(16), []
    expected = [scorer(frame).score for frame in several]

    def work(offset):
        for step in range(32):
            index = (offset + step) % len(several)
            if scorer(several[index]).score != expected[index]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class _Counting(FakeBackend):
    opened = 0

    def open_request(self):
        self.opened += 1
        return super().open_request()


@pytest.mark.parametrize("hint", HINTS)
def test_each_copy_of_the_model_has_a_scorer(hint):
    opened = open_backend("openvino", {"model.onnx": TINY_MODEL}, threads=3, hint=hint)
    scorer = Scorer(tiny_bundle(), opened)
    copies = scorer.of_each_copy()
    frame = Frame(tiny_frame(0, 150))
    assert [one(frame).score for one in copies] == pytest.approx([150 / 255] * len(copies))
    if hint == "latency":
        assert copies == [scorer]
    else:
        models = [one._backend._compiled for one in copies]
        assert models == [[model] for model in opened._compiled]
        assert len(models) == 3
    assert scorer(frame).score == pytest.approx(150 / 255), "it goes on with all of them"


def test_a_refused_frame_costs_no_request():
    """Its picture is looked at while the engine is at work on it: the request comes back all the same."""
    backend = _Counting({"anomaly_map": _MAP}, input_shape=(1, 8, 8, 3))
    scorer = Scorer(tiny_bundle(), backend)
    dark = Frame(np.zeros((16, 16, 3), np.uint8))
    for _ in range(3):
        scorer(Frame(tiny_frame()))
        with pytest.raises(FrameError):
            scorer(dark)
    assert backend.opened == 1


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.TYPED_ERROR, "BACKEND_ERROR"),
        (Fault.OUT_OF_MEMORY, "DEVICE_OOM"),
        (Fault.NAN_MAP, "BACKEND_NONFINITE"),
        (Fault.INF_SCORE, "BACKEND_NONFINITE"),
        (Fault.ZERO_MAP, "BACKEND_DEGENERATE"),
    ],
)
def test_an_engines_fault_is_an_error_and_the_next_frame_is_judged(fault, code):
    scorer = Scorer(tiny_bundle(), fake(fault_of=lambda n: fault if n == 1 else None))
    first = scorer(Frame(tiny_frame())).score
    with pytest.raises(BackendError) as error:
        scorer(Frame(tiny_frame()))
    assert error.value.code == code
    assert scorer(Frame(tiny_frame())).score == first


def test_a_bad_frame_in_the_middle_of_many():
    scorer = Scorer(tiny_bundle(), fake())
    several = [*frames(2), Frame(np.zeros((16, 16, 3), np.uint8)), *frames(1)]
    with pytest.raises(FrameError) as error:
        list(scorer.each(several))
    assert error.value.code == "FRAME_CONSTANT"
    assert len(list(scorer.each(frames(5)))) == 5


#: Covers the brightest spot and what the resize filter spreads of it.
_CORNER = [(10.0, 0.0), (16.0, 0.0), (16.0, 6.0), (10.0, 6.0)]


def with_view(**fields):
    manifest = tiny_manifest(view=View(**fields))
    bundle = Bundle.build(manifest, {"model.onnx": TINY_MODEL})
    return Scorer(bundle, open_backend("onnxruntime", bundle.members, threads=1))


def spotted():
    """Brightest at (12..13, 2..3), second brightest at (4..5, 10..11)."""
    pixels = np.full((16, 16, 3), 40, np.uint8)
    pixels[2:4, 12:14] = 220
    pixels[10:12, 4:6] = 130
    return Frame(pixels)


def test_region_and_polygons_come_before_the_score():
    whole, none_ignored = with_view(), with_view(ignore=[[(0, 0), (1, 0), (1, 1)]])
    bright = whole(spotted()).score
    assert bright > 0.5
    assert none_ignored(spotted()).score == bright
    ignored = with_view(ignore=[_CORNER])(spotted())
    without = spotted().pixels
    without[2:4, 12:14] = 40
    assert ignored.score == whole(Frame(without)).score
    assert ignored.score < bright
    assert ignored.anomaly_map.max() == np.float32(ignored.score)
    below = with_view(roi=(0, 8, 16, 16))(spotted())
    assert below.score < bright
    assert below.placement.offset_xy == (0.0, 8.0)


def test_polygons_are_in_frame_pixels_also_inside_a_region():
    view = {"roi": (8, 0, 16, 8)}
    pixels = spotted().pixels
    pixels[6, 8:] = 60
    bright = with_view(**view)(Frame(pixels)).score
    assert with_view(**view, ignore=[_CORNER])(Frame(pixels)).score < bright
    elsewhere = [(x - 8, y) for x, y in _CORNER]
    assert with_view(**view, ignore=[elsewhere])(Frame(pixels)).score == bright


def test_closing_lets_go_of_the_engine():
    scorer = Scorer(
        tiny_bundle(), backend := _Counting({"anomaly_map": _MAP}, input_shape=(1, 8, 8, 3))
    )
    scorer(Frame(tiny_frame()))
    scorer.close()
    scorer(Frame(tiny_frame()))
    assert backend.opened == 2
