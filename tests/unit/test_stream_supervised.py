"""A judge in a worker process: what it raises comes back, and its death costs one frame."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from edgead.errors import BackendError, BundleError, ConfigError, EdgeadError, FrameError
from edgead.stream import run
from edgead.stream.supervised import Supervised
from edgead.stream.triggered import Triggered
from edgead.testing import Fault, detection_of, textured
from edgead.testing.audit import Resources
from edgead.testing.workers import make_faulty_judge, make_gil_holder, make_nothing
from edgead.types import Frame, PixelFormat, Verdict


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = Resources.now()
    yield
    assert Resources.now().gained(before) == {"fds": 0, "threads": 0, "processes": 0}


def make_local() -> object:
    """Stands for a function of the script that runs: no other process finds it."""
    return None


def test_the_frame_arrives_whole_and_the_detection_comes_back() -> None:
    wide = np.arange(7 * 9, dtype=np.uint16).reshape(7, 9)
    frames = [
        Frame(textured(3), seq=4, source_id="cam", block_id=8),
        Frame(textured(3)[::2, ::-1], PixelFormat.RGB8),
        Frame(wide, PixelFormat.MONO16, depth=12),
    ]
    judge = Supervised(make_faulty_judge)
    for frame in frames:
        found = judge(frame)
        assert found.frame_id == frame.frame_id
        assert np.array_equal(found.anomaly_map, detection_of(frame).anomaly_map)
    judge.close()
    judge.close()


def test_errors_come_back_with_their_code() -> None:
    plan = {1: Fault.OUT_OF_MEMORY, 2: Fault.RAISES, 3: Fault.NO_DETECTION, 4: Fault.DIE}
    judge = Supervised(functools.partial(make_faulty_judge, plan))
    messages = []
    for seq in range(1, 5):
        with pytest.raises(EdgeadError) as caught:
            judge(Frame(textured(1), seq=seq))
        messages.append(str(caught.value))
    assert messages == [
        "[DEVICE_OOM] needs 1.9 GB, 0.7 GB free. Use a smaller model.",
        "[BACKEND_ERROR] the judge raised RuntimeError: a native library says: CUDA error 700",
        "[BACKEND_ERROR] the judge returned NoneType; want edgead.Detection.",
        "[WORKER_LOST] the worker died with the frame (exit code 9; EOFError).",
    ]
    assert judge(Frame(textured(1))).verdict is Verdict.GOOD  # in the next worker
    assert judge.restarts == 1
    judge.close()


def test_a_model_that_cannot_be_loaded_ends_the_stream_with_its_error() -> None:
    judge = Supervised(make_nothing)
    with pytest.raises(EdgeadError) as caught:
        run(judge, [textured(1)])
    assert str(caught.value) == "[MODEL_CORRUPT] part.onnx: the SHA-256 differs. Copy it again."
    assert not isinstance(caught.value, BundleError)  # it crossed a process
    judge.close()


def test_a_factory_of_the_running_script_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "make_local", make_local, raising=False)
    monkeypatch.setattr(make_local, "__module__", "__main__")
    judge = Supervised(make_local)  # type: ignore[arg-type]
    with pytest.raises(BackendError) as caught:
        judge.warm_up()
    assert caught.value.code == "WORKER_LOST"
    assert str(caught.value).endswith(
        "Define make_judge in a module that can be imported, not in the script that runs."
    )
    judge.close()


def test_a_factory_that_cannot_travel_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Supervised(lambda: make_faulty_judge())
    assert caught.value.code == "MAKE_JUDGE"
    assert str(caught.value).endswith(
        'Use a function of a module, or functools.partial(Detector, "part.edgead").'
    )


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_killed_worker_loses_the_frame_in_flight_only(number: int) -> None:
    judge = Supervised(functools.partial(make_faulty_judge, {3: Fault.HANG}))

    def kill() -> None:
        time.sleep(0.15)
        os.kill(judge.pid, number)

    judge.warm_up()
    thread = threading.Thread(target=kill)
    thread.start()
    outcomes = list(run(judge, [textured(n) for n in range(7)]))
    thread.join()
    assert [o.reason for o in outcomes] == ["", "", "", "WORKER_LOST", "", "", ""]
    assert outcomes[3].message.startswith(
        f"[WORKER_LOST] the worker died with the frame (signal {int(number)}"
    )
    judge.close()


def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    judge = Supervised(functools.partial(make_faulty_judge, {1: Fault.HANG}), hang_s=0.2)
    outcomes = list(run(judge, [textured(n) for n in range(3)]))
    assert [o.reason for o in outcomes] == ["", "BACKEND_HUNG", ""]
    assert outcomes[1].message == (
        "[BACKEND_HUNG] the worker did not answer for 0.2 s and was restarted."
    )
    judge.close()


def test_a_worker_that_dies_too_often_ends_the_stream() -> None:
    plan = dict.fromkeys(range(100), Fault.DIE)
    judge = Supervised(functools.partial(make_faulty_judge, plan), restarts=1)
    seen = []
    with pytest.raises(EdgeadError) as caught:
        seen.extend(iter(run(judge, [textured(n) for n in range(20)])))
    assert str(caught.value) == (
        "[WORKER_LOST] the worker was restarted 1 times, and again: it died (exit code 9). Look at "
        "the device and its driver."
    )
    assert all(o.reason in ("WORKER_LOST", "SHUTDOWN") for o in seen)
    judge.close()


def test_the_deadline_holds_while_native_code_keeps_the_gil() -> None:
    judge = Supervised(functools.partial(make_gil_holder, 20.0))
    with Triggered(judge, deadline_ms=100) as station:
        start = time.monotonic()
        outcome = station.on_trigger("1", textured(1))
        assert time.monotonic() - start < 15  # the worker itself takes 20 s
    assert outcome.reason == "DEADLINE_RUNNING"
    judge.close()


def test_closing_does_not_wait_for_a_hung_worker() -> None:
    judge = Supervised(functools.partial(make_faulty_judge, {0: Fault.HANG}))
    judge.warm_up()
    stream = run(judge, [textured(1)])
    time.sleep(0.1)
    start = time.monotonic()
    judge.close()
    stream.close()
    assert time.monotonic() - start < 15  # the hang is endless


def test_cuda_frames_are_refused() -> None:
    class OnDevice:
        shape, dtype, ndim = (4, 4, 3), np.dtype("uint8"), 3
        __cuda_array_interface__ = {"shape": (4, 4, 3), "typestr": "|u1", "data": (0, False)}  # noqa: RUF012

    judge = Supervised(make_faulty_judge)
    with pytest.raises(FrameError) as caught:
        judge(Frame(OnDevice()))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "[FRAME_TYPE] a CUDA frame cannot go to another process. Use supervised=False, or frames "
        "in host memory."
    )
    judge.close()
