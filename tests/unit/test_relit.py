"""Another light over the same scene: what SLSG's small recipe trains under."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgead.evaluate.textures import procedural_texture
from edgead.models.parts_defects import DefectSource, relit

GREY = np.full((32, 32, 3), (40, 90, 160), np.uint8)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1.0))
def test_a_channel_keeps_its_order(seed, amount):
    """A light may bring values together at 0 and 255, and never swaps two of a channel."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    lit = relit(ramp, np.random.default_rng(seed), amount)
    assert lit.shape == ramp.shape
    assert lit.dtype == np.uint8
    assert (np.diff(lit[:, 0].astype(int), axis=0) >= 0).all()


def test_an_even_surface_is_multiplied_channel_by_channel():
    """Contrast about the mean leaves it, brightness and colour balance are what is seen."""
    rng = np.random.default_rng(3)
    lit = relit(GREY, rng, 0.4)
    again = np.random.default_rng(3)
    brightness = np.exp(again.uniform(-0.4, 0.4))
    again.uniform(-0.2, 0.2)  # contrast
    wanted = GREY[0, 0] * brightness * np.exp(again.uniform(-0.2, 0.2, 3))
    np.testing.assert_array_equal(lit[5, 7], wanted.round().astype(np.uint8))


def test_the_image_that_was_given_is_left_as_it_is():
    kept = GREY.copy()
    relit(GREY, np.random.default_rng(0), 0.5)
    np.testing.assert_array_equal(GREY, kept)


@pytest.mark.parametrize("light", [0.0, 0.4])
def test_good_and_defective_images_come_under_a_light_only_when_asked(light):
    images = [procedural_texture((64, 64), np.random.default_rng(n)) for n in range(3)]
    source = DefectSource(
        images, np.random.default_rng(1), textures=procedural_texture, light=light
    )
    good, mask = source.good(0)
    assert np.array_equal(good, images[0]) == (light == 0)
    assert not mask.any()
    defective, mask = source.defective(1, "structural")
    unchanged = (defective == images[1]).all(axis=-1)
    assert unchanged[~mask].all() == (light == 0)
