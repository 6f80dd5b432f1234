"""Simulated defects: what they look like is for the eye, what they must keep to is here."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data as photographs
from skimage.filters import threshold_otsu
from skimage.measure import label

from edgead.errors import CalibrationError, ConfigError
from edgead.evaluate.anomalies import KINDS, contact_sheet, simulate
from edgead.evaluate.foreground import foreground_mask, otsu
from edgead.evaluate.perlin import MIN_MASK_PX, perlin, perlin_mask
from edgead.evaluate.textures import procedural_texture, texture_folder
from edgead.images import save_image


def brick(size: int = 128) -> np.ndarray:
    return np.repeat(photographs.brick()[:size, :size, None], 3, axis=2)


def coin(size: int = 128) -> np.ndarray:
    """A dark grained disc with a bright spot, on a bright background."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] - size / 2
    grey = np.where(np.hypot(y, x) < size * 0.35, 60, 220)
    grey[np.hypot(y + 10, x) < 5] = 230
    grey = np.clip(grey + rng.normal(0, 4, grey.shape), 0, 255)
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_defect(kind):
    first, second, third = (
        simulate(brick(), kind, np.random.default_rng(seed), other=coin()) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[1], third[1])


@pytest.mark.parametrize("kind", ["structural", "tiles", "logical", "scratch", "dent", "stain"])
def test_defects_stay_on_the_part(kind):
    image = coin()
    part = foreground_mask(image)
    for seed in range(10):
        _, mask = simulate(image, kind, np.random.default_rng(seed), other=brick())
        assert not (mask & ~part).any()


def test_logical_defects_show_the_other_image():
    """delta >= 0.75: the other image's colours dominate inside the mask."""
    dark, bright = np.full((64, 64, 3), 20, np.uint8), np.full((80, 70, 3), 220, np.uint8)
    result, mask = simulate(dark, "logical", np.random.default_rng(0), other=bright)
    assert result[mask].min() > 110
    assert (result[~mask] == 20).all()


def test_logical_masks_are_more_concentrated_than_structural_ones():
    """Few octaves: few large pieces instead of many small ones."""
    everywhere = np.ones((128, 128), dtype=bool)

    def pieces(**options) -> float:
        masks = [
            perlin_mask(everywhere, np.random.default_rng(seed), **options) for seed in range(30)
        ]
        return float(np.median([label(mask).max() for mask in masks]))

    assert pieces(max_octave=3, level=0.25) < pieces()


def test_structural_defects_take_the_texture_given():
    def green(size, rng):
        return np.broadcast_to(np.array((0, 255, 0), np.uint8), (*size, 3))

    result, mask = simulate(brick(), "structural", np.random.default_rng(3), textures=green)
    gain = result[mask].astype(int) - brick()[mask]
    assert gain[:, 1].mean() > gain[:, [0, 2]].mean()


def test_a_defect_that_nobody_could_see_is_refused():
    black = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(CalibrationError) as caught:
        simulate(black, "logical", _Still(), other=black.copy())
    assert str(caught.value) == (
        "[ANOMALY_INVISIBLE] 20 draws of 'logical' changed the image by less than 2 grey levels. "
        "The image is constant, or equal to the other one; leave it out or use another kind."
    )


