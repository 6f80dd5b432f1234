"""A served line over a fake judge and scripted cameras, on a port that the system chooses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np

from edgead.frame import Frame
from edgead.images import encode_png
from edgead.integrations.serve import Served
from edgead.stream import Source
from edgead.stream.sources import EndOfSource
from edgead.testing import FakeJudge, textured
from edgead.types import Detection

__all__ = ["ABOUT", "Tap", "eventually", "picture_png", "served"]

ABOUT: dict[str, Any] = {
    "bundle_hash": "0123456789abcdef" * 4,
    "method": "fake",
    "backbone": "none",
    "edgead": "0",
    "backend": "fake",
    "precision": "fp32",
    "why": "a test",
    "frame": "BGR8, any size",
    "input": "16x16",
    "view": "whole frame",
    "trained_on": 10,
    "threshold": 0.5,
    "pixel_threshold": 0.3,
    "score_scale": 0.25,
    "good_scores": [0.1, 0.2, 0.3],
    "golden_images": 4,
    "promise": "3 held-out good images prove little.",
    "certificates": [],
}
TIMEOUT_S = 60.0


class Tap:
    """A live camera that hands over what the test lets out: one picture an `open` call."""

    kind = "live"
    is_simulated = False

    def __init__(self, source_id: str = "cam") -> None:
        self.source_id = source_id
        self.number = 0
        self._allowed = threading.Semaphore(0)
        self._closed = threading.Event()

    def open(self, count: int = 1) -> None:
        self._allowed.release(count)

    def read(self, timeout_s: float) -> Frame | None:
        if self._closed.is_set():
            raise EndOfSource
        if not self._allowed.acquire(timeout=timeout_s):
            return None
        self.number += 1
        return Frame(textured(self.number % 250, 48, 64))

    def close(self) -> None:
        self._closed.set()


@contextmanager
def served(
    sources: Mapping[str, Source] | None = None,
    *,
    judge: Callable[[Frame], Detection] | None = None,
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[tuple[Served, httpx.Client]]:
    """A line whose outcomes a thread reads, and a client of it."""
    cameras = {"cam": Tap()} if sources is None else dict(sources)
    options = {"policy": "every(64)", **options}
    with Served(judge or FakeJudge(), cameras, about=lambda: ABOUT, **options) as line:
        reader = threading.Thread(target=_read, args=(line,), daemon=True)
        reader.start()
        with httpx.Client(base_url=line.url, headers=headers, timeout=TIMEOUT_S) as client:
            yield line, client
        line.line.stream.close()
        reader.join(TIMEOUT_S)
        assert not reader.is_alive()


def _read(line: Served) -> None:
    try:
        for _ in line:
            pass
    except Exception as error:  # a lost camera is on the page; a test looks there
        line.ended_with = error  # type: ignore[attr-defined]


def eventually(found: Callable[[], Any], *, timeout_s: float = TIMEOUT_S) -> Any:
    """What ``found`` gives once it is true; fails after a generous time."""
    end = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
    return value


def picture_png(height: int = 48, width: int = 64) -> bytes:
    """An image file that a fake judge takes."""
    return encode_png(np.asarray(textured(3, height, width)))
