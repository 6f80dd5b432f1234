"""Heads against plain loops; ignored polygons never reach a score."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import TOLERANCES

from edgead.errors import BackendError, BundleError
from edgead.heads import Head
from edgead.manifest import HeadSpec

_MAPS = np.random.default_rng(0).standard_normal((2, 5, 7)).astype(np.float32)


def spec(kind="max", **options):
    return HeadSpec(kind=kind, sigma=0.0, **options)


def test_max_is_the_highest_cell():
    maps, scores = Head(spec(), {})({"anomaly_map": _MAPS})
    np.testing.assert_array_equal(maps, _MAPS)
    for one, score in zip(_MAPS, scores, strict=True):
        highest = one[0, 0]
        for value in one.ravel():
            highest = max(highest, value)
        assert score == highest


@pytest.mark.parametrize("top", [1, 4, 35, 1000])
def test_top_mean_is_the_mean_of_the_highest(top):
    _, scores = Head(spec("top_mean", top=top), {})({"anomaly_map": _MAPS})
    for one, score in zip(_MAPS, scores, strict=True):
        highest = sorted(one.ravel().tolist())[-top:]
        np.testing.assert_allclose(score, sum(highest) / len(highest), **_f32())


def test_kmeans_is_the_distance_to_the_nearest_centroid():
    rng = np.random.default_rng(1)
    patches = rng.standard_normal((2, 3, 4, 6)).astype(np.float32)
    centroids = rng.standard_normal((5, 6)).astype(np.float32)
    maps, scores = Head(spec("kmeans"), {"centroids": centroids})({"patches": patches})
    for n in range(2):
        for y in range(3):
            for x in range(4):
                distances = [np.linalg.norm(patches[n, y, x] - c) for c in centroids]
                np.testing.assert_allclose(maps[n, y, x], min(distances), **_f32())
        assert scores[n] == maps[n].max()


def _f32():
    tolerance = TOLERANCES["kernel_f32"]
    return {"rtol": tolerance.rtol, "atol": tolerance.atol}


def test_the_map_is_the_callers_own():
    buffer = _MAPS.copy()
    maps, _ = Head(spec(), {})({"anomaly_map": buffer})
    buffer[:] = 0
    np.testing.assert_array_equal(maps, _MAPS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 17, 34])
def test_one_cell_that_is_not_finite_is_enough(bad, place):
    maps = _MAPS.copy()
    maps[1].ravel()[place] = bad
    with pytest.raises(BackendError) as error:
        Head(spec(), {})({"anomaly_map": maps})
    assert error.value.code == "BACKEND_NONFINITE"


def test_one_flat_map_of_a_batch_is_enough():
    maps = _MAPS.copy()
    maps[1] = 0.5
    with pytest.raises(BackendError) as error:
        Head(spec(), {})({"anomaly_map": maps})
    assert error.value.code == "BACKEND_DEGENERATE"


def test_a_top_mean_without_a_number():
    with pytest.raises(BundleError) as error:
        Head(spec("top_mean"), {})
    assert str(error.value) == "[HEAD_TENSORS] head top_mean needs a number top >= 1."


def test_centroids_of_another_rank():
    with pytest.raises(BundleError) as error:
        Head(spec("kmeans"), {"centroids": np.zeros(3, np.float32)})
    assert str(error.value) == "[HEAD_TENSORS] head kmeans needs a tensor centroids [K, D]."


def test_an_ignored_peak_is_out_of_map_and_score():
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0] = np.arange(16).reshape(4, 4)
    ignore = np.zeros((40, 40), bool)
    ignore[30:, 20:] = True  # the last two cells of the last row
    kept, scores = Head(spec(), {})({"anomaly_map": maps}, ignore)
    assert scores[0] == 13
    assert kept[0, 3].tolist() == [12, 13, 0, 0]


@pytest.mark.parametrize("top", [1, 3, 12, 1000])
def test_a_top_mean_is_of_the_cells_that_are_looked_at(top):
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0] = np.arange(16).reshape(4, 4)
    ignore = np.zeros((4, 4), bool)
    ignore[3] = True  # the four highest
    _, scores = Head(spec("top_mean", top=top), {})({"anomaly_map": maps}, ignore)
    assert scores[0] == np.mean(sorted(range(12))[-top:])


def test_cells_that_are_all_ignored():
    with pytest.raises(BundleError) as error:
        Head(spec(), {})({"anomaly_map": _MAPS}, np.ones((5, 7), bool))
    assert str(error.value) == (
        "[VIEW_EMPTY] the ignored places leave no cell of the map to look at. Set another view: "
        "edgead view BUNDLE, then commission it."
    )


def test_an_image_of_one_colour_may_have_a_flat_map():
    maps = _MAPS.copy()
    maps[1] = 0.5
    np.testing.assert_array_equal(
        Head(spec(), {}).native({"anomaly_map": maps}, flat=[False, True]), maps
    )
    with pytest.raises(BackendError) as error:
        Head(spec(), {}).native({"anomaly_map": maps}, flat=[True, False])
    assert error.value.code == "BACKEND_DEGENERATE"
