"""A real bundle in the stream: the same scores by every path, in a worker process, after a swap, replayed."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgead import Detector, images
from edgead.bundle import read_bundle
from edgead.stream import Supervised, Swappable, Triggered, run
from edgead.stream.drift_reference import DriftReference
from edgead.stream.journal import Journal
from edgead.stream.journal_read import export_journal, verify_journal
from edgead.stream.replay import replay
from edgead.types import Frame, Verdict

pytest.importorskip("openvino")
pytestmark = pytest.mark.timeout(120)

BUNDLE = Path(__file__).parents[1] / "data" / "gravel.edgead"
OPTIONS = {"backend": "openvino", "threads": 1, "check_ranges": False}


@pytest.fixture(scope="module")
def detector() -> Iterator[Detector]:
    with Detector(BUNDLE, **OPTIONS) as opened:
        yield opened


@pytest.fixture(scope="module")
def frames(detector: Detector) -> list[Frame]:
    camera = detector.bundle.manifest.frame
    draw = np.random.default_rng(3)
    found = []
    for number in range(12):
        pixels = draw.integers(60, 190, camera.size, dtype=np.uint8)
        if number % 2:
            pixels[20:50, 20:50] = 255
        found.append(Frame(pixels, camera.format))
    return found


@pytest.fixture(scope="module")
def scores(detector: Detector, frames: list[Frame]) -> list[float]:
    found = [detector(frame).score for frame in frames]
    assert len(set(found)) == len(frames)
    return found


def test_stream_and_call_agree(
    detector: Detector, frames: list[Frame], scores: list[float]
) -> None:
    with detector.stream(frames, workers=2) as stream:
        outcomes = list(stream)
    assert [o.detection.score for o in outcomes if o.detection] == scores
    assert [o.detection.frame_id for o in outcomes if o.detection] == [
        f"array:{n}" for n in range(len(frames))
    ]


def test_a_folder_gives_the_same_scores(
    detector: Detector, frames: list[Frame], scores: list[float], tmp_path: Path
) -> None:
    for number, frame in enumerate(frames):
        images.save_image(tmp_path / f"{number:02d}.png", frame.pixels)
    outcomes = list(detector.stream(tmp_path))
    assert [o.detection.score for o in outcomes if o.detection] == scores


def test_a_worker_process_gives_the_same_scores(frames: list[Frame], scores: list[float]) -> None:
    judge = Supervised(functools.partial(Detector, BUNDLE, **OPTIONS))
    stream = run(judge, frames)
    outcomes = list(stream)
    judge.close()
    assert [o.detection.score for o in outcomes if o.detection] == scores
    reference = DriftReference.of(read_bundle(BUNDLE))
    assert stream.drift.status().images == reference.images
    assert judge.drift_reference(read_bundle(BUNDLE).hash).limits == reference.limits
    assert judge.drift_reference("another") is None


def test_eight_cameras_on_one_engine(
    detector: Detector, frames: list[Frame], scores: list[float]
) -> None:
    cameras = {f"camera{n}": frames for n in range(8)}
    with detector.stream(cameras, workers=2) as stream:
        outcomes = list(stream)
    assert len(outcomes) == 8 * len(frames)
    for outcome in outcomes:
        assert outcome.detection is not None
        assert outcome.detection.score == scores[outcome.seq]


def test_a_swap_between_two_frames(frames: list[Frame], scores: list[float]) -> None:
    holder = Swappable(Detector(BUNDLE, **OPTIONS))

    def camera() -> Iterator[Frame]:
        for number, frame in enumerate(frames):
            if number == 6:
                new = Detector(BUNDLE, **OPTIONS)
                holder.switch(new, check=lambda judge: judge.verify(strict=True))  # type: ignore[attr-defined]
            yield frame

    outcomes = list(run(holder, camera()))
    holder.close()
    assert [o.detection.score for o in outcomes if o.detection] == scores
    assert {o.generation for o in outcomes} == {0, 1}


def test_a_line_with_journal_and_replay(
    detector: Detector, frames: list[Frame], tmp_path: Path
) -> None:
    from edgead.stream.replay import Rejects

    path = tmp_path / "line.sqlite"
    rejects = Rejects(tmp_path / "rejects")
    with Triggered(detector, deadline_ms=5000, journal=Journal(path), rejects=rejects) as station:
        outcomes = [station.on_trigger(str(n), frame) for n, frame in enumerate(frames)]
    assert all(o.detection is not None for o in outcomes)
    found = verify_journal(path)
    assert (found["ok"], found["rows"]) == (True, len(frames))
    assert export_journal(path, tmp_path / "line.csv", form="csv")["rows"] == len(frames)
    with (tmp_path / "line.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["bundle_hash"] for row in rows} == {detector.bundle.hash}
    assert {row["engine_hash"] for row in rows} == {detector(frames[0]).engine_hash}
    assert {len(row["engine_hash"]) for row in rows} == {64}
    rejected = [o for o in outcomes if o.verdict is not Verdict.GOOD]
    saved = sorted((tmp_path / "rejects").glob("*.replay"))
    assert len(saved) == len(rejected) > 0
    again = replay(detector, saved)
    assert (again["ok"], again["equal"], again["frames"]) == (True, len(saved), len(saved))
