"""Features once an image, within a memory bound, the same from memory and from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgead.errors import CalibrationError
from edgead.train.features import FeatureCache


class Images:
    """Counts how often each is asked for."""

    def __init__(self, count=11):
        rng = np.random.default_rng(0)
        self.all = rng.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
        self.asked = [0] * count

    def __len__(self):
        return len(self.all)

    def __getitem__(self, index):
        self.asked[index] += 1
        return self.all[index]


def extract(batch):
    """(n, 6, 8, 3) uint8 -> (n, 3, 4, 3) float32."""
    values = batch.float()
    return values[:, ::2, ::2] / 17 + values[:, 1::2, 1::2] / 31


def test_each_image_passes_once_and_features_are_its_own():
    images = Images()
    shares = []
    cache = FeatureCache(extract, images, report=shares.append)
    assert images.asked == [1] * 11
    assert shares == [8 / 11, 1.0]
    assert cache.shape == (11, 3, 4, 3)
    assert cache.patches == 11 * 12
    assert not cache.is_on_disk
    expected = extract(torch.from_numpy(images.all)).reshape(-1, 3)
    np.testing.assert_array_equal(cache.take(torch.arange(cache.patches)), expected)
    np.testing.assert_array_equal(cache.images(torch.tensor([4, 1]))[:12], expected[48:60])
    assert images.asked == [1] * 11


def test_over_the_bound_the_same_within_float16_and_nothing_is_left_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    small = FeatureCache(extract, Images(), memory_limit_bytes=11 * 12 * 3 * 4 - 1)
    large = FeatureCache(extract, Images(), memory_limit_bytes=11 * 12 * 3 * 4)
    assert (small.is_on_disk, large.is_on_disk) == (True, False)
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert file.stat().st_size == 11 * 12 * 3 * 2
    rows = torch.randperm(small.patches)
    torch.testing.assert_close(small.take(rows), large.take(rows), rtol=2**-11, atol=0)
    assert small.take(rows).dtype == torch.float32
    for ours, theirs in zip(small.moments(), large.moments(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    small.close()
    assert list(Path(tmp_path).iterdir()) == []


def test_moments_are_those_of_all_patches():
    cache = FeatureCache(extract, Images())
    patches = cache.take(torch.arange(cache.patches)).double()
    mean, deviation = cache.moments()
    torch.testing.assert_close(mean, patches.mean(0).float())
    torch.testing.assert_close(deviation, patches.std(0, correction=0).float())


def test_draws_are_patches_and_repeat_with_the_generator():
    cache = FeatureCache(extract, Images())
    draws = [cache.draw(20, torch.Generator().manual_seed(3)) for _ in range(2)]
    torch.testing.assert_close(*draws, rtol=0, atol=0)
    known = {tuple(row.tolist()) for row in cache.take(torch.arange(cache.patches))}
    assert {tuple(row.tolist()) for row in draws[0]} <= known


def test_no_images():
    with pytest.raises(CalibrationError) as error:
        FeatureCache(extract, Images(0))
    assert str(error.value) == "[TOO_FEW_IMAGES] there are no images to train on."
