"""Verdict, mask and regions, against scipy's labels and a plain reading of the map."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bundles import tiny_manifest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from edgead.errors import CalibrationError
from edgead.manifest import HeadSpec, InputSpec, Units
from edgead.postprocess import Postprocess, smooth
from edgead.types import Placement, Verdict

_LIMITS = tiny_manifest().thresholds  # threshold 0.5, pixel threshold 0.4
_PLACE = Placement((10.0, 20.0), (2.0, 3.0), (200, 200))


def judge(anomaly_map, score, *, sigma=0.0, units=None, place=_PLACE, **options):
    size = options.pop("size", anomaly_map.shape)
    input_spec = InputSpec(size=size, mean=[0.0] * 3, std=[1.0] * 3)
    head = HeadSpec(kind="max", sigma=sigma)
    return Postprocess(head, input_spec, _LIMITS, units or Units(), **options)(
        anomaly_map.astype(np.float32), score, place
    )


def blobs():
    """Two regions over the pixel threshold: (1, 1)-(3, 4) with peak 0.9, and one pixel of 0.6."""
    anomaly_map = np.full((12, 16), 0.1)
    anomaly_map[1:4, 1:3] = 0.5
    anomaly_map[2, 2] = 0.9
    anomaly_map[9, 12] = 0.6
    return anomaly_map


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(0.4999, Verdict.GOOD), (0.5, Verdict.GOOD), (np.nextafter(0.5, 1), Verdict.DEFECT)],
)
def test_a_defect_is_above_the_threshold_and_not_at_it(score, verdict):
    assert judge(blobs(), score).verdict is verdict


def test_regions_in_frame_coordinates_largest_peak_first():
    found = judge(blobs(), 0.9)
    first, second = found.regions
    assert first.box_xyxy == (10 + 2 * 1, 20 + 3 * 1, 10 + 2 * 3, 20 + 3 * 4)
    assert first.area_px == 6 * 2 * 3
    assert first.peak == pytest.approx(0.9)
    # Pixel centres: columns 1 and 2, rows 1 to 3 of the input.
    assert first.centroid == (10 + 2 * (1.5 + 0.5) - 0.5, 20 + 3 * (2 + 0.5) - 0.5)
    assert second.box_xyxy == (10 + 24, 20 + 27, 10 + 26, 20 + 30)
    assert second.peak == pytest.approx(0.6)
    assert first.area_mm2 is None
    assert found.mask.sum() == 7
    assert found.mask.dtype == np.bool_


def test_outlines_lie_on_the_region():
    (outline,) = [judge(blobs(), 0.9).regions[0].contour]
    back = (outline + 0.5 - np.array([10, 20])) / np.array([2, 3]) - 0.5
    assert {tuple(p) for p in np.round(back, 3)} == {(1.0, 1.0), (1.0, 3.0), (2.0, 3.0), (2.0, 1.0)}


def test_small_regions_are_left_out_by_their_area_in_frame_pixels():
    units = Units(mm_per_px=0.5, min_area_px=7.0)
    (only,) = judge(blobs(), 0.9, units=units).regions
    assert only.area_mm2 == 36 * 0.25
    (peak,) = judge(blobs(), 0.9, units=Units(min_area_px=1000.0)).regions
    assert peak.box_xyxy == (10 + 4, 20 + 6, 10 + 6, 20 + 9)  # a DEFECT always shows where


def test_a_defect_with_an_empty_mask_shows_its_peak():
    faint = np.full((12, 16), 0.1)
    faint[5, 7] = 0.3
    found = judge(faint, 0.9)
    assert found.mask.sum() == 0
    (peak,) = found.regions
    assert peak.centroid == (10 + 2 * 7.5 - 0.5, 20 + 3 * 5.5 - 0.5)
    assert peak.peak == pytest.approx(0.3)
    assert judge(faint, 0.1).regions == ()


def test_a_peak_on_ignored_pixels_alone_makes_no_region():
    """Smoothing carries what stands beside an ignored place into it: it is above the threshold there."""
    heat = np.full((12, 16), 0.1)
    heat[4:6, 4:6] = 0.9
    ignored = heat > 0.5
    place = dataclasses.replace(_PLACE, ignored=ignored)
    found = judge(heat, 0.45, place=place)
    assert (found.verdict, found.regions, found.mask.any()) == (Verdict.GOOD, (), False)
    (peak,) = judge(heat, 0.9, place=place).regions
    assert peak.peak == pytest.approx(0.1)


def test_score_only():
    found = judge(blobs(), 0.9, score_only=True)
    assert (found.verdict, found.anomaly_map, found.mask) == (Verdict.DEFECT, None, None)
    assert found.regions == ()
    assert found.confidence == judge(blobs(), 0.9).confidence


def test_confidence_rises_with_the_score():
    sure = [judge(blobs(), score).confidence for score in np.linspace(0, 2, 41)]
    assert sure == sorted(sure)
    assert sure[0] > 0
    assert sure[-1] < 1


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_gets_no_verdict(score):
    with pytest.raises(CalibrationError) as error:
        judge(blobs(), score)
    assert str(error.value) == (
        "[SCORES_NOT_FINITE] a score is NaN or infinite; it has no confidence. Its verdict is UNKNOWN."
    )


def test_the_smoothed_map_is_what_thresholds_are_learnt_on():
    native = np.random.default_rng(0).random((4, 4)).astype(np.float32)
    found = judge(native, 0.9, sigma=1.5, size=(12, 16))
    np.testing.assert_array_equal(found.anomaly_map, smooth(native[None], (12, 16), 1.5)[0])


def test_a_region_inside_the_hole_of_another_is_its_own():
    anomaly_map = np.full((9, 9), 0.1)
    anomaly_map[1:8, 1:8] = 0.7
    anomaly_map[2:7, 2:7] = 0.1
    anomaly_map[4, 4] = 0.6
    ring, dot = judge(anomaly_map, 0.1, place=Placement((0.0, 0.0), (1.0, 1.0), (9, 9))).regions
    assert (ring.area_px, ring.box_xyxy, ring.centroid) == (24, (1, 1, 8, 8), (4, 4))
    assert (dot.area_px, dot.box_xyxy, dot.centroid) == (1, (4, 4, 5, 5), (4, 4))


@given(cells=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=40))
def test_regions_are_scipys_labels(cells):
    anomaly_map = np.full((10, 10), 0.1)
    anomaly_map[0, 0] = 0.2
    for index, (y, x) in enumerate(cells):
        anomaly_map[y, x] = 0.5 + index / 100
    place = Placement((0.0, 0.0), (1.0, 1.0), (10, 10))
    found = judge(anomaly_map, 0.1, place=place)
    labels, count = ndimage.label(anomaly_map > 0.4, structure=np.ones((3, 3)))
    assert len(found.regions) == count
    areas = sorted(int((labels == label).sum()) for label in range(1, count + 1))
    assert sorted(region.area_px for region in found.regions) == areas
    centres = ndimage.center_of_mass(labels, labels, range(1, count + 1))
    expected = sorted((round(x, 6), round(y, 6)) for y, x in centres)
    got = sorted((round(x, 6), round(y, 6)) for x, y in (one.centroid for one in found.regions))
    assert got == expected
    for region in found.regions:
        x0, y0, x1, y1 = (int(v) for v in region.box_xyxy)
        assert anomaly_map[y0:y1, x0:x1].max() >= np.float32(region.peak) - 1e-6
    peaks = [region.peak for region in found.regions]
    assert peaks == sorted(peaks, reverse=True)
