"""What a view ignores never reaches a score, a map, a mask or a region: bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from gravel import gravel_bundle, gravel_frame, looking_at
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from edgead import Detector
from edgead.errors import EdgeadError
from edgead.frame import Frame, PixelFormat
from edgead.images import encode_png
from edgead.manifest import FrameSpec, InputSpec, Tiles
from edgead.preprocess import Preprocess
from edgead.view import ignore_pixels, make_view, polygon_mask, with_view

_FORMATS = [
    PixelFormat.BGR8,
    PixelFormat.RGB8,
    PixelFormat.MONO8,
    PixelFormat.BGRX8,
    PixelFormat.NV12,
    PixelFormat.BAYER_RG8,
]


def _polygons(limit):
    point = st.tuples(st.integers(-4, limit), st.integers(-4, limit))
    return st.lists(st.lists(point, min_size=3, max_size=5), max_size=2)


@st.composite
def _cases(draw):
    height, width = (2 * draw(st.integers(8, 24)) for _ in range(2))
    spec = FrameSpec(format=draw(st.sampled_from(_FORMATS)), size=(height, width))
    roi, ignore = draw(_polygons(48)), draw(_polygons(48))
    side = draw(st.sampled_from([8, 16, 20]))
    tiles = draw(st.sampled_from([None, None, Tiles(size=(8, 8), overlap=2)]))
    mask = np.random.default_rng(draw(st.integers(0, 99))).random((height, width)) < 0.05
    return spec, roi, ignore, side, tiles, mask if draw(st.booleans()) else None


def _frame(spec, rng):
    height, width = spec.size
    rows = height * 3 // 2 if spec.format is PixelFormat.NV12 else height
    depth = {PixelFormat.BGR8: (3,), PixelFormat.RGB8: (3,), PixelFormat.BGRX8: (4,)}
    shape = (rows, width, *depth.get(spec.format, ()))
    return rng.integers(0, 256, shape, dtype=np.uint8)


def _scrambled(pixels, spec, where, rng):
    """Other values under ``where`` (H, W), in the chroma plane wherever a pair of them touches it."""
    height, width = spec.size
    other = pixels.copy()
    noise = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
    other[:height][where] = noise[:height][where]
    if spec.format is PixelFormat.NV12:  # a colour belongs to four pixels: all must be ignored
        cells = where.reshape(height // 2, 2, width // 2, 2).all(axis=(1, 3))
        both = np.repeat(cells, 2, axis=1)
        other[height:][both] = noise[height:][both]
    return other


@settings(max_examples=100, deadline=None)
@given(case=_cases(), seed=st.integers(0, 1000))
def test_no_format_lets_an_ignored_pixel_through(case, seed):
    spec, roi, ignore, side, tiles, mask = case
    rng = np.random.default_rng(seed)
    pixels = _frame(spec, rng)
    try:
        view = make_view(spec, roi=roi, ignore=ignore, tiles=tiles, has_mask=mask is not None)
        prepare = Preprocess(
            spec, InputSpec(size=(side, side), mean=[0.0] * 3, std=[1.0] * 3), view, mask=mask
        )
        tensor, placement = prepare(Frame(pixels, spec.format))
    except EdgeadError as error:
        if error.code not in {"VIEW_EMPTY", "VIEW_ROI", "VIEW_TILES", "FRAME_CONSTANT"}:
            raise
        reject()
    ignored = polygon_mask(ignore, spec.size)
    if roi:
        ignored |= ~polygon_mask(roi, spec.size)
    if mask is not None:
        ignored |= mask
    again, _ = prepare(Frame(_scrambled(pixels, spec, ignored, rng), spec.format))
    np.testing.assert_array_equal(again, tensor)
    assert tensor.shape[1:3] == placement.size


@pytest.fixture(scope="module")
def detector():
    frame = gravel_bundle().manifest.frame
    view = make_view(
        frame,
        roi=[[(10, 4), (90, 12), (80, 92), (6, 70)]],
        ignore=[[(30, 30), (50, 28), (44, 52)]],
    )
    with Detector(looking_at(view), threads=1, check_ranges=False) as made:
        yield made


@settings(max_examples=40, deadline=None)
@given(
    x=st.integers(0, 90), y=st.integers(0, 90), side=st.integers(2, 40), value=st.integers(0, 255)
)
def test_a_defect_in_an_ignored_place_changes_nothing(detector, x, y, side, value):
    view = detector.bundle.manifest.view
    ignored = ~polygon_mask(view.polygons, (96, 96)) | polygon_mask(view.ignore, (96, 96))
    good = gravel_frame()
    pixels = good.pixels.copy()
    patch = np.zeros((96, 96), bool)
    patch[y : y + side, x : x + side] = True
    pixels[patch & ignored] = value
    before, after = detector(good), detector(Frame(pixels, PixelFormat.MONO8))
    assert after.score == before.score
    assert after.verdict is before.verdict
    np.testing.assert_array_equal(after.anomaly_map, before.anomaly_map)
    np.testing.assert_array_equal(after.mask, before.mask)
    assert not after.mask[after.placement.ignored].any()
    assert [r.to_json() for r in after.regions] == [r.to_json() for r in before.regions]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_mask_image_survives_the_bundle(seed):
    bundle = gravel_bundle()
    mask = np.random.default_rng(seed).integers(0, 3, (96, 96), dtype=np.uint8)
    view = make_view(bundle.manifest.frame, has_mask=True)
    np.testing.assert_array_equal(
        ignore_pixels(with_view(bundle, view, encode_png(mask))), mask != 0
    )
