"""Why a frame got no verdict: two fixed lists, so that programs can switch on them and tests walk them."""

from __future__ import annotations

from enum import Enum

__all__ = ["DropReason", "FailCode"]


class DropReason(str, Enum):
    """A frame that was never judged, although it was sound."""

    QUEUE_FULL = "QUEUE_FULL"  # drop_oldest, reject_when_full: the queue was at its bound
    SUPERSEDED = "SUPERSEDED"  # latest: a newer frame took its place
    ADMISSION = "ADMISSION"  # the measured p99 says that it cannot meet its deadline
    DEADLINE_QUEUED = "DEADLINE_QUEUED"  # its deadline passed while it waited
    SHUTDOWN = "SHUTDOWN"  # the stream was closed first
    DUPLICATE_ID = "DUPLICATE_ID"  # a trigger id that was answered before


class FailCode(str, Enum):
    """A frame that could not be judged. The codes of `edgead.errors` raised by a judge join these."""

    FRAME_SHAPE_CHANGED = "FRAME_SHAPE_CHANGED"  # another size or format than the run began with
    FRAME_CONSTANT = "FRAME_CONSTANT"  # every sampled pixel is the same: lens cap, light, trigger
    FROZEN_SOURCE = "FROZEN_SOURCE"  # the same frame again
    INCOMPLETE_FRAME = "INCOMPLETE_FRAME"  # the camera says that part of the frame is missing
    DEADLINE_RUNNING = "DEADLINE_RUNNING"  # its deadline passed while it was being judged
    DEADLINE_HANDOVER = "DEADLINE_HANDOVER"  # judged in time, but not taken or journaled in time
    BACKEND_ERROR = "BACKEND_ERROR"  # the judge raised
    BACKEND_HUNG = "BACKEND_HUNG"  # the judge did not come back
    BACKEND_NONFINITE = "BACKEND_NONFINITE"  # score, threshold or map is NaN or infinite
    BACKEND_DEGENERATE = "BACKEND_DEGENERATE"  # the map is one constant value
    BACKEND_SHAPE = "BACKEND_SHAPE"  # the map changed its shape
    DEVICE_OOM = "DEVICE_OOM"  # out of device memory
    DEVICE_LOST = "DEVICE_LOST"  # the device needs a new process
    WORKER_LOST = "WORKER_LOST"  # the worker process died with the frame
    MODEL_UNVERIFIED = "MODEL_UNVERIFIED"  # the model failed its golden images
    INTERNAL_LOST = "INTERNAL_LOST"  # a ticket was lost inside edgead: a bug, shown as a number
