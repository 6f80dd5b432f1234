"""The threaded stream: order, failures, many cameras, hung judges, and that it always stops."""

from __future__ import annotations

import ast
import gc
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgead import stream as stream_package
from edgead.errors import BackendError, ConfigError, SourceError, StateError
from edgead.stream import Limits, Stream, run
from edgead.stream.sources import ArraySource
from edgead.stream.watchdog import State
from edgead.testing import FakeJudge, Fault, ScriptedSource, textured
from edgead.testing.audit import Resources
from edgead.types import Detection, Frame, Status


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = Resources.now()
    yield
    until = time.monotonic() + 3
    while any(v > 0 for v in Resources.now().gained(before).values()) and time.monotonic() < until:
        time.sleep(0.02)
    assert Resources.now().gained(before) == {"fds": 0, "threads": 0, "processes": 0}


@pytest.mark.parametrize("workers", [1, 3])
def test_order_is_kept_and_everything_is_accounted_for(workers: int) -> None:
    def judge(frame: Frame) -> Detection:
        time.sleep(0.002 if frame.seq % 3 == 0 else 0)
        return FakeJudge()(frame)

    stream = run(judge, (textured(n % 5) for n in range(200)), workers=workers)
    assert [o.seq for o in stream] == list(range(200))
    counts = stream.counts
    assert (counts.received, counts.results, counts.in_flight) == (200, 200, 0)


def test_frame_ids_reach_the_judge_and_the_outcome() -> None:
    outcomes = list(run(FakeJudge(), {"left": [textured(1), textured(2)]}))
    assert [o.frame_id for o in outcomes] == ["left:0", "left:1"]
    assert [o.detection.frame_id for o in outcomes if o.detection] == ["left:0", "left:1"]


def test_failures_carry_their_code_and_sentence() -> None:
    plan = {1: Fault.RAISES, 2: Fault.OUT_OF_MEMORY, 3: Fault.NO_DETECTION}
    outcomes = list(run(FakeJudge(plan.get), [textured(n) for n in range(5)]))
    assert [(o.status, o.reason) for o in outcomes] == [
        (Status.RESULT, ""),
        (Status.FAILED, "BACKEND_ERROR"),
        (Status.FAILED, "DEVICE_OOM"),
        (Status.FAILED, "BACKEND_ERROR"),
        (Status.RESULT, ""),
    ]
    assert outcomes[1].message == (
        "[BACKEND_ERROR] the judge raised RuntimeError: a native library says: CUDA error 700"
    )


def test_a_judge_that_calls_exit_settles_its_frame_too() -> None:
    def judge(frame: Frame) -> Detection:
        raise SystemExit(3)

    outcomes = list(run(judge, [textured(1)] * 2))
    assert [o.reason for o in outcomes] == ["BACKEND_ERROR"] * 2


def test_leaving_the_loop_closes_the_stream() -> None:
    stream = run(FakeJudge(), (textured(1) for _ in itertools.count()))
    for outcome in stream:
        if outcome.seq == 5:
            break
    counts = stream.counts
    assert counts.in_flight == 0
    assert counts.received == counts.results + counts.dropped
    with pytest.raises(StopIteration):
        next(stream)


def test_an_exception_in_the_loop_closes_the_stream() -> None:
    stream = run(FakeJudge(), (textured(1) for _ in itertools.count()))

    def use() -> None:
        for _ in stream:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert stream.counts.in_flight == 0


def test_closing_while_the_judge_hangs_takes_less_than_three_seconds() -> None:
    release = threading.Event()

    def judge(frame: Frame) -> Detection:
        release.wait(20)
        return FakeJudge()(frame)

    stream = run(judge, [textured(n) for n in range(9)])
    time.sleep(0.05)
    start = time.monotonic()
    stream.close()
    stream.close()
    assert time.monotonic() - start < 15  # what it waits for takes 20 s
    counts = stream.counts
    assert (counts.in_flight, counts.results) == (0, 0)
    assert counts.dropped == counts.received > 0
    release.set()


def test_closing_while_the_source_waits() -> None:
    release = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        release.wait(20)
        yield textured(1)

    stream = run(FakeJudge(), camera())
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 15  # what it waits for takes 20 s
    release.set()


