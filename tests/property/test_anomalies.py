"""What every simulated defect keeps to, whatever the image, kind and seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgead.evaluate.anomalies import KINDS, MIN_CHANGE, simulate
from edgead.evaluate.foreground import foreground_mask
from edgead.evaluate.perlin import perlin_mask

SIDES = st.integers(32, 90)
SEEDS = st.integers(0, 2**32 - 1)


def grained(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    base = rng.uniform(40, 215) + rng.normal(0, 15, (height, width, 1)) + rng.normal(0, 5, 3)
    return np.clip(base, 0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.sampled_from(KINDS), SEEDS)
def test_only_the_mask_changes_and_visibly(height, width, kind, seed):
    image = grained(height, width, seed)
    before = image.copy()
    other = grained(height, width, seed + 1)
    result, mask = simulate(image, kind, np.random.default_rng(seed), other=other)
    np.testing.assert_array_equal(image, before)
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
    assert (mask.shape, mask.dtype) == (image.shape[:2], np.bool_)
    assert mask.any()
    np.testing.assert_array_equal(result[~mask], image[~mask])
    assert np.abs(result[mask].astype(int) - image[mask]).mean() >= MIN_CHANGE
    assert not np.shares_memory(result, image)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SEEDS)
def test_masks_lie_on_the_foreground_however_small(height, width, seed):
    rng = np.random.default_rng(seed)
    part = np.zeros((height, width), dtype=bool)
    part[tuple(rng.integers(0, (height, width)))] = True
    part |= rng.random((height, width)) < rng.choice((0, 0.01, 0.5))
    mask = perlin_mask(part, rng)
    assert mask.any()
    assert not (mask & ~part).any()


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SEEDS)
def test_foreground_is_never_empty_and_covers_5_to_95_percent_or_all(height, width, seed):
    share = foreground_mask(grained(height, width, seed)).mean()
    assert share == 1 or 0.05 <= share <= 0.95
