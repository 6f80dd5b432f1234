"""Stub of the native module; tests/architecture/test_stub.py holds it to the built one."""

import numpy as np
import numpy.typing as npt

def heatmap(
    map: npt.NDArray[np.float32],
    row_band: npt.NDArray[np.int32],
    row_weights: npt.NDArray[np.float32],
    column_band: npt.NDArray[np.int32],
    column_spread: npt.NDArray[np.float32],
    threshold: float,
    out: npt.NDArray[np.float32],
    peak: npt.NDArray[np.float32],
    mask: npt.NDArray[np.uint8] | None,
    threads: int,
) -> None: ...
def instruction_set() -> str: ...
def instruction_sets() -> list[str]: ...
def kmeans_assign(
    patches: npt.NDArray[np.float32],
    centroids: npt.NDArray[np.float32],
    index: npt.NDArray[np.int32],
    distance: npt.NDArray[np.float32],
    threads: int,
) -> None: ...
def resize(
    frame: npt.NDArray[np.uint8],
    row_start: npt.NDArray[np.int32],
    row_weights: npt.NDArray[np.int16],
    column_start: npt.NDArray[np.int32],
    column_weights: npt.NDArray[np.int16],
    channels: list[int] | tuple[int, ...],
    out: npt.NDArray[np.uint8],
    threads: int,
) -> None: ...
def scratch_bytes() -> int: ...
def topk_neighbours(
    f: npt.NDArray[np.float32],
    g: npt.NDArray[np.float32],
    position: npt.NDArray[np.float32] | None,
    index: npt.NDArray[np.int32],
    threads: int,
) -> None: ...
def use_instruction_set(name: str) -> None: ...

# CUDA: pointers as integers.
class DeviceTable:
    def __init__(self, host: npt.NDArray[np.generic], device: int) -> None: ...
    @property
    def pointer(self) -> int: ...

def built_with_cuda() -> bool: ...
def device_of(pointer: int) -> int: ...
def heatmap_on(
    device: int,
    stream: int,
    half: bool,
    map: int,
    shape: tuple[int, int, int, int, int],
    tables: tuple[int, int, int, int],
    taps: tuple[int, int],
    threshold: float,
    out: int,
    peak: int,
    mask: int,
) -> None: ...
def kmeans_assign_on(
    device: int,
    stream: int,
    half: bool,
    patches: int,
    centroids: int,
    shape: tuple[int, int, int],
    index: int,
    distance: int,
) -> None: ...
def resize_on(
    device: int,
    stream: int,
    frame: int,
    row_stride: int,
    shape: tuple[int, int, int, int, int],
    tables: tuple[int, int, int, int],
    taps: tuple[int, int],
    channels: list[int] | tuple[int, ...],
    out: int,
) -> None: ...
def topk_neighbours_on(
    device: int,
    stream: int,
    half: bool,
    f: int,
    g: int,
    position: int,
    shape: tuple[int, int, int, int],
    index: int,
) -> None: ...
