"""One detector from many threads, and in processes that it was not made for."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundles import score_of, tiny_bundle, tiny_frame

from edgead import Detector
from edgead.bundle import write_bundle
from edgead.errors import StateError
from edgead.testing.threads import same_bits_from_threads

_BACKENDS = ["openvino", "onnxruntime"]


@pytest.fixture(params=_BACKENDS)
def detector(request: pytest.FixtureRequest) -> Iterator[Detector]:
    with Detector(tiny_bundle(), backend=request.param, threads=1) as made:
        yield made


def test_16_threads_give_the_bits_of_one(detector: Detector) -> None:
    frames = [tiny_frame(seed, 60 + 10 * seed) for seed in range(12)]
    figures = same_bits_from_threads(detector, frames, threads=16, frames_each=60)
    assert figures == {"threads": 16, "frames": 960, "differing": 0, "errors": []}


def test_the_comparison_can_fail(detector: Detector) -> None:
    calls = iter(range(10**9))

    def drifting(frame: np.ndarray) -> object:
        if next(calls) == 30:
            frame = np.ascontiguousarray(255 - frame)
        return detector(frame)

    frames = [tiny_frame(seed, 60 + 10 * seed) for seed in range(4)]
    figures = same_bits_from_threads(drifting, frames, threads=2, frames_each=20)
    assert figures["differing"] == 1


def _exit_code(action: Callable[[], None], *, seconds: float = 20) -> int:
    """Fork, run ``action`` in the child; its exit code, -1 when it hangs."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(9)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_so_and_never_hangs(detector: Detector) -> None:
    parent = os.getpid()

    def use() -> None:
        with pytest.raises(StateError) as error:
            detector(tiny_frame())
        assert str(error.value) == (
            f"[FORKED] this Detector was made in process {parent}, you are in {os.getpid()}. "
            "Create it after the fork."
        )

    def delete() -> None:
        detector.close()
        detector.__dict__.clear()  # whatever it held is now held by nobody else
        gc.collect()

    for action in (use, detector.close, delete):
        for _ in range(5):
            assert _exit_code(action) == 0
    assert detector(tiny_frame()).accept  # the parent goes on


_FORKED_CHILD = """
import os, sys
sys.path.insert(0, sys.argv[1])
from bundles import score_of, tiny_bundle, tiny_frame
from edgead import Detector
detector = Detector(tiny_bundle(), backend=sys.argv[2])
detector(tiny_frame())
if os.fork() == 0:
    del detector
    sys.exit(0)
_, status = os.wait()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_may_leave_by_sys_exit() -> None:
    """OpenVINO only: ONNX Runtime's own exit handler hangs there, with or without edgead."""
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-W", "ignore", "-c", _FORKED_CHILD, tests, "openvino"]
    subprocess.run(command, check=True, timeout=60)


def test_a_spawned_process_opens_its_own(tmp_path: Path) -> None:
    path = tmp_path / "part.edgead"
    write_bundle(path, tiny_bundle())
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        assert pool.submit(score_of, str(path)).result(60) == pytest.approx(100 / 255)


def test_a_detector_cannot_be_pickled(detector: Detector) -> None:
    with pytest.raises(StateError) as error:
        pickle.dumps(detector)
    assert str(error.value) == (
        "[NOT_PICKLABLE] a Detector holds an engine and cannot be pickled. "
        "Send the bundle's path and open a Detector in the other process."
    )


def test_use_after_close(detector: Detector) -> None:
    detector.close()
    detector.close()
    with pytest.raises(StateError) as error:
        detector(tiny_frame())
    assert str(error.value) == "[CLOSED] this Detector is closed. Open a new one."


def test_closing_while_other_threads_judge_is_an_error_there_and_nothing_worse(
    detector: Detector,
) -> None:
    errors: list[BaseException] = []

    def judge() -> None:
        try:
            while True:
                assert detector(tiny_frame()).accept
        except StateError:
            pass
        except BaseException as error:
            errors.append(error)

    crew = [threading.Thread(target=judge) for _ in range(4)]
    for thread in crew:
        thread.start()
    time.sleep(0.2)
    detector.close()
    for thread in crew:
        thread.join(20)
    assert not any(thread.is_alive() for thread in crew)
    assert errors == []


@pytest.mark.parametrize("backend", _BACKENDS)
def test_a_closed_detector_holds_no_engine(backend: str) -> None:
    detector = Detector(tiny_bundle(), backend=backend, threads=1)
    detector(tiny_frame())
    request = weakref.ref(detector._models.live._scorer._free[0])
    detector.close()
    gc.collect()
    assert request() is None


@pytest.mark.parametrize("backend", _BACKENDS)
def test_opening_and_closing_leaves_no_thread_or_handle(backend: str) -> None:
    def count() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    def once() -> None:
        with Detector(tiny_bundle(), backend=backend, threads=1) as made:
            made(tiny_frame())

    once()
    gc.collect()
    before = count()
    for _ in range(20):
        once()
    gc.collect()
    after = count()
    # Never more; fewer when what an earlier test left was collected meanwhile.
    assert after[0] <= before[0]
    assert after[1] <= before[1]
