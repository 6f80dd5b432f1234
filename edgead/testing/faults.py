"""The faults that fakes can be told to show, and what a stream must make of each."""

from __future__ import annotations

from enum import Enum

__all__ = ["Fault"]


class Fault(str, Enum):
    """One thing that goes wrong with a frame, its camera or its engine."""

    # What a source hands over instead of a sound frame.
    NO_FRAME = "no_frame"  # None where pixels should be
    NAN_FRAME = "nan_frame"  # float pixels, one of them NaN
    FLOAT_FRAME = "float_frame"  # float pixels of undeclared range
    WRONG_DTYPE = "wrong_dtype"  # int32 pixels
    CHANNEL_FIRST = "channel_first"  # (3, H, W)
    CONSTANT = "constant"  # lens cap
    RESIZED = "resized"  # another size than the run began with
    INCOMPLETE = "incomplete"  # the camera says that rows are missing
    REPEATED_BLOCK = "repeated_block"  # the buffer of the frame before, again
    # What a judge does with a sound frame.
    RAISES = "raises"  # a foreign exception
    TYPED_ERROR = "typed_error"  # BackendError
    OUT_OF_MEMORY = "out_of_memory"  # DEVICE_OOM
    NAN_SCORE = "nan_score"
    INF_SCORE = "inf_score"
    NAN_MAP = "nan_map"
    ZERO_MAP = "zero_map"
    MAP_SHAPE = "map_shape"  # a map of another shape than before
    NO_DETECTION = "no_detection"  # None instead of a detection
    SLOW = "slow"  # answers after the deadline
    HANG = "hang"  # answers very long after, or never
    DIE = "die"  # the process ends

    @property
    def is_in_frame(self) -> bool:
        """Whether the source shows it (else the judge does)."""
        return self in _IN_FRAME

    @property
    def code(self) -> str:
        """The reason that its outcome must carry when frames wait neither for room nor for time."""
        return _CODES[self]


_CODES = {
    Fault.NO_FRAME: "FRAME_NONE",
    Fault.NAN_FRAME: "FRAME_NONFINITE",
    Fault.FLOAT_FRAME: "FRAME_RANGE_UNDECLARED",
    Fault.WRONG_DTYPE: "FRAME_DTYPE",
    Fault.CHANNEL_FIRST: "FRAME_LAYOUT",
    Fault.CONSTANT: "FRAME_CONSTANT",
    Fault.RESIZED: "FRAME_SHAPE_CHANGED",
    Fault.INCOMPLETE: "INCOMPLETE_FRAME",
    Fault.REPEATED_BLOCK: "FROZEN_SOURCE",
    Fault.RAISES: "BACKEND_ERROR",
    Fault.TYPED_ERROR: "BACKEND_ERROR",
    Fault.OUT_OF_MEMORY: "DEVICE_OOM",
    Fault.NAN_SCORE: "BACKEND_NONFINITE",
    Fault.INF_SCORE: "BACKEND_NONFINITE",
    Fault.NAN_MAP: "BACKEND_NONFINITE",
    Fault.ZERO_MAP: "BACKEND_DEGENERATE",
    Fault.MAP_SHAPE: "BACKEND_SHAPE",
    Fault.NO_DETECTION: "BACKEND_ERROR",
    Fault.SLOW: "DEADLINE_RUNNING",
    Fault.HANG: "BACKEND_HUNG",
    Fault.DIE: "WORKER_LOST",
}
_IN_FRAME = frozenset(list(Fault)[: list(Fault).index(Fault.RAISES)])
