"""Camera formats against plain loops; region, placement, and frames that are never judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgead import kernels
from edgead.errors import FrameError
from edgead.frame import Frame, PixelFormat
from edgead.manifest import FrameSpec, InputRanges, InputSpec, View
from edgead.preprocess import Preprocess, as_bgr, frame_statistics


def prepare(frame: Frame, size: tuple[int, int] | None = None, **options: Any) -> Any:
    spec = FrameSpec(format=frame.format, size=None, depth=frame.depth)
    wanted = InputSpec(size=size or frame.size, mean=[0.0] * 3, std=[1.0] * 3)
    tensor, _ = Preprocess(spec, wanted, **options)(frame)
    assert (tensor.dtype, tensor.shape) == (np.uint8, (1, *wanted.size, 3))
    return tensor[0]


def noise(*shape: int, top: int = 256, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


def test_eight_bit_formats_become_bgr():
    bgr = noise(12, 18, 3)
    padded = np.concatenate([bgr, noise(12, 18, 1)], axis=2)
    np.testing.assert_array_equal(prepare(Frame(bgr)), bgr)
    np.testing.assert_array_equal(prepare(Frame(bgr, PixelFormat.RGB8)), bgr[:, :, ::-1])
    np.testing.assert_array_equal(prepare(Frame(padded, PixelFormat.BGRX8)), bgr)
    grey = prepare(Frame(bgr[:, :, 0].copy(), PixelFormat.MONO8))
    np.testing.assert_array_equal(grey, np.repeat(bgr[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("depth", range(9, 17))
@pytest.mark.parametrize("fmt", [PixelFormat.MONO16, PixelFormat.BGR16, PixelFormat.RGB16])
def test_wide_formats_lose_their_lowest_bits(fmt, depth):
    shape = (6, 8) if fmt is PixelFormat.MONO16 else (6, 8, 3)
    wide = noise(*shape, top=1 << depth, dtype=np.uint16)
    expected = np.zeros((6, 8, 3), np.uint8)
    for y in range(6):
        for x in range(8):
            for c in range(3):
                source = c if fmt is PixelFormat.BGR16 else 2 - c
                value = wide[y, x] if fmt is PixelFormat.MONO16 else wide[y, x, source]
                expected[y, x, c] = int(value) // 2 ** (depth - 8)
    np.testing.assert_array_equal(prepare(Frame(wide, fmt, depth=depth)), expected)


def test_nv12_against_a_plain_loop():
    frame = Frame(noise(18, 16), PixelFormat.NV12)
    rows = 12
    planes = frame.pixels[rows:].reshape(rows // 2, 8, 2)
    u, v = (
        kernels.resize(np.ascontiguousarray(planes[:, :, i : i + 1]), (rows, 16))[:, :, 0]
        for i in (0, 1)
    )
    expected = np.zeros((rows, 16, 3), np.uint8)
    for y in range(rows):
        for x in range(16):
            luma = 298 * (int(frame.pixels[y, x]) - 16) + 128
            d, e = int(u[y, x]) - 128, int(v[y, x]) - 128
            values = (luma + 516 * d, luma - 100 * d - 208 * e, luma + 409 * e)
            expected[y, x] = [min(255, max(0, value >> 8)) for value in values]
    np.testing.assert_array_equal(prepare(frame), expected)


def test_nv12_agrees_with_opencv_where_the_chroma_is_smooth():
    cv2 = pytest.importorskip("cv2")
    pixels = np.zeros((36, 32), np.uint8)
    pixels[:24] = noise(24, 32, top=200) + 16
    pixels[24:, 0::2], pixels[24:, 1::2] = 100, 170
    peer = cv2.cvtColor(pixels, cv2.COLOR_YUV2BGR_NV12).astype(int)
    ours = prepare(Frame(pixels, PixelFormat.NV12)).astype(int)
    assert np.abs(ours - peer).max() <= 2  # other roundings of the same matrix


@pytest.mark.parametrize(
    ("y", "u", "v", "bgr"),
    [(235, 128, 128, (255, 255, 255)), (16, 128, 128, (0, 0, 0)), (81, 90, 240, (0, 0, 255))],
)
def test_nv12_of_known_colours(y, u, v, bgr):
    pixels = np.full((12, 8), y, np.uint8)
    pixels[8:, 0::2], pixels[8:, 1::2] = u, v
    picture = as_bgr(Frame(pixels, PixelFormat.NV12)).astype(int)
    assert np.abs(picture - np.array(bgr)).max() <= 1


def test_bayer_against_a_plain_loop():
    frame = Frame(noise(12, 16), PixelFormat.BAYER_RG8)
    expected = np.zeros((6, 8, 3), np.uint8)
    for y in range(6):
        for x in range(8):
            red, green_1 = (int(v) for v in frame.pixels[2 * y, 2 * x : 2 * x + 2])
            green_2, blue = (int(v) for v in frame.pixels[2 * y + 1, 2 * x : 2 * x + 2])
            expected[y, x] = (blue, (green_1 + green_2 + 1) // 2, red)
    np.testing.assert_array_equal(prepare(frame, (6, 8)), expected)


@pytest.mark.parametrize("fmt", PixelFormat)
def test_every_format_takes_any_region(fmt):
    rows = {PixelFormat.NV12: 36}.get(fmt, 24)
    shape = {PixelFormat.BGRX8: (24, 32, 4)}.get(fmt, (rows, 32, 3))
    flat = fmt in (PixelFormat.MONO8, PixelFormat.NV12, PixelFormat.BAYER_RG8, PixelFormat.MONO16)
    wide = fmt.value.endswith("16")
    pixels = noise(*(shape[:2] if flat else shape), dtype=np.uint16 if wide else np.uint8)
    frame = Frame(pixels, fmt, depth=9 if wide else 8)
    for roi in ((0, 0, 32, 24), (3, 5, 18, 22), (29, 21, 32, 24), (7, 7, 10, 9)):
        prepare(frame, (8, 8), view=View(roi=roi))


@given(
    roi=st.tuples(st.integers(0, 30), st.integers(0, 22), st.integers(1, 32), st.integers(1, 24))
)
def test_a_region_is_the_same_as_a_smaller_frame(roi):
    x0, y0, x1, y1 = roi
    if x1 < x0 + 2 or y1 < y0 + 2:
        return
    frame = Frame(noise(24, 32, 3))
    part = np.ascontiguousarray(frame.pixels[y0:y1, x0:x1])
    seen = prepare(frame, (9, 11), view=View(roi=roi))
    np.testing.assert_array_equal(seen, kernels.resize(part, (9, 11)))


@given(
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    roi=st.tuples(
        st.integers(0, 50), st.integers(0, 50), st.integers(51, 100), st.integers(51, 80)
    ),
)
def test_placement_spans_the_region_and_comes_back(size, roi):
    x0, y0, x1, y1 = roi
    spec = FrameSpec(format=PixelFormat.BGR8, size=(80, 100))
    wanted = InputSpec(size=size, mean=[0.0] * 3, std=[1.0] * 3)
    _, place = Preprocess(spec, wanted, View(roi=roi))(Frame(noise(80, 100, 3)))
    h, w = size
    corners = place.to_frame(np.array([[-0.5, -0.5], [w - 0.5, h - 0.5]]))
    np.testing.assert_allclose(corners, [[x0 - 0.5, y0 - 0.5], [x1 - 0.5, y1 - 0.5]], atol=1e-3)
    assert place.frame_size == (80, 100)


def test_what_the_camera_hands_over_is_read_and_never_written():
    wide = noise(24, 64, 3)
    view = wide[::-1, ::2]  # negative and double strides
    before = wide.copy()
    wide.setflags(write=False)
    np.testing.assert_array_equal(prepare(Frame(view)), view)
    np.testing.assert_array_equal(wide, before)


@pytest.mark.parametrize(
    ("colour", "text"),
    [((0, 0, 0), "0"), ((255, 255, 255), "255"), ((255, 0, 0), "B 255 G 0 R 0")],
)
def test_one_colour_everywhere_is_no_picture(colour, text):
    pixels = np.empty((16, 16, 3), np.uint8)
    pixels[:] = colour
    with pytest.raises(FrameError) as error:
        prepare(Frame(pixels), (8, 8))
    assert str(error.value) == (
        f"[FRAME_CONSTANT] every pixel is {text}. Lens cap, light or trigger fault?"
    )
    pixels[:8] += np.uint8(90)
    prepare(Frame(pixels), (8, 8))


def test_an_nv12_buffer_of_zeros_is_constant_though_it_is_green():
    with pytest.raises(FrameError) as error:
        prepare(Frame(np.zeros((24, 16), np.uint8), PixelFormat.NV12), (8, 8))
    assert error.value.code == "FRAME_CONSTANT"


def test_a_frame_too_small_for_the_region():
    with pytest.raises(FrameError) as error:
        prepare(Frame(noise(24, 32, 3)), (8, 8), view=View(roi=(0, 0, 33, 24)))
    assert str(error.value) == (
        "[FRAME_SIZE] frame is 32x24; the region of interest (0, 0, 33, 24) does not lie inside it. "
        "Set the camera's resolution, or commission the bundle on this one."
    )


@pytest.mark.parametrize("name", ["mean", "std", "sharpness"])
def test_each_commissioned_range_is_held_to_unless_asked_not_to(name):
    frame = Frame(noise(32, 32, 3))
    found = frame_statistics(prepare(frame))[name]
    wide = {"mean": (0.0, 255.0), "std": (0.0, 255.0), "sharpness": (0.0, 255.0)}
    narrow = InputRanges(**{**wide, name: (found + 1, found + 2)})
    with pytest.raises(FrameError) as error:
        prepare(frame, ranges=narrow)
    assert str(error.value) == (
        f"[FRAME_EXPOSURE] {name} of the picture is {found:.1f}; commissioned range "
        f"{found + 1:.1f}..{found + 2:.1f}. Check light, exposure and focus, or commission the bundle "
        "again."
    )
    spec = FrameSpec(format=PixelFormat.BGR8, size=None)
    unchecked = Preprocess(
        spec, InputSpec(size=(8, 8), mean=[0.0] * 3, std=[1.0] * 3), None, narrow
    )
    unchecked(frame, check_ranges=False)


def test_statistics_of_a_known_picture():
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, 1::2] = 100
    found = frame_statistics(stripes)
    assert found == {"mean": 0.0, "std": 0.0, "sharpness": 100.0}  # every fourth column is black
