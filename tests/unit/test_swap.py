"""Hot swap: one model a frame, generations that never go back, the old one freed by its last frame."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from edgead.errors import StateError
from edgead.stream import Swappable, run
from edgead.swap import require_memory
from edgead.testing import detection_of, textured
from edgead.types import Detection, Frame, Verdict


class Model:
    def __init__(self, name: str, score: float = 0.25) -> None:
        self.name = name
        self.score = score
        self.closed = 0

    def __call__(self, frame: Frame) -> Detection:
        return detection_of(frame, self.score, bundle_hash=self.name)

    def close(self) -> None:
        self.closed += 1


FRAME = Frame(textured(1))


def test_switch_and_roll_back() -> None:
    a, b, c = Model("a"), Model("b"), Model("c")
    holder = Swappable(a)
    assert holder.judge_with_generation(FRAME)[1] == 0
    assert holder.switch(b) == 1
    assert holder.switch(c) == 2
    assert (a.closed, b.closed) == (1, 0)  # b is kept for a roll-back
    assert holder.roll_back() == 3
    assert (holder(FRAME).bundle_hash, holder.generation, c.closed) == ("b", 3, 1)
    with pytest.raises(StateError) as caught:
        holder.roll_back()
    assert str(caught.value) == "[NO_PREVIOUS] there is no earlier model to go back to."
    holder.close()
    assert b.closed == 1


def test_a_model_that_fails_its_check_never_serves() -> None:
    a, bad = Model("a"), Model("bad")
    holder = Swappable(a)

    def check(judge: object) -> None:
        raise StateError("GOLDEN", "ng_03.png scored 0.467, expected 0.664.")

    with pytest.raises(StateError, match="GOLDEN"):
        holder.switch(bad, check=check)
    assert (bad.closed, holder.generation, holder(FRAME).bundle_hash) == (1, 0, "a")


class Slow(Model):
    """Holds its first frame until it is released."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.entered, self.release = threading.Event(), threading.Event()

    def __call__(self, frame: Frame) -> Detection:
        if frame is FRAME:
            self.entered.set()
            self.release.wait(5)
        return super().__call__(frame)


def judging(slow: Slow) -> tuple[Swappable, threading.Thread]:
    """A holder whose model is at work on its first frame."""
    holder = Swappable(slow)
    thread = threading.Thread(target=holder, args=(FRAME,))
    thread.start()
    slow.entered.wait(5)
    return holder, thread


def test_the_last_frame_in_an_old_model_frees_it() -> None:
    slow = Slow("slow")
    holder, thread = judging(slow)
    holder.switch(Model("b"))
    holder.switch(Model("c"))
    assert slow.closed == 0
    slow.release.set()
    thread.join()
    assert slow.closed == 1


def test_a_frame_that_began_before_the_switch_keeps_its_model_after_a_roll_back() -> None:
    slow = Slow("slow")
    holder, thread = judging(slow)
    holder.switch(Model("b"))
    assert holder.roll_back() == 2
    assert holder(Frame(textured(2))).bundle_hash == "slow"
    holder.close()
    assert slow.closed == 0  # the first frame is in it still
    slow.release.set()
    thread.join()
    assert slow.closed == 1


def test_after_close_nothing_is_taken_in() -> None:
    a, b, shadow = Model("a"), Model("b"), Model("shadow")
    holder = Swappable(a)
    holder.close()
    holder.close()
    calls = (
        lambda: holder(FRAME),
        lambda: holder.switch(b),
        holder.roll_back,
        lambda: holder.start_shadow(shadow),
    )
    for call in calls:
        with pytest.raises(StateError) as caught:
            call()
        assert str(caught.value) == "[CLOSED] this judge is closed. Open a new one."
    assert (a.closed, b.closed, shadow.closed) == (1, 1, 1)


def test_swaps_under_a_stream_lose_nothing_and_mix_nothing() -> None:
    holder = Swappable(Model("0"))

    def frames() -> object:
        for n in range(400):
            if n % 10 == 9:
                holder.switch(Model(str(holder.generation + 1)))
            yield textured(n % 7)

    with run(holder, frames(), workers=2) as stream:
        outcomes = list(stream)
    assert len(outcomes) == 400
    assert stream.counts.results == 400
    for outcome in outcomes:
        assert outcome.detection is not None
        assert outcome.detection.bundle_hash == str(outcome.generation)
    assert max(o.generation for o in outcomes) == 40
    # With two workers a frame may begin before a switch and end after its neighbour, never by more.
    generations = [o.generation for o in outcomes]
    assert all(b >= a - 1 for a, b in itertools.pairwise(generations))
    holder.close()


def test_shadow_reports_disagreements_and_changes_no_verdict() -> None:
    holder, shadow = Swappable(Model("a", 0.25)), Model("shadow", 0.9)
    holder.start_shadow(shadow)
    with pytest.raises(StateError) as caught:
        holder.start_shadow(Model("x"))
    assert str(caught.value) == "[SHADOW] a shadow model is running. End it first."
    for n in range(20):
        assert holder(Frame(textured(1), seq=n)).verdict is Verdict.GOOD
    report = holder.end_shadow()
    assert report.frames + report.skipped == 20
    assert report.frames == report.disagreements >= 1
    first = report.latest[0]
    assert (first.live, first.shadow, first.shadow_score) == (Verdict.GOOD, Verdict.DEFECT, 0.9)
    assert shadow.closed == 1
    with pytest.raises(StateError) as caught:
        holder.end_shadow()
    assert str(caught.value) == "[SHADOW] no shadow model is running. Start one first."
    holder.close()


def test_a_shadow_that_hangs_is_left_behind_and_closed_when_it_returns() -> None:
    entered, release = threading.Event(), threading.Event()

    class Hung(Model):
        def __call__(self, frame: Frame) -> Detection:
            entered.set()
            release.wait()
            return super().__call__(frame)

    holder, shadow = Swappable(Model("a")), Hung("shadow")
    holder.start_shadow(shadow)
    thread = next(t for t in threading.enumerate() if t.name == "edgead shadow")
    holder(FRAME)
    entered.wait(5)
    holder.close()
    assert shadow.closed == 0
    release.set()
    thread.join(30)
    assert shadow.closed == 1


def test_drift_is_what_the_live_model_says() -> None:
    class Knowing(Model):
        def drift_reference(self, bundle_hash: str) -> str | None:
            return self.name if bundle_hash == self.name else None

    holder: Swappable[Model] = Swappable(Knowing("a"))
    assert holder.drift_reference("a") == "a"
    holder.switch(Knowing("b"))
    assert (holder.drift_reference("a"), holder.drift_reference("b")) == (None, "b")
    holder.switch(Model("c"))
    assert holder.drift_reference("c") is None
    holder.close()


def test_a_shadow_that_raises_is_counted() -> None:
    def broken(frame: Frame) -> Detection:
        raise RuntimeError

    holder = Swappable(Model("a"))
    holder.start_shadow(broken)
    holder(FRAME)
    report = holder.end_shadow()
    assert (report.failed, report.frames) == (1, 0)
    holder.close()


def test_memory_head_room(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000000 kB\nMemAvailable:  500000 kB\n")
    assert require_memory(200_000_000, meminfo=meminfo) == 512_000_000
    with pytest.raises(StateError) as caught:
        require_memory(300_000_000, meminfo=meminfo)
    assert str(caught.value) == (
        "[MEMORY] a second model needs 600 MB free beside the live one; 512 MB are available. "
        "Stop the stream, change the bundle and start again."
    )
