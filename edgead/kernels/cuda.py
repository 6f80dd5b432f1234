"""The kernels on CUDA arrays: CuPy, torch, pycuda, or anything with ``__cuda_array_interface__``.

Inputs are float32 or float16 (frames uint8) and C-contiguous; nothing is copied, cast or synchronised behind the
caller's back. A call only launches on a stream: the one given, else the current stream of the library that the
arrays come from. Weight tables go to a device once per size. Results are arrays of the inputs' library, from its
own pool (typed here as what they stand for); where that library has no way to make one, or no allocation is
wanted, the caller gives `out`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from edgead.errors import BackendError
from edgead.kernels import _checks as check
from edgead.kernels._native import native
from edgead.kernels.tables import heatmap_table, resize_table

if TYPE_CHECKING:
    from types import ModuleType

FLOATS = (np.dtype(np.float32), np.dtype(np.float16))


def is_device_array(array: Any) -> bool:
    """Whether an argument lives on a GPU; cheap for NumPy arrays, never imports anything."""
    if isinstance(array, np.ndarray) or array is None:
        return False
    if hasattr(array, "__cuda_array_interface__"):
        return True
    return hasattr(array, "__dlpack_device__") and int(array.__dlpack_device__()[0]) == _DLPACK_CUDA


_DLPACK_CUDA = 2


@dataclass(frozen=True)
class DeviceArray:
    """What the kernels need of a CUDA array; `owner` keeps its memory alive."""

    owner: Any
    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    read_only: bool

    @property
    def contiguous(self) -> bool:
        """Whether it is C-contiguous; a side of one element may have any stride."""
        expected = self.dtype.itemsize
        for side, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if side > 1 and stride != expected:
                return False
            expected *= side
        return True


def _view(name: str, array: Any, letters: str, dtypes: tuple[np.dtype[Any], ...]) -> DeviceArray:
    """Read an array's interface and refuse what the kernels cannot take."""
    expected = (
        f"a CUDA array [{', '.join(letters)}] of {' or '.join(str(dtype) for dtype in dtypes)}"
    )
    if not is_device_array(array):
        raise TypeError(
            f"{name} is a {type(array).__name__} in host memory beside CUDA arrays; expected {expected}. "
            "Move all arguments to one device."
        )
    if not hasattr(array, "__cuda_array_interface__"):
        array = _from_dlpack(name, array, expected)
    interface = array.__cuda_array_interface__
    dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
    strides = interface.get("strides") or _packed_strides(shape, dtype.itemsize)
    pointer, read_only = interface["data"]
    view = DeviceArray(array, int(pointer), shape, dtype, tuple(strides), bool(read_only))
    if dtype not in dtypes:
        raise TypeError(f"{name} is {dtype}; expected {expected}.")
    if len(shape) != len(letters):
        raise ValueError(f"{name} has shape {shape}; expected {expected}.")
    return view


def _packed_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = [itemsize]
    for side in reversed(shape[1:]):
        strides.append(strides[-1] * side)
    return tuple(reversed(strides)) if shape else ()


def _from_dlpack(name: str, array: Any, expected: str) -> Any:
    """Take a DLPack-only array through CuPy or torch, whichever the caller has already imported."""
    for library in ("cupy", "torch"):
        if library in sys.modules:
            return sys.modules[library].from_dlpack(array)
    raise TypeError(
        f"{name} is a {type(array).__name__} that offers DLPack alone; expected {expected}. "
        "Import cupy or torch first, which can take it over."
    )


def _packed(name: str, view: DeviceArray) -> DeviceArray:
    if not view.contiguous:
        raise ValueError(
            f"{name} of shape {view.shape} has strides {view.strides}; expected a C-contiguous CUDA array. "
            "Make it contiguous first: the kernels never copy on a device."
        )
    return view


class _Target(NamedTuple):
    """Where a call runs."""

    module: ModuleType
    device: int
    stream: int


def _target(stream: Any, *views: DeviceArray) -> _Target:
    module = native()
    if module is None or not module.built_with_cuda():
        raise BackendError(
            "KERNELS_NO_CUDA",
            "CUDA arrays were given, but edgead._C was built without CUDA"
            f"{'' if module else ' or EDGEAD_KERNELS=reference forces NumPy'}.",
            "Install edgead where nvcc is on the PATH, or give NumPy arrays.",
        )
    try:
        devices = [module.device_of(view.pointer) for view in views if view.pointer]
    except RuntimeError as error:
        raise BackendError("KERNELS_CUDA", f"CUDA refused a pointer: {error}.") from error
    if len(set(devices)) > 1 or -1 in devices:
        raise ValueError(
            f"the arrays lie on devices {devices} (-1 is host memory); expected one device for all of them."
        )
    return _Target(module, devices[0] if devices else 0, _stream_pointer(stream, views[0].owner))


