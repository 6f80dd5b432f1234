"""An exception in the reader's thread at any moment: books, journal and threads stay sound.

Python raises what a signal's handler raises when a call has returned: that is an event of
`sys.setprofile`, so that each place where a signal can strike is struck, one after the other, without
luck.
"""

from __future__ import annotations

import _weakrefset
import contextlib
import functools
import os
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from edgead.errors import ConfigError
from edgead.stream import open_source, run
from edgead.stream.interrupts import Bell, Changed, Clerk, undisturbed
from edgead.stream.journal import Journal
from edgead.stream.journal_read import verify_journal
from edgead.stream.pipeline import Stream
from edgead.stream.triggered import Triggered
from edgead.testing import FakeJudge, textured
from edgead.testing.audit import Resources

pytestmark = pytest.mark.timeout(600)

_FRAMES = 6
_ELSEWHERE = (__file__, _weakrefset.__file__)  # a weak reference's callback swallows exceptions
_PIXELS = [textured(n) for n in range(_FRAMES)]


#: Where these return, whoever called has the stream, and closes it.
_HANDED_OVER = {
    function.__code__ for function in (run, undisturbed, Stream.__init__, Triggered.__init__)
}


class Striker:
    """Raises KeyboardInterrupt at the ``at``-th place of this thread's code.

    Attributes:
        places: Places gone through; all of them, when ``at`` is larger.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self.places = 0

    def __enter__(self) -> Striker:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event not in ("return", "c_return") or code.co_filename in _ELSEWHERE:
            return
        if event == "return" and code in _HANDED_OVER:
            return
        if code.co_name == "<genexpr>":  # its end is no place where Python looks for signals
            return
        self.places += 1
        if self.places == self.at:
            raise KeyboardInterrupt  # which also ends the profiling


def struck(at: int, work: Callable[[], object]) -> int:
    """Do it with a strike; how many places there were."""
    striker = Striker(at)
    with contextlib.suppress(KeyboardInterrupt), striker:
        work()
    return striker.places


def read_all(stream: Stream, seen: list[int]) -> None:
    for outcome in stream:
        seen.append(outcome.seq)


def trigger_all(stream: Triggered, seen: list[int]) -> None:
    for pixels in _PIXELS:
        seen.append(stream.on_trigger(str(len(seen)), pixels).seq)
    stream.close()


def opened(path: Path, mode: str) -> Any:
    journal = Journal(path, sync="batch" if mode == "batch" else "full", flush_ms=5)
    if mode == "triggered":
        return Triggered(FakeJudge(), deadline_ms=None, journal=journal)
    return run(FakeJudge(), _PIXELS, journal=journal, deadline_ms=60 if mode == "late" else None)


def sound(path: Path, stream: Stream, seen: list[int], before: set[threading.Thread]) -> None:
    """Each frame ends once, in the books and in the journal alike, and no thread is left."""
    counts = stream.counts
    assert (counts.balanced, counts.in_flight) == (True, 0)
    found = verify_journal(path)
    assert (found["problems"], found["open_runs"]) == ([], 0)
    reader = sqlite3.connect(path)
    rows = reader.execute("SELECT seq, status, amends FROM outcomes ORDER BY id").fetchall()
    reader.close()
    assert sorted(seq for seq, _, amends in rows if not amends) == list(range(counts.received))
    ends = Counter({seq: status for seq, status, _ in rows}.values())
    assert (ends["RESULT"], ends["FAILED"]) == (counts.results, counts.failed)
    assert set(seen) <= set(range(counts.received))
    assert len(seen) == len(set(seen))
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(30)
    frames = sys._current_frames()
    stuck = [traceback.format_stack(frames[t.ident or 0]) for t in left if t.is_alive()]
    assert stuck == []


def struck_twice(path: Path, mode: str, first: int, second: int) -> int:
    """A run that is struck while it is read, and again while it is closed; places in reading."""
    before, seen = set(threading.enumerate()), list[int]()
    stream = opened(path, mode)
    work = trigger_all if mode == "triggered" else read_all
    if mode == "late":
        time.sleep(0.07)  # what was judged in time is taken too late
    places = struck(first, lambda: work(stream, seen))
    struck(second, stream.close)
    stream.close()
    sound(path, stream, seen, before)
    return places


@pytest.mark.parametrize("mode", ["batch", "full", "late", "triggered"])
def test_struck_anywhere_it_stays_sound(tmp_path: Path, mode: str) -> None:
    places = struck_twice(tmp_path / "none.sqlite", mode, 10**9, 10**9)
    assert places > 100
    for at in [*range(1, 45), *range(45, places, max(1, places // 40))]:
        struck_twice(tmp_path / f"{at}.sqlite", mode, at, 1 + at % 20)


@pytest.mark.parametrize("mode", ["batch", "triggered"])
def test_struck_anywhere_in_closing_it_closes(tmp_path: Path, mode: str) -> None:
    for at in range(1, 1000):
        before, seen, path = set(threading.enumerate()), list[int](), tmp_path / f"{at}.sqlite"
        stream = opened(path, mode)
        if mode == "batch":
            seen.append(next(stream).seq)
        else:
            seen.append(stream.on_trigger("1", _PIXELS[1]).seq)
        places = struck(at, stream.close)
        struck(at, stream.close)
        stream.close()
        sound(path, stream, seen, before)
        if places < at:
            break
    assert at > 5


def open_for_reading(path: Path, _: Journal) -> Stream:
    return run(FakeJudge(), {"a": _PIXELS, "b": _PIXELS}, journal=path, save_rejects=path.parent)


def open_stream(path: Path, journal: Journal) -> Stream:
    return Stream(FakeJudge(), {"a": open_source(_PIXELS)}, journal=journal)


def open_station(path: Path, journal: Journal) -> Stream:
    return Triggered(FakeJudge(), deadline_ms=None, journal=journal)


def is_left(before: Resources, running: dict[int, FrameType], path: Path) -> list[object]:
    """What runs or is open since then; one that never started may stand in Python's list for ever."""
    gained = Resources.now().gained(before)
    left: list[object] = [n for n in (gained["fds"], gained["processes"]) if n]
    left += sys._current_frames().keys() - running.keys()
    found = verify_journal(path) if path.exists() else {"problems": [], "open_runs": 0}
    return left + found["problems"] + ["open run"] * found["open_runs"]


