"""The golden self-check: at load, on demand, on a schedule; a failed one makes verdicts impossible."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle, tiny_frame

from edgead import Detector
from edgead.bundle import Bundle, write_bundle
from edgead.cli import main
from edgead.errors import BackendError, BundleError, ConfigError
from edgead.recheck import Recheck
from edgead.reliability.soak import soak
from edgead.scorer import Scorer


class _Drifting:
    """Makes every score wrong while it is on: a broken driver, a flipped bit in weights."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_on = False
        sound = Scorer.__call__

        def call(scorer: Scorer, frame: Any, **options: Any) -> Any:
            scored = sound(scorer, frame, **options)
            if self.is_on:
                object.__setattr__(scored, "score", scored.score + 0.05)
            return scored

        monkeypatch.setattr(Scorer, "__call__", call)


@pytest.fixture
def drifting(monkeypatch: pytest.MonkeyPatch) -> _Drifting:
    return _Drifting(monkeypatch)


_TEXT = "golden/good_0.png scored 0.44216, expected 0.39216 ± 0.0031, on openvino fp32."


def test_at_load(drifting: _Drifting) -> None:
    drifting.is_on = True
    with pytest.raises(BundleError) as error:
        Detector(tiny_bundle(), backend="openvino")
    assert str(error.value) == (
        f"[GOLDEN] {_TEXT} Not started. Try another backend or precision, or make the bundle again."
    )


def test_a_failed_check_makes_every_frame_unknown_until_one_holds(drifting: _Drifting) -> None:
    with Detector(tiny_bundle(), backend="openvino", threads=1) as detector:
        assert detector(tiny_frame()).accept
        drifting.is_on = True
        found = detector.verify()
        assert not found["ok"]
        assert found["worst"] > 1
        for judge in (lambda: detector(tiny_frame()), lambda: detector.batch([tiny_frame()])):
            with pytest.raises(BackendError) as error:
                judge()
            assert str(error.value) == (
                f"[MODEL_UNVERIFIED] {_TEXT} Run: edgead verify BUNDLE, then start again."
            )
        drifting.is_on = False
        assert detector.verify()["ok"]
        assert detector(tiny_frame()).accept


def test_a_stream_answers_unknown_and_says_why(drifting: _Drifting) -> None:
    frames = [tiny_frame(seed) for seed in range(6)]
    with Detector(tiny_bundle(), backend="openvino", threads=1) as detector:
        drifting.is_on = True
        detector.verify()
        with detector.stream(frames) as outcomes:
            ended = list(outcomes)
    assert [outcome.reason for outcome in ended] == ["MODEL_UNVERIFIED"] * 6
    assert not any(outcome.accept for outcome in ended)
    assert all(_TEXT in outcome.message for outcome in ended)


def test_on_a_schedule(drifting: _Drifting) -> None:
    with Detector(
        tiny_bundle(), backend="openvino", threads=1, recheck_minutes=0.02 / 60
    ) as detector:
        assert detector(tiny_frame()).accept
        drifting.is_on = True
        found = threading.Event()
        for _ in range(500):
            try:
                detector(tiny_frame())
            except BackendError as error:
                found.set()
                text = str(error)
                break
            found.wait(0.01)
    assert found.is_set()
    assert text.startswith(f"[MODEL_UNVERIFIED] {_TEXT}")
    assert "edgead recheck" not in [thread.name for thread in threading.enumerate()]


def test_a_check_that_cannot_be_made_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Detector(tiny_bundle(), backend="openvino", threads=1) as detector:

        def fails(*_: Any, **__: Any) -> None:
            raise BackendError("BACKEND_ERROR", "openvino failed: device lost.")

        with monkeypatch.context() as patched:
            patched.setattr(Scorer, "__call__", fails)
            with pytest.raises(BackendError):
                detector.verify()
        with pytest.raises(BackendError) as error:
            detector(tiny_frame())
    assert str(error.value) == (
        "[MODEL_UNVERIFIED] its golden images cannot be judged: [BACKEND_ERROR] openvino failed: "
        "device lost. Run: edgead verify BUNDLE, then start again."
    )


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_a_schedule_that_is_none(minutes: float) -> None:
    with pytest.raises(ConfigError) as error:
        Recheck(lambda: None, minutes)
    assert str(error.value) == (
        f"[RECHECK] recheck_minutes is {minutes}; want more than 0, or None for never."
    )


@pytest.mark.parametrize("wrong", ["colours", "depth"])
def test_what_it_is_there_to_find(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swapped colours and a shift by a container's bits turn up as wrong scores."""
    from edgead.preprocess import Preprocess

    sound = Preprocess.prepare

    def prepared(prepare: Preprocess, frame: Any) -> Any:
        tensor, placement = sound(prepare, frame)
        if wrong == "colours":  # the tiny model averages colours: one of them stands for all
            tensor = np.repeat(tensor[..., :1], 3, axis=-1) // 2
        else:
            tensor = tensor // 16
        return tensor, placement

    monkeypatch.setattr(Preprocess, "prepare", prepared)
    with pytest.raises((BundleError, BackendError)) as error:
        Detector(tiny_bundle(), backend="openvino")
    assert error.value.code in ("GOLDEN", "BACKEND_DEGENERATE")


_NONE = (
    "[GOLDEN_NONE] the bundle has no golden images: nothing shows whether this machine scores as it "
    "should. Commission it: edgead commission BUNDLE GOOD."
)


@pytest.fixture(scope="module")
def bare() -> Bundle:
    """A bundle without golden images."""
    return tiny_bundle().with_members(
        {"golden/good_0.png": None, "golden/defect_0.png": None}, golden=[]
    )


def test_a_bundle_without_golden_images_runs_and_is_never_called_sound(
    bare: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with Detector(bare, backend="openvino", threads=1) as detector:
        assert caplog.messages == [f"{_NONE} It runs unchecked."]
        for _ in range(2):  # asking changes nothing
            with pytest.raises(BundleError) as error:
                detector.verify()
            assert str(error.value) == _NONE
            assert detector.unverified == ""
            assert detector(tiny_frame()).accept
        detector.swap(tiny_bundle())
        assert detector.verify()["ok"]
        caplog.clear()
        detector.swap(bare)
        assert caplog.messages == [f"{_NONE} It runs unchecked."]


def test_a_schedule_without_golden_images_says_so_each_time(
    bare: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    said = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("a scheduled"):
                said.set()

    logging.getLogger("edgead").addHandler(listener := Listener())
    try:
        with Detector(bare, backend="openvino", threads=1, recheck_minutes=0.02 / 60) as detector:
            assert said.wait(60)
            assert detector(tiny_frame()).accept
    finally:
        logging.getLogger("edgead").removeHandler(listener)
    assert f"a scheduled check could not be carried out: {_NONE}" in caplog.messages
    assert "Traceback" not in caplog.text


def test_verify_and_inspect_without_golden_images(
    bare: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "bare.edgead", bare)
    for command, code in (("verify", 2), ("inspect", 0)):
        monkeypatch.setattr(sys, "argv", ["edgead", command, str(tmp_path / "bare.edgead")])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
    shown, said = capfd.readouterr()
    assert said == f"error: {_NONE}\n"
    assert "golden images none: nothing checks its scores" in " ".join(shown.split())


def test_soak_without_golden_images_leaves_their_figure_out(bare: Bundle) -> None:
    assert soak(bare, minutes=0.01, backend="openvino", threads=1)["golden_ok"] is None