def _stream_pointer(stream: Any, owner: Any) -> int:
    """The cudaStream_t of what was given, or of the current stream of the arrays' library."""
    if stream is None:
        library = _library(owner)
        if library == "cupy":
            return int(sys.modules["cupy"].cuda.get_current_stream().ptr)
        if library == "torch":
            return int(sys.modules["torch"].cuda.current_stream(owner.device).cuda_stream)
        return int(owner.__cuda_array_interface__.get("stream") or 0)
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for attribute in ("ptr", "cuda_stream", "handle"):  # CuPy, torch, pycuda
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    return check.integer("stream", stream, 0, 2**64 - 1)


def _library(owner: Any) -> str:
    return type(owner).__module__.partition(".")[0]


def _output(
    name: str,
    out: Any,
    owner: Any,
    shape: tuple[int, ...],
    dtype: str,
    inputs: tuple[DeviceArray, ...],
) -> DeviceArray:
    """The caller's output after checks, or a new array of the inputs' library."""
    wanted = (np.dtype(dtype),)
    if out is None:
        return _view(name, _new(name, owner, shape, dtype), "x" * len(shape), wanted)
    view = _packed(name, _view(name, out, "x" * len(shape), wanted))
    if view.shape != shape:
        raise ValueError(f"{name} has shape {view.shape}; expected {shape}.")
    if view.read_only:
        raise ValueError(f"{name} is read-only; expected a writable array.")
    end = view.pointer + int(np.prod(shape)) * view.dtype.itemsize
    for one in inputs:
        if (
            one.pointer < end
            and view.pointer < one.pointer + int(np.prod(one.shape)) * one.dtype.itemsize
        ):
            raise ValueError(f"{name} shares memory with an input; expected an array of its own.")
    return view


def _new(name: str, owner: Any, shape: tuple[int, ...], dtype: str) -> Any:
    library = _library(owner)
    if library == "cupy":
        return sys.modules["cupy"].empty(shape, dtype)
    if library == "torch":
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=owner.device)
    if library == "pycuda":
        return type(owner)(shape, np.dtype(dtype))
    raise TypeError(
        f"{name} cannot be made as a {type(owner).__name__}; expected arrays of CuPy, torch or pycuda, or {name} "
        f"given as out: a CUDA array of {dtype}, shape {shape}."
    )


@lru_cache(maxsize=64)
def _heatmap_tables(device: int, n_in: int, n_out: int, sigma: float) -> tuple[Any, Any, int]:
    table, module = heatmap_table(n_in, n_out, sigma), native()
    assert module is not None
    return (
        module.DeviceTable(table.band, device),
        module.DeviceTable(table.weights, device),
        table.weights.shape[1],
    )


@lru_cache(maxsize=64)
def _resize_tables(device: int, n_in: int, n_out: int) -> tuple[Any, Any, int]:
    table, module = resize_table(n_in, n_out), native()
    assert module is not None
    return (
        module.DeviceTable(table.start, device),
        module.DeviceTable(table.weights, device),
        table.weights.shape[1],
    )


def _same_type(first: str, one: DeviceArray, second: str, other: DeviceArray) -> None:
    if one.dtype != other.dtype:
        raise TypeError(
            f"{first} is {one.dtype} and {second} is {other.dtype}; expected one type for both."
        )


def kmeans_assign(patches: Any, centroids: Any, *, out: Any, stream: Any) -> tuple[Any, Any]:
    """See `edgead.kernels.kmeans_assign`."""
    x = _packed("patches", _view("patches", patches, "ND", FLOATS))
    c = _packed("centroids", _view("centroids", centroids, "KD", FLOATS))
    _same_type("patches", x, "centroids", c)
    check.cluster_shapes(x.shape, c.shape)
    target = _target(stream, x, c)
    given = out if out is not None else (None, None)
    index = _output("index", given[0], x.owner, x.shape[:1], "int32", (x, c))
    distance = _output("distance", given[1], x.owner, x.shape[:1], "float32", (x, c))
    shape = (x.shape[0], c.shape[0], x.shape[1])
    _run(
        target,
        "kmeans_assign_on",
        x.dtype == np.float16,
        x.pointer,
        c.pointer,
        shape,
        index.pointer,
        distance.pointer,
    )
    return index.owner, distance.owner


