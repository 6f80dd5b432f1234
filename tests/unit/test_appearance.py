"""Figures of pictures, against plain NumPy, and what the bundle keeps of them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from bundles import tiny_bundle
from hypothesis import given
from hypothesis import strategies as st

from edgead import Detector
from edgead.appearance import FIGURES, LOOKS, decode_looks, encode_looks, learn_looks, measure
from edgead.errors import BundleError


def picture(seed=0, size=(64, 96), low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(64, 96), (288, 288), (8, 8), (65, 33)])
def test_figures_are_those_of_a_plain_reading(size):
    seen = picture(1, size)
    found = measure(seen)
    sample = seen[::4, ::4].astype(float)
    assert found.brightness == pytest.approx(sample.mean(), rel=1e-5)
    assert found.contrast == pytest.approx(sample[..., 1].std() / sample.mean(), rel=1e-3)
    assert found.red == pytest.approx(sample[..., 2].sum() / sample.sum(), rel=1e-5)
    assert found.blue == pytest.approx(sample[..., 0].sum() / sample.sum(), rel=1e-5)
    steps = np.abs(np.diff(seen[::8, :, 1].astype(int), axis=1)).mean()
    assert found.sharpness == pytest.approx(steps / sample[..., 1].std(), rel=1e-3)


def test_the_layout_is_of_equal_areas():
    seen = picture(2, (128, 256))
    cells = seen[::4, ::4, 1].astype(float).reshape(16, 2, 16, 4).mean(axis=(1, 3))
    expected = (cells - cells.mean()) / np.sqrt(((cells - cells.mean()) ** 2).sum())
    np.testing.assert_allclose(measure(seen).layout, expected, atol=1e-4)
    assert measure(picture(2, (40, 24))).layout.shape == (10, 6)


@given(gain=st.floats(0.3, 1.0))
def test_exposure_changes_brightness_alone(gain):
    seen = picture(3, low=100)
    dim = (seen * gain).astype(np.uint8)
    one, other = measure(seen), measure(dim)
    assert other.brightness == pytest.approx(gain * one.brightness, abs=1.1)  # cut to whole levels
    for name in ("contrast", "sharpness", "red", "blue"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=0.03)
    assert float((one.layout * other.layout).sum()) > 0.99


def test_one_colour_is_finite():
    flat = measure(np.zeros((64, 64, 3), np.uint8))
    assert np.isfinite([getattr(flat, name) for name in FIGURES if name != "likeness"]).all()
    assert not flat.layout.any()


def test_a_likeness_is_to_the_others():
    """Noise pictures are not alike, though each is part of the mean of all."""
    looks = learn_looks([measure(picture(seed)) for seed in range(20)])
    assert abs(np.mean(looks.figures["likeness"])) < 0.1
    same = learn_looks([measure(picture(0))] * 3)
    assert same.figures["likeness"] == pytest.approx([1, 1, 1], abs=1e-4)


def test_what_a_bundle_keeps_is_read_again():
    looks = learn_looks([measure(picture(seed)) for seed in range(5)])
    assert decode_looks(encode_looks(looks)) == looks
    assert looks.images == 5
    assert len(learn_looks([measure(picture(0))] * 2500).figures["red"]) <= 1000


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.update(schema=2), "Invalid enum value 2 - at `$.schema`"),
        (lambda t: t.update(mood=1), "Object contains unknown field `mood`"),
        (
            lambda t: t["figures"].pop("red"),
            "its figures are ['blue', 'brightness', 'contrast', 'likeness', 'sharpness']; want "
            "['blue', 'brightness', 'contrast', 'likeness', 'red', 'sharpness'], none empty",
        ),
        (
            lambda t: t.update(layout=[[0.0] * 17]),
            "its layout is no grid of at most 16 x 16 cells",
        ),
        (
            lambda t: t.update(layout=[[0.0], [0.0, 1.0]]),
            "its layout is no grid of at most 16 x 16 cells",
        ),
    ],
)
def test_a_member_that_is_none(change, text):
    tree = json.loads(encode_looks(learn_looks([measure(picture(seed)) for seed in range(3)])))
    change(tree)
    bad = tiny_bundle(**{LOOKS: json.dumps(tree).encode()})
    with pytest.raises(BundleError) as error:
        Detector(bad, backend="openvino", threads=1)
    assert str(error.value) == f"[APPEARANCE] appearance.json: {text}. Commission the bundle again."


def test_a_member_that_is_too_large_or_not_finite():
    for data, text in (
        (b" " * (2 << 20), "it has 2097152 bytes; at most 1048576 are read"),
        (
            encode_looks(learn_looks([measure(picture(0))] * 2)).replace(b"[0.", b"[1e999, 0.", 1),
            None,
        ),
    ):
        with pytest.raises(BundleError) as error:
            decode_looks(data)
        assert error.value.code == "APPEARANCE"
        assert text is None or text in str(error.value)


def test_a_bundle_without_it_measures_nothing():
    from bundles import tiny_frame

    with Detector(tiny_bundle(), backend="openvino", threads=1) as detector:
        assert detector(tiny_frame()).appearance is None


_OTHER_THREADS = """
import os, time
import numpy as np
from edgead.appearance import measure
from edgead.preprocess import frame_statistics

picture = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
while time.thread_time() < 1.5:
    measure(picture)
    frame_statistics(picture)
print(time.process_time() - time.thread_time())
"""


def test_a_large_picture_wakes_no_threads_that_spin_on_beside_the_engine():
    words = [sys.executable, "-c", _OTHER_THREADS]
    said = subprocess.run(words, capture_output=True, text=True, check=True, cwd="/")
    # Seconds of CPU in other threads: NumPy's OpenBLAS would take as long as this one, 1.5; it takes
    # some tenths where it is imported.
    assert float(said.stdout) < 0.5
