"""The view: polygons, mask image, what is painted, which thresholds hold."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from bundles import TINY_MODEL, tiny_bundle, tiny_manifest
from gravel import gravel_bundle, gravel_frame, looking_at, with_blot
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from scipy import ndimage

from edgead import Detector, Verdict
from edgead.backends import open_backend
from edgead.bundle import Bundle, bundle_from_bytes
from edgead.deploy.certificate import issue
from edgead.errors import BundleError, ConfigError, FrameError
from edgead.evaluate.commission import commission
from edgead.frame import Frame, PixelFormat
from edgead.images import encode_png
from edgead.manifest import FrameSpec, InputSpec, Tiles, View
from edgead.preprocess import Preprocess
from edgead.view import (
    check_commissioned,
    ignore_pixels,
    lay_out,
    make_view,
    polygon_mask,
    view_key,
    with_view,
)

_COORDINATES = st.floats(-5, 35, allow_nan=False).map(lambda v: round(v, 2) + 0.003)
_TRIANGLE = [(8.0, 0.0), (96.0, 20.0), (30.0, 96.0)]
_ANY = FrameSpec(format=PixelFormat.BGR8, size=(60, 80))


@given(
    polygon=st.lists(st.tuples(_COORDINATES, _COORDINATES), min_size=3, max_size=7),
    x0=st.integers(0, 5),
    y0=st.integers(0, 5),
)
def test_polygons_are_filled_by_the_even_odd_rule(polygon, x0, y0):
    rows, columns = 12, 16
    mask = polygon_mask([polygon], (rows, columns), (x0, y0))
    for y in range(rows):
        for x in range(columns):
            assert mask[y, x] == _is_inside(polygon, x0 + x + 0.5, y0 + y + 0.5)


def _is_inside(polygon, x, y):
    """Jordan: a ray to the left crosses the outline an odd number of times."""
    crossings = 0
    for i in range(len(polygon)):
        (ax, ay), (bx, by) = polygon[i], polygon[(i + 1) % len(polygon)]
        if min(ay, by) < y <= max(ay, by) and ay != by:
            crossings += (bx - ax) * (y - ay) / (by - ay) + ax > x
    return crossings % 2 == 1


def test_polygons_are_united():
    square = [(0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0)]
    shifted = [(x + 2, y + 2) for x, y in square]
    mask = polygon_mask([square, shifted], (8, 8))
    assert mask.sum() == 16 + 16 - 4  # not 16 + 16 - 8: an overlap is inside
    assert not polygon_mask([], (8, 8)).any()


def test_a_rectangle_is_a_crop_and_a_polygon_has_its_box():
    box = make_view(_ANY, roi=[[(10, 5), (70, 5), (70, 50), (10, 50)]])
    assert box == View(roi=(10, 5, 70, 50))
    drawn = make_view(
        _ANY, roi=[[(10.5, 5), (99, 30), (20, 55.2)]], ignore=[[(1, 2), (3, 4), (5, 0)]]
    )
    assert drawn.roi == (10, 5, 80, 56)
    assert drawn.polygons == [[(10.5, 5.0), (99.0, 30.0), (20.0, 55.2)]]
    assert drawn.ignore == [[(1.0, 2.0), (3.0, 4.0), (5.0, 0.0)]]
    bow = make_view(_ANY, roi=[[(10, 5), (70, 50), (70, 5), (10, 50)]])  # crosses itself
    assert bow.polygons is not UNSET
    assert make_view(_ANY) == View()


@pytest.mark.parametrize("fmt", [PixelFormat.NV12, PixelFormat.BAYER_RG8])
def test_a_crop_of_subsampled_colours_is_of_whole_cells(fmt):
    spec = FrameSpec(format=fmt, size=(60, 80))
    assert make_view(spec, roi=[[(11, 5), (71, 5), (71, 49), (11, 49)]]).roi == (10, 4, 72, 50)


def test_a_region_outside_the_frame():
    with pytest.raises(ConfigError) as error:
        make_view(_ANY, roi=[[(90, 5), (99, 5), (99, 9)]])
    assert str(error.value) == (
        "[VIEW_ROI] the region of interest has no pixel inside the frame (80x60). Give points x,y in "
        "frame pixels, x to the right and y down."
    )


def test_painted_pixels_are_those_that_an_ignored_pixel_has_a_part_in():
    """By brute force: change each frame pixel and see which resized pixels move."""
    view = View(roi=(3, 1, 27, 19), ignore=[[(9.0, 4.0), (14.0, 4.0), (14.0, 9.0), (9.0, 9.0)]])
    layout = lay_out(view, (7, 10), (20, 30))
    inside = polygon_mask(view.ignore, (20, 30))
    plain = Preprocess(
        FrameSpec(format=PixelFormat.BGR8, size=(20, 30)),
        InputSpec(size=(7, 10), mean=[0.0] * 3, std=[1.0] * 3),
        View(roi=view.roi),
    )
    grey = np.full((20, 30, 3), 100, np.uint8)
    grey[14:, 20:] = 50  # a frame of one colour is refused
    before = plain(Frame(grey))[0]
    touched = np.zeros((7, 10), bool)
    for y, x in zip(*np.nonzero(inside), strict=True):
        one = grey.copy()
        one[y, x] = 255
        touched |= (plain(Frame(one))[0] != before).any(axis=(0, 3))
    ignored = layout.placement.ignored
    assert touched.any()
    assert not (touched & ~ignored).any()
    # A weight under 1 / 310 moves nothing by a whole grey level: one pixel farther at the most.
    assert not (ignored & ~ndimage.binary_dilation(touched, np.ones((3, 3)))).any()


def test_paint_is_the_mean_of_what_is_looked_at():
    view = View(ignore=[[(0.0, 0.0), (4.0, 0.0), (4.0, 8.0), (0.0, 8.0)]])
    layout = lay_out(view, (8, 8), (8, 8))
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, :4] = 255
    picture[:4, 4:], picture[4:, 4:] = (10, 20, 31), (20, 40, 60)
    layout.paint(picture)
    assert (picture[:, :4] == (15, 30, 46)).all()  # 45.5 rounds up
    assert (picture[:4, 4:] == (10, 20, 31)).all()


def test_nothing_left_to_look_at():
    everywhere = [[(-1.0, -1.0), (99.0, -1.0), (99.0, 99.0), (-1.0, 99.0)]]
    with pytest.raises(BundleError) as error:
        lay_out(View(ignore=everywhere), (8, 8), (16, 16))
    assert str(error.value) == (
        "[VIEW_EMPTY] the ignore polygons and the mask leave nothing to look at. Set another view: "
        "edgead view BUNDLE, then commission it."
    )


def test_a_mask_image_ignores_what_is_not_black():
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8] = 1
    seen = with_view(tiny_bundle(), make_view(_ANY, has_mask=True), encode_png(pixels))
    again = bundle_from_bytes(seen.to_bytes())
    np.testing.assert_array_equal(ignore_pixels(again), pixels > 0)
    tensor, placement = Preprocess.of(again)(Frame(_halves()))
    assert placement.ignored.tolist() == [[row < 5] * 8 for row in range(8)]  # the filter reaches
    assert tensor[0, :5].max() < 100


def _halves():
    frame = np.full((16, 16, 3), 200, np.uint8)
    frame[8:] = np.random.default_rng(0).integers(0, 99, (8, 16, 3))
    return frame


@pytest.mark.parametrize(
    ("png", "what"),
    [
        (np.zeros((16, 16, 3), np.uint8), "BGR8 16x16"),
        (np.zeros((16, 17), np.uint8), "MONO8 17x16"),
    ],
)
def test_a_mask_of_another_kind_or_size(png, what):
    with pytest.raises(BundleError) as error:
        with_view(tiny_bundle(), make_view(_ANY, has_mask=True), encode_png(png))
    assert str(error.value) == (
        f"[VIEW_MASK] the mask is {what}; want a grey image of the frame's 16x16. "
        "Paint it over a frame: black is looked at, white is not."
    )


def test_a_mask_for_frames_of_any_size():
    bundle = Bundle.build(
        tiny_manifest(frame=FrameSpec(format=PixelFormat.BGR8, size=None)),
        {"model.onnx": TINY_MODEL},
    )
    png = encode_png(np.zeros((16, 16), np.uint8))
    with pytest.raises(BundleError) as error:
        with_view(bundle, make_view(_ANY, has_mask=True), png)
    assert str(error.value) == (
        "[VIEW_MASK] a mask image needs frames of one size, and this bundle takes several. "
        "Give polygons, or train on images of one size."
    )


def test_a_mask_that_is_not_handed_over():
    view = make_view(_ANY, has_mask=True)
    with pytest.raises(BundleError) as error:
        lay_out(view, (8, 8), (16, 16))
    assert str(error.value) == (
        "[VIEW_MASK] the view has a mask image for frames of 16x16; none was given. "
        "Set the mask again: edgead view BUNDLE --ignore-mask FILE."
    )


def test_the_key_is_of_all_that_makes_up_a_view():
    bundle, keys = tiny_bundle(), set()
    black, white = np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8)
    white[0] = 255
    keys.add(view_key(bundle.manifest))
    assert keys == {None}
    for view, png in (
        (View(roi=(0, 0, 8, 8)), None),
        (View(roi=(0, 0, 8, 9)), None),
        (View(tiles=Tiles(size=(8, 8), overlap=2)), None),
        (make_view(_ANY, has_mask=True), encode_png(black)),
        (make_view(_ANY, has_mask=True), encode_png(white)),
    ):
        keys.add(view_key(with_view(bundle, view, png).manifest))
    assert len(keys) == 6


def test_a_changed_view_has_no_threshold_until_it_is_commissioned():
    old = gravel_bundle()
    changed = with_view(old, make_view(old.manifest.frame, roi=[_TRIANGLE]))
    for use in (
        lambda: Detector(changed, threads=1),
        lambda: issue(changed, [], backend="onnxruntime", precision="fp16"),
    ):
        with pytest.raises(BundleError) as error:
            use()
        assert error.value.code == "VIEW_CHANGED"
    back = with_view(changed, View())
    assert back.hash == old.hash  # and its thresholds hold again
    check_commissioned(back.manifest)


def test_commissioning_learns_with_the_view_and_binds_to_it():
    old = gravel_bundle()
    changed = with_view(old, make_view(old.manifest.frame, roi=[_TRIANGLE]))
    rng = np.random.default_rng(0)
    base = gravel_frame().pixels.astype(int)
    frames = [
        Frame(
            np.clip(base + rng.integers(-20, 20, base.shape), 0, 255).astype(np.uint8),
            PixelFormat.MONO8,
        )
        for _ in range(8)
    ]
    ready = commission(changed, open_backend("onnxruntime", old.members), frames).bundle
    assert ready.manifest.thresholds.view == view_key(changed.manifest)
    with Detector(ready, threads=1, check_ranges=False) as detector:
        seen = detector(with_blot(frames[0], 36, 30))
        assert seen.verdict is Verdict.DEFECT
        outside = detector(with_blot(frames[0], 70, 75))
        assert outside.score == detector(frames[0]).score
        outline = polygon_mask([_TRIANGLE], (96, 96))
        for region in seen.regions:
            x, y = (round(v) for v in region.centroid)
            assert outline[y, x]
    other = msgspec.structs.replace(ready.manifest.view, roi=(0, 0, 96, 95))
    with pytest.raises(BundleError):
        Detector(ready.with_members({}, view=other), threads=1)


def test_regions_lie_in_the_frame_whatever_the_view():
    view = make_view(gravel_bundle().manifest.frame, roi=[[(31, 8), (96, 8), (96, 73), (31, 73)]])
    with Detector(looking_at(view), threads=1, check_ranges=False) as detector:
        found = detector(with_blot(gravel_frame(), 60, 20))
    x0, y0, x1, y1 = found.regions[0].box_xyxy
    assert x0 < 69 < x1
    assert y0 < 29 < y1
    assert not any(r.box_xyxy[0] < 31 or r.box_xyxy[1] < 8 for r in found.regions)


def test_a_frame_too_small_for_the_view():
    view = View(roi=(0, 0, 96, 96))
    spec = FrameSpec(format=PixelFormat.BGR8, size=None)
    prepare = Preprocess(spec, InputSpec(size=(8, 8), mean=[0.0] * 3, std=[1.0] * 3), view)
    with pytest.raises(FrameError) as error:
        prepare(Frame(_halves()))
    assert error.value.code == "FRAME_SIZE"


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (
            View(polygons=[[(0.0, 0.0), (8.0, 0.0), (8.0, 8.0)]]),
            "view.polygons needs view.roi, their box",
        ),
        (
            View(ignore=[[(0.0, 0.0), (8.0, 0.0)]]),
            "view.ignore has a polygon of fewer than 3 points",
        ),
        (
            View(ignore=[[(0.0, 0.0), (1e9, 0.0), (0.0, 1.0)]]),
            "view.ignore has a point farther than 65536 pixels away",
        ),
        (
            View(ignore=[[(float(i), float(i % 7)) for i in range(4097)]]),
            "view has polygons of 4097 points; at most 4096 are read",
        ),
        (View(mask="ignore.png"), "view.mask names 'ignore.png', which is not a member"),
    ],
)
def test_views_that_no_manifest_may_hold(view, text):
    with pytest.raises(BundleError) as error:
        Bundle.build(tiny_manifest(view=view), {"model.onnx": TINY_MODEL})
    assert str(error.value) == f"[MANIFEST] manifest.json: {text}. Make the bundle again."


def test_a_mask_and_several_sizes_in_a_manifest():
    manifest = tiny_manifest(
        view=View(mask="ignore.png"), frame=FrameSpec(format=PixelFormat.BGR8, size=None)
    )
    png = encode_png(np.zeros((16, 16), np.uint8))
    with pytest.raises(BundleError) as error:
        Bundle.build(manifest, {"model.onnx": TINY_MODEL, "ignore.png": png})
    assert str(error.value) == (
        "[MANIFEST] manifest.json: view.mask needs frames of one size, and frame.size is null. "
        "Make the bundle again."
    )
