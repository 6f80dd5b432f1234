"""The committed bundle on photographs of gravel (tests/data/gravel.edgead) and frames for it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from edgead.bundle import Bundle, read_bundle
from edgead.frame import Frame, PixelFormat
from edgead.golden import golden_frame
from edgead.manifest import View
from edgead.view import view_key

__all__ = ["PATH", "gravel_bundle", "gravel_frame", "looking_at", "with_blot"]

PATH = Path(__file__).parent / "data" / "gravel.edgead"


@lru_cache(maxsize=1)
def gravel_bundle() -> Bundle:
    """The bundle, read once."""
    return read_bundle(PATH)


def gravel_frame() -> Frame:
    """A good frame, (96, 96) MONO8: the first golden image."""
    return golden_frame(gravel_bundle(), gravel_bundle().manifest.golden[0].name)


def looking_at(view: View) -> Bundle:
    """The bundle with another view and the old thresholds, as if they had been learnt with it."""
    seen = gravel_bundle().with_members({}, view=view, golden=[])
    limits = seen.manifest.thresholds
    key = view_key(seen.manifest) or UNSET
    return seen.with_members({}, thresholds=msgspec.structs.replace(limits, view=key))


def with_blot(frame: Frame, x: int, y: int, side: int = 18) -> Frame:
    """The frame with a white square whose upper left corner is (x, y)."""
    pixels: NDArray[np.uint8] = frame.pixels.copy()
    pixels[y : y + side, x : x + side] = 255
    return Frame(pixels, PixelFormat.MONO8)
