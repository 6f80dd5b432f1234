"""Machine-vision cameras and GStreamer, by the simulators that their own packages carry.

Their libraries keep handles of their own for the life of the process, so nothing is counted here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgead.errors import SourceError
from edgead.stream import Stream, run
from edgead.testing import FakeJudge
from edgead.types import Outcome

cv2 = pytest.importorskip("cv2")
pytestmark = pytest.mark.timeout(60)


def first(stream: Stream, count: int) -> list[Outcome]:
    found = []
    for outcome in stream:
        found.append(outcome)
        if len(found) == count:
            break
    return found


def test_pylon_s_own_camera_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pypylon.pylon")
    monkeypatch.setenv("PYLON_CAMEMU", "1")
    outcomes = first(run(FakeJudge(), "pylon://0815-0000", policy="drop_oldest(8)"), 5)
    assert [o.block_id for o in outcomes] == list(range(5))
    assert all(o.accept for o in outcomes)


def test_harvesters_with_a_simulated_gentl_producer() -> None:
    pytest.importorskip("harvesters.core")
    genicam = pytest.importorskip("genicam")
    producer = Path(genicam.__file__).parent / "viky.cti"
    if not producer.exists():
        pytest.skip("this genicam wheel carries no producer")
    outcomes = first(run(FakeJudge(), f"genicam://1?cti={producer}", policy="drop_oldest(8)"), 5)
    assert all(o.detection is not None for o in outcomes)
    assert outcomes[0].block_id == 0
    with pytest.raises(SourceError) as caught:
        list(run(FakeJudge(), "genicam://1?cti=/nowhere.cti"))
    assert str(caught.value) == "[SOURCE_BACKEND] GenTL producer /nowhere.cti does not exist."


def test_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    has_opencv = "GStreamer:                   YES" in cv2.getBuildInformation()
    gi = os.environ.get("EDGEAD_GI_PATH")  # where PyGObject lies when not in this environment
    if gi:
        monkeypatch.syspath_prepend(gi)
    if not has_opencv:
        pytest.importorskip("gi", reason="neither OpenCV's GStreamer nor PyGObject")
    pipeline = "videotestsrc pattern=ball num-buffers=20 ! video/x-raw,width=162,height=120"
    outcomes = first(run(FakeJudge(), pipeline, policy="every"), 10)
    assert all(o.detection is not None for o in outcomes)


def test_a_gstreamer_pipeline_without_gstreamer_says_so() -> None:
    if "GStreamer:                   YES" in cv2.getBuildInformation():
        pytest.skip("this OpenCV has GStreamer")
    try:
        import gi  # noqa: F401
    except ImportError:
        with pytest.raises(SourceError) as caught:
            list(run(FakeJudge(), "gst://videotestsrc"))
        assert caught.value.code == "SOURCE_BACKEND"
        assert str(caught.value).endswith(
            "Install edgead[cpu], or use an OpenCV that has this back end."
        )
