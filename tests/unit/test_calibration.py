"""Clipping points against plain references, and which folders of images are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import TOLERANCES

from edgead.calibration.calibrators import Calibrator, Histogram, clip_ranges
from edgead.calibration.recipes import RECIPES, kept_nodes, recipe_for
from edgead.errors import CalibrationError, ConfigError
from edgead.models.registry import METHODS


def filled(*batches):
    histogram = Histogram()
    for batch in batches:
        histogram.add(np.asarray(batch, dtype=np.float32))
    return histogram


def normal(seed=0, size=20_000):
    return np.random.default_rng(seed).normal(0, 1, size).astype(np.float32)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.floats(90, 100))
def test_percentile_keeps_at_least_the_share_asked_for(scales, percentile):
    batches = [normal(i, 500) * scale for i, scale in enumerate(scales)]
    histogram = filled(*batches)
    clip = histogram.clip(Calibrator("percentile", percentile))
    values = np.abs(np.concatenate(batches))
    assert (values <= clip * (1 + 1e-6)).mean() >= percentile / 100 - 1e-9
    assert clip <= histogram.clip(Calibrator("minmax")) == pytest.approx(values.max())


def test_streaming_a_frame_at_a_time_counts_what_all_at_once_does():
    small, large = normal(0) * 0.1, normal(1) * 7
    stepwise, reverse = filled(small, large), filled(large, small)
    tolerance = TOLERANCES["histogram_bin"]
    for method in ("percentile", "mse"):
        a, b = (one.clip(Calibrator(method, 99.9)) for one in (stepwise, reverse))
        assert a == pytest.approx(b, rel=tolerance.rtol)


def test_mse_is_the_best_clip_by_brute_force():
    values = np.concatenate([normal(size=200_000), [12.0]]).astype(np.float32)  # one outlier

    def error(clip):
        step = clip / 127
        rounded = np.clip(np.round(values / step), -127, 127) * step
        return float(((values - rounded) ** 2).mean())

    chosen = filled(values).clip(Calibrator("mse"))
    best = min(error(clip) for clip in np.linspace(1, 12, 100))
    assert error(chosen) <= best * 1.1
    assert error(chosen) < error(12.0) * 0.75


def test_entropy_cuts_a_lone_outlier_and_keeps_a_flat_distribution():
    values = np.concatenate([normal(size=200_000), [60.0]]).astype(np.float32)
    assert filled(values).clip(Calibrator("entropy")) < 20
    flat = np.linspace(-1, 1, 100_000).astype(np.float32)
    assert filled(flat).clip(Calibrator("entropy")) > 0.9


def test_ranges_hold_zero_and_follow_the_sign():
    ranges = clip_ranges(
        {"relu": filled([0.0, 3.0]), "both": filled([-2.0, 1.0]), "zero": filled([0.0, 0.0])},
        Calibrator("minmax"),
    )
    assert ranges["relu"] == (0.0, 3.0)
    assert ranges["both"] == (-2.0, 1.0)
    low, high = ranges["zero"]
    assert low <= 0 < high


def test_nan_in_an_activation_is_refused():
    with pytest.raises(CalibrationError) as error:
        filled([0.0, np.nan])
    assert str(error.value) == (
        "[ACTIVATION_NOT_FINITE] an activation of the FP32 model is NaN or infinite on a calibration "
        "frame. Check the bundle: edgead verify BUNDLE."
    )


def test_unknown_calibrator_and_percentile():
    with pytest.raises(ConfigError) as error:
        Calibrator("median")  # type: ignore[arg-type]
    assert str(error.value) == (
        "[CALIBRATOR] calibrator 'median' is not one of minmax, percentile, entropy, mse."
    )
    with pytest.raises(ConfigError) as error:
        Calibrator("percentile", 40)
    assert str(error.value) == "[PERCENTILE] percentile 40 is not in 50..100."


def test_prefixes_keep_whole_modules_only():
    names = ["scorer.2/Conv", "scorer.20/Conv", "scorer.2.a/Mul", "scorer/Neg"]
    assert kept_nodes(names, ("scorer.2",)) == {"scorer.2/Conv", "scorer.2.a/Mul"}
    assert recipe_for("unheard-of").int8 == ()


def test_every_method_has_a_recipe_under_its_own_name():
    assert set(RECIPES) == set(METHODS)
