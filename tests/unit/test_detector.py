"""The Detector on the committed bundle: one frame, many, threads, its ends, and what is never good."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bundles import tiny_bundle, tiny_frame
from gravel import PATH, gravel_bundle, gravel_frame, looking_at, with_blot

import edgead.loaded
from edgead import Detector, Verdict
from edgead.errors import BackendError, BundleError, EdgeadError, FrameError, StateError
from edgead.frame import Frame, PixelFormat
from edgead.manifest import Golden, InputRanges, View
from edgead.stream import run
from edgead.testing.fakes import FakeBackend
from edgead.testing.faults import Fault


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def detector(request):
    with Detector(PATH, backend=request.param, threads=1) as opened:
        yield opened


def test_a_good_frame(detector):
    found = detector(gravel_frame())
    limits = detector.bundle.manifest.thresholds
    assert found.verdict is Verdict.GOOD
    assert found.accept
    assert found.score <= found.threshold == limits.threshold
    assert 0 < found.confidence < 1
    assert found.anomaly_map.shape == found.mask.shape == (64, 64)
    assert (found.anomaly_map.dtype, found.mask.dtype) == (np.float32, np.bool_)
    np.testing.assert_array_equal(
        found.mask, found.anomaly_map > np.float32(limits.pixel_threshold)
    )
    assert set(found.timings_ms) == {"preprocess", "infer", "postprocess"}
    assert found.bundle_hash == gravel_bundle().hash
    assert (found.backend, found.precision) == (detector.choice.backend, "fp32")


@pytest.mark.parametrize(("x", "y"), [(10, 14), (60, 50)])
def test_a_blot_is_a_defect_and_its_region_covers_it(detector, x, y):
    found = detector(with_blot(gravel_frame(), x, y))
    assert found.verdict is Verdict.DEFECT
    assert not found.accept
    x0, y0, x1, y1 = found.regions[0].box_xyxy
    assert x0 < x + 9 < x1
    assert y0 < y + 9 < y1
    assert found.confidence > detector(gravel_frame()).confidence


def test_a_batch_is_the_same_as_one_by_one(detector):
    frames = [gravel_frame(), with_blot(gravel_frame(), 30, 30), gravel_frame()]
    for one, frame in zip(detector.batch(frames), frames, strict=True):
        alone = detector(frame)
        assert (one.verdict, one.score) == (alone.verdict, alone.score)
        np.testing.assert_array_equal(one.anomaly_map, alone.anomaly_map)
        np.testing.assert_array_equal(one.mask, alone.mask)
    assert detector.batch([]) == []


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_throughput_hint_changes_no_verdict_and_streams_judge_several_at_once(backend):
    frames = [gravel_frame(), with_blot(gravel_frame(), 30, 30)] * 6
    with (
        Detector(PATH, backend=backend, threads=1) as one,
        Detector(PATH, backend=backend, hint="throughput") as many,
    ):
        expected = [one(frame).score for frame in frames]
        assert [found.score for found in many.batch(frames)] == pytest.approx(expected, rel=1e-5)
        assert (one.in_flight, many.in_flight) == (1, len(os.sched_getaffinity(0)) + 2)
        cameras = {"left": iter(frames), "right": iter(frames)}
        with run(many, cameras, policy="every") as outcomes:  # as Detector.stream and serve do
            judging = [t for t in threading.enumerate() if t.name == "edgead judge"]
            scores = {"left": [], "right": []}
            for outcome in outcomes:
                scores[outcome.source_id].append(outcome.detection.score)
    assert len(judging) == many.in_flight
    for camera in scores.values():
        assert camera == pytest.approx(expected, rel=1e-5), "in order"


def test_results_of_different_calls_share_no_memory(detector):
    first = detector(gravel_frame())
    kept = first.anomaly_map.copy(), first.mask.copy()
    detector(with_blot(gravel_frame(), 30, 30))
    np.testing.assert_array_equal(first.anomaly_map, kept[0])
    np.testing.assert_array_equal(first.mask, kept[1])


def test_many_threads_give_the_answers_of_one(detector):
    frames = [with_blot(gravel_frame(), 4 * i, 3 * i) for i in range(12)]
    expected = [detector(frame).score for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        assert [found.score for found in pool.map(detector, frames * 3)] == expected * 3


def test_score_only_gives_the_same_verdict_and_nothing_to_look_at():
    with Detector(PATH, score_only=True, threads=1) as fast, Detector(PATH, threads=1) as full:
        found, whole = fast(gravel_frame()), full(gravel_frame())
    assert (found.verdict, found.score, found.confidence) == (
        whole.verdict,
        whole.score,
        whole.confidence,
    )
    assert (found.anomaly_map, found.mask, found.regions) == (None, None, ())


def test_plain_arrays_streams_and_names(detector):
    assert detector(gravel_frame().pixels).score == detector(gravel_frame()).score
    outcomes = list(detector.stream([gravel_frame(), with_blot(gravel_frame(), 30, 30)]))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.GOOD, Verdict.DEFECT]
    assert repr(detector) == (
        f"Detector(trisimplenet, {detector.choice.backend}/fp32, {gravel_bundle().hash[:12]})"
    )


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(np.zeros((96, 96, 3), np.uint8)), "FRAME_FORMAT"),
        (Frame(np.zeros((96, 95), np.uint8), PixelFormat.MONO8), "FRAME_SIZE"),
        (np.full((96, 96), 77, np.uint8), "FRAME_CONSTANT"),
        (np.full((96, 96), np.nan, np.float32), "FRAME_NONFINITE"),
        (np.zeros((96, 96), np.float32), "FRAME_RANGE_UNDECLARED"),
        (np.zeros((96, 96), np.uint16), "FRAME_DTYPE"),
        (np.zeros((3, 96, 96), np.uint8), "FRAME_LAYOUT"),
        (np.zeros((96, 96, 2), np.uint8), "FRAME_CHANNELS"),
        (None, "FRAME_NONE"),
        ("frame.png", "FRAME_IS_PATH"),
    ],
)
def test_what_is_no_frame_of_this_line_gets_no_verdict(detector, frame, code):
    for call in (lambda: detector(frame), lambda: detector.batch([gravel_frame(), frame])):
        with pytest.raises(FrameError) as error:
            call()
        assert error.value.code == code
    assert detector(gravel_frame()).accept  # and the next one is judged as ever


def test_exposure_is_checked_unless_asked_not_to():
    ranges = InputRanges(mean=(0.0, 20.0), std=(0.0, 255.0), sharpness=(0.0, 255.0))
    bundle = gravel_bundle().with_members({}, input_ranges=ranges)
    with Detector(bundle, threads=1) as strict, pytest.raises(FrameError) as error:
        strict(gravel_frame())
    assert error.value.code == "FRAME_EXPOSURE"
    with Detector(bundle, threads=1, check_ranges=False) as lax:
        assert lax(gravel_frame()).accept


def test_region_and_polygon_move_verdict_score_and_regions():
    blotted = with_blot(gravel_frame(), 60, 10)
    polygon = [(46.0, 0.0), (96.0, 0.0), (96.0, 44.0), (46.0, 44.0)]
    with (
        opened(View(ignore=[polygon])) as blind,
        opened(View(roi=(0, 40, 96, 96))) as lower,
        opened(View()) as plain,
    ):
        assert plain(blotted).verdict is Verdict.DEFECT
        assert blind(blotted).score < plain(blotted).score
        assert blind(blotted).score == blind(gravel_frame()).score
        assert lower(blotted).score == lower(gravel_frame()).score
        assert lower(blotted).placement.offset_xy == (0.0, 40.0)


def opened(view):
    return Detector(looking_at(view), threads=1, check_ranges=False)


def test_closing_twice_and_using_afterwards():
    with Detector(PATH, threads=1) as detector:
        detector(gravel_frame())
    detector.close()
    detector.close()
    for call in (
        lambda: detector(gravel_frame()),
        lambda: detector.batch([]),
        lambda: detector.stream([]),
        detector.verify,
    ):
        with pytest.raises(StateError) as error:
            call()
        assert str(error.value) == "[CLOSED] this Detector is closed. Open a new one."


def test_closing_while_others_judge_ends_in_verdicts_or_typed_errors():
    detector, results = Detector(PATH, threads=1), []

    def work():
        try:
            for _ in range(200):
                results.append(detector(gravel_frame()).verdict)
        except EdgeadError as error:
            results.append(error.code)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 60
    while len(results) < 5 and time.monotonic() < end:
        time.sleep(0.001)
    detector.close()
    for thread in threads:
        thread.join(60)
    assert set(results) <= {Verdict.GOOD, "CLOSED"}


def _in_child(detector, pipe):
    try:
        detector(gravel_frame())
    except StateError as error:
        pipe.send(str(error))
    pipe.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_told_so():
    ours, theirs = multiprocessing.Pipe()
    with Detector(tiny_bundle(), backend="openvino", threads=1) as detector:
        child = multiprocessing.get_context("fork").Process(
            target=_in_child, args=(detector, theirs)
        )
        child.start()
        assert ours.poll(30)
        text = ours.recv()
        child.join(30)
        assert child.exitcode == 0
        parent = multiprocessing.current_process().pid
        assert text == (
            f"[FORKED] this Detector was made in process {parent}, you are in {child.pid}. "
            "Create it after the fork."
        )


def test_it_cannot_be_pickled():
    with Detector(PATH, threads=1) as detector, pytest.raises(StateError) as error:
        pickle.dumps(detector)
    assert str(error.value) == (
        "[NOT_PICKLABLE] a Detector holds an engine and cannot be pickled. "
        "Send the bundle's path and open a Detector in the other process."
    )


def _on(backend, monkeypatch, bundle=None, **options):
    monkeypatch.setattr(edgead.loaded, "open_backend", lambda *_, **__: backend)
    return Detector(bundle or tiny_bundle(), backend="openvino", **options)


_MAP = np.linspace(0, 0.4, 64, dtype=np.float32).reshape(1, 8, 8)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.RAISES,
        Fault.TYPED_ERROR,
        Fault.OUT_OF_MEMORY,
        Fault.NAN_SCORE,
        Fault.INF_SCORE,
        Fault.NAN_MAP,
        Fault.ZERO_MAP,
    ],
)
def test_an_engine_that_fails_never_says_good(monkeypatch, fault):
    backend = FakeBackend(
        {"anomaly_map": _MAP}, input_shape=(1, 8, 8, 3), fault_of=lambda n: fault if n else None
    )
    with _on(backend, monkeypatch, self_check=False) as detector:
        assert detector(tiny_frame()).verdict is Verdict.GOOD
        for _ in range(3):
            with pytest.raises(BackendError):
                detector(tiny_frame())


def test_an_engine_that_scores_otherwise_is_not_started_and_closed(monkeypatch):
    backend = FakeBackend({"anomaly_map": _MAP}, input_shape=(1, 8, 8, 3))
    with pytest.raises(BundleError) as error:
        _on(backend, monkeypatch)
    assert error.value.code == "GOLDEN"
    assert str(error.value).endswith(
        "on openvino fp32. Not started. Try another backend or precision, or make the bundle again."
    )
    assert backend.is_closed


def test_a_wrong_golden_score_names_the_image():
    bundle = tiny_bundle()
    wrong = [
        Golden(name=g.name, kind=g.kind, score=g.score - 0.02, verdict=g.verdict)
        for g in bundle.manifest.golden[:1]
    ]
    with pytest.raises(BundleError) as error:
        Detector(bundle.with_members({}, golden=wrong), backend="openvino", threads=1)
    assert str(error.value) == (
        "[GOLDEN] golden/good_0.png scored 0.39216, expected 0.37216 ± 0.0033, on openvino fp32. "
        "Not started. Try another backend or precision, or make the bundle again."
    )


def test_a_trigger_is_answered_once_by_its_id():
    with (
        Detector(gravel_bundle(), threads=1) as detector,
        detector.triggered(deadline_ms=60_000) as station,
    ):
        first = station.on_trigger("part-1", gravel_frame())
        again = station.on_trigger("part-1", gravel_frame())
    assert (first.accept, first.trigger_id) == (True, "part-1")
    assert (again.accept, again.reason) == (False, "DUPLICATE_ID")
