"""What must hold for any scores: the promise, its monotony, a confidence in the scores' order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgead.confidence import Confidence
from edgead.evaluate.threshold import clopper_pearson, learn_threshold, score_scale, upper_bound

SCORES = hnp.arrays(
    np.float64, st.integers(1, 400), elements=st.floats(-1e6, 1e6, allow_subnormal=False)
)
RATES = st.floats(0.001, 0.49)


@settings(deadline=None)
@given(SCORES, RATES)
def test_threshold_is_a_score_and_its_bound_is_kept_or_said(scores, rate):
    learnt = learn_threshold(scores, false_reject_rate=rate)
    assert learnt.threshold in scores
    assert (scores > learnt.threshold).sum() <= learnt.images - learnt.rank
    if learnt.images >= learnt.needed:
        assert learnt.bound <= rate
    else:
        assert learnt.bound > rate
        assert learnt.threshold == scores.max()
        assert str(learnt.needed) in learnt.message


@settings(deadline=None)
@given(SCORES, RATES, RATES)
def test_a_lower_rate_never_lowers_the_threshold(scores, first, second):
    low, high = sorted((first, second))
    strict = learn_threshold(scores, false_reject_rate=low)
    assert strict.threshold >= learn_threshold(scores, false_reject_rate=high).threshold


@settings(deadline=None)
@given(SCORES, st.permutations(range(5)))
def test_order_does_not_matter(scores, order):
    mixed = np.concatenate([scores[i::5] for i in order])
    assert learn_threshold(mixed, false_reject_rate=0.1) == learn_threshold(
        scores, false_reject_rate=0.1
    )


@settings(deadline=None)
@given(st.integers(1, 3000), st.data(), st.floats(0.55, 0.999))
def test_bounds_hold_the_share_and_rise_with_events(trials, data, level):
    events = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(events, trials, level)
    assert 0 <= low <= events / trials <= high <= 1
    if events < trials:
        assert upper_bound(events + 1, trials) > upper_bound(events, trials)
    assert low + clopper_pearson(trials - events, trials, level)[1] == pytest.approx(1, abs=1e-12)


@settings(deadline=None)
@given(SCORES.filter(lambda s: np.ptp(s) > 1e-3), st.data())
def test_confidence_orders_as_scores_do(scores, data):
    scale = score_scale(learn_threshold(scores, false_reject_rate=0.05).threshold, scores)
    span = max(scale, float(np.ptp(scores)))
    low, high = scores.min() - 50 * span, scores.max() + 50 * span
    asked = np.sort(np.unique(data.draw(hnp.arrays(float, 20, elements=st.floats(low, high)))))
    sure = Confidence(scores, scale)
    found = np.array([sure(score) for score in asked])
    assert np.all((found > 0) & (found < 1))
    assert np.all(np.diff(found) >= -1e-15)  # interpolation rounds to the last bit
    beyond = asked[(asked > scores.max()) | (asked < scores.min())]
    gaps = np.diff(beyond) > 1e-6 * span  # closer ones may round to one double
    assert np.all(np.diff([sure(score) for score in beyond])[gaps] > 0)


@settings(deadline=None)
@given(SCORES.filter(lambda s: np.ptp(s) > 1e-3))
def test_confidence_is_the_empirical_share_at_good_scores(scores):
    sure = Confidence(scores, 1.0)
    found = [sure(score) for score in scores]
    at_or_under = (scores[None, :] <= scores[:, None]).sum(axis=1)
    np.testing.assert_allclose(found, at_or_under / (scores.size + 1), rtol=1e-9)
