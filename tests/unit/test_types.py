"""Verdicts, detections and outcomes: what they refuse to say, and their JSON to the key."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgead.types import Detection, LedgerCounts, Outcome, Placement, Region, Status, Verdict


def region() -> Region:
    outline = np.array([[1.04, 2.06], [3.0, 2.0], [3.0, 5.0]], np.float32)
    return Region((1.0, 2.0, 4.0, 6.0), outline, 12.0, 0.12345678, 0.75, (2.26, 3.74))


def detection(**changes: Any) -> Detection:
    fields: dict[str, Any] = {
        "verdict": Verdict.DEFECT,
        "score": 0.75,
        "threshold": 0.5,
        "confidence": 0.875,
        "anomaly_map": np.zeros((4, 6), np.float32),
        "mask": np.zeros((4, 6), bool),
        "regions": (region(),),
        "timings_ms": {"preprocess": 0.12345, "infer": 3.0},
        "frame_id": "cam:7",
        "bundle_hash": "ab" * 32,
        "backend": "openvino",
        "precision": "fp32",
    }
    return Detection(**{**fields, **changes})


def outcome(**changes: Any) -> Outcome:
    fields: dict[str, Any] = {
        "status": Status.RESULT,
        "reason": "",
        "detection": detection(),
        "source_id": "cam",
        "seq": 7,
        "t_mono_ns": 1_000_000,
        "settled_mono_ns": 4_500_000,
        "counts": LedgerCounts(received=8, results=8),
        "block_id": 107,
    }
    return Outcome(**{**fields, **changes})


def test_a_zeroed_word_is_unknown():
    assert [verdict.value for verdict in Verdict] == [0, 1, 2]
    assert Verdict(0) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("verdict", "score", "threshold", "is_allowed"),
    [
        (Verdict.GOOD, 0.4, 0.5, True),
        (Verdict.GOOD, 0.5, 0.5, True),
        (Verdict.GOOD, 0.6, 0.5, False),
        (Verdict.DEFECT, 0.6, 0.5, True),
        (Verdict.DEFECT, 0.5, 0.5, False),
        (Verdict.GOOD, float("nan"), 0.5, False),
        (Verdict.DEFECT, float("nan"), 0.5, False),
        (Verdict.GOOD, float("-inf"), 0.5, False),
        (Verdict.GOOD, 0.1, float("inf"), False),
        (Verdict.UNKNOWN, float("nan"), 0.5, True),
        (Verdict.UNKNOWN, 0.1, 0.5, True),
    ],
)
def test_a_verdict_must_follow_from_its_numbers(verdict, score, threshold, is_allowed):
    if is_allowed:
        made = detection(verdict=verdict, score=score, threshold=threshold)
        assert made.accept is (verdict is Verdict.GOOD)
        return
    with pytest.raises(ValueError) as error:
        detection(verdict=verdict, score=score, threshold=threshold)
    assert str(error.value) == (
        f"verdict {verdict.name} contradicts score {score} and threshold {threshold}"
    )


def test_a_map_has_two_dimensions():
    with pytest.raises(ValueError) as error:
        detection(anomaly_map=np.zeros((1, 4, 6), np.float32))
    assert str(error.value) == "anomaly_map must be (h, w), got (1, 4, 6)"


def test_a_detection_in_json():
    expected = {
        "frame_id": "cam:7",
        "verdict": "DEFECT",
        "accept": False,
        "score": 0.75,
        "threshold": 0.5,
        "confidence": 0.875,
        "regions": [
            {
                "box_xyxy": [1.0, 2.0, 4.0, 6.0],
                "area_px": 12.0,
                "area_mm2": 0.1235,
                "peak": 0.75,
                "centroid": [2.3, 3.7],
                "contour": [[1.0, 2.1], [3.0, 2.0], [3.0, 5.0]],
            }
        ],
        "timings_ms": {"preprocess": 0.123, "infer": 3.0},
        "bundle_hash": "ab" * 32,
        "backend": "openvino",
        "precision": "fp32",
    }
    assert detection().to_json() == expected
    assert list(detection().to_json()) == list(expected)


_COUNTS = ["received", "results", "dropped", "failed", "in_flight", "lost_upstream", "late"]
_KEYS = [
    "frame_id",
    "source_id",
    "seq",
    "status",
    "reason",
    "message",
    "verdict",
    "accept",
    "score",
    "threshold",
    "confidence",
    "regions",
    "timings_ms",
    "latency_ms",
    "t_mono_ns",
    "block_id",
    "trigger_id",
    "part_id",
    "is_simulated",
    "generation",
    "bundle_hash",
    "backend",
    "precision",
    "counts",
]


@pytest.mark.parametrize(
    "one",
    [
        outcome(),
        outcome(status=Status.DROPPED, reason="POLICY", detection=None),
        outcome(status=Status.FAILED, reason="FRAME_SIZE", message="frame is 1x1.", detection=None),
    ],
)
def test_the_json_line_of_run_has_the_same_keys_for_every_outcome(one):
    line = json.loads(json.dumps(one.to_json(), allow_nan=False))
    assert list(line) == _KEYS
    assert list(line["counts"]) == _COUNTS
    assert line["frame_id"] == "cam:7"
    assert line["latency_ms"] == 3.5
    assert line["counts"]["lost_upstream"] is None
    if one.detection is None:
        assert (line["verdict"], line["accept"], line["score"]) == ("UNKNOWN", False, None)
        assert line["regions"] == []
    else:
        assert (line["verdict"], line["score"]) == ("DEFECT", 0.75)


def test_what_is_not_finite_is_null_in_json():
    lost = detection(verdict=Verdict.UNKNOWN, score=float("nan"), confidence=float("inf"))
    for line in (lost.to_json(), outcome(detection=lost).to_json()):
        assert (line["score"], line["confidence"], line["accept"]) == (None, None, False)
        json.dumps(line, allow_nan=False)


@pytest.mark.parametrize("status", [Status.DROPPED, Status.FAILED])
def test_an_outcome_without_a_judged_frame_is_unknown_and_never_accepted(status):
    lost = outcome(status=status, reason="SHED", detection=None)
    assert lost.verdict is Verdict.UNKNOWN
    assert lost.accept is False


def test_outcomes_that_contradict_themselves():
    with pytest.raises(ValueError, match="RESULT outcome with detection None"):
        outcome(detection=None)
    with pytest.raises(ValueError, match="RESULT outcome with reason 'LATE'"):
        outcome(reason="LATE")
    with pytest.raises(ValueError, match="DROPPED outcome with reason ''"):
        outcome(status=Status.DROPPED, detection=None)
    with pytest.raises(ValueError, match="DROPPED outcome with detection Detection"):
        outcome(status=Status.DROPPED, reason="SHED")


def test_ledger_balance():
    counts = LedgerCounts(received=10, results=6, dropped=1, failed=1, in_flight=2)
    assert counts.balanced
    assert not replace(counts, received=11).balanced


_SCALES = st.floats(0.05, 40)
_OFFSETS = st.integers(0, 4000).map(float)


@given(
    offset=st.tuples(_OFFSETS, _OFFSETS),
    scale=st.tuples(_SCALES, _SCALES),
    points=st.lists(st.tuples(st.integers(0, 511), st.integers(0, 511)), min_size=1, max_size=8),
)
def test_placement_maps_to_the_frame_and_back(offset, scale, points):
    place = Placement(offset, scale, (4096, 4096))
    xy = np.array(points, dtype=np.float64)
    there = place.to_frame(xy)
    back = (there.astype(np.float64) + 0.5 - np.array(offset)) / np.array(scale) - 0.5
    # float32 frame coordinates up to 2e4, divided by the scale
    np.testing.assert_allclose(back, xy, atol=2e-3 / min(scale))


def test_placement_of_half_size_hits_the_middle_of_two_pixels():
    place = Placement((10.0, 20.0), (2.0, 2.0), (100, 100))
    np.testing.assert_array_equal(
        place.to_frame(np.array([[0, 0], [3, 1]])), [[10.5, 20.5], [16.5, 22.5]]
    )
