"""A CUDA driver and a pycuda on it, in Python: work is enqueued and runs when a stream is waited for.

Held to pycuda 2026.1: the names used are pycuda's, calls need a current context, threads must leave none
behind, scalars go in as numbers. What is not copied: overlap, speed, and CUDA's own checks of addresses.
"""

from __future__ import annotations

import enum
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np

ORIN = {
    "name": "Orin",
    "arch": (8, 7),
    "multiprocessors": 16,
    "memory": 62 * 2**30,
    "integrated": 1,
}
RTX3080 = {"name": "NVIDIA GeForce RTX 3080", "arch": (8, 6), "multiprocessors": 68,
           "memory": 10 * 2**30, "integrated": 0}  # fmt: skip
ILLEGAL_ADDRESS = "an illegal memory access was encountered"


class Error(Exception):
    """pycuda.driver.Error."""


class LogicError(Error):
    """pycuda.driver.LogicError."""


class OutOfMemory(Error, MemoryError):
    """pycuda.driver.MemoryError."""


for _class in (Error, LogicError, OutOfMemory):
    _class.__module__ = "pycuda._driver"


class EventFlags(enum.IntFlag):
    DEFAULT = 0
    BLOCKING_SYNC = 1
    DISABLE_TIMING = 2


class FakeCuda:
    """One machine's driver; ``library`` is libcuda, ``driver`` is pycuda.driver.

    Attributes:
        fail: Call name -> status or message; a matching call fails once for each entry in the list.
        log: Names of calls in order.
        memory: Device address -> host bytes behind it.
    """

    def __init__(self, *gpus: dict[str, Any], init: int = 0, version: int = 12060) -> None:
        self.gpus, self.init_status, self.version = gpus, init, version
        self.fail: dict[str, list[str]] = {}
        self.log: list[str] = []
        self.memory: dict[int, np.ndarray] = {}
        self.pending_polls = 0
        self.streams: dict[int, FakeStream] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.sticky = ""
        self._next = 0x7F0000000000
        self._current = threading.local()
        self.library = self._library()
        self.driver = self._pycuda()

    # -- state ---------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Contexts that this thread has pushed and not popped."""
        return getattr(self._current, "depth", 0)

    def call(self, name: str) -> None:
        """Note a call that needs a context, and fail it if so arranged."""
        self.log.append(name)
        if self.depth == 0:
            raise LogicError(f"{name} failed: invalid device context")
        if self.sticky:
            raise LogicError(f"{name} failed: {self.sticky}")
        planned = self.fail.get(name)
        if planned:
            message = planned.pop(0)
            if "memory" in message and "illegal" not in message:
                raise OutOfMemory(f"{name} failed: {message}")
            if message == ILLEGAL_ADDRESS:
                self.sticky = message
            raise LogicError(f"{name} failed: {message}")

    def allocate(self, nbytes: int) -> int:
        """A device address, 256-byte aligned."""
        address = self._next
        self._next += (nbytes + 511) // 256 * 256
        self.memory[address] = np.full(nbytes, 0xAB, np.uint8)  # never zero: it was not written
        return address

    def at(self, address: int, nbytes: int) -> np.ndarray:
        """The bytes behind an address."""
        for start, data in self.memory.items():
            if start <= address and address + nbytes <= start + data.nbytes:
                return data[address - start : address - start + nbytes]
        raise LogicError(f"no device memory at 0x{address:x}")

    def enqueue(self, handle: int, work: Callable[[], None]) -> None:
        """Put work on a stream."""
        self.streams[handle].add(work)

    # -- pycuda --------------------------------------------------------------------------------

    def _pycuda(self) -> types.ModuleType:
        module = types.ModuleType("pycuda.driver")
        module.Error, module.LogicError, module.MemoryError = Error, LogicError, OutOfMemory
        module.event_flags = EventFlags
        module.host_alloc_flags = types.SimpleNamespace(PORTABLE=1, DEVICEMAP=2, WRITECOMBINED=4)
        module.init = lambda flags=0: None
        module.Device = lambda index: FakeDevice(self, index)
        module.Context = types.SimpleNamespace(pop=self._pop)
        module.Stream = lambda flags=0: FakeStream(self, flags)
        module.Event = lambda flags=0: FakeEvent(self, flags)
        module.mem_alloc = lambda nbytes: FakeAllocation(self, nbytes)
        module.mem_get_info = lambda: (1 << 30, 4 << 30)
        module.pagelocked_empty = self._pagelocked
        module.memcpy_htod = self._htod_now
        module.memcpy_htod_async = self._htod
        module.memcpy_dtoh_async = self._dtoh
        module.memcpy_dtod_async = self._dtod
        return module

    def _pop(self) -> None:
        assert self.depth > 0, "pop without push"
        self._current.depth -= 1

    def push(self) -> None:
        self._current.depth = self.depth + 1

    def _pagelocked(self, shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        self.call("cuMemHostAlloc")
        return FakeHost(self, int(shape) * np.dtype(dtype).itemsize, mem_flags).array

    def _htod(self, address: int, source: np.ndarray, stream: FakeStream) -> None:
        self.call("cuMemcpyHtoDAsync")
        raw = source.reshape(-1).view(np.uint8)
        stream.add(lambda: self._copy(self.at(int(address), raw.nbytes), raw))

    def _htod_now(self, address: int, source: np.ndarray) -> None:
        self.call("cuMemcpyHtoD")
        self._copy(self.at(int(address), source.nbytes), source.reshape(-1).view(np.uint8))

    def _dtoh(self, target: np.ndarray, address: int, stream: FakeStream) -> None:
        self.call("cuMemcpyDtoHAsync")
        raw = target.reshape(-1).view(np.uint8)
        stream.add(lambda: self._copy(raw, self.at(int(address), raw.nbytes)))

    def _dtod(self, target: int, source: int, nbytes: int, stream: FakeStream) -> None:
        self.call("cuMemcpyDtoDAsync")
        stream.add(lambda: self._copy(self.at(target, nbytes), self.at(source, nbytes)))

    @staticmethod
    def _copy(target: np.ndarray, source: np.ndarray) -> None:
        target[:] = source

    # -- libcuda -------------------------------------------------------------------------------

    def _library(self) -> Any:
        names = [name for name in dir(self) if name.startswith("lib_")]
        return types.SimpleNamespace(**{name[4:]: getattr(self, name) for name in names})

    def lib_cuInit(self, flags: int) -> int:
        self.log.append("cuInit")
        return self.init_status

    def lib_cuDriverGetVersion(self, out: Any) -> int:
        out._obj.value = self.version
        return 0

    def lib_cuDeviceGetCount(self, out: Any) -> int:
        out._obj.value = len(self.gpus)
        return 0

    def lib_cuDeviceGet(self, out: Any, index: int) -> int:
        out._obj.value = index
        return 0

    def lib_cuDeviceGetName(self, buffer: Any, size: int, index: Any) -> int:
        buffer.value = self.gpus[index.value]["name"].encode()
        return 0

    def lib_cuDeviceTotalMem_v2(self, out: Any, index: Any) -> int:
        out._obj.value = self.gpus[index.value]["memory"]
        return 0

    def lib_cuDeviceGetAttribute(self, out: Any, attribute: int, index: Any) -> int:
        gpu = self.gpus[index.value]
        out._obj.value = {16: gpu["multiprocessors"], 18: gpu["integrated"], 75: gpu["arch"][0],
                          76: gpu["arch"][1]}[attribute]  # fmt: skip
        return 0

    def lib_cuGetErrorString(self, status: int, out: Any) -> int:
        out._obj.value = {700: ILLEGAL_ADDRESS.encode(), 900: b"operation not permitted when stream is capturing",
                          }.get(status, b"error")  # fmt: skip
        return 0

    def _status(self, name: str) -> int:
        self.log.append(name)
        planned = self.fail.get(name)
        return int(planned.pop(0)) if planned else 0

    def lib_cuStreamBeginCapture_v2(self, stream: Any, mode: int) -> int:
        assert mode == 1, "only a thread-local capture leaves other threads alone"
        self.streams[stream.value].captured = []
        return self._status("cuStreamBeginCapture")

    def lib_cuStreamEndCapture(self, stream: Any, out: Any) -> int:
        status = self._status("cuStreamEndCapture")
        fake = self.streams[stream.value]
        out._obj.value = self._next = self._next + 256
        self.graphs[self._next] = fake.captured or []
        fake.captured = None
        return status

    def lib_cuGraphInstantiateWithFlags(self, out: Any, graph: Any, flags: Any) -> int:
        out._obj.value = graph.value
        return self._status("cuGraphInstantiate")

    def lib_cuGraphDestroy(self, graph: Any) -> int:
        return 0

    def lib_cuGraphExecDestroy(self, graph: Any) -> int:
        del self.graphs[graph.value]
        return 0

    def lib_cuGraphLaunch(self, graph: Any, stream: Any) -> int:
        for work in self.graphs[graph.value]:
            self.streams[stream.value].add(work)
        return self._status("cuGraphLaunch")

    def lib_cuEventCreate(self, out: Any, flags: int) -> int:
        out._obj.value = 1
        return 0

    def lib_cuEventRecord(self, event: Any, stream: Any) -> int:
        self.log.append(f"record on {stream.value}")
        return 0

    def lib_cuStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> int:
        self.log.append("cuStreamWaitEvent")
        return 0

    def lib_cuEventDestroy_v2(self, event: Any) -> int:
        return 0


class FakeDevice:
    def __init__(self, cuda: FakeCuda, index: int) -> None:
        self.cuda = cuda

    def retain_primary_context(self) -> Any:
        self.cuda.log.append("cuDevicePrimaryCtxRetain")
        return types.SimpleNamespace(push=self.cuda.push)


class FakeAllocation:
    def __init__(self, cuda: FakeCuda, nbytes: int) -> None:
        cuda.call("cuMemAlloc")
        self.cuda, self.address = cuda, cuda.allocate(nbytes)

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.cuda.call("cuMemFree")
        del self.cuda.memory[self.address]


class FakeHost:
    """Page-locked memory; its array's base gives the device address, as pycuda's does."""

    class Array(np.ndarray):
        base_holder: Any = None

        @property
        def base(self) -> Any:
            return self.base_holder

    def __init__(self, cuda: FakeCuda, nbytes: int, flags: int) -> None:
        self.cuda, self.flags = cuda, flags
        self.address = cuda.allocate(nbytes) if flags & 2 else 0
        data = cuda.memory[self.address] if flags & 2 else np.full(nbytes, 0xCD, np.uint8)
        self.array = data.view(FakeHost.Array)
        self.array.base_holder = self

    def get_device_pointer(self) -> int:
        assert self.flags & 2, "not mapped"
        return self.address

    def free(self) -> None:
        self.cuda.call("cuMemFreeHost")
        self.cuda.memory.pop(self.address, None)


class FakeStream:
    def __init__(self, cuda: FakeCuda, flags: int) -> None:
        cuda.call("cuStreamCreate")
        assert flags == 1, "a blocking stream waits for the legacy default stream"
        self.cuda, self.queue = cuda, []
        self.captured: list[Callable[[], None]] | None = None
        self.handle = 0x1000 + len(cuda.streams)
        cuda.streams[self.handle] = self

    def add(self, work: Callable[[], None]) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def drain(self) -> None:
        queue, self.queue = self.queue, []
        for work in queue:
            work()

    def synchronize(self) -> None:
        self.cuda.call("cuStreamSynchronize")
        self.drain()


class FakeEvent:
    def __init__(self, cuda: FakeCuda, flags: int) -> None:
        cuda.call("cuEventCreate")
        assert int(flags) & 1, "waiting must not spin"
        self.cuda, self.flags, self.stream = cuda, int(flags), None

    def record(self, stream: FakeStream) -> FakeEvent:
        self.cuda.call("cuEventRecord")
        self.stream = stream
        return self

    def synchronize(self) -> FakeEvent:
        self.cuda.call("cuEventSynchronize")
        self.stream.drain()
        return self

    def query(self) -> bool:
        self.cuda.call("cuEventQuery")
        if self.cuda.pending_polls > 0:
            self.cuda.pending_polls -= 1
            return False
        self.stream.drain()
        return True

    def time_till(self, later: FakeEvent) -> float:
        assert not (self.flags | later.flags) & 2, "timing is off for these events"
        return 0.25
