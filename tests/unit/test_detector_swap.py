"""Another bundle while the line runs: `Detector.swap`, `roll_back` and the shadow."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bundles import tiny_bundle, tiny_frame

from edgead import Detector
from edgead.bundle import Bundle, read_bundle, write_bundle
from edgead.errors import BackendError, BundleError, StateError
from edgead.loaded import LoadedBundle
from edgead.types import Frame, Verdict

pytest.importorskip("openvino")
pytestmark = pytest.mark.timeout(300)

GRAVEL = Path(__file__).parents[1] / "data" / "gravel.edgead"
OPTIONS: dict[str, Any] = {"backend": "openvino", "threads": 1, "check_ranges": False}
FRAME = tiny_frame(1, 100)  # scores 0.39: good at 0.5, a defect at 0.3


def with_threshold(bundle: Bundle, threshold: float) -> Bundle:
    """The bundle made stricter, golden verdicts and all."""
    manifest = bundle.manifest
    return bundle.with_members(
        {},
        thresholds=msgspec.structs.replace(manifest.thresholds, threshold=threshold),
        golden=[
            msgspec.structs.replace(g, verdict="DEFECT" if g.score > threshold else "GOOD")
            for g in manifest.golden
        ],
    )


def with_wrong_scores(bundle: Bundle) -> Bundle:
    golden = [
        msgspec.structs.replace(g, score=g.score + 1.0, verdict="DEFECT")
        for g in bundle.manifest.golden
    ]
    return bundle.with_members({}, golden=golden)


@pytest.fixture
def detector() -> Iterator[Detector]:
    with Detector(tiny_bundle(), **OPTIONS) as opened:
        yield opened


def test_the_next_frame_is_judged_by_the_new_bundle(detector: Detector, tmp_path: Path) -> None:
    first = detector.bundle.hash
    write_bundle(tmp_path / "new.edgead", with_threshold(tiny_bundle(), 0.3))
    before = detector(FRAME)
    assert detector.swap(tmp_path / "new.edgead") == 1
    after = detector(FRAME)
    assert (before.verdict, before.threshold) == (Verdict.GOOD, 0.5)
    assert (after.verdict, after.threshold, after.score) == (Verdict.DEFECT, 0.3, before.score)
    assert (before.bundle_hash, after.bundle_hash) == (first, detector.bundle.hash)
    assert detector.bundle.hash != first
    assert before.engine_hash == after.engine_hash  # the same model on the same engine
    assert [found.verdict for found in detector.batch([FRAME] * 2)] == [Verdict.DEFECT] * 2
    assert detector.verify()["ok"]
    assert detector.roll_back() == 2
    assert detector(FRAME).verdict is Verdict.GOOD
    assert detector.judge_with_generation(FRAME)[1] == 2
    assert detector.bundle.hash == first
    with pytest.raises(StateError) as caught:
        detector.roll_back()
    assert str(caught.value) == "[NO_PREVIOUS] there is no earlier model to go back to."


def test_a_bundle_that_fails_its_golden_images_never_serves(detector: Detector) -> None:
    with pytest.raises(BundleError) as caught:
        detector.swap(with_wrong_scores(tiny_bundle()))
    assert caught.value.code == "GOLDEN"
    found, generation = detector.judge_with_generation(FRAME)
    assert (found.verdict, generation) == (Verdict.GOOD, 0)


def test_what_is_no_bundle_changes_nothing(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "x.edgead").write_bytes(b"no bundle")
    with pytest.raises(BundleError):
        detector.swap(tmp_path / "x.edgead")
    assert detector.judge_with_generation(FRAME)[1] == 0


def test_room_for_two_is_looked_at_first(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(needed: int) -> int:
        asked.append(needed)
        raise StateError("MEMORY", "no room.")

    monkeypatch.setattr("edgead.detector.require_memory", refuse)
    with pytest.raises(StateError, match="no room"):
        detector.swap(tiny_bundle())
    assert 64_000_000 < asked[0] < 70_000_000
    assert detector.judge_with_generation(FRAME)[1] == 0


def test_closed_while_another_is_loaded_nothing_is_left_open(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgead.detector.require_memory", lambda _: detector.close())
    opened: list[LoadedBundle] = []
    load = detector._load
    monkeypatch.setattr(
        detector, "_load", lambda *a, **k: opened.append(load(*a, **k)) or opened[0]
    )
    with pytest.raises(StateError) as caught:
        detector.swap(tiny_bundle())
    assert str(caught.value) == "[CLOSED] this judge is closed. Open a new one."
    with pytest.raises(BackendError) as refused:
        opened[0](Frame.from_array(FRAME))
    assert refused.value.code == "CLOSED"


def test_drift_is_told_against_the_bundle_in_use(detector: Detector) -> None:
    first = detector.bundle.hash
    assert detector.drift_reference(first) is not None
    detector.swap(with_threshold(tiny_bundle(), 0.3))
    assert detector.drift_reference(first) is None
    assert detector.drift_reference(detector.bundle.hash) is not None


def test_after_close_it_says_so_and_all_engines_are_freed() -> None:
    detector = Detector(tiny_bundle(), **OPTIONS)
    detector.swap(with_threshold(tiny_bundle(), 0.3))
    detector.start_shadow(tiny_bundle())
    detector.close()
    for call in (lambda: detector.swap(tiny_bundle()), detector.roll_back):
        with pytest.raises(StateError) as caught:
            call()
        assert str(caught.value) == "[CLOSED] this Detector is closed. Open a new one."


def test_a_running_stream_loses_nothing_to_a_swap() -> None:
    """Frame after frame, as long as it takes until both bundles were seen."""
    gravel = read_bundle(GRAVEL)
    shape = tuple(gravel.manifest.frame.size)
    draw = np.random.default_rng(0)
    pixels = [draw.integers(60, 190, shape, dtype=np.uint8) for _ in range(5)]
    is_over = threading.Event()
    source = itertools.takewhile(lambda _: not is_over.is_set(), itertools.cycle(pixels))
    swapped = threading.Event()
    hashes: list[str] = []
    generations: list[int] = []
    with Detector(gravel, **OPTIONS) as detector:

        def work() -> None:
            detector.swap(with_threshold(gravel, gravel.manifest.thresholds.threshold * 2))
            swapped.set()

        thread = threading.Thread(target=work)
        with detector.stream(source) as stream:
            for outcome in stream:
                assert outcome.detection is not None, outcome.message
                hashes.append(outcome.detection.bundle_hash)
                generations.append(outcome.generation)
                if outcome.seq == 0:
                    thread.start()
                if swapped.is_set() and outcome.generation == 1:
                    is_over.set()
            counts = stream.counts
        thread.join()
        assert (counts.dropped, counts.failed) == (0, 0)
        assert set(hashes) == {gravel.hash, detector.bundle.hash}
    assert generations == sorted(generations)
    of_hash = dict(zip(hashes, generations, strict=True))
    assert of_hash == {gravel.hash: 0, hashes[-1]: 1}  # a generation is a bundle


def test_a_station_answers_with_the_new_bundle(detector: Detector) -> None:
    with detector.triggered(deadline_ms=None) as station:
        first = station.on_trigger("1", FRAME)
        detector.swap(with_threshold(tiny_bundle(), 0.3))
        second = station.on_trigger("2", tiny_frame(2, 100))
    assert (first.accept, first.generation) == (True, 0)
    assert (second.verdict, second.generation) == (Verdict.DEFECT, 1)


def test_a_shadow_is_compared_and_has_no_say(detector: Detector) -> None:
    detector.start_shadow(with_threshold(tiny_bundle(), 0.3))
    assert detector(FRAME).accept
    with pytest.raises(StateError) as caught:
        detector.start_shadow(tiny_bundle())
    assert str(caught.value) == "[SHADOW] a shadow model is running. End it first."
    report = detector.end_shadow()
    assert (report.frames, report.disagreements) == (1, 1)
    assert (report.latest[0].live, report.latest[0].shadow) == (Verdict.GOOD, Verdict.DEFECT)
    assert detector(FRAME).accept
