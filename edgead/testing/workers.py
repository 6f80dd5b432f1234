"""Judges for a worker process to make: importable by name, as `edgead.stream.Supervised` wants them."""

from __future__ import annotations

import ctypes
import time

from edgead.errors import BundleError
from edgead.frame import Frame
from edgead.testing.fakes import FakeJudge
from edgead.testing.faults import Fault

__all__ = ["make_faulty_judge", "make_gil_holder", "make_nothing"]


def make_faulty_judge(plan: dict[int, Fault] | None = None, hang_s: float = 60.0) -> FakeJudge:
    """A judge that shows a fault at the frames of ``plan``; HANG sleeps ``hang_s``."""

    def wait(_: Frame, fault: Fault | None) -> None:
        if fault is Fault.HANG:
            time.sleep(hang_s)

    return FakeJudge((plan or {}).get, wait=wait)


def make_gil_holder(hold_s: float) -> FakeJudge:
    """A judge whose native code keeps the GIL for ``hold_s`` at each frame."""
    sleep = ctypes.PyDLL(None).usleep  # a PyDLL call does not release the GIL

    def wait(_: Frame, __: Fault | None) -> None:
        sleep(int(hold_s * 1e6))

    return FakeJudge(wait=wait)


def make_nothing() -> FakeJudge:
    """A model that cannot be loaded."""
    raise BundleError("MODEL_CORRUPT", "part.onnx: the SHA-256 differs.", "Copy it again.")
