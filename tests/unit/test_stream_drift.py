"""Drift: no alarm on what was commissioned, an alarm with its evidence on what was planted."""

from __future__ import annotations

import json
import math
import threading

import msgspec
import numpy as np
import pytest
from gravel import gravel_bundle
from scipy import ndimage

from edgead import Detector
from edgead.appearance import measure
from edgead.backends import open_backend
from edgead.evaluate.commission import commission
from edgead.frame import Frame
from edgead.stream import Stream
from edgead.stream.drift import EVERY, WINDOW, Drift, DriftState
from edgead.stream.drift_reference import (
    CHANCE,
    MOST_CHANCE,
    NEEDED,
    DriftReference,
    chance_beyond,
    limit_of,
)
from edgead.stream.drift_shift import displacement
from edgead.stream.watchdog import State
from edgead.testing.fakes import FakeJudge, detection_of
from edgead.types import Detection, LedgerCounts, Outcome, Status, Verdict

_DRAWS = {
    "normal": lambda rng, n: rng.normal(0.0, 1.0, n),
    "skewed": lambda rng, n: rng.lognormal(0.0, 1.0, n),
    "two kinds": lambda rng, n: rng.normal(0.0, 0.1, n) + rng.integers(0, 2, n),
    "few values": lambda rng, n: rng.integers(0, 5, n).astype(float),
}


def scored(score, seq, *, threshold=1e9, bundle_hash="h", **fields):
    verdict = Verdict.DEFECT if score > threshold else Verdict.GOOD
    return Detection(
        verdict, float(score), threshold, 0.5, None, None, (), {}, f"cam:{seq}", bundle_hash,
        "fake", "fp32", **fields,
    )  # fmt: skip


def watching(values, smallest=0.0):
    """A drift that knows good scores alone."""
    limit = limit_of(list(values), smallest)
    limits = {} if limit is None else {"score": limit}
    return Drift(lambda name: DriftReference(limits, None, len(values)) if name == "h" else None)


@pytest.mark.parametrize(("count", "rank", "window"), [(5, 5, 7), (12, 10, 15), (30, 22, 31)])
def test_the_chance_is_that_of_a_simulation(count, rank, window):
    rng = np.random.default_rng(0)
    draws = 40_000
    old = np.sort(rng.random((draws, count)), axis=1)[:, rank - 1]
    new = np.median(rng.random((draws, window)), axis=1)
    seen = float((new > old).mean())
    expected = chance_beyond(count, rank, window)
    assert seen == pytest.approx(expected, abs=5 * math.sqrt(expected / draws))


@pytest.mark.parametrize("count", [25, 35, 36, 100, 1000])
def test_limits_keep_to_the_chance(count):
    limit = limit_of(range(count), 0.0)
    assert limit.chance <= (CHANCE if count >= 36 else MOST_CHANCE)
    assert limit.low < limit.then.median < limit.high
    assert limit.low + limit.high == pytest.approx(count - 1)


def test_too_few_images_tell_nothing():
    assert chance_beyond(NEEDED - 1, NEEDED - 1) > MOST_CHANCE >= chance_beyond(NEEDED, NEEDED)
    assert limit_of(range(NEEDED - 1), 0.0) is None
    assert limit_of([], 0.0) is None
    drift = watching(range(24))
    drift.observe(scored(1e6, 0))
    status = drift.status()
    assert status.state is DriftState.UNAVAILABLE
    assert status.reasons[0].text == (
        "24 good images cannot tell drift from chance; 25 can: commission it again."
    )