def topk_neighbours(
    f: Any, g: Any, position: Any, k: int, *, out: Any, stream: Any
) -> npt.NDArray[np.int32]:
    """See `edgead.kernels.topk_neighbours`."""
    one, other = (_packed(n, _view(n, array, "BNC", FLOATS)) for n, array in (("f", f), ("g", g)))
    _same_type("f", one, "g", other)
    views = [one, other]
    if position is not None:
        views.append(_packed("position", _view("position", position, "NN", FLOATS)))
        _same_type("f", one, "position", views[2])
    k = check.node_shapes(
        one.shape, other.shape, views[2].shape if position is not None else None, k
    )
    target = _target(stream, *views)
    index = _output("index", out, one.owner, (*one.shape[:2], k), "int32", tuple(views))
    shape = (*one.shape, k)
    _run(
        target, "topk_neighbours_on", one.dtype == np.float16, one.pointer, other.pointer,
        views[2].pointer if position is not None else 0, shape, index.pointer,
    )  # fmt: skip
    return cast("npt.NDArray[np.int32]", index.owner)


def heatmap(
    anomaly_map: Any,
    size: tuple[int, int],
    sigma: float,
    threshold: float | None,
    *,
    out: Any,
    stream: Any,
) -> tuple[Any, Any, Any]:
    """See `edgead.kernels.heatmap`; `out` may be a map or a (map, peak, mask)."""
    x = _packed("anomaly_map", _view("anomaly_map", anomaly_map, "Bhw", FLOATS))
    check.map_shape(x.shape)
    target = _target(stream, x)
    given = out if isinstance(out, tuple) else (out, None, None)
    smoothed = _output("map", given[0], x.owner, (x.shape[0], *size), "float32", (x,))
    peak = _output("peak", given[1], x.owner, x.shape[:1], "float32", (x,))
    mask = (
        None
        if threshold is None
        else _output("mask", given[2], x.owner, smoothed.shape, "uint8", (x,))
    )
    rows = _heatmap_tables(target.device, x.shape[1], size[0], sigma)
    columns = _heatmap_tables(target.device, x.shape[2], size[1], sigma)
    tables = (rows[0].pointer, rows[1].pointer, columns[0].pointer, columns[1].pointer)
    _run(
        target, "heatmap_on", x.dtype == np.float16, x.pointer, (*x.shape, *size), tables, (rows[2], columns[2]),
        0.0 if threshold is None else threshold, smoothed.pointer, peak.pointer, mask.pointer if mask else 0,
    )  # fmt: skip
    return smoothed.owner, peak.owner, mask.owner if mask else None


def resize(
    frame: Any, size: tuple[int, int], crop: Any, channels: Any, *, out: Any, stream: Any
) -> npt.NDArray[np.uint8]:
    """See `edgead.kernels.resize`."""
    view = _view("frame", frame, "HWC", (np.dtype(np.uint8),))
    check.frame_shape(view.shape)
    height, width, depth = view.shape
    if (width > 1 and view.strides[1] != depth) or (depth > 1 and view.strides[2] != 1):
        raise ValueError(
            f"frame of shape {view.shape} has strides {view.strides}; expected contiguous pixels in each row."
        )
    channels = check.channels(channels, depth)
    x0, y0, x1, y1 = check.crop(crop, height, width)
    target = _target(stream, view)
    resized = _output("out", out, view.owner, (*size, len(channels)), "uint8", (view,))
    rows = _resize_tables(target.device, y1 - y0, size[0])
    columns = _resize_tables(target.device, x1 - x0, size[1])
    tables = (rows[0].pointer, rows[1].pointer, columns[0].pointer, columns[1].pointer)
    corner = view.pointer + y0 * view.strides[0] + x0 * depth
    shape = (y1 - y0, x1 - x0, depth, *size)
    _run(
        target,
        "resize_on",
        corner,
        view.strides[0],
        shape,
        tables,
        (rows[2], columns[2]),
        channels,
        resized.pointer,
    )
    return cast("npt.NDArray[np.uint8]", resized.owner)


def _run(target: _Target, function: str, *arguments: Any) -> None:
    try:
        getattr(target.module, function)(target.device, target.stream, *arguments)
    except RuntimeError as error:
        raise BackendError("KERNELS_CUDA", f"CUDA refused {function}: {error}.") from error
