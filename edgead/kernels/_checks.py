"""Argument checks of the kernels: every refusal names what was given, what was expected and what to do."""

from __future__ import annotations

import math
import operator
from typing import Any, NoReturn, cast

import numpy as np
import numpy.typing as npt

MAX_SIDE = 1 << 16
"""Longest side of a frame or map: keeps resize's integer weights far inside 64 bits."""


def floats(name: str, array: Any, letters: str) -> npt.NDArray[np.float32]:
    """A float32 array of rank len(letters), C-contiguous; strided input is copied, other types are refused."""
    shaped(name, array, letters)
    if array.dtype != np.float32:
        hint = " float16 is for CUDA arrays." if array.dtype == np.float16 else ""
        raise TypeError(
            f"{name} is {array.dtype}; expected float32.{hint} Convert it with {name}.astype(numpy.float32)."
        )
    return np.ascontiguousarray(array)


def shaped(name: str, array: Any, letters: str) -> None:
    """Refuse what is no NumPy array or has another rank than len(letters)."""
    if isinstance(array, np.ndarray) and array.ndim == len(letters):
        return
    expected = f"[{', '.join(letters)}]"
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is a {type(array).__name__}; expected a NumPy array {expected}.")
    if array.ndim != len(letters):
        raise ValueError(f"{name} has shape {array.shape}; expected {expected}.")


def integer(name: str, value: Any, low: int, high: int) -> int:
    """An integer in [low, high]; bool and float are refused."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}; expected an integer from {low} to {high}.")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected an integer from {low} to {high}.") from None
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}; expected an integer from {low} to {high}.")
    return number


def threads(value: Any) -> int:
    """A thread count; 0 stands for every CPU that this process may use."""
    return integer("threads", value, 0, 4096)


def size(value: Any) -> tuple[int, int]:
    """(height, width), both from 1 to MAX_SIDE."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"size is {value!r}; expected (height, width).")
    return integer("size[0]", value[0], 1, MAX_SIDE), integer("size[1]", value[1], 1, MAX_SIDE)


def crop(value: Any, height: int, width: int) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1), not empty and inside the frame; None is the whole frame."""
    if value is None:
        return 0, 0, width, height
    if not isinstance(value, (tuple, list)) or len(value) != 4:
        raise ValueError(f"crop is {value!r}; expected (x0, y0, x1, y1).")
    x0, x1 = integer("crop[0]", value[0], 0, width - 1), integer("crop[2]", value[2], 1, width)
    y0, y1 = integer("crop[1]", value[1], 0, height - 1), integer("crop[3]", value[3], 1, height)
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"crop is {value!r}; expected x0 < x1 and y0 < y1.")
    return x0, y0, x1, y1


def channels(value: Any, depth: int) -> tuple[int, ...]:
    """One to four source channels, each below depth; None keeps all."""
    if value is None:
        return tuple(range(depth))
    if not isinstance(value, (tuple, list)) or not 1 <= len(value) <= 4:
        raise ValueError(f"channels is {value!r}; expected 1 to 4 indices of source channels.")
    return tuple(
        integer(f"channels[{i}]", channel, 0, depth - 1) for i, channel in enumerate(value)
    )


def non_negative(name: str, value: Any, high: float) -> float:
    """A finite number in [0, high]."""
    number = real(name, value)
    if not 0 <= number <= high:
        raise ValueError(f"{name} is {value!r}; expected a number from 0 to {high:g}.")
    return number


def real(name: str, value: Any) -> float:
    """A number that is not NaN."""
    if isinstance(value, (bool, str, bytes)):
        raise TypeError(f"{name} is {value!r}; expected a number.")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; expected a number.") from None
    if math.isnan(number):
        raise ValueError(f"{name} is NaN; expected a number.")
    return number


def output(out: Any, shape: tuple[int, ...], dtype: Any, inputs: tuple[Any, ...]) -> Any:
    """A fresh array, or the caller's `out` when it has the right shape and type and overlaps no input."""
    if out is None:
        return np.empty(shape, dtype)
    fits = (
        isinstance(out, np.ndarray)
        and out.dtype == dtype
        and out.shape == shape
        and out.flags.c_contiguous
        and out.flags.writeable
    )
    if not fits:
        _refuse_output(out, shape, dtype)
    if any(isinstance(array, np.ndarray) and np.may_share_memory(out, array) for array in inputs):
        raise ValueError("out shares memory with an input; expected an array of its own.")
    return out


def _refuse_output(out: Any, shape: tuple[int, ...], dtype: Any) -> NoReturn:
    """Say which of its properties makes `out` unfit; the text is made only here, not at every frame."""
    wanted = f"a writable C-contiguous {np.dtype(dtype)} array of shape {shape}"
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out is a {type(out).__name__}; expected {wanted}.")
    if out.dtype != dtype:
        raise TypeError(f"out is {out.dtype}; expected {wanted}.")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}; expected {wanted}.")
    raise ValueError(f"out is read-only or not C-contiguous; expected {wanted}.")


def cluster_shapes(patches: tuple[int, ...], centroids: tuple[int, ...]) -> None:
    """[N, D] and [K, D] that agree in D, with K >= 1."""
    if patches[1] != centroids[1]:
        raise ValueError(
            f"patches {patches} and centroids {centroids} disagree in D; expected [N, D] and [K, D]."
        )
    if centroids[0] == 0:
        raise ValueError(f"centroids has shape {centroids}; expected [K, D] with K >= 1.")


def node_shapes(
    f: tuple[int, ...], g: tuple[int, ...], position: tuple[int, ...] | None, k: Any
) -> int:
    """[B, N, C] twice and [N, N], and k from 1 to N, which is returned."""
    nodes = f[1]
    if f != g:
        raise ValueError(f"f {f} and g {g} differ; expected both [B, N, C].")
    if nodes == 0:
        raise ValueError(f"f has shape {f}; expected [B, N, C] with N >= 1.")
    if position is not None and position != (nodes, nodes):
        raise ValueError(
            f"position has shape {position}; expected [N, N] = {(nodes, nodes)} for f {f}."
        )
    return integer("k", k, 1, nodes)


def map_shape(shape: tuple[int, ...]) -> None:
    """[B, h, w] with maps that are not empty."""
    if not (0 < shape[1] <= MAX_SIDE and 0 < shape[2] <= MAX_SIDE):
        raise ValueError(
            f"anomaly_map has shape {shape}; expected [B, h, w] with sides from 1 to {MAX_SIDE}."
        )


def frame_shape(shape: tuple[int, ...]) -> None:
    """[H, W, C] with 1, 3 or 4 channels."""
    if not (shape[2] in (1, 3, 4) and 1 <= shape[0] <= MAX_SIDE and 1 <= shape[1] <= MAX_SIDE):
        raise ValueError(
            f"frame has shape {shape}; expected [H, W, C] with sides from 1 to {MAX_SIDE} and 1, 3 or 4 channels."
        )


def frame(array: Any) -> npt.NDArray[np.uint8]:
    """A camera frame [H, W, C] of uint8, not copied."""
    shaped("frame", array, "HWC")
    if array.dtype != np.uint8:
        raise TypeError(f"frame is {array.dtype}; expected uint8.")
    frame_shape(array.shape)
    return cast("npt.NDArray[np.uint8]", array)


def host_only(out: Any, stream: Any) -> None:
    """`out` tuples and streams belong to CUDA arrays."""
    if stream is not None:
        raise ValueError("stream was given with NumPy arrays; expected None, or CUDA arrays.")
    if out is not None:
        raise ValueError(
            "out was given with NumPy arrays; expected None: results are new NumPy arrays."
        )
