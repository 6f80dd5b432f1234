"""Commissioning without torch: what it learns, on which frames, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from data.make_bundle import pieces
from gravel import gravel_bundle, gravel_frame, with_blot

from edgead import Detector, Verdict
from edgead.backends import open_backend
from edgead.errors import CalibrationError, ConfigError, FrameError
from edgead.evaluate.commission import ENGINE_TOLERANCE, commission
from edgead.evaluate.threshold import upper_bound
from edgead.frame import Frame, PixelFormat
from edgead.manifest import View


def learn(frames, bundle=None, **options):
    bundle = bundle or gravel_bundle()
    return commission(
        bundle, open_backend("openvino", bundle.members, threads=1), frames, **options
    )


def grey(count, size=(96, 96), step=40):
    """Pieces of the photograph, of another size than the bundle was made with when asked."""
    rows, columns = size
    cut = [piece[:rows, :columns] for piece in pieces(step)]
    return [Frame(np.ascontiguousarray(one), PixelFormat.MONO8) for one in cut[:count]]


@pytest.fixture(scope="module")
def other_size():
    return learn(grey(24, (80, 72)))


def test_another_frame_size_is_taken_and_the_old_one_refused(other_size):
    manifest = other_size.bundle.manifest
    assert manifest.frame.size == (80, 72)
    assert other_size.bundle.hash != gravel_bundle().hash
    with Detector(other_size.bundle, threads=1) as detector:
        assert detector(grey(1, (80, 72))[0]).verdict is Verdict.GOOD
        with pytest.raises(FrameError) as error:
            detector(gravel_frame())
    assert str(error.value) == (
        "[FRAME_SIZE] frame is 96x96; the bundle was commissioned at 72x80. "
        "Set the camera's resolution, or commission the bundle on this one."
    )


def test_what_is_learnt_and_what_stays(other_size):
    manifest, old = other_size.bundle.manifest, gravel_bundle().manifest
    learnt = manifest.thresholds
    assert (learnt.how, learnt.images, learnt.needed) == ("commissioned", 24, 299)
    assert learnt.bound == upper_bound(0, 24, confidence=0.95)
    assert learnt.good_scores == sorted(one.score for one in other_size.scored)
    assert learnt.threshold == other_size.promise.threshold
    assert learnt.score_scale > 0
    assert manifest.input_ranges is not None
    assert (manifest.training, manifest.input, manifest.head) == (old.training, old.input, old.head)
    assert other_size.bundle.members["model.onnx"] == gravel_bundle().members["model.onnx"]
    assert [golden.kind for golden in manifest.golden] == ["good"] * 2 + ["simulated_defect"] * 2


def test_no_good_image_lies_within_an_engines_difference_of_the_threshold(other_size):
    learnt = other_size.bundle.manifest.thresholds
    room = ENGINE_TOLERANCE * learnt.score_scale
    assert max(learnt.good_scores) < learnt.threshold - room
    assert learnt.threshold < max(learnt.good_scores) + 3 * room


def test_a_wider_rate_gives_a_lower_threshold():
    few, many = (learn(grey(30), false_reject_rate=rate).promise for rate in (0.01, 0.4))
    assert many.threshold < few.threshold
    assert many.bound <= 0.4
    assert many.is_proven
    assert not few.is_proven


def test_sizes_may_be_mixed():
    ready = learn([*grey(5), *grey(5, (80, 72))])
    assert ready.bundle.manifest.frame.size is None
    with Detector(ready.bundle, threads=1) as detector:
        for frame in (grey(1)[0], grey(1, (80, 72))[0]):
            assert detector(frame).verdict is Verdict.GOOD


def as_format(frame, fmt):
    """A grey picture as a camera of ``fmt`` would send it."""
    pixels = frame.pixels
    colour = np.repeat(pixels[:, :, None], 3, axis=2)
    if fmt in (PixelFormat.MONO8, PixelFormat.BAYER_RG8):
        return Frame(pixels, fmt)
    if fmt is PixelFormat.NV12:
        chroma = np.full((pixels.shape[0] // 2, pixels.shape[1]), 128, np.uint8)
        return Frame(np.concatenate([pixels // 2 + 40, chroma]), fmt)
    if fmt is PixelFormat.BGRX8:
        return Frame(np.concatenate([colour, colour[:, :, :1]], axis=2), fmt)
    if fmt in (PixelFormat.BGR8, PixelFormat.RGB8):
        return Frame(colour, fmt)
    wide = (pixels if fmt is PixelFormat.MONO16 else colour).astype(np.uint16) << 4
    return Frame(wide, fmt, depth=12)


@pytest.mark.parametrize("fmt", PixelFormat)
def test_every_camera_format_can_be_commissioned(fmt):
    frames = [as_format(frame, fmt) for frame in grey(6)]
    ready = learn(frames)
    spec = ready.bundle.manifest.frame
    assert (spec.format, spec.size, spec.depth) == (fmt, (96, 96), frames[0].depth)
    with Detector(ready.bundle, threads=1) as detector:  # its golden images came back the same
        assert detector(frames[0]).verdict is Verdict.GOOD


def test_the_region_is_applied_before_the_threshold():
    lamps = [with_blot(frame, 0, 0, 20 + 2 * index) for index, frame in enumerate(grey(6))]
    whole = learn(lamps).promise.threshold
    polygon = [(0.0, 0.0), (48.0, 0.0), (48.0, 48.0), (0.0, 48.0)]
    for view in (View(ignore=[polygon]), View(roi=(0, 48, 96, 96))):
        bundle = gravel_bundle().with_members({}, view=view, golden=[])
        ready = learn(lamps, bundle)
        assert ready.promise.threshold < whole - 0.5
        assert ready.bundle.manifest.thresholds.pixel_threshold < whole


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (
            [gravel_frame()] * 3,
            "[TOO_FEW_IMAGES] 3 good images; commissioning needs at least 5. "
            "42 prove a false-reject rate of 6.9 % at 95 %, 299 prove 1 %.",
        ),
        (
            [*grey(5), Frame(np.zeros((96, 96, 3), np.uint8))],
            "[FORMATS_MIXED] the images are of different formats: MONO8 (image 0) and BGR8 (image 5); "
            "a line has one camera format. Convert them to one format, the camera's own.",
        ),
    ],
)
def test_images_that_cannot_carry_it(frames, message):
    with pytest.raises(CalibrationError) as error:
        learn(frames)
    assert str(error.value) == message


def test_one_image_repeated_proves_nothing():
    with pytest.raises(CalibrationError) as error:
        learn([gravel_frame()] * 8)
    assert error.value.code == "SCORES_EQUAL"
    assert str(error.value).endswith(
        "expected them to vary. Use images of different parts; if they are, the model has learnt "
        "nothing."
    )


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"false_reject_rate": 0.0}, "FALSE_REJECT_RATE"),
        ({"false_reject_rate": 0.5}, "FALSE_REJECT_RATE"),
        ({"confidence": 1.0}, "CONFIDENCE"),
    ],
)
def test_rates_out_of_range(options, code):
    with pytest.raises(ConfigError) as error:
        learn(grey(6), **options)
    assert error.value.code == code


def test_certificates_of_the_old_threshold_go():
    bundle = gravel_bundle().with_members({"certificates.json": b"[]\n"})
    assert "certificates.json" not in learn(grey(8), bundle).bundle.members
