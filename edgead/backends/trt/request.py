"""One inference in flight: buffers, stream, graph."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgead.backends.base import Array, TensorSpec
from edgead.backends.trt.cuda import (
    NON_BLOCKING,
    DeviceArray,
    Graph,
    HostBuffer,
    error_of,
    is_sticky,
    translated,
)
from edgead.errors import BackendError

if TYPE_CHECKING:
    from edgead.backends.trt.run import TrtBackend

__all__ = ["TrtRequest"]

_POLL_S = 0.0002
#: Bytes; the documentation of IExecutionContext::setTensorAddress asks for it.
_ALIGNMENT = 256


class _Slot:
    """Memory of one tensor: where the engine reads or writes it, and its host side."""

    def __init__(self, driver: Any, spec: TensorSpec, batch: int, *, mapped: bool) -> None:
        self.spec = spec
        self.dtype = np.dtype(spec.dtype)
        self.row_shape = spec.shape[1:]
        self.is_free = bool(spec.shape) and spec.shape[0] == -1
        nbytes = int(np.prod(self.shape(batch), dtype=np.int64)) * self.dtype.itemsize
        self.host = HostBuffer(driver, max(nbytes, 1), mapped=mapped)
        allocated = None if mapped else driver.mem_alloc(max(nbytes, 1))
        self._device = allocated
        self.pointer = self.host.pointer if allocated is None else int(allocated)
        self.is_mapped = mapped

    def shape(self, batch: int) -> tuple[int, ...]:
        """Sizes for a batch."""
        return (batch, *self.row_shape) if self.is_free else self.spec.shape

    def view(self, batch: int) -> NDArray[Any]:
        """The host side for a batch."""
        return self.host.view(self.shape(batch), self.dtype)

    def free(self) -> None:
        """Give both sides back."""
        if self._device is not None:
            self._device.free()
        self.host.free()


class TrtRequest:
    """See `edgead.backends.base.Request`; made by `TrtBackend.open_request`.

    Feeds may be NumPy arrays, which are copied at `start`, or arrays with
    ``__cuda_array_interface__``, which the engine reads where they are.

    Attributes:
        stream: Handle of the request's CUDA stream.
        timings_ms: copy_in, compute and copy_out of the last inference; empty unless the back end
            was opened with ``timing``.
        has_graph: True when the last inference replayed a captured graph.
    """

    def __init__(
        self, backend: TrtBackend, execution: Any, *, asks_capturable: bool, device_io: bool
    ) -> None:
        self._pid = os.getpid()
        self._backend = backend
        self._execution = execution
        self._options = backend.options
        self._batch = self._largest = self._options.batch[2]
        self._asks_capturable = asks_capturable
        self._device_io = device_io
        self._may_capture = self._options.cuda_graph
        self._graph: Graph | None = None
        self._bound: tuple[int, ...] | None = None
        self._in_flight = self._to_host = False
        self._kept: list[Array] = []
        self.has_graph = False
        self.timings_ms: dict[str, float] = {}
        maps = backend.maps_memory and not device_io
        with backend.context.active() as driver, self.guarded():
            self._stream = driver.Stream(NON_BLOCKING)
            self.stream = int(self._stream.handle)
            self._marks = [driver.Event(self._event_flags(driver)) for _ in range(4)]
            self._inputs = {
                name: _Slot(driver, spec, self._largest, mapped=maps)
                for name, spec in backend.inputs.items()
            }
            self._outputs = {
                name: _Slot(driver, spec, self._largest, mapped=maps)
                for name, spec in backend.outputs.items()
            }

    def start(self, feeds: Mapping[str, Array]) -> None:
        """Enqueue copy in and compute; returns at once.

        Raises:
            BackendError: FEED for wrong names, shapes or types, BUSY before `wait` has returned,
                CLOSED, DEVICE_LOST, DEVICE_OOM, BACKEND_ERROR.
        """
        self._launch(feeds, to_host=not self._device_io)

    def wait(self, timeout_s: float | None = None) -> Mapping[str, Array]:
        """The outputs, valid until the next `start`: NumPy views of page-locked memory, or
        `DeviceArray` objects of a request that was opened with ``device_io``.

        Raises:
            BackendError: NOT_STARTED, INFER_TIMEOUT (the inference goes on: wait again),
                DEVICE_LOST, BACKEND_ERROR.
        """
        self._finish(timeout_s)
        if self._to_host:
            return {name: slot.view(self._batch) for name, slot in self._outputs.items()}
        return self.output_arrays()

    @property
    def pycuda_stream(self) -> Any:
        """The request's stream as pycuda takes it."""
        return self._stream

    def input_array(self, name: str, *, batch: int = 1) -> DeviceArray:
        """The request's own memory of an input: a kernel on `stream` may write it before `start`."""
        slot = self._inputs[name]
        return DeviceArray(slot.pointer, slot.shape(batch), slot.dtype)

    def output_arrays(self) -> dict[str, DeviceArray]:
        """The outputs where the engine writes them: a kernel on `stream` may read them after `start`,
        without waiting.
        """
        return {
            name: DeviceArray(slot.pointer, slot.shape(self._batch), slot.dtype)
            for name, slot in self._outputs.items()
        }

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, NDArray[np.generic]]:
        """`start`, `wait` and copy out: the arrays belong to the caller."""
        self._launch(feeds, to_host=True)
        self._finish(None)
        return {name: slot.view(self._batch).copy() for name, slot in self._outputs.items()}

    def read(self, name: str) -> NDArray[np.generic]:
        """Copy one output of the last inference to the host; the array belongs to the caller.

        Raises:
            BackendError: BUSY before `wait` has returned; CLOSED, DEVICE_LOST, BACKEND_ERROR.
        """
        self._check_idle()
        slot = self._outputs[name]
        view = slot.view(self._batch)
        if not (slot.is_mapped or self._to_host):
            with self._backend.context.active() as driver, self.guarded():
                driver.memcpy_dtoh_async(view, slot.pointer, self._stream)
                self._stream.synchronize()
        return np.array(view)

    def warm_up(self) -> None:
        """Run on zeros: memory is claimed and touched now, and the launches are captured."""
        feeds = {
            name: np.zeros(slot.shape(self._largest), slot.dtype)
            for name, slot in self._inputs.items()
        }
        for _ in range(2):
            self.infer(feeds)

    def __del__(self) -> None:
        """Free what a request that was dropped, say after a failed frame, holds on the GPU."""
        if getattr(self, "_execution", None) is None or os.getpid() != self._pid:
            return
        with contextlib.suppress(Exception), self._backend.context.active():
            self.close()

    def close(self) -> None:
        """Free stream, graphs and buffers. The context must be current; safe to call twice."""
        if self._execution is None:
            return
        with contextlib.suppress(Exception):  # a lost device frees nothing, and needs nothing freed
            self._stream.synchronize()
        self._execution = None
        self._drop_graph()
        for slot in (*self._inputs.values(), *self._outputs.values()):
            with contextlib.suppress(Exception):
                slot.free()
        del self._marks, self._stream

    def _launch(self, feeds: Mapping[str, Array], *, to_host: bool) -> None:
        self._check_idle()
        batch = self._checked_batch(feeds)
        with self._backend.context.active() as driver, self.guarded():
            self._marks[0].record(self._stream)
            addresses = tuple(
                self._bring(driver, slot, feeds[name], batch) for name, slot in self._inputs.items()
            )
            self._marks[1].record(self._stream)
            self._compute(addresses, batch)
            self._marks[2].record(self._stream)
            if to_host:
                for slot in self._outputs.values():
                    if not slot.is_mapped:
                        driver.memcpy_dtoh_async(slot.view(batch), slot.pointer, self._stream)
            self._marks[3].record(self._stream)
        # The engine reads GPU feeds where they are: they must live until it has.
        self._kept = list(feeds.values())
        self._batch, self._in_flight, self._to_host = batch, True, to_host

    def _bring(self, driver: Any, slot: _Slot, feed: Array, batch: int) -> int:
        """Address at which the engine finds the feed."""
        interface = getattr(feed, "__cuda_array_interface__", None)
        view = slot.view(batch)
        if interface is not None:
            self._backend.context.order_after_array(self.stream, interface)
            address = int(interface["data"][0])
            if address % _ALIGNMENT == 0:
                return address
            # A region of a larger frame, say: TensorRT asks for aligned addresses.
            driver.memcpy_dtod_async(slot.pointer, address, view.nbytes, self._stream)
            return slot.pointer
        np.copyto(view, feed, casting="no")
        if not slot.is_mapped:
            driver.memcpy_htod_async(slot.pointer, view, self._stream)
        return slot.pointer

    def _compute(self, addresses: tuple[int, ...], batch: int) -> None:
        """Replay the graph of these addresses, or enqueue; the second time in a row is captured.

        TensorRT must have been enqueued once for a shape before it can be captured, and a graph is
        good for the state of the execution context that it was captured in: new addresses or another
        batch end it.
        """
        key = (batch, *addresses)
        if key != self._bound:
            self._drop_graph()
            self._bound = None
            self._bind(addresses, batch)
            self._enqueue()
            self._bound = key
        elif self._graph is not None:
            self._graph.launch(self.stream)
        elif self._may_capture:
            self._capture()
        else:
            self._enqueue()
        self.has_graph = self._graph is not None

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.free()
            self._graph = None

    def _bind(self, addresses: tuple[int, ...], batch: int) -> None:
        for (name, slot), address in zip(self._inputs.items(), addresses, strict=True):
            done = self._execution.set_tensor_address(name, address)
            if slot.is_free:
                done = done and self._execution.set_input_shape(name, slot.shape(batch))
            if not done:
                raise self._failed(f"did not take input {name} of shape {slot.shape(batch)}")
        for name, slot in self._outputs.items():
            if not self._execution.set_tensor_address(name, slot.pointer):
                raise self._failed(f"did not take the memory of output {name}")

    def _enqueue(self) -> None:
        if not self._execution.execute_async_v3(self.stream):
            raise self._failed("could not be started")

    def _capture(self) -> None:
        """Capture and replay; an engine that cannot be captured is enqueued, now and later."""
        if self._asks_capturable and not self._execution.is_stream_capturable(self.stream):
            self._may_capture = False
            self._enqueue()
            return
        try:
            with self._backend.context.capture(self.stream) as recorded:
                self._enqueue()
        except BackendError as error:
            if error.code != "BACKEND_ERROR":
                raise
            self._may_capture = False
            self._enqueue()
            return
        self._graph = recorded[0]
        self._graph.launch(self.stream)

    def _finish(self, timeout_s: float | None) -> None:
        self._backend.check_usable()
        if not self._in_flight:
            raise BackendError("NOT_STARTED", "wait() before start().", "Call start() first.")
        last = self._marks[3]
        with self._backend.context.active(), self.guarded():
            if timeout_s is None:
                last.synchronize()
            else:
                deadline = time.monotonic() + timeout_s
                while not last.query():
                    if time.monotonic() > deadline:
                        raise BackendError(
                            "INFER_TIMEOUT",
                            f"inference took longer than {timeout_s * 1000:.0f} ms.",
                        )
                    time.sleep(_POLL_S)
            if self._options.timing:
                names = ("copy_in", "compute", "copy_out")
                pairs = zip(names, self._marks[:-1], self._marks[1:], strict=True)
                self.timings_ms = {name: first.time_till(second) for name, first, second in pairs}
        self._in_flight = False
        self._kept = []

    def _checked_batch(self, feeds: Mapping[str, Array]) -> int:
        if set(feeds) != set(self._inputs):
            raise BackendError(
                "FEED",
                f"feeds are {sorted(feeds)}; the engine's inputs are {sorted(self._inputs)}.",
            )
        described = {name: _shape_and_type(feed, name) for name, feed in feeds.items()}
        offered = [described[name][0][:1] for name, slot in self._inputs.items() if slot.is_free]
        batch = offered[0][0] if offered and offered[0] else self._largest
        smallest = self._options.batch[0]
        batch = min(max(batch, smallest), self._largest)
        for name, slot in self._inputs.items():
            shape, dtype = described[name]
            wanted = slot.shape(batch)
            if shape != wanted or dtype != slot.dtype:
                raise BackendError(
                    "FEED",
                    f"input {name} is {dtype} {shape}; the engine takes {slot.dtype} {wanted}.",
                )
        return batch

    def _check_idle(self) -> None:
        self._backend.check_usable()
        if self._execution is None:
            raise BackendError("CLOSED", "this request is closed.", "Open a new one.")
        if self._in_flight:
            raise BackendError(
                "BUSY", "the inference before has not been waited for.", "wait() first."
            )

    def _event_flags(self, driver: Any) -> int:
        flags = driver.event_flags
        return int(flags.BLOCKING_SYNC if self._options.timing else
                   flags.BLOCKING_SYNC | flags.DISABLE_TIMING)  # fmt: skip

    def _failed(self, what: str) -> BackendError:
        """The library returned False: its log says why, and a lost device is one of the reasons."""
        backend = self._backend
        return error_of(f"{backend.name} {backend.version} {what}: {backend.reason()}")

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Translate CUDA's errors, and remember a lost device: nothing is retried on it."""
        try:
            with translated():
                yield
        except BackendError as error:
            # The kernels' own errors carry CUDA's words under another code.
            if error.code == "DEVICE_LOST" or is_sticky(error.message):
                self._backend.is_lost = True
            raise


def _shape_and_type(feed: Array, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    interface = getattr(feed, "__cuda_array_interface__", None)
    if interface is None:
        if not isinstance(feed, np.ndarray):
            raise BackendError(
                "FEED",
                f"input {name} is a {type(feed).__name__}; it must be a NumPy array or have "
                "__cuda_array_interface__.",
            )
        return feed.shape, feed.dtype
    shape = tuple(int(n) for n in interface["shape"])
    dtype = np.dtype(interface["typestr"])
    strides = interface.get("strides")
    packed = tuple(np.cumprod((dtype.itemsize, *shape[:0:-1]))[::-1].tolist())
    if strides is not None and tuple(strides) != packed:
        raise BackendError(
            "FEED", f"input {name} on the GPU has strides {strides}, not packed ones."
        )
    return shape, dtype