class _Still(np.random.Generator):
    """A generator whose every brightness change is none."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def uniform(self, low=0.0, high=1.0, size=None):
        return 0.0 if (low, high) == (-20, 20) else super().uniform(low, high, size)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            (np.zeros((64, 64, 3), np.uint8), "rust"),
            "[ANOMALY_KIND] kind is 'rust'; expected one of structural, tiles, logical, confetti, "
            "cutpaste, scratch, dent, stain.",
        ),
        (
            (np.zeros((64, 64), np.uint8), "dent"),
            "[ANOMALY_IMAGE] got uint8 (64, 64); expected uint8 (H, W, 3).",
        ),
        (
            (np.zeros((64, 64, 3), np.float32), "dent"),
            "[ANOMALY_IMAGE] got float32 (64, 64, 3); expected uint8 (H, W, 3).",
        ),
        (
            (np.zeros((64, 31, 3), np.uint8), "dent"),
            "[ANOMALY_IMAGE] image is 31 x 64 pixels; expected at least 32 a side.",
        ),
    ],
)
def test_images_that_take_no_defect(arguments, text):
    with pytest.raises(ConfigError) as caught:
        simulate(*arguments, np.random.default_rng(0))
    assert str(caught.value) == text


def test_foreground_and_other_are_checked():
    with pytest.raises(ConfigError) as caught:
        simulate(brick(), "dent", np.random.default_rng(0), foreground=np.zeros((128, 128), bool))
    assert str(caught.value) == (
        "[ANOMALY_FOREGROUND] foreground is bool (128, 128) with 0 pixels; "
        "expected bool (128, 128) with some."
    )
    with pytest.raises(ConfigError) as caught:
        simulate(brick(), "logical", np.random.default_rng(0), other=np.zeros((9, 9), np.uint8))
    assert str(caught.value) == "[ANOMALY_OTHER] got uint8 (9, 9); expected uint8 (H, W, 3)."


@pytest.mark.parametrize("name", ["brick", "grass", "gravel", "camera", "coins", "moon"])
def test_otsu_equals_scikit_image(name):
    grey = getattr(photographs, name)()
    assert otsu(grey).level == threshold_otsu(grey)


def test_separation_of_one_and_of_two_classes():
    assert otsu(np.full((8, 8), 7, np.uint8)) == (0, 0.0)
    halves = np.repeat(np.array([[20, 200]], np.uint8), 8, axis=0)
    assert otsu(halves) == (20, pytest.approx(1.0))


def test_foreground_is_the_part_with_its_highlights():
    image = coin()
    y, x = np.mgrid[:128, :128] - 64
    disc = np.hypot(y, x) < 128 * 0.35
    assert (foreground_mask(image) == disc).mean() > 0.98
    assert (foreground_mask(255 - image) == disc).mean() > 0.98  # either polarity
    assert foreground_mask(image)[54, 64]  # the bright spot on it


def test_a_texture_and_a_speck_have_no_background():
    assert foreground_mask(photographs.grass()).all()
    assert foreground_mask(photographs.gravel()).all()
    speck = np.full((100, 100), 200, np.uint8)
    speck[50:60, 50:60] = 0  # 1 %
    assert foreground_mask(speck).all()


def test_perlin_noise_is_smooth_and_bounded():
    noise = perlin((96, 128), (4, 6), np.random.default_rng(0), angle=0.4)
    assert noise.shape == (96, 128)
    assert noise.dtype == np.float32
    assert -1 <= noise.min() < -0.3
    assert 0.3 < noise.max() <= 1
    assert np.abs(np.diff(noise, axis=0)).max() < 0.25


def test_perlin_noise_is_zero_at_lattice_points():
    """The gradient ramp passes through 0 at its own point: one of the 5 x 5 lattice points here."""
    noise = perlin((33, 33), (2, 2), np.random.default_rng(1))
    # Pixel 16 is the centre, 0.75 * 2 = 1.5 cells; lattice points lie half a cell away.
    assert abs(noise[16 - 8, 16 - 8]) < 0.05


def test_small_masks_are_redrawn():
    part = np.zeros((128, 128), dtype=bool)
    part[40:60, 40:60] = True
    for seed in range(20):
        mask = perlin_mask(part, np.random.default_rng(seed))
        assert mask.sum() >= 4  # 1 % of a part of 400 pixels
        assert not (mask & ~part).any()
    everywhere = np.ones((128, 128), dtype=bool)
    sizes = [perlin_mask(everywhere, np.random.default_rng(s)).sum() for s in range(20)]
    assert min(sizes) >= MIN_MASK_PX


def test_textures_of_a_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    save_image(tmp_path / "sub" / "grey.png", photographs.grass()[:64, :64])
    save_image(tmp_path / "colour.png", photographs.astronaut()[:64, :64])
    draw = texture_folder(tmp_path)
    found = [draw((40, 50), np.random.default_rng(seed)) for seed in range(8)]
    assert {one.shape for one in found} == {(40, 50, 3)}
    assert {one.dtype for one in found} == {np.dtype(np.uint8)}
    grey = [bool((one[:, :, 0] == one[:, :, 2]).all()) for one in found]
    assert {True, False} == set(grey)
    with pytest.raises(CalibrationError) as caught:
        texture_folder(tmp_path / "none")
    assert caught.value.code == "DATA_MISSING"


def test_sixteen_bit_textures_are_refused(tmp_path):
    save_image(tmp_path / "wide.png", np.zeros((40, 40), np.uint16))
    draw = texture_folder(tmp_path)
    with pytest.raises(CalibrationError) as caught:
        draw((40, 40), np.random.default_rng(0))
    assert str(caught.value) == (
        f"[TEXTURE_FORMAT] {tmp_path / 'wide.png'} is MONO16; expected 8-bit grey or colour. "
        "Convert it."
    )


def test_procedural_textures_differ_and_have_contrast():
    found = [procedural_texture((48, 64), np.random.default_rng(seed)) for seed in range(20)]
    assert {one.shape for one in found} == {(48, 64, 3)}
    assert len({one.tobytes() for one in found}) == 20
    assert np.median([one.std() for one in found]) > 10


def test_contact_sheet_has_a_row_an_image_and_a_column_a_kind():
    sheet = contact_sheet([brick(), coin(96)], np.random.default_rng(0), cell_px=60)
    assert sheet.shape == (22 + 2 * 66 + 6, 6 + 66 * (len(KINDS) + 1), 3)
    again = contact_sheet([brick(), coin(96)], np.random.default_rng(0), cell_px=60)
    np.testing.assert_array_equal(sheet, again)
    with pytest.raises(ConfigError) as caught:
        contact_sheet([], np.random.default_rng(0))
    assert str(caught.value) == (
        "[ANOMALY_IMAGES] no images for the contact sheet; expected one or more."
    )