def test_a_hung_judge_is_given_up_and_replaced() -> None:
    release = threading.Event()

    def wait(frame: Frame, fault: Fault | None) -> None:
        if fault is Fault.HANG:
            release.wait(20)

    judge = FakeJudge({2: Fault.HANG}.get, wait=wait)
    stream = run(judge, [textured(n) for n in range(6)], limits=Limits(hang_s=0.1))
    outcomes = list(stream)
    release.set()
    assert [o.reason for o in outcomes] == ["", "", "BACKEND_HUNG", "", "", ""]
    assert outcomes[2].message == "The judge did not return for 0.1 s."


def test_a_judge_that_always_hangs_ends_the_stream() -> None:
    release = threading.Event()

    def judge(frame: Frame) -> Detection:
        release.wait(20)
        return FakeJudge()(frame)

    stream = run(judge, [textured(n) for n in range(50)], limits=Limits(hang_s=0.05))
    seen = []
    with pytest.raises(BackendError) as caught:
        seen.extend(iter(stream))
    assert str(caught.value) == (
        "[BACKEND_HUNG] the judge hung 6 times within 60 s. Use supervised=True, or look at the "
        "device and its driver."
    )
    assert stream.health.state is State.FAILED
    assert stream.counts.in_flight == 0
    release.set()


def test_the_deadline_holds_while_the_judge_hangs() -> None:
    release = threading.Event()

    def judge(frame: Frame) -> Detection:
        release.wait(20)
        return FakeJudge()(frame)

    with run(judge, [textured(1)], deadline_ms=50) as stream:
        outcome = next(stream)
        release.set()
    assert outcome.reason == "DEADLINE_RUNNING"
    assert outcome.latency_ms < 1000


def test_many_cameras_have_their_own_books_and_a_dead_one_slows_nobody() -> None:
    release = threading.Event()

    def dead() -> Iterator[np.ndarray]:
        yield textured(1)
        release.wait(20)

    sources = {
        "a": ArraySource(textured(n % 7) for n in range(100)),
        "b": ArraySource(textured(n % 7) for n in range(100)),
        "dead": ArraySource(dead()),
    }
    seen: dict[str, list[int]] = {"a": [], "b": [], "dead": []}
    with Stream(FakeJudge(), sources, workers=2) as stream:
        while sum(map(len, seen.values())) < 201:
            outcome = next(stream)
            seen[outcome.source_id].append(outcome.seq)
        assert [lane.ledger.received for lane in stream.lanes.values()] == [100, 100, 1]
        release.set()
    assert seen["a"] == seen["b"] == list(range(100))


def test_one_lost_camera_of_two_is_an_entry_and_not_the_end() -> None:
    def lost() -> Iterator[np.ndarray]:
        yield textured(1)
        raise OSError("cable")

    with run(FakeJudge(), {"good": [textured(1)] * 5, "lost": lost()}) as stream:
        outcomes = list(stream)
    assert len(outcomes) == 6
    assert [str(e)[:15] for e in stream.errors.values()] == ["[SOURCE_FAILED]"]
    assert stream.health.reasons == ("SOURCE_LOST lost",)


def test_a_reader_who_sleeps_bounds_the_memory() -> None:
    source = ScriptedSource(10_000, clock=time.monotonic_ns, kind="live")
    with Stream(FakeJudge(), {"cam": source}, policy="latest", limits=Limits(unread=50)) as stream:
        until = time.monotonic() + 5
        while "READER_SLOW" not in stream.health.reasons and time.monotonic() < until:
            time.sleep(0.01)
        assert "READER_SLOW" in stream.health.reasons
        received = stream.counts.received
        assert received <= 60
        first = next(stream)
    assert first.seq == 0


