"""What tests run in processes of their own: importable by name, as `Supervised` and `Child` want it."""

from __future__ import annotations

import ctypes
import itertools
import time
from multiprocessing.connection import Connection

from edgead.errors import BundleError
from edgead.frame import Frame
from edgead.stream.journal import Journal
from edgead.testing.fakes import FakeJudge, detection_of
from edgead.testing.faults import Fault
from edgead.testing.sources import textured
from edgead.types import LedgerCounts, Outcome, Status

__all__ = ["make_faulty_judge", "make_gil_holder", "make_nothing", "write_journal"]


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


def write_journal(control: Connection, memory_fd: int) -> None:  # noqa: ARG001 - a child's form
    """A child program: journal frames with synchronous=FULL and tell the parent of each."""
    journal = Journal(control.recv(), sync="full")
    journal.begin(kind="triggered", policy="reject_when_full(4)")
    frame = Frame(textured(1))
    for seq in itertools.count():
        found = detection_of(frame, 0.25)
        outcome = Outcome(Status.RESULT, "", found, "line", seq, seq, seq, LedgerCounts())
        journal.write(outcome)
        control.send(seq)
