"""A source that hands over what a script says, fault by fault, as fast as it is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

# Now, not on first use: while it is imported, Cython swallows what a signal's handler raises.
from numpy.random import default_rng
from numpy.typing import NDArray

from edgead.errors import EdgeadError
from edgead.frame import Frame
from edgead.stream.sources.base import BadBuffer, Captured, EndOfSource, SourceKind
from edgead.testing.faults import Fault

__all__ = ["ScriptedSource", "textured"]


@lru_cache(maxsize=256)
def textured(seed: int = 0, height: int = 16, width: int = 16) -> NDArray[np.uint8]:
    """A noise picture (height, width, 3) uint8, read-only; equal seeds give equal pixels."""
    pixels = default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels.setflags(write=False)
    return pixels


class ScriptedSource:
    """Numbered frames, with faults where the script says so.

    Args:
        count: Frames to hand over.
        fault_of: Number of a frame -> the fault that it shows, None for a sound one.
        source_id: Name of the source.
        kind: file, live or triggered.
        clock: Monotonic time of capture, ns.
        block_bits: Width of the block ids' counter; 0 leaves frames unnumbered.
        wait: Called before each frame with its number, e.g. to pace it.
    """

    def __init__(
        self,
        count: int,
        fault_of: Callable[[int], Fault | None] = lambda _: None,
        *,
        source_id: str = "scripted",
        kind: SourceKind = "live",
        clock: Callable[[], int],
        block_bits: int = 0,
        wait: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.source_id = source_id
        self.kind: SourceKind = kind
        self.is_simulated = kind == "file"
        self.is_closed = False
        self._count = count
        self._fault_of = fault_of
        self._clock = clock
        self._bits = block_bits
        self._wait = wait
        self._next = 0

    def read(self, timeout_s: float) -> Captured:  # noqa: ARG002 - a script never waits
        """The next frame, or the error of a buffer that is none."""
        if self.is_closed or self._next >= self._count:
            raise EndOfSource
        number = self._next
        self._wait(number)
        self._next += 1
        fault = self._fault_of(number)
        try:
            return self._frame(number, fault)
        except EdgeadError as error:
            return error

    def close(self) -> None:
        """End the script."""
        self.is_closed = True

    def _frame(self, number: int, fault: Fault | None) -> Frame:
        block = self._block(number)
        if fault is Fault.INCOMPLETE:
            raise BadBuffer("INCOMPLETE_FRAME", "7 of 16 rows arrived.", block_id=block)
        repeated = fault is Fault.REPEATED_BLOCK and number > 0
        pixels: Any = textured((number - repeated) % 251)
        if fault is not None and fault.is_in_frame and not repeated:
            pixels = _spoilt(pixels, fault)
        return Frame(
            pixels,
            t_mono_ns=self._clock(),
            block_id=self._block(number - 1) if repeated else block,
            is_simulated=self.is_simulated,
        )

    def _block(self, number: int) -> int | None:
        return number % (1 << self._bits) if self._bits else None


def _spoilt(pixels: NDArray[np.uint8], fault: Fault) -> Any:
    if fault is Fault.NO_FRAME:
        return None
    if fault in (Fault.NAN_FRAME, Fault.FLOAT_FRAME):
        wide = pixels.astype(np.float32) / 255
        if fault is Fault.NAN_FRAME:
            wide[3, 5, 1] = np.nan
        return wide
    if fault is Fault.WRONG_DTYPE:
        return pixels.astype(np.int32)
    if fault is Fault.CHANNEL_FIRST:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if fault is Fault.CONSTANT:
        return np.zeros_like(pixels)
    return pixels[::2]  # RESIZED
