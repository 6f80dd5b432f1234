"""What drift says of a source: see `edgead.stream.drift` for how to read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from edgead.stream.drift_reference import Spread

__all__ = ["DriftFigure", "DriftReason", "DriftState", "DriftStatus"]


class DriftState(str, Enum):
    """Of a source, worst last."""

    STEADY = "STEADY"
    LEARNING = "LEARNING"  # fewer frames yet than a window holds
    UNAVAILABLE = "UNAVAILABLE"  # the bundle says too little of its good images
    DRIFTED = "DRIFTED"


@dataclass(frozen=True)
class DriftFigure:
    """One figure, then and now.

    Attributes:
        name: brightness, contrast, sharpness, red, blue, likeness or score.
        then: Quantiles over the commissioned images.
        now: Over the frames in the window; None before the first.
        low: A rolling median below is out.
        high: A rolling median above is out; None where it can only fall.
        frames: In the window.
        is_out: Raised, and not cleared yet.
    """

    name: str
    then: Spread
    now: Spread | None
    low: float
    high: float | None
    frames: int
    is_out: bool


@dataclass(frozen=True)
class DriftReason:
    """What has changed.

    Attributes:
        cause: REFUSED, POSITION, PRODUCT, LIGHT, COLOUR or FOCUS.
        text: For a person, with the figures.
        frames: How many frames ago it was raised.
        shift_xy: POSITION: frame pixels that the picture has moved right and down.
    """

    cause: str
    text: str
    frames: int
    shift_xy: tuple[float, float] | None = None


@dataclass(frozen=True)
class DriftStatus:
    """Drift of one source.

    Attributes:
        state: The state.
        reasons: Why it is DRIFTED or UNAVAILABLE.
        figures: What is watched.
        frames: Seen since the bundle was loaded.
        images: Commissioned images that they are compared with.
    """

    state: DriftState
    reasons: tuple[DriftReason, ...] = ()
    figures: tuple[DriftFigure, ...] = ()
    frames: int = 0
    images: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "state": self.state.value}