@pytest.mark.parametrize("work", [open_for_reading, open_stream, open_station])
def test_struck_anywhere_in_opening_nothing_is_left(
    tmp_path: Path, work: Callable[[Path, Journal], Stream]
) -> None:
    kept: list[Stream] = []

    def open_and_keep(path: Path, journal: Journal) -> None:
        kept.append(work(path, journal))

    at = places = 0
    before, running = Resources.now(), sys._current_frames()
    while places >= at:
        at += 1
        path = tmp_path / f"{at}.sqlite"
        journal = Journal(tmp_path / "unused.sqlite" if work is open_for_reading else path)
        places = struck(at, functools.partial(open_and_keep, path, journal))
        for stream in kept:
            stream.close()
        journal.close()
        for _ in range(6000):  # a thread that was just started is nowhere to be seen yet
            if not is_left(before, running, path):
                break
            time.sleep(0.01)
        else:
            pytest.fail(f"{at}: {is_left(before, running, path)}")
    assert (len(kept), at > 8) == (1, True)


def test_what_opening_raises_is_the_callers() -> None:
    with pytest.raises(ConfigError) as caught:
        run(FakeJudge(), _PIXELS, workers=0)
    assert str(caught.value) == "[WORKERS] workers is 0; want 1 or more."
    assert [t.name for t in threading.enumerate() if t.name == "edgead opening"] == []


def test_interrupted_while_it_waits_what_is_made_later_is_undone() -> None:
    making, go_on, undone = threading.Event(), threading.Event(), threading.Event()

    def make() -> str:
        making.set()
        go_on.wait(60)
        return "made"

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGUSR1, interrupt)
    try:
        raiser = threading.Thread(
            target=lambda: making.wait(60) and os.kill(os.getpid(), signal.SIGUSR1)
        )
        raiser.start()
        with pytest.raises(KeyboardInterrupt):
            undisturbed(make, lambda made: undone.set() if made == "made" else None)
    finally:
        signal.signal(signal.SIGUSR1, old)
    raiser.join(60)
    assert not undone.is_set()
    go_on.set()
    assert undone.wait(60)


def test_a_bell_rings_once_however_often() -> None:
    bell = Bell()
    assert not bell.wait(0)
    bell.ring()
    bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0)


def test_a_change_rings_each_bell_once() -> None:
    changed = Changed()
    with changed.lock:
        assert changed.is_mine
        bells = [changed.bell(), changed.bell()]
        changed.notify_all()
        late = changed.bell()
    assert not changed.is_mine
    assert [bell.wait(0) for bell in (*bells, late)] == [True, True, False]


def test_the_clerk_goes_on_when_its_caller_is_interrupted() -> None:
    clerk, done = Clerk("clerk"), list[int]()
    clerk.thread.start()
    for at in range(1, 60):
        struck(at, functools.partial(clerk.do, functools.partial(done.append, at)))
    clerk.do(clerk.end)
    clerk.thread.join(60)
    assert len(done) == len(set(done))  # each at most once
    assert done[-20:] == list(range(40, 60))  # and those that nothing struck all
    assert clerk.do(lambda: 7) == 7  # after its end the caller does it itself
    with pytest.raises(ZeroDivisionError):
        clerk.do(lambda: 1 // 0)


def test_the_clerk_gives_back_what_was_raised() -> None:
    clerk = Clerk("clerk")
    clerk.thread.start()
    with pytest.raises(ZeroDivisionError):
        clerk.do(lambda: 1 // 0)
    assert clerk.do(lambda: 7) == 7
    clerk.do(clerk.end)
    clerk.thread.join(60)
