"""pycuda on the device's primary context, and the few driver calls that pycuda does not have.

The primary context is the one CuPy and torch use; a context of pycuda's own (``autoinit``,
``make_context``) breaks their handles in the same process. It is retained once and kept for the life
of the process: pycuda's ``detach`` of a primary context leaves it on the thread's stack. Every call
pushes it and pops it again, because pycuda ends the process when a thread leaves one behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.backends.trt import device
from edgead.backends.trt.log import says_out_of_memory
from edgead.errors import BackendError

__all__ = [
    "Context",
    "DeviceArray",
    "Graph",
    "HostBuffer",
    "error_of",
    "is_sticky",
    "primary_context",
    "translated",
]

NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1
_LEGACY_STREAM = 1
_DISABLE_TIMING = 2

#: What CUDA says when the context is lost: every later call in the process fails as well.
_STICKY = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "invalid program counter",
    "hardware stack error",
    "unspecified launch failure",
    "launch failed",
    "launch timed out",
    "launch timeout",
    "uncorrectable ecc",
    "ecc uncorrectable",
    "device-side assert",
    "context is destroyed",
    "device unavailable",
    "unknown error",
)


class DeviceArray:
    """Memory on the GPU with a shape: anything that reads ``__cuda_array_interface__`` takes it.

    Attributes:
        shape: Sizes.
        dtype: NumPy dtype.
        pointer: Device address.
    """

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.pointer = pointer
        self.shape = shape
        self.dtype = dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": None,  # the request has been waited for
        }

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, at 0x{self.pointer:x})"


class HostBuffer:
    """Page-locked host memory; mapped memory also has an address on the device."""

    def __init__(self, driver: Any, nbytes: int, *, mapped: bool) -> None:
        flags = driver.host_alloc_flags.DEVICEMAP if mapped else 0
        self.bytes: NDArray[np.uint8] = driver.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
        self._allocation: Any = self.bytes.base
        self.pointer = int(self._allocation.get_device_pointer()) if mapped else 0

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The first bytes as an array."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self.bytes[:nbytes].view(dtype).reshape(shape)

    def free(self) -> None:
        """Give the memory back; views must not be used any more."""
        self._allocation.free()


class Graph:
    """A captured sequence of launches."""

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self._library = library
        self._handle = handle

    def launch(self, stream: int) -> None:
        """Replay on ``stream``."""
        _checked(
            self._library.cuGraphLaunch(self._handle, ctypes.c_void_p(stream)), "cuGraphLaunch"
        )

    def free(self) -> None:
        """Destroy the graph."""
        self._library.cuGraphExecDestroy(self._handle)


class Context:
    """The primary context of one device."""

    def __init__(self, index: int) -> None:
        self.driver = _load_pycuda()
        self.library = device.load_driver()
        with translated():
            self.driver.init()
            self._context = self.driver.Device(index).retain_primary_context()
        # Never destroyed, not at exit either: pycuda's destructor of a primary context calls
        # cuCtxDetach, which is for contexts that somebody made, and is gone from newer drivers.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._context))

    @contextlib.contextmanager
    def active(self) -> Iterator[Any]:
        """Make the context current in this thread for the block; yields ``pycuda.driver``."""
        self._context.push()
        try:
            yield self.driver
        finally:
            self.driver.Context.pop()

    @contextlib.contextmanager
    def capture(self, stream: int) -> Iterator[list[Graph]]:
        """Record what the block enqueues on ``stream`` instead of running it.

        Yields a list that holds the graph after the block. Other threads may go on using CUDA.
        """
        library, handle = self.library, ctypes.c_void_p(stream)
        recorded: list[Graph] = []
        _checked(
            library.cuStreamBeginCapture_v2(handle, _CAPTURE_THREAD_LOCAL), "cuStreamBeginCapture"
        )
        graph = ctypes.c_void_p()
        try:
            yield recorded
        finally:
            # Ends the capture also after an error: the stream could not be used otherwise.
            status = library.cuStreamEndCapture(handle, ctypes.byref(graph))
        _checked(status, "cuStreamEndCapture")
        executable = ctypes.c_void_p()
        status = library.cuGraphInstantiateWithFlags(
            ctypes.byref(executable), graph, ctypes.c_ulonglong(0)
        )
        library.cuGraphDestroy(graph)
        _checked(status, "cuGraphInstantiate")
        recorded.append(Graph(library, executable))

    def order_after(self, stream: int, other: int) -> None:
        """Let ``stream`` wait for what has been enqueued on ``other`` so far, without the CPU."""
        event = ctypes.c_void_p()
        library = self.library
        _checked(library.cuEventCreate(ctypes.byref(event), _DISABLE_TIMING), "cuEventCreate")
        try:
            _checked(library.cuEventRecord(event, ctypes.c_void_p(other)), "cuEventRecord")
            _checked(
                library.cuStreamWaitEvent(ctypes.c_void_p(stream), event, 0), "cuStreamWaitEvent"
            )
        finally:
            library.cuEventDestroy_v2(event)

    def order_after_array(self, stream: int, interface: dict[str, Any]) -> None:
        """Let ``stream`` wait for the producer of a ``__cuda_array_interface__``.

        Version 3 names the producer's stream, None when there is nothing to wait for. Older versions
        (torch) name none: then the legacy default stream is waited for, torch's own default.
        """
        if int(interface.get("version", 2)) >= 3:
            other = interface.get("stream")
            if other is None:
                return
        else:
            other = _LEGACY_STREAM
        self.order_after(stream, int(other))


_contexts: dict[int, Context] = {}
_contexts_lock = threading.Lock()


def primary_context(index: int) -> Context:
    """The process's one `Context` of a device.

    Raises:
        BackendError: PROVIDER when pycuda is missing, PROVIDER_BROKEN when it cannot be loaded.
    """
    with _contexts_lock:
        if index not in _contexts:
            _contexts[index] = Context(index)
        return _contexts[index]


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn errors of CUDA into BackendError: DEVICE_OOM, DEVICE_LOST (sticky) or BACKEND_ERROR."""
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        module = type(error).__module__
        if not (module.startswith("pycuda") or isinstance(error, MemoryError)):
            raise
        raise error_of(str(error)) from error


