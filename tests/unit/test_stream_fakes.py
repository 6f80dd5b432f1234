"""The fake back end under the real scorer, in a stream: whatever the engine does, nothing bad is accepted."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgead.backends.base import Backend, Request
from edgead.errors import BackendError
from edgead.scorer import Scorer
from edgead.stream import Limits, run
from edgead.testing import FakeBackend, FakeClock, Fault, ScriptedSource, detection_of
from edgead.testing.tiny import tiny_bundle, tiny_frame
from edgead.types import Detection, Frame, Status

MAP = np.linspace(0.1, 0.3, 64, dtype=np.float32).reshape(1, 8, 8)
FAULTS = [
    Fault.RAISES,
    Fault.TYPED_ERROR,
    Fault.OUT_OF_MEMORY,
    Fault.NAN_MAP,
    Fault.INF_SCORE,
    Fault.ZERO_MAP,
    Fault.MAP_SHAPE,
    Fault.HANG,
]


def backend_of(plan: dict[int, Fault], release: threading.Event | None = None) -> FakeBackend:
    def wait(fault: Fault | None) -> None:
        if fault is Fault.HANG and release is not None:
            release.wait(10)

    return FakeBackend({"anomaly_map": MAP}, input_shape=(1, 8, 8, 3), fault_of=plan.get, wait=wait)


def test_it_is_a_back_end() -> None:
    backend = backend_of({})
    request = backend.open_request()
    assert isinstance(backend, Backend)
    assert isinstance(request, Request)
    feeds = {"image": np.zeros((1, 8, 8, 3), np.uint8)}
    found = request.infer(feeds)
    assert np.array_equal(found["anomaly_map"], MAP)
    found["anomaly_map"][:] = 0
    assert np.array_equal(request.infer(feeds)["anomaly_map"], MAP)  # the arrays are the caller's
    with pytest.raises(BackendError, match=r"wait\(\) without start\(\)"):
        request.wait()
    with pytest.raises(BackendError, match="image is float32; want uint8"):
        request.infer({"image": np.zeros((1, 8, 8, 3), np.float32)})
    backend.close()
    assert backend.is_closed


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.value)
def test_no_fault_of_the_engine_is_accepted(fault: Fault) -> None:
    release = threading.Event()
    scorer = Scorer(tiny_bundle(), backend_of({3: fault}, release))

    def judge(frame: Frame) -> Detection:
        scored = scorer(frame)
        return detection_of(frame, scored.score, anomaly_map=scored.anomaly_map)

    frames = [tiny_frame(n) for n in range(8)]
    with run(judge, frames, limits=Limits(hang_s=0.1)) as stream:
        outcomes = list(stream)
    release.set()
    assert [o.accept for o in outcomes] == [True] * 3 + [False] + [True] * 4
    assert outcomes[3].status is Status.FAILED


def test_out_of_memory_once_costs_one_frame_wherever_it_comes() -> None:
    for call in range(30):
        scorer = Scorer(tiny_bundle(), backend_of({call: Fault.OUT_OF_MEMORY}))

        def judge(frame: Frame, scorer: Scorer = scorer) -> Detection:
            scored = scorer(frame)
            return detection_of(frame, scored.score, anomaly_map=scored.anomaly_map)

        outcomes = list(run(judge, [tiny_frame(n) for n in range(32)]))
        assert [o.seq for o in outcomes if not o.accept] == [call]
        assert outcomes[call].reason == "DEVICE_OOM"


def test_a_scripted_source_repeats_itself() -> None:
    def once() -> list[bytes]:
        source = ScriptedSource(5, clock=FakeClock())
        found = [source.read(0) for _ in range(5)]
        return [f.pixels.tobytes() for f in found if isinstance(f, Frame)]

    assert once() == once()
    assert len(set(once())) == 5


def test_the_clock_moves_when_told() -> None:
    clock = FakeClock(0)
    clock.sleep(1.5)
    clock.advance_to(1_000_000_000)  # never back
    assert clock() == 1_500_000_000
