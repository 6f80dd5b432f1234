"""A judge in a process of its own: it may hang, keep the GIL or die, and the stream goes on.

In-process a deadline holds as long as native code releases the GIL. Here it holds always: the parent
only waits. Frames go over in shared memory, detections come back over a socket.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from edgead.errors import BackendError, ConfigError, EdgeadError, FrameError
from edgead.frame import Frame, PixelFormat
from edgead.stream.child import Child
from edgead.stream.crew import JudgeLost
from edgead.stream.reasons import FailCode
from edgead.stream.watchdog import Restarts
from edgead.types import Detection

__all__ = ["Supervised"]

MakeJudge: TypeAlias = Callable[[], Callable[[Frame], Detection]]

_PROGRAM = "edgead.stream.supervised:work"


class _Judged(NamedTuple):
    """The worker's answer.

    Attributes:
        detection: Of the frame.
        drift: With the first detection of a bundle, its hash and what it was commissioned on.
    """

    detection: Detection
    drift: tuple[str, Any] | None


class Supervised:
    """A judge that runs in a worker process; itself a judge.

    Args:
        make_judge: Makes the judge, in the worker. It travels by name: it must be importable, e.g.
            ``functools.partial(Detector, "part.edgead")``, not a function of the running script.
        hang_s: A worker that does not answer for so long is killed and restarted.
        load_s: Longest time that `make_judge` may take.
        restarts: Restarts allowed within a minute; one more ends the stream.

    Raises:
        ConfigError: MAKE_JUDGE when the factory cannot be sent to another process.
    """

    def __init__(
        self,
        make_judge: MakeJudge,
        *,
        hang_s: float = 5.0,
        load_s: float = 120.0,
        restarts: int = 5,
    ) -> None:
        self._make_judge = make_judge
        self._hang_s = hang_s
        self._load_s = load_s
        self._restarts = Restarts(restarts, 60.0, time.monotonic_ns)
        self._lock = threading.Lock()
        self._is_closed = False
        self._given_up: JudgeLost | None = None
        self._memory: mmap.mmap | None = None
        self._drift: tuple[str, Any] = ("", None)  # bundle hash, its reference
        self._child = self._start()
        self._is_ready = False

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._child.pid

    @property
    def restarts(self) -> int:
        """How often the worker was restarted."""
        return self._restarts.total

    def warm_up(self) -> None:
        """Wait until the worker has made its judge.

        Raises:
            EdgeadError: What `make_judge` raised.
        """
        with self._lock:
            self._wait_ready()

    def __call__(self, frame: Frame) -> Detection:
        """Judge in the worker.

        Raises:
            EdgeadError: What the judge raised; WORKER_LOST when the worker died with the frame;
                BACKEND_HUNG when it was killed because it did not answer.
        """
        if not isinstance(frame.pixels, np.ndarray):
            raise FrameError(
                "FRAME_TYPE",
                "a CUDA frame cannot go to another process.",
                "Use supervised=False, or frames in host memory.",
            )
        with self._lock:
            try:
                self._wait_ready()
                self._child.control.send(self._write(frame))
                answer = self._answer(self._hang_s)
            except (EOFError, OSError) as error:
                raise self._lost(error) from error
        if not isinstance(answer, _Judged):
            raise _error_of(answer)
        if answer.drift is not None:
            self._drift = answer.drift
        return answer.detection

    def drift_reference(self, bundle_hash: str) -> Any:
        """What the worker's judge said of the bundle; streams ask it. Never waits for the worker."""
        known, reference = self._drift
        return reference if bundle_hash == known else None

    def close(self) -> None:
        """Kill the worker; a call that is running raises WORKER_LOST. Safe to call twice."""
        self._is_closed = True
        self._child.kill()
        with self._lock:
            self._child.close()
            if self._memory is not None:
                self._memory.close()
                self._memory = None

    def _start(self) -> Child:
        child = Child(_PROGRAM)
        try:
            child.control.send(self._make_judge)
        except Exception as error:  # whatever a factory that cannot travel makes of it
            child.close()
            raise ConfigError(
                "MAKE_JUDGE",
                f"{self._make_judge!r} cannot be sent to another process: {error}.",
                'Use a function of a module, or functools.partial(Detector, "part.edgead").',
            ) from error
        return child

    def _wait_ready(self) -> None:
        if self._is_closed:
            closed = JudgeLost(FailCode.WORKER_LOST.value, "the judge was closed.")
            raise self._given_up or closed
        if self._is_ready:
            return
        answer = self._answer(self._load_s)
        if answer != "ready":
            cause = _error_of(answer)
            raise JudgeLost(cause.code, cause.message, cause.hint)
        self._is_ready = True

    def _answer(self, timeout_s: float) -> Any:
        if not self._child.control.poll(timeout_s):
            self._restart(f"it did not answer for {timeout_s:g} s.")
            raise BackendError(
                FailCode.BACKEND_HUNG.value,
                f"the worker did not answer for {timeout_s:g} s and was restarted.",
            )
        return self._child.control.recv()

    def _lost(self, error: Exception) -> BackendError:
        self._child.kill()
        code = self._child.wait()
        self._restart(f"it died ({_ending(code)}).")
        text = f"the worker died with the frame ({_ending(code)}; {type(error).__name__})."
        return BackendError(FailCode.WORKER_LOST.value, text)

    def _restart(self, why: str) -> None:
        """Replace the worker; the next call waits until it is ready."""
        self._child.close()
        self._is_ready = False
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        if self._is_closed:
            return
        if not self._restarts.allow():
            self._is_closed = True
            self._given_up = JudgeLost(
                FailCode.WORKER_LOST.value,
                f"the worker was restarted {self._restarts.total} times, and again: {why}",
                "Look at the device and its driver.",
            )
            raise self._given_up
        self._child = self._start()

    def _write(self, frame: Frame) -> dict[str, Any]:
        pixels = np.ascontiguousarray(frame.pixels)
        if self._memory is None or len(self._memory) < pixels.nbytes:
            if self._memory is not None:
                self._memory.close()
            os.ftruncate(self._child.memory_fd, pixels.nbytes)
            self._memory = mmap.mmap(self._child.memory_fd, pixels.nbytes)
        self._memory[: pixels.nbytes] = pixels.data.cast("B")
        return {
            "shape": pixels.shape,
            "dtype": pixels.dtype.str,
            "format": frame.format.value,
            "depth": frame.depth,
            "t_mono_ns": frame.t_mono_ns,
            "source_id": frame.source_id,
            "seq": frame.seq,
            "block_id": frame.block_id,
            "trigger_id": frame.trigger_id,
            "part_id": frame.part_id,
            "is_simulated": frame.is_simulated,
        }


