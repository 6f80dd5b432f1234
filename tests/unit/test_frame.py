"""Frames: every format by declaration, nothing by content, nothing but a FrameError on rubbish."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgead.errors import FrameError
from edgead.frame import Frame, PixelFormat

_SOUND = [
    (PixelFormat.BGR8, (48, 64, 3), np.uint8, 8),
    (PixelFormat.RGB8, (48, 64, 3), np.uint8, 8),
    (PixelFormat.MONO8, (48, 64), np.uint8, 8),
    (PixelFormat.BGRX8, (48, 64, 4), np.uint8, 8),
    (PixelFormat.NV12, (72, 64), np.uint8, 8),
    (PixelFormat.BAYER_RG8, (48, 64), np.uint8, 8),
    (PixelFormat.MONO16, (48, 64), np.uint16, 10),
    (PixelFormat.BGR16, (48, 64, 3), np.uint16, 12),
    (PixelFormat.RGB16, (48, 64, 3), np.uint16, 16),
]


@pytest.mark.parametrize(("fmt", "shape", "dtype", "depth"), _SOUND)
def test_every_format_has_its_shape(fmt, shape, dtype, depth):
    frame = Frame(np.zeros(shape, dtype), fmt, depth=depth)
    assert frame.size == (48, 64)
    assert {known for known, *_ in _SOUND} == set(PixelFormat)


@pytest.mark.parametrize(("fmt", "shape", "dtype", "depth"), _SOUND)
def test_every_format_refuses_the_other_width_of_pixel(fmt, shape, dtype, depth):
    other = np.uint16 if dtype is np.uint8 else np.uint8
    with pytest.raises(FrameError) as error:
        Frame(np.zeros(shape, other), fmt, depth=depth)
    assert error.value.code == "FRAME_DTYPE"


def test_plain_arrays_are_bgr_or_grey():
    colour = np.zeros((4, 6, 3), np.uint8)
    assert Frame.from_array(colour).format is PixelFormat.BGR8
    assert Frame.from_array(colour[:, :, 0]).format is PixelFormat.MONO8
    column = Frame.from_array(colour[:, :, :1])
    assert (column.format, column.pixels.shape) == (PixelFormat.MONO8, (4, 6))


def test_a_frame_passes_through_and_pixels_are_not_copied():
    pixels = np.zeros((4, 6, 3), np.uint8)
    frame = Frame(pixels, source_id="cam", seq=7)
    assert Frame.from_array(frame) is frame
    assert frame.pixels is pixels
    assert frame.frame_id == "cam:7"
    assert repr(frame) == "Frame(cam:7, BGR8, uint8 (4, 6, 3))"


def test_capture_time_is_monotonic_and_live_by_default():
    first, second = (Frame(np.zeros((4, 6, 3), np.uint8)) for _ in range(2))
    assert first.t_mono_ns <= second.t_mono_ns
    assert not first.is_simulated


@pytest.mark.parametrize("depth", [0, 7, 9, 16])
def test_eight_bit_formats_carry_eight_bits(depth):
    with pytest.raises(FrameError) as error:
        Frame(np.zeros((4, 6), np.uint8), PixelFormat.MONO8, depth=depth)
    assert str(error.value) == (
        f"[FRAME_DEPTH] depth is {depth}; MONO8 carries 8..8 bits. "
        "Declare the camera's significant bits a channel."
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (8, 1)])
def test_a_mosaic_has_at_least_one_cell(shape):
    with pytest.raises(FrameError) as error:
        Frame(np.zeros(shape, np.uint8), PixelFormat.BAYER_RG8)
    assert str(error.value) == f"[FRAME_BAYER] shape {shape}; BAYER_RG8 has at least 2x2 pixels."


def test_cuda_arrays_are_frames_by_their_interface():
    class OnDevice:
        shape, ndim, dtype = (4, 6, 3), 3, np.dtype(np.uint8)
        __cuda_array_interface__ = None

    assert Frame.from_array(OnDevice()).size == (4, 6)


class Foreign:
    """An image of jetson-utils: the interface and nothing else."""

    def __init__(self, *shape, strides=None):
        self.__cuda_array_interface__ = {
            "shape": shape, "typestr": "|u1", "data": (4096, False), "version": 3, "strides": strides
        }  # fmt: skip


class Tensor(Foreign):
    """A tensor of torch, as far as it is looked at: a type that is not NumPy's."""

    dtype = "torch.uint8"

    def cpu(self):
        return self

    def numpy(self):
        return np.ones(self.__cuda_array_interface__["shape"], np.uint8)

    def clone(self):
        return Tensor(*self.__cuda_array_interface__["shape"])


def test_gpu_frames_of_any_library_are_described_and_not_copied():
    image = Foreign(4, 6, 3)
    frame = Frame.from_array(image)
    assert (frame.size, frame.format) == ((4, 6), PixelFormat.BGR8)
    assert repr(frame).endswith("BGR8, uint8 (4, 6, 3))")
    assert frame.pixels.owner is image
    assert frame.pixels.__cuda_array_interface__ == image.__cuda_array_interface__
    assert frame.pixels.nbytes == 72
    mono = Frame.from_array(Foreign(4, 6, 1, strides=(8, 1, 1))).pixels
    told = mono.__cuda_array_interface__
    assert (told["shape"], told["strides"]) == ((4, 6), (8, 1))
    with pytest.raises(IndexError):
        mono[0]
    assert Frame(Foreign(4, 6), PixelFormat.MONO8).size == (4, 6)
    with pytest.raises(FrameError) as error:
        Frame(Foreign(4, 6), PixelFormat.BGR8)
    assert error.value.code == "FRAME_CHANNELS"


def test_gpu_frames_come_to_the_host_by_their_own_library():
    tensor = Frame.from_array(Tensor(4, 6, 3)).pixels
    np.testing.assert_array_equal(tensor.get(), np.ones((4, 6, 3), np.uint8))
    assert tensor.copy().owner is not tensor.owner
    bare = Frame.from_array(Foreign(4, 6, 3)).pixels
    for ask, what in ((bare.get, "bring it to the host"), (bare.copy, "copy it")):
        with pytest.raises(FrameError) as error:
            ask()
        assert str(error.value) == (
            f"[FRAME_ON_GPU] the frame is a {Foreign.__module__}.Foreign on a GPU; edgead cannot {what}. "
            "Hand over a NumPy, CuPy or torch array."
        )


_DTYPES = ["u1", "<u2", ">u2", "i1", "i4", "f2", "f4", "f8", "?", "c8", "S3", "O", "M8[s]"]


@given(
    shape=st.lists(st.integers(0, 5), max_size=5).map(tuple),
    dtype=st.sampled_from(_DTYPES),
    fmt=st.sampled_from(PixelFormat),
    depth=st.integers(-1, 17),
)
def test_rubbish_is_a_frame_error_and_nothing_else(shape, dtype, fmt, depth):
    pixels = np.zeros(shape, dtype)
    for make in (lambda: Frame(pixels, fmt, depth=depth), lambda: Frame.from_array(pixels)):
        with contextlib.suppress(FrameError):
            frame = make()
            assert min(frame.size) > 0
            assert frame.pixels.dtype in (np.uint8, np.uint16)
