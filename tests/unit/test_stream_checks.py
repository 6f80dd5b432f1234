"""Unknown is not good: each input and output check, with the sentence that it says."""

from __future__ import annotations

import numpy as np
import pytest

from edgead.errors import EdgeadError
from edgead.stream.checks import DetectionCheck, FrameCheck
from edgead.testing import detection_of, textured
from edgead.types import Frame, PixelFormat

PICTURE = textured(1, 48, 64)


def said(error: EdgeadError | None) -> str:
    return "" if error is None else str(error)


def test_constant() -> None:
    check = FrameCheck(0)
    assert said(check(Frame(np.full((48, 64, 3), 7, np.uint8)))) == (
        "[FRAME_CONSTANT] every pixel is 7. Lens cap, light or trigger fault?"
    )


def test_one_other_pixel_is_enough_to_be_judged() -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[5, 7, 1] = 1
    assert FrameCheck(0)(Frame(pixels)) is None


def test_shape_changed() -> None:
    check = FrameCheck(5)
    assert check(Frame(PICTURE)) is None
    assert said(check(Frame(PICTURE[:32]))) == (
        "[FRAME_SHAPE_CHANGED] frame is 64x32 BGR8 at 8 bit; the run began with 64x48 BGR8 at "
        "8 bit. Set the camera back, or start a new run."
    )
    assert check(Frame(PICTURE)) is None
    other = check(Frame(PICTURE, PixelFormat.RGB8))
    assert other is not None
    assert other.code == "FRAME_SHAPE_CHANGED"


def test_frozen_at_the_fifth_frame_and_over_at_the_next_new_one() -> None:
    check = FrameCheck(5)
    codes = [said(check(Frame(PICTURE.copy())))[:15] for _ in range(7)]
    assert codes == ["", "", "", "", "[FROZEN_SOURCE]", "[FROZEN_SOURCE]", "[FROZEN_SOURCE]"]
    assert check(Frame(textured(2, 48, 64))) is None


def test_frozen_message() -> None:
    check = FrameCheck(2)
    check(Frame(PICTURE))
    assert said(check(Frame(PICTURE.copy()))) == (
        "[FROZEN_SOURCE] 2 frames in a row are byte-identical, which a sensor never does. Restart "
        "the camera; Limits(frozen_after=0) is for a source that repeats itself."
    )


def test_the_same_block_twice() -> None:
    check = FrameCheck(5)
    assert check(Frame(PICTURE, block_id=3)) is None
    assert said(check(Frame(textured(2, 48, 64), block_id=3))) == (
        "[FROZEN_SOURCE] the camera sent block 3 twice. Restart the camera."
    )


def test_files_may_repeat() -> None:
    check = FrameCheck(0)
    assert [check(Frame(PICTURE)) for _ in range(9)] == [None] * 9


def test_noise_is_never_frozen() -> None:
    check = FrameCheck(2)
    pixels = PICTURE.copy()
    for n in range(200):
        pixels = pixels.copy()
        pixels[n % 48, n % 64, 0] ^= 1  # one bit of one pixel, off the sampled grid or on it
        assert check(Frame(pixels)) is None


@pytest.mark.parametrize(
    ("score", "found", "message"),
    [
        (
            float("nan"),
            None,
            "[BACKEND_NONFINITE] score is nan, threshold is 0.5. Run `edgead verify` on this machine.",
        ),
        (
            0.2,
            np.full((4, 4), np.nan, np.float32),
            "[BACKEND_NONFINITE] the anomaly map holds NaN or infinite values. Run `edgead verify` "
            "on this machine.",
        ),
        (
            0.2,
            np.zeros((4, 4), np.float32),
            "[BACKEND_DEGENERATE] every value of the anomaly map is 0. The engine is broken; run "
            "`edgead verify` on this machine.",
        ),
        (
            0.2,
            np.eye(3, dtype=np.float32),
            "[BACKEND_SHAPE] the anomaly map is (3, 3); the first was (4, 4). Run `edgead verify` "
            "on this machine.",
        ),
    ],
)
def test_outputs(score: float, found: np.ndarray | None, message: str) -> None:
    check = DetectionCheck()
    frame = Frame(PICTURE)
    assert check(detection_of(frame)) is None
    assert said(check(detection_of(frame, score, anomaly_map=found))) == message


def test_no_detection() -> None:
    assert said(DetectionCheck()(None)) == (  # type: ignore[arg-type]
        "[BACKEND_ERROR] the judge returned NoneType; want edgead.Detection."
    )
