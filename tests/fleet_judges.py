"""What stands in for a detector in workers: an image's first pixel says what becomes of its worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from bundles import tiny_frame
from numpy.typing import NDArray

from edgead.errors import BundleError
from edgead.frame import Frame
from edgead.images import save_image
from edgead.testing.fakes import detection_of
from edgead.types import Detection

__all__ = [
    "DIE",
    "DIE_ONCE",
    "DIE_WITH_ACTOR_ONCE",
    "HANG",
    "RAISE",
    "above_is_ray",
    "cannot_open",
    "dies_at_start",
    "make_frail",
    "write_images",
]

DIE, DIE_ONCE, HANG, RAISE, DIE_WITH_ACTOR_ONCE = 1, 2, 3, 4, 5
#: Names the file that remembers that a worker died; that of the actor has ``-actor`` behind it.
MARK = "EDGEAD_TEST_MARK"


def make_frail(data: bytes, orders: Any) -> Any:
    """A judge whose score is the image's mean, unless its first pixel says otherwise."""

    def judge(frame: Frame) -> Detection:
        what = int(frame.pixels[0, 0, 0])
        if what == DIE:
            os._exit(9)
        if what == HANG:
            time.sleep(3600)
        if what == RAISE:
            raise ZeroDivisionError("a bug")
        if what == DIE_ONCE:
            mark = Path(os.environ[MARK])
            if not mark.exists():
                mark.touch()
                os._exit(9)
        if what == DIE_WITH_ACTOR_ONCE and above_is_ray():
            mark = Path(f"{os.environ[MARK]}-actor")
            if not mark.exists():
                mark.touch()
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(3600)  # it ends with its parent
        return detection_of(frame, float(frame.pixels.mean()) / 255)

    return judge


def above_is_ray() -> bool:
    """Whether this process was started by a worker of Ray: nobody else is ever killed."""
    return Path(f"/proc/{os.getppid()}/cmdline").read_bytes().startswith(b"ray::")


def cannot_open(data: bytes, orders: Any) -> Any:
    """A bundle that this machine cannot judge with."""
    raise BundleError("GOLDEN", "good_0 scored 2, expected 1.", "Not started.")


def dies_at_start(data: bytes, orders: Any) -> Any:
    """A worker that dies while it opens the bundle."""
    os.write(2, b"out of memory\n")
    os._exit(7)


def write_images(folder: Path, count: int, marks: dict[int, int] | None = None) -> Path:
    """``count`` PNG images; ``marks`` sets the first pixel of some."""
    folder.mkdir(parents=True)
    for index in range(count):
        pixels: NDArray[np.uint8] = tiny_frame(index, 60 + index % 150)
        pixels[0, 0] = (marks or {}).get(index, 10)
        save_image(folder / f"{index:04d}.png", pixels)
    return folder
