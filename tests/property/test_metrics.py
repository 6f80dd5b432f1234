"""What must hold for the metrics of any maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgead.evaluate.metrics import classification, image_auroc
from edgead.evaluate.regions import Region, pixel_metrics, pro_curve, spro_curve

MAPS = hnp.arrays(np.float32, (8, 9), elements=st.integers(-4, 4).map(float))
MASKS = hnp.arrays(bool, (8, 9)).filter(lambda mask: mask.any() and not mask.all())


@settings(deadline=None)
@given(MAPS, MASKS)
def test_only_the_order_of_scores_matters(one, mask):
    assert pixel_metrics([one], [mask]) == pixel_metrics([np.exp(one) * 3 - 7], [mask])


@settings(deadline=None)
@given(MAPS, MASKS)
def test_negated_scores_mirror_the_auroc(one, mask):
    found, mirrored = (pixel_metrics([m], [mask])["pixel_auroc"] for m in (one, -one))
    assert found + mirrored == pytest.approx(1, abs=1e-12)


@settings(deadline=None)
@given(MAPS, MASKS)
def test_curves_rise_from_corner_to_corner(one, mask):
    for curve in (pro_curve([one], [mask]), spro_curve([one], [[Region(mask, 5)]])):
        assert np.all(np.diff(curve.fpr) >= 0)
        assert np.all(np.diff(curve.tpr) >= 0)
        assert (curve.fpr[0], curve.tpr[0]) == (0, 0)
        assert (curve.fpr[-1], curve.tpr[-1]) == (1, pytest.approx(1, abs=1e-12))
        assert 0 <= curve.area(limit=0.05) <= 1


@settings(deadline=None)
@given(MAPS, MASKS, st.integers(1, 70))
def test_less_to_find_never_lowers_spro(one, mask, enough):
    easy, hard = (spro_curve([one], [[Region(mask, n)]]).area() for n in (enough, enough + 5))
    assert easy >= hard - 1e-12


@settings(deadline=None)
@given(MAPS, MASKS)
def test_one_region_without_saturation_is_the_roc(one, mask):
    """With the whole mask as one region, saturated overlap is the true-positive rate."""
    saturated = spro_curve([one], [[Region(mask, mask.sum())]]).area()
    assert saturated == pytest.approx(pixel_metrics([one], [mask])["pixel_auroc"], abs=1e-12)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40),
    st.floats(-3, 3),
    st.floats(-3, 3),
)
def test_a_higher_threshold_never_rejects_more(pairs, first, second):
    scores, labels = (np.array(one) for one in zip(*pairs, strict=True))
    low, high = (classification(scores, labels, t) for t in sorted((first, second)))
    if low["false_reject_rate"] is not None:
        assert low["false_reject_rate"] >= high["false_reject_rate"]
    if low["missed_defect_rate"] is not None:
        assert low["missed_defect_rate"] <= high["missed_defect_rate"]
    auroc = image_auroc(scores, labels)
    assert auroc is None or 0 <= auroc <= 1