@pytest.mark.parametrize("name", sorted(_DRAWS))
@pytest.mark.parametrize("count", [25, 60, 300])
def test_no_alarm_on_what_was_commissioned(name, count):
    """8 lines of 1,500 frames each; the bound is one alarm in 600,000 frames and rarer."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        drift = watching(_DRAWS[name](rng, count))
        for seq, score in enumerate(_DRAWS[name](rng, 1500)):
            drift.observe(scored(score, seq))
            assert not drift.reasons()
        assert drift.status().state is DriftState.STEADY


@pytest.mark.parametrize("count", [25, 60, 300])
def test_a_shift_of_the_scores_is_seen_within_a_window_and_cleared_when_it_ends(count):
    rng = np.random.default_rng(1)
    drift = watching(_DRAWS["normal"](rng, count))
    scores = rng.normal(0, 1, 1200)
    scores[300:600] += 4
    raised = []
    for seq, score in enumerate(scores):
        drift.observe(scored(score, seq))
        if drift.reasons():
            raised.append(seq)
    assert 300 + WINDOW // 2 <= raised[0] <= 300 + WINDOW + 2 * EVERY
    assert raised[-1] <= 600 + WINDOW + EVERY
    assert raised == list(range(raised[0], raised[-1] + 1))  # raised once, cleared once
    assert drift.status().state is DriftState.STEADY


def test_a_change_that_does_not_matter_raises_nothing():
    rng = np.random.default_rng(2)
    drift = watching(rng.normal(0, 1, 300), smallest=10.0)
    for seq, score in enumerate(rng.normal(4, 1, 300)):
        drift.observe(scored(score, seq))
    assert drift.status().state is DriftState.STEADY


def test_a_median_at_the_limit_does_not_flicker():
    """Between raising and clearing lies half of the way back."""
    limit = limit_of(range(101), 0.0)
    assert limit.is_out(limit.high + 0.1, was_out=False)
    assert not limit.is_out(limit.high, was_out=False)
    back = (limit.high + 50) / 2
    assert limit.is_out(back + 0.1, was_out=True)
    assert not limit.is_out(back, was_out=True)


def test_states_from_the_first_frame_on():
    drift = watching(range(100))
    assert drift.status().state is DriftState.LEARNING
    for seq in range(WINDOW):
        assert drift.status().state is DriftState.LEARNING
        drift.observe(scored(50, seq))
    status = drift.status()
    assert (status.state, status.frames, status.images) == (DriftState.STEADY, WINDOW, 100)
    (figure,) = status.figures
    assert (figure.name, figure.frames, figure.is_out) == ("score", WINDOW, False)
    assert (figure.then.low, figure.then.median, figure.then.high) == (4.95, 49.5, 94.05)
    assert figure.now.median == 50
    assert json.loads(json.dumps(status.to_json(), allow_nan=False))["state"] == "STEADY"


def test_mostly_defects_are_a_drift_though_no_good_score_moves():
    drift = watching(range(100))
    for seq in range(4 * WINDOW):
        drift.observe(scored(50 if seq % 3 else 200, seq, threshold=100))
    assert drift.status().state is DriftState.STEADY  # a third is no majority
    for seq in range(4 * WINDOW):
        drift.observe(scored(200 if seq % 3 else 50, seq, threshold=100))
    (reason,) = drift.status().reasons
    assert reason.cause == "PRODUCT"
    assert reason.text == "42 of the last 63 parts are defects: process or product changed"


def failed(reason, message, seq):
    return Outcome(Status.FAILED, reason, None, "cam", seq, 0, 0, LedgerCounts(), message=message)


def test_frames_that_are_refused_for_their_light_are_a_drift():
    drift = watching(range(100))
    drift.observe(scored(50, 0))
    for seq in range(2 * WINDOW):
        drift.observe(failed("FRAME_EXPOSURE", "mean of the picture is 9.0; commissioned …", seq))
    (reason,) = drift.status().reasons
    assert (reason.cause, drift.reasons()) == ("REFUSED", ("DRIFT_REFUSED cam",))
    assert reason.text == "most frames are refused: mean of the picture is 9.0; commissioned …"
    other = watching(range(100))
    other.observe(scored(50, 0))
    for seq in range(2 * WINDOW):
        other.observe(failed("BACKEND_ERROR", "the engine failed.", seq))
    assert not other.reasons()


def test_sources_are_watched_apart_and_the_worst_one_counts():
    drift = watching(range(100))
    for seq in range(3 * WINDOW):
        for name, score in (("left", 50), ("right", 500)):
            one = scored(score, seq)
            drift.observe(Detection(**{**one.__dict__, "frame_id": f"{name}:{seq}"}))
    states = {name: status.state for name, status in drift.statuses().items()}
    assert states == {"left": DriftState.STEADY, "right": DriftState.DRIFTED}
    assert drift.status().state is DriftState.DRIFTED
    assert drift.reasons() == ("DRIFT_PRODUCT right",)


def test_another_bundle_begins_anew_and_the_old_ones_last_verdicts_are_passed_over():
    known = {"old": range(100), "new": range(1000, 1100)}
    current = ["old"]
    drift = Drift(
        lambda name: (
            DriftReference({"score": limit_of(list(known[name]), 0.0)}, None, 100)
            if name == current[0]
            else None
        )
    )
    for seq in range(2 * WINDOW):
        drift.observe(scored(50, seq, bundle_hash="old"))
    current[0] = "new"
    for seq in range(2 * WINDOW):
        drift.observe(scored(1050, seq, bundle_hash="new"))
        drift.observe(scored(50, seq, bundle_hash="old"))
    status = drift.status()
    assert (status.state, status.frames) == (DriftState.STEADY, 2 * WINDOW)


def test_reading_while_frames_come():
    drift, stop = watching(range(100)), threading.Event()
    wrong = []

    def read():
        while not stop.is_set():
            try:
                drift.status()
                drift.reasons()
            except Exception as error:
                wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for seq in range(2000):
        drift.observe(scored(50 if seq % 500 < 250 else 500, seq))
    stop.set()
    reader.join()
    assert wrong == []


@pytest.mark.parametrize(("x", "y"), [(0, 3), (-4, 0), (4, -2), (1, 1)])
def test_a_displacement_is_found(x, y):
    wide = ndimage.gaussian_filter(np.random.default_rng(0).random((40, 40)), 1.5)
    known, now = wide[12:28, 12:28], wide[12 - y : 28 - y, 12 - x : 28 - x]
    found = displacement(known.astype(np.float32), now.astype(np.float32))
    assert found == pytest.approx((x, y), abs=0.3)


def test_another_picture_has_not_moved():
    rng = np.random.default_rng(0)
    known, now = (ndimage.gaussian_filter(rng.random((16, 16)), 1).astype(np.float32) for _ in "ab")
    assert displacement(known, now) is None
    assert displacement(known, known) is None


def pieces(step, side=96):
    """Overlapping pieces of the photograph of gravel (CC0)."""
    from skimage import data

    picture = np.asarray(data.gravel(), dtype=np.uint8)
    starts = range(0, 512 - side + 1, step)
    return [picture[y : y + side, x : x + side] for y in starts for x in starts]


_TINT = np.array([0.75, 0.95, 1.0])


def in_fixture(piece):
    """A piece of gravel lit in a round opening of a dark fixture, in colour."""
    rows, columns = np.mgrid[:96, :96]
    light = np.where((rows - 46) ** 2 + (columns - 50) ** 2 > 40**2, 0.25, 1.0)
    return np.clip((piece * light)[..., None] * _TINT, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def line():
    """A bundle commissioned on 60 parts, and pictures of other parts."""
    parts = pieces(33)
    order = np.random.default_rng(0).permutation(len(parts))
    made = [in_fixture(parts[i]) for i in order]
    old = gravel_bundle()
    ready = commission(
        old, open_backend("onnxruntime", old.members, threads=1), [Frame(one) for one in made[:60]]
    )
    return ready.bundle, made[60:]


def seen_by(bundle, parts, change, frames=4 * WINDOW, seed=0):
    """The status after so many frames, without an engine: pictures as the detector measures them."""
    from edgead.preprocess import Preprocess

    prepare = Preprocess.of(bundle)
    drift = Drift(lambda _: DriftReference.of(bundle))
    goods = bundle.manifest.thresholds.good_scores
    rng = np.random.default_rng(seed)
    for seq in range(frames):
        pixels = change(parts[int(rng.integers(len(parts)))])
        tensor, placement = prepare(Frame(np.ascontiguousarray(pixels)))
        score = goods[int(rng.integers(len(goods)))]
        looks = measure(tensor[0])
        drift.observe(scored(score, seq, appearance=looks, placement=placement))
    return drift.status()


def test_a_line_as_it_was_commissioned(line):
    status = seen_by(*line, lambda one: one, frames=12 * WINDOW)
    assert status.state is DriftState.STEADY
    assert status.images == 60
    assert [figure.name for figure in status.figures] == [
        "brightness", "contrast", "sharpness", "red", "blue", "likeness", "score",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "cause", "says"),
    [
        (lambda a: (a * 0.8).astype(np.uint8), "LIGHT", "the light dropped: brightness "),
        (lambda a: np.clip(a * 1.15, 0, 255).astype(np.uint8), "LIGHT", "the light rose: brightn"),
        (lambda a: ndimage.gaussian_filter(a, (1, 1, 0)), "FOCUS", "focus, lens or surface cha"),
        (
            lambda a: np.clip(a * [0.92, 1, 1.08], 0, 255).astype(np.uint8),
            "COLOUR",
            "the colour of light or product changed: red ",
        ),
        (
            lambda a: ndimage.shift(a, (0, 6, 0), order=0, mode="nearest"),
            "POSITION",
            "the camera or the part moved (6 px right, 0 px ",
        ),
        (
            lambda a: np.clip(255 - a.astype(int), 0, 255).astype(np.uint8)[:, ::-1],
            "PRODUCT",
            "",
        ),
    ],
    ids=["light -20 %", "light +15 %", "blur", "hue", "shift", "another product"],
)
def test_planted_drifts_are_named_with_their_figures(line, change, cause, says):
    status = seen_by(*line, change)
    assert status.state is DriftState.DRIFTED
    causes = {reason.cause: reason.text for reason in status.reasons}
    assert cause in causes
    assert causes[cause].startswith(says)
    if cause != "PRODUCT":
        assert list(causes) == [cause]
        assert "over 63 frames" in causes[cause]
        assert "was " in causes[cause]


def test_where_it_moved_is_in_frame_pixels(line):
    status = seen_by(*line, lambda a: ndimage.shift(a, (-9, 0, 0), order=0, mode="nearest"))
    (reason,) = [one for one in status.reasons if one.cause == "POSITION"]
    assert reason.shift_xy == pytest.approx((0, -9), abs=3)  # half a cell


def test_a_detectors_stream_watches(line):
    bundle, parts = line
    frames = [Frame((parts[i % len(parts)] * 0.8).astype(np.uint8)) for i in range(2 * WINDOW)]
    with Detector(bundle, threads=1, backend="onnxruntime") as detector:
        assert detector.drift_reference("another") is None
        with detector.stream(frames) as stream:
            outcomes = list(stream)
            drift, reasons = stream.drift.status(), stream.health.reasons
    assert outcomes[0].detection.appearance.brightness > 0
    assert drift.state is DriftState.DRIFTED
    assert drift.reasons[0].cause == "LIGHT"
    assert any(reason.startswith("DRIFT_LIGHT") for reason in reasons)


def test_a_stream_whose_judge_knows_nothing():
    frames = [
        Frame(one) for one in np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)
    ]
    from edgead.stream import run

    with run(FakeJudge(), frames) as stream:
        assert isinstance(stream, Stream)
        assert len(list(stream)) == 3
        assert stream.drift.status().state is DriftState.UNAVAILABLE
        assert not stream.drift.reasons()
        assert stream.health.state is State.ENDED


def test_a_bundle_from_before_has_its_scores_alone():
    bundle = gravel_bundle()
    drift = Drift(lambda _: DriftReference.of(bundle))
    frame = Frame(np.zeros((8, 8, 3), np.uint8))
    drift.observe(detection_of(frame, bundle_hash=bundle.hash))
    status = drift.status()
    limits = bundle.manifest.thresholds
    assert limits.how == "held_out"
    assert len(limits.good_scores) < NEEDED
    assert status.state is DriftState.UNAVAILABLE
    assert status.reasons[0].text == (
        "the bundle keeps no figures of its good images: commission it again."
    )
    many = msgspec.structs.replace(limits, good_scores=[0.1 + i / 1000 for i in range(60)])
    other = bundle.with_members({}, thresholds=many)
    assert list(DriftReference.of(other).limits) == ["score"]
    crossed = msgspec.structs.replace(many, how="cross_fitted")
    assert not DriftReference.of(bundle.with_members({}, thresholds=crossed)).limits
