"""The golden self-check finds what it is there for, and nothing else."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from bundles import TINY_MODEL, tiny_bundle, tiny_frame, tiny_manifest

from edgead import Detector
from edgead.bundle import Bundle
from edgead.errors import BundleError
from edgead.frame import Frame, PixelFormat
from edgead.golden import check_golden, golden_frame, golden_png
from edgead.manifest import FrameSpec, InputRanges
from edgead.scorer import Scorer
from edgead.testing.fakes import FakeBackend


class Fixed:
    """A scorer whose copies give every golden image its expected score, and something on top."""

    def __init__(self, bundle, *extras):
        self._left = [golden.score for golden in bundle.manifest.golden]
        self._copies = [self, *(Fixed(bundle, extra) for extra in extras[1:])]
        self._extra = extras[0] if extras else 0.0

    def of_each_copy(self):
        return self._copies

    def __call__(self, frame, *, check_ranges=True):
        assert not check_ranges

        class Scored:
            score = self._left.pop(0) + self._extra

        return Scored()


def test_a_sound_engine():
    result = check_golden(tiny_bundle(), Fixed(tiny_bundle()), "fp32")
    assert result["ok"]
    assert result["worst"] == 0
    assert [one["verdict"] for one in result["images"]] == ["GOOD", "DEFECT"]
    assert set(result["images"][0]) == {
        "name",
        "kind",
        "expected",
        "score",
        "allowed",
        "over",
        "verdict",
    }


@pytest.mark.parametrize(
    ("precision", "inside", "outside"),
    [("fp32", 0.002, 0.004), ("fp16", 0.01, 0.02), ("bf16", 0.05, 0.09), ("int8", 0.1, 0.2)],
)
def test_each_precision_has_its_own_room(precision, inside, outside):
    # score_scale 0.2; the nearer golden image lies 0.108 from the threshold.
    bundle = tiny_bundle()
    assert check_golden(bundle, Fixed(bundle, inside), precision)["ok"]
    assert not check_golden(bundle, Fixed(bundle, outside), precision)["ok"]


@pytest.mark.parametrize("extras", [(0.0, 0.004), (0.004, 0.0), (0.0, -1e7)])
def test_every_copy_of_the_model_must_score_as_it_should(extras):
    bundle = tiny_bundle()
    assert check_golden(bundle, Fixed(bundle, 0.0, 0.0), "fp32")["ok"]
    assert not check_golden(bundle, Fixed(bundle, *extras), "fp32")["ok"]


def test_how_far_a_defect_lies_does_not_matter_to_int8():
    """Eight bits are clipped: a defect whose score explodes in FP32 may score otherwise, if far enough."""
    tiny = tiny_bundle()
    far = [
        msgspec.structs.replace(golden, score=golden.score + 50.0 * (golden.verdict == "DEFECT"))
        for golden in tiny.manifest.golden
    ]
    assert any(golden.score > 50 for golden in far)
    manifest = msgspec.structs.replace(tiny.manifest, golden=tuple(far))
    bundle = Bundle(manifest, tiny.members, tiny.hash)

    def scored(defects):
        scorer = Fixed(bundle)
        scorer._left = [defects if golden.score > 50 else golden.score for golden in far]
        return scorer

    assert check_golden(bundle, scored(120.0), "int8")["ok"]
    assert check_golden(bundle, scored(2.0), "int8")["ok"]
    assert not check_golden(bundle, scored(0.4), "int8")["ok"], "on the wrong side of the threshold"
    assert not check_golden(bundle, scored(120.0), "bf16")["ok"]


def test_a_verdict_that_tips_far_from_the_threshold_fails():
    bundle = tiny_bundle()
    worst = check_golden(bundle, Fixed(bundle, 0.12), "int8")
    # 100/255 + 0.12 is above 0.5, and 0.108 < 0.154, the room of int8: it may tip
    assert worst["ok"]
    assert worst["images"][0]["verdict"] == "DEFECT"
    assert not check_golden(bundle, Fixed(bundle, 0.12), "bf16")["ok"]


def test_swapped_channels_are_found():
    """An engine that sees RGB for BGR: the very fault that golden images are for."""

    class Swapped(Scorer):
        def __call__(self, frame, *, check_ranges=True):
            return super().__call__(Frame(frame.pixels[:, :, ::-1]), check_ranges=check_ranges)

    def blue(self, feeds):
        return {"anomaly_map": feeds["image"][:, :, :, 0].astype(np.float32) / 255}

    class OnlyBlue(FakeBackend):
        run = blue

    picture = tiny_frame(0, 90)
    picture[2:14, 2:14] = (200, 90, 30)
    base = tiny_bundle()
    golden = [msgspec.structs.replace(base.manifest.golden[1], score=200 / 255)]
    bundle = base.with_members(
        {golden[0].name: golden_png(Frame(picture)), "golden/good_0.png": None}, golden=golden
    )
    backend = OnlyBlue({"anomaly_map": np.zeros((1, 8, 8), np.float32)}, input_shape=(1, 8, 8, 3))
    assert check_golden(bundle, Scorer(bundle, backend), "fp32")["ok"]
    assert not check_golden(bundle, Swapped(bundle, backend), "fp32")["ok"]


def test_golden_defects_may_leave_the_commissioned_ranges():
    narrow = InputRanges(mean=(60.0, 100.0), std=(0.0, 200.0), sharpness=(0.0, 200.0))
    bundle = tiny_bundle().with_members({}, input_ranges=narrow)
    with Detector(bundle, backend="openvino", threads=1) as detector:  # its defect is brighter
        assert detector.verify()["ok"]


def test_a_bundle_without_golden_images_cannot_be_found_sound():
    bundle = Bundle.build(tiny_manifest(), {"model.onnx": TINY_MODEL})
    with pytest.raises(BundleError) as error:
        check_golden(bundle, Fixed(bundle), "fp32")
    assert str(error.value) == (
        "[GOLDEN_NONE] the bundle has no golden images: nothing shows whether this machine scores "
        "as it should. Commission it: edgead commission BUNDLE GOOD."
    )


@pytest.mark.parametrize("fmt", PixelFormat)
def test_frames_of_every_format_come_back(fmt):
    wide = fmt.value.endswith("16")
    shape = {
        PixelFormat.MONO8: (12, 16),
        PixelFormat.MONO16: (12, 16),
        PixelFormat.BAYER_RG8: (12, 16),
        PixelFormat.NV12: (18, 16),
        PixelFormat.BGRX8: (12, 16, 4),
    }.get(fmt, (12, 16, 3))
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    pixels = (pixels * 16).astype(np.uint16) if wide else pixels.astype(np.uint8)
    frame = Frame(pixels, fmt, depth=12 if wide else 8)
    spec = FrameSpec(format=fmt, size=frame.size, depth=frame.depth)
    bundle = Bundle.build(
        tiny_manifest(frame=spec), {"model.onnx": TINY_MODEL, "golden/a.png": golden_png(frame)}
    )
    back = golden_frame(bundle, "golden/a.png")
    assert (back.format, back.depth, back.size) == (fmt, frame.depth, (12, 16))
    seen = slice(3) if fmt is PixelFormat.BGRX8 else slice(None)
    np.testing.assert_array_equal(back.pixels[..., seen], pixels[..., seen])


def test_a_damaged_golden_picture_is_found_by_its_hash():
    from edgead.bundle import bundle_from_bytes

    data = bytearray(tiny_bundle().to_bytes())
    place = data.index(b"IDAT") + 20
    data[place] ^= 1
    with pytest.raises(BundleError):
        bundle_from_bytes(bytes(data))
