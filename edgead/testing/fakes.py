"""A back end and a judge that fail exactly as they are told."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgead.backends.base import Array, TensorSpec
from edgead.errors import BackendError
from edgead.testing.faults import Fault
from edgead.types import Detection, Frame, Verdict

__all__ = ["FakeBackend", "FakeJudge", "FakeRequest", "detection_of"]

_MAP = np.linspace(0.0, 0.4, 16, dtype=np.float32).reshape(4, 4)
_MAP.setflags(write=False)


def detection_of(
    frame: Frame,
    score: float = 0.25,
    *,
    threshold: float = 0.5,
    anomaly_map: NDArray[np.float32] | None = None,
    bundle_hash: str = "fake",
) -> Detection:
    """A detection of ``score``; a score or threshold that is not finite gives UNKNOWN."""
    verdict = Verdict.UNKNOWN
    if np.isfinite(score) and np.isfinite(threshold):
        verdict = Verdict.DEFECT if score > threshold else Verdict.GOOD
    return Detection(
        verdict=verdict,
        score=score,
        threshold=threshold,
        confidence=0.5,
        anomaly_map=_MAP if anomaly_map is None else anomaly_map,
        mask=None,
        regions=(),
        timings_ms={},
        frame_id=frame.frame_id,
        bundle_hash=bundle_hash,
        backend="fake",
        precision="fp32",
    )


class FakeJudge:
    """A judge that calls every frame GOOD, except where told otherwise.

    Args:
        fault_of: Number of a frame (``Frame.seq``) -> the fault to show, None for none.
        wait: Called with the frame and its fault before answering; SLOW and HANG are what it does
            with them, and only the caller knows which clock it may stop.
        score_of: Score of a sound frame.
    """

    def __init__(
        self,
        fault_of: Callable[[int], Fault | None] = lambda _: None,
        *,
        wait: Callable[[Frame, Fault | None], None] = lambda *_: None,
        score_of: Callable[[Frame], float] = lambda _: 0.25,
    ) -> None:
        self.calls = 0
        self._fault_of = fault_of
        self._wait = wait
        self._score_of = score_of
        self._lock = threading.Lock()

    def __call__(self, frame: Frame) -> Detection:
        """Judge, or fail as told.

        Raises:
            BackendError: TYPED_ERROR and OUT_OF_MEMORY.
            RuntimeError: RAISES.
        """
        with self._lock:
            self.calls += 1
        fault = self._fault_of(frame.seq)
        self._wait(frame, fault)
        if fault is None or fault.is_in_frame or fault in (Fault.SLOW, Fault.HANG):
            return detection_of(frame, self._score_of(frame))
        return _faulty(frame, fault)


def _faulty(frame: Frame, fault: Fault) -> Detection:
    if fault is Fault.RAISES:
        raise RuntimeError("a native library says: CUDA error 700")
    if fault is Fault.TYPED_ERROR:
        raise BackendError("BACKEND_ERROR", "the engine failed.", "Load it again.")
    if fault is Fault.OUT_OF_MEMORY:
        raise BackendError("DEVICE_OOM", "needs 1.9 GB, 0.7 GB free.", "Use a smaller model.")
    if fault is Fault.NO_DETECTION:
        return cast(Detection, None)
    if fault is Fault.DIE:
        os._exit(9)
    score = {Fault.NAN_SCORE: float("nan"), Fault.INF_SCORE: float("-inf")}.get(fault, 0.25)
    found = _MAP
    if fault is Fault.NAN_MAP:
        found = _MAP.copy()
        found[1, 2] = np.nan
    elif fault is Fault.ZERO_MAP:
        found = np.zeros_like(_MAP)
    elif fault is Fault.MAP_SHAPE:
        found = _MAP[:3]
    return detection_of(frame, score, anomaly_map=found)


class FakeBackend:
    """An `edgead.backends.base.Backend` with given outputs, for driving a real detector.

    Args:
        outputs: Output name -> array that each inference returns (a copy of).
        input_shape: (1, h, w, 3) of the one uint8 input ``image``.
        fault_of: Number of the inference, from 0 -> the fault to show, None for none.
        wait: Called with the fault while an inference runs: SLOW and HANG are what it does.
    """

    name = "fake"
    version = "1"
    device = "none"
    precision = "fp32"

    def __init__(
        self,
        outputs: Mapping[str, NDArray[Any]],
        *,
        input_shape: tuple[int, ...] = (1, 64, 64, 3),
        fault_of: Callable[[int], Fault | None] = lambda _: None,
        wait: Callable[[Fault | None], None] = lambda _: None,
    ) -> None:
        self.inputs: Mapping[str, TensorSpec] = {"image": TensorSpec("image", input_shape, "uint8")}
        self.outputs: Mapping[str, TensorSpec] = {
            name: TensorSpec(name, value.shape, value.dtype.name) for name, value in outputs.items()
        }
        self.calls = 0
        self.is_closed = False
        self._arrays = dict(outputs)
        self._fault_of = fault_of
        self._wait = wait
        self._lock = threading.Lock()

    def open_request(self) -> FakeRequest:
        """A request of its own."""
        return FakeRequest(self)

    def close(self) -> None:
        """Nothing to free; remembered."""
        self.is_closed = True

    def run(self, feeds: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
        """One inference, or its fault."""
        if feeds["image"].dtype != np.uint8:
            raise BackendError("BACKEND_ERROR", f"image is {feeds['image'].dtype}; want uint8.")
        with self._lock:
            number, self.calls = self.calls, self.calls + 1
        fault = self._fault_of(number)
        self._wait(fault)
        if fault in (Fault.RAISES, Fault.TYPED_ERROR):
            raise BackendError("BACKEND_ERROR", "the engine failed.", "Load it again.")
        if fault is Fault.OUT_OF_MEMORY:
            raise BackendError("DEVICE_OOM", "needs 1.9 GB, 0.7 GB free.", "Use a smaller model.")
        if fault is Fault.DIE:
            os._exit(9)
        return {name: _spoilt(value, fault) for name, value in self._arrays.items()}


class FakeRequest:
    """One inference in flight."""

    def __init__(self, backend: FakeBackend) -> None:
        self._backend = backend
        self._feeds: Mapping[str, Array] | None = None

    def start(self, feeds: Mapping[str, Array]) -> None:
        """Remember the inputs; the work is done in `wait`."""
        self._feeds = feeds

    def wait(self, timeout_s: float | None = None) -> Mapping[str, Array]:  # noqa: ARG002
        """The outputs."""
        if self._feeds is None:
            raise BackendError("BACKEND_ERROR", "wait() without start().")
        feeds, self._feeds = self._feeds, None
        return self._backend.run(feeds)

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, NDArray[np.generic]]:
        """Start and wait; the arrays belong to the caller."""
        self.start(feeds)
        return dict(self.wait())


def _spoilt(value: NDArray[Any], fault: Fault | None) -> NDArray[Any]:
    if fault in (Fault.NAN_SCORE, Fault.NAN_MAP):
        return np.full_like(value, np.nan)
    if fault is Fault.INF_SCORE:
        return np.full_like(value, np.inf)
    if fault is Fault.ZERO_MAP:
        return np.zeros_like(value)
    if fault is Fault.MAP_SHAPE:
        return np.concatenate([value, value], axis=-1)
    return np.array(value)