def test_a_slow_reader_of_a_live_camera_gets_fresh_results() -> None:
    source = ScriptedSource(
        400, clock=time.monotonic_ns, kind="live", wait=lambda _: time.sleep(0.002)
    )
    ages = []
    with Stream(FakeJudge(), {"cam": source}, policy="latest") as stream:
        for outcome in stream:
            if outcome.detection is not None:
                ages.append((time.monotonic_ns() - outcome.t_mono_ns) / 1e6)
                time.sleep(0.03)
    assert len(ages) >= 5
    # Three results wait at most, each for one turn of the reader, however long the run.
    assert sorted(ages)[len(ages) // 2] < 4 * 30 + 100


def test_results_own_their_arrays() -> None:
    outcomes = list(run(FakeJudge(), [textured(n) for n in range(3)]))
    found = [o.detection for o in outcomes if o.detection is not None]
    assert len(found) == 3
    del outcomes
    gc.collect()
    assert all(d.anomaly_map is not None and d.anomaly_map.sum() > 0 for d in found)


def test_warm_up_comes_before_the_first_frame() -> None:
    order: list[str] = []

    class Judge(FakeJudge):
        def warm_up(self) -> None:
            order.append("warm")

        def __call__(self, frame: Frame) -> Detection:
            order.append("judge")
            return super().__call__(frame)

    list(run(Judge(), [textured(1)]))
    assert order == ["warm", "judge"]


def test_policy_and_health_are_told() -> None:
    stream = run(FakeJudge(), [textured(1)])
    assert stream.policy == "every(8)"
    list(stream)
    assert stream.health.state is State.ENDED
    two = run(FakeJudge(), {"a": [textured(1)], "b": [textured(1)]}, policy="drop_oldest(2)")
    assert two.policy == "a: drop_oldest(2), b: drop_oldest(2)"
    two.close()


def test_no_workers_are_refused_and_nothing_stays_open(tmp_path: Path) -> None:
    source = ScriptedSource(1, clock=time.monotonic_ns)
    journal, rejects = tmp_path / "j.sqlite", tmp_path / "rejects"
    with pytest.raises(ConfigError) as caught:
        run(FakeJudge(), source, workers=0, journal=journal, save_rejects=rejects)
    assert source.is_closed
    assert str(caught.value) == "[WORKERS] workers is 0; want 1 or more."


def test_a_second_source_that_cannot_be_opened_closes_the_first(tmp_path: Path) -> None:
    first = ScriptedSource(1, clock=time.monotonic_ns)
    with pytest.raises(SourceError, match="SOURCE_NOT_FOUND"):
        run(FakeJudge(), {"a": first, "b": str(tmp_path / "none.png")})
    assert first.is_closed


def test_a_source_that_breaks_in_an_unforeseen_way() -> None:
    class Broken(ScriptedSource):
        def read(self, timeout_s: float) -> None:
            raise ZeroDivisionError("x / 0")

    stream = Stream(FakeJudge(), {"cam": Broken(1, clock=time.monotonic_ns)})
    with pytest.raises(SourceError) as caught:
        list(stream)
    assert str(caught.value) == "[SOURCE_FAILED] source cam raised ZeroDivisionError: x / 0"


def test_each_source_has_its_own_counts() -> None:
    stream = run(FakeJudge(), {"a": [textured(1)] * 3, "b": [textured(1), None]})
    list(stream)
    found = stream.counts_by_source
    assert (found["a"].results, found["b"].results, found["b"].failed) == (3, 1, 1)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that is what is tested
def test_a_forked_child_is_told_and_cannot_hang() -> None:
    stream = run(FakeJudge(), (textured(1) for _ in itertools.count()))
    next(stream)
    child = os.fork()
    if child == 0:
        try:
            next(stream)
        except StateError as error:
            stream.close()
            os._exit(0 if error.code == "FORKED" else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stream.close()


def test_systemd_is_fed_while_frames_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        list(run(FakeJudge(), [textured(1)] * 5))
        assert receiver.recv(100) == b"READY=1\nWATCHDOG=1"
        receiver.settimeout(0.05)
        with pytest.raises(TimeoutError):
            receiver.recv(100)  # once a second, however many frames


def test_frames_on_a_gpu_are_passed_on_as_they_are() -> None:
    class OnDevice:
        shape, dtype, ndim = (16, 16, 3), np.dtype("uint8"), 3
        __cuda_array_interface__ = {"shape": (16, 16, 3), "typestr": "|u1"}  # noqa: RUF012

        def copy(self) -> OnDevice:
            return OnDevice()

    seen = []

    def judge(frame: Frame) -> Detection:
        seen.append(frame.pixels)
        return FakeJudge()(frame)

    outcomes = list(run(judge, [OnDevice(), OnDevice()]))
    assert [o.status for o in outcomes] == [Status.RESULT] * 2
    assert all(isinstance(pixels, OnDevice) for pixels in seen)


def test_only_the_journal_looks_at_the_wall_clock() -> None:
    folder = Path(stream_package.__file__).parent
    found = [
        path.name
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow")
    ]
    assert set(found) == {"journal.py"}
