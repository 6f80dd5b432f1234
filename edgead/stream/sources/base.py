"""What a source is: something that hands over frames, one at a time, and can be stopped."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias, runtime_checkable

from edgead.errors import EdgeadError, FrameError
from edgead.frame import Frame

__all__ = ["BadBuffer", "Captured", "EndOfSource", "Source", "SourceKind"]

#: ``file`` waits for the consumer, ``live`` runs at its own pace, ``triggered`` answers a line.
SourceKind: TypeAlias = Literal["file", "live", "triggered"]

#: A frame; why a buffer is none; or None when nothing came within the time given.
Captured: TypeAlias = "Frame | EdgeadError | None"


class BadBuffer(FrameError):
    """A numbered camera buffer that is no whole frame, e.g. INCOMPLETE_FRAME."""

    def __init__(self, code: str, message: str, hint: str = "", *, block_id: int | None) -> None:
        super().__init__(code, message, hint)
        self.block_id = block_id


class EndOfSource(Exception):
    """The source has handed over its last frame: normal for files, never raised by a live source."""


@runtime_checkable
class Source(Protocol):
    """A place that frames come from. Used by one thread, `close` by any.

    Attributes:
        source_id: Name in every outcome.
        kind: Which default policy fits.
        is_simulated: True for files and replays.
    """

    source_id: str
    kind: SourceKind
    is_simulated: bool

    def read(self, timeout_s: float) -> Captured:
        """The next frame, waiting no longer than about ``timeout_s``.

        Returns:
            A frame whose pixels nobody else writes; an `EdgeadError` for a buffer that is no frame
            (it is accounted for, and the next call goes on); None when nothing came in time.

        Raises:
            EndOfSource: There is no further frame.
            SourceError: The source is lost and does not come back.
        """
        ...

    def close(self) -> None:
        """Free everything; safe from any thread, twice, and while `read` is running."""
        ...