def error_of(text: str) -> BackendError:
    """The error for what CUDA or TensorRT said."""
    lowered = text.lower()
    if says_out_of_memory(lowered):
        return BackendError("DEVICE_OOM", f"the GPU has no memory left: {text}.")
    if is_sticky(lowered):
        return BackendError(
            "DEVICE_LOST",
            f"the GPU's context is lost: {text}.",
            "Restart the process; nothing in it can use the GPU any more.",
        )
    return BackendError("BACKEND_ERROR", f"{text}.")


def is_sticky(text: str) -> bool:
    """True for what CUDA says when the context is lost."""
    lowered = text.lower()
    return any(word in lowered for word in _STICKY)


def _checked(status: int, call: str) -> None:
    if status == 0:
        return
    if status == 2:
        raise BackendError("DEVICE_OOM", f"the GPU has no memory left: {call} failed.")
    name = ctypes.c_char_p()
    library = device.load_driver()
    known = library is not None and library.cuGetErrorString(status, ctypes.byref(name)) == 0
    said = (name.value or b"").decode(errors="replace") if known else f"error {status}"
    raise error_of(f"{call} failed: {said}")


def _load_pycuda() -> Any:
    try:
        import pycuda.driver as driver
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "pycuda":
            raise BackendError(
                "PROVIDER",
                "the TensorRT back ends need pycuda, which is not installed.",
                "On a Jetson: pip install 'edgead[jetson]'; on a PC: pip install "
                "'edgead[tensorrt-cu13]'. It is built from source beside the CUDA toolkit.",
            ) from error
        raise _pycuda_broken(error) from error
    except Exception as error:
        raise _pycuda_broken(error) from error
    return driver


def _pycuda_broken(error: Exception) -> BackendError:
    return BackendError(
        "PROVIDER_BROKEN",
        f"pycuda is installed and cannot be loaded: {error}.",
        "Build it against the CUDA and NumPy of this environment: "
        "pip install --no-cache-dir --force-reinstall --no-binary pycuda pycuda.",
    )