def work(control: Connection, memory_fd: int) -> None:
    """The worker process."""
    try:
        judge = control.recv()()
    except EdgeadError as error:
        control.send((error.code, error.message, error.hint))
        return
    except AttributeError as error:
        hint = "Define make_judge in a module that can be imported, not in the script that runs."
        control.send(("WORKER_LOST", f"make_judge cannot be found: {error}.", hint))
        return
    except BaseException as error:
        control.send(("WORKER_LOST", f"make_judge raised {type(error).__name__}: {error}", ""))
        return
    control.send("ready")
    memory: mmap.mmap | None = None
    drift_reference = getattr(judge, "drift_reference", lambda _: None)
    bundle_hash = ""
    while True:
        about = control.recv()
        shape, dtype = about.pop("shape"), np.dtype(about.pop("dtype"))
        size = int(np.prod(shape)) * dtype.itemsize
        if memory is None or len(memory) < size:
            memory = mmap.mmap(memory_fd, size)
        pixels = np.frombuffer(memory, dtype, int(np.prod(shape))).reshape(shape)
        try:
            frame = Frame(pixels, PixelFormat(about.pop("format")), **about)
            detection = judge(frame)
            if not isinstance(detection, Detection):
                control.send(detection)
                continue
            drift = None
            if detection.bundle_hash != bundle_hash:
                bundle_hash = detection.bundle_hash
                drift = bundle_hash, drift_reference(bundle_hash)
            control.send(_Judged(detection, drift))
        except EdgeadError as error:
            control.send((error.code, error.message, error.hint))
        except BaseException as error:  # the frame must be settled whatever happened
            text = f"the judge raised {type(error).__name__}: {error}"
            control.send((FailCode.BACKEND_ERROR.value, text, ""))
        del pixels


def _error_of(answer: Any) -> EdgeadError:
    if isinstance(answer, tuple) and len(answer) == 3:
        return BackendError(*answer)
    text = f"the judge returned {type(answer).__name__}; want edgead.Detection."
    return BackendError(FailCode.BACKEND_ERROR.value, text)


def _ending(code: int | None) -> str:
    if code is None:
        return "still running"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
