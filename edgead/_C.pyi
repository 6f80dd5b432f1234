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
