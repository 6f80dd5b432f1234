"""Order statistics against SciPy and against what the product promises in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from tolerances import TOLERANCES

from edgead.confidence import Confidence
from edgead.errors import CalibrationError, ConfigError
from edgead.evaluate.threshold import (
    clopper_pearson,
    learn_pixel_threshold,
    learn_threshold,
    score_scale,
    upper_bound,
)


def test_42_images_prove_69_in_a_thousand_and_say_so():
    learnt = learn_threshold(np.arange(42.0)[::-1], false_reject_rate=0.01)
    assert learnt.threshold == 41.0
    assert learnt.rank == learnt.images == 42
    assert learnt.bound == pytest.approx(1 - 0.05 ** (1 / 42), rel=1e-12)
    assert learnt.needed == 299
    assert not learnt.is_proven
    assert learnt.message == (
        "42 held-out good images prove at most 6.9 % false rejects at 95 % confidence; "
        "the 1 % asked for needs 299."
    )


@pytest.mark.parametrize(("count", "proven"), [(298, False), (299, True)])
def test_299_images_are_the_fewest_that_prove_one_percent(count, proven):
    assert learn_threshold(np.arange(float(count)), false_reject_rate=0.01).is_proven is proven


def test_enough_images_give_the_lowest_threshold_that_is_proven():
    scores = np.random.default_rng(0).normal(size=1000)
    learnt = learn_threshold(scores, false_reject_rate=0.01)
    ordered = np.sort(scores)
    assert learnt.threshold == ordered[learnt.rank - 1]
    # P(1 - F(s_(k)) <= p) = P(Beta(n - k + 1, k) <= p)
    proof = [stats.beta.cdf(0.01, 1000 - k + 1, k) for k in (learnt.rank, learnt.rank - 1)]
    assert proof[0] >= 0.95 > proof[1]
    assert learnt.bound == pytest.approx(
        stats.beta.ppf(0.95, 1000 - learnt.rank + 1, learnt.rank), rel=1e-9
    )
    assert learnt.message == (
        "1000 held-out good images prove at most 0.92 % false rejects at 95 % confidence; "
        "1 % was asked for."
    )


def test_one_image_proves_next_to_nothing_and_says_so():
    learnt = learn_threshold([0.5], false_reject_rate=0.05)
    assert learnt.message == (
        "1 held-out good image proves at most 95 % false rejects at 95 % confidence; "
        "the 5 % asked for needs 59."
    )


@pytest.mark.parametrize("level", [0.9, 0.975])
@pytest.mark.parametrize("count", [1, 2, 5, 42, 300, 5000])
def test_bounds_equal_scipy(count, level):
    tolerance = TOLERANCES["beta_quantile"]
    for events in sorted({0, 1, count // 7, count // 2, count - 1, count}):
        expected = 1.0 if events == count else stats.beta.ppf(level, events + 1, count - events)
        found = upper_bound(events, count, confidence=level)
        assert found == pytest.approx(expected, rel=tolerance.rtol, abs=tolerance.atol)
        tail = (1 - level) / 2
        exact = (
            stats.beta.ppf(tail, events, count - events + 1) if events else 0.0,
            stats.beta.isf(tail, events + 1, count - events) if events < count else 1.0,
        )
        assert clopper_pearson(events, count, level) == pytest.approx(
            exact, rel=tolerance.rtol, abs=tolerance.atol
        )


def test_no_trials_prove_nothing():
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [np.inf, 1.0]])
def test_scores_that_cannot_be_ordered_are_refused(scores):
    calls = (
        lambda: learn_threshold(scores, false_reject_rate=0.01),
        lambda: score_scale(1.0, scores),
        lambda: Confidence(scores, 1.0),
    )
    expected = (
        "[SCORES_EMPTY] no scores were given; expected one for each held-out good image."
        if not scores
        else "[SCORES_NOT_FINITE] 1 of 2 scores are NaN or infinite, the first at index "
        f"{int(np.isnan(scores[1]))}. A model without finite scores on good images must not "
        "judge; train it again."
    )
    for call in calls:
        with pytest.raises(CalibrationError) as caught:
            call()
        assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"false_reject_rate": 0.0},
            "[FALSE_REJECT_RATE] false_reject_rate is 0.0; expected 0 < false_reject_rate < 0.5.",
        ),
        (
            {"false_reject_rate": 1.0},
            "[FALSE_REJECT_RATE] false_reject_rate is 1.0; expected 0 < false_reject_rate < 0.5.",
        ),
        (
            {"false_reject_rate": 0.01, "confidence": 1.0},
            "[CONFIDENCE] confidence is 1.0; expected 0.5 < confidence < 1.",
        ),
        (
            {"false_reject_rate": float("nan")},
            "[FALSE_REJECT_RATE] false_reject_rate is nan; expected 0 < false_reject_rate < 0.5.",
        ),
    ],
)
def test_options_out_of_range(options, text):
    with pytest.raises(ConfigError) as caught:
        learn_threshold([1.0, 2.0], **options)
    assert str(caught.value) == text


def test_more_events_than_trials():
    with pytest.raises(ConfigError) as caught:
        upper_bound(3, 2)
    assert str(caught.value) == "[COUNT] 3 events in 2 trials; expected 0 <= events <= trials."


def test_score_scale_is_threshold_minus_median():
    assert score_scale(5.0, [1.0, 2.0, 9.0]) == 3.0


def test_score_scale_falls_back_to_the_range_when_the_median_is_the_threshold():
    assert score_scale(2.0, [0.5, 2.0, 2.0, 2.0]) == 1.5


def test_score_scale_refuses_equal_scores():
    with pytest.raises(CalibrationError) as caught:
        score_scale(0.25, [0.25] * 10)
    assert str(caught.value) == (
        "[SCORES_EQUAL] all 10 held-out good scores are 0.25; expected them to vary. "
        "Use images of different parts; if they are, the model has learnt nothing."
    )


def test_pixel_threshold_marks_at_most_its_share_on_good_images():
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(20, 30)).astype(np.float32) for _ in range(200)]
    learnt = learn_pixel_threshold(maps, false_reject_rate=0.05, pixel_share=0.01)
    over = np.array([(one > learnt.threshold).mean() for one in maps])
    assert (over > 0.01).sum() == learnt.images - learnt.rank
    assert learnt.bound <= 0.05
    highest = learn_pixel_threshold(iter(maps), false_reject_rate=0.001, pixel_share=0)
    assert highest.threshold == max(one.max() for one in maps)


def test_pixel_threshold_refuses_a_map_with_nan():
    with pytest.raises(CalibrationError) as caught:
        learn_pixel_threshold([np.ones((2, 2)), np.full((2, 2), np.nan)], false_reject_rate=0.1)
    assert caught.value.code == "SCORES_NOT_FINITE"
    with pytest.raises(ConfigError) as refused:
        learn_pixel_threshold([np.ones((2, 2))], false_reject_rate=0.1, pixel_share=1)
    assert str(refused.value) == "[PIXEL_SHARE] pixel_share is 1; expected 0 <= share < 1."


def test_confidence_at_and_beyond_the_good_scores():
    good, scale = [4.0, 1.0, 2.0, 2.0], 1.0
    # i / (n + 1) at the scores, ties at their highest rank, straight lines between
    sure = Confidence(good, scale)
    assert [sure(score) for score in (1, 2, 3, 4)] == pytest.approx([0.2, 0.6, 0.7, 0.8])
    assert [sure(score) for score in (5, 7)] == pytest.approx([1 - 0.2 / 2, 1 - 0.2 / 4])
    assert [sure(score) for score in (0, -2)] == pytest.approx([0.2 / 2, 0.2 / 4])
    assert isinstance(sure(3.0), float)


def test_confidence_refuses_what_has_none():
    with pytest.raises(CalibrationError) as caught:
        Confidence([1.0], 1.0)(math.nan)
    assert str(caught.value) == (
        "[SCORES_NOT_FINITE] a score is NaN or infinite; it has no confidence. "
        "Its verdict is UNKNOWN."
    )
    with pytest.raises(CalibrationError) as caught:
        Confidence([1.0], 0.0)
    assert str(caught.value) == (
        "[SCORE_SCALE] score_scale is 0.0; expected a positive number. "
        "Learn the threshold again from good images."
    )
