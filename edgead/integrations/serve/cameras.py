"""The sources of a served line: named, files played at a pace, and one that cannot be opened shown as such."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgead.errors import ConfigError, EdgeadError, SourceError
from edgead.stream.sources import Captured, EndOfSource, Source, SourceKind, open_source
from edgead.stream.watchdog import State

__all__ = ["CameraState", "Played", "Unopened", "open_cameras", "state_of"]

#: ``left=rtsp://…``: a name, then the source. A GStreamer pipeline has a space before its first "=".
_NAMED = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}?)=(?P<spec>.+)$", re.DOTALL)
_MOST_CAMERAS = 16


@dataclass(frozen=True)
class CameraState:
    """What a camera is doing.

    Attributes:
        name: waiting, running, stalled, not opened, lost or ended.
        text: Why, where something is wrong.
    """

    name: str
    text: str = ""

    @property
    def is_fresh(self) -> bool:
        """Whether its latest verdict is about now."""
        return self.name == "running"


class Played:
    """A file source at a pace, so that a person can watch it; again and again if asked.

    Args:
        reopen: Opens the files; called once more for each round.
        fps: Frames a second; 0: as fast as they are judged.
        repeat: Begin again after the last frame.
    """

    kind: SourceKind = "file"
    is_simulated = True

    def __init__(self, reopen: Callable[[], Source], *, fps: float, repeat: bool) -> None:
        self._reopen = reopen
        self._inner = reopen()
        self.source_id = self._inner.source_id
        self._period_s = 1 / fps if fps > 0 else 0.0
        self._repeat = repeat
        self._closed = threading.Event()
        self._due = time.monotonic()
        self._in_round = 0

    def read(self, timeout_s: float) -> Captured:
        """The next frame once its time has come."""
        wait_s = self._due - time.monotonic()
        if wait_s > 0:
            self._closed.wait(min(wait_s, timeout_s))
            if wait_s > timeout_s:
                return None
        try:
            if self._closed.is_set():
                raise EndOfSource
            item = self._inner.read(timeout_s)
        except EndOfSource:
            if not self._repeat or not self._in_round or self._closed.is_set():
                raise
            self._inner.close()
            self._inner, self._in_round = self._reopen(), 0
            return None
        if item is not None:
            self._in_round += 1
            self._due = max(self._due + self._period_s, time.monotonic() - self._period_s)
        return item

    def close(self) -> None:
        """Close the files."""
        self._closed.set()
        self._inner.close()


class Unopened:
    """The place of a source that cannot be opened: the others go on, and the page says why."""

    kind: SourceKind = "live"
    is_simulated = False

    def __init__(self, error: SourceError, source_id: str) -> None:
        self.source_id = source_id
        self._error = error

    def read(self, timeout_s: float) -> Captured:  # noqa: ARG002 - there is nothing to wait for
        """Never a frame."""
        raise self._error

    def close(self) -> None:
        """Nothing is held open."""


def open_cameras(
    specs: Sequence[str], *, fps: float = 0.0, repeat: bool = False
) -> dict[str, Source]:
    """Open each ``URI`` or ``NAME=URI``.

    Args:
        specs: As of `edgead.stream.sources.uri`, with or without a name.
        fps: Pace of files, frames a second; 0: as fast as they are judged.
        repeat: Play files again and again.

    Returns:
        Name -> source, names unique. Of several sources one that cannot be opened is `Unopened`.

    Raises:
        SourceError: The only source, or every source, cannot be opened.
        ConfigError: SOURCES when none or too many are given.
    """
    if not 1 <= len(specs) <= _MOST_CAMERAS:
        raise ConfigError(
            "SOURCES", f"got {len(specs)} sources; want 1 to {_MOST_CAMERAS}.", "Use --source URI."
        )
    cameras: dict[str, Source] = {}
    errors: list[SourceError] = []
    for number, spec in enumerate(specs):
        named = _NAMED.match(spec)
        name, address = (named["name"], named["spec"]) if named else ("", spec)
        try:
            source = _opened(address, fps, repeat)
        except SourceError as error:
            errors.append(error)
            source = Unopened(error, f"camera {number + 1}")
        unique = _unique(name or source.source_id, cameras)
        source.source_id = unique
        cameras[unique] = source
    if len(errors) == len(specs):
        raise errors[0]
    return cameras


def state_of(source: Source, lost: EdgeadError | None, *, has_ended: bool) -> CameraState:
    """What a camera is doing, from what its source says of itself.

    Args:
        source: The source.
        lost: Why the stream gave it up, None while it has not.
        has_ended: Whether it hands over nothing more.
    """
    if lost is not None:
        return CameraState("not opened" if isinstance(source, Unopened) else "lost", str(lost))
    if has_ended:
        return CameraState("ended")
    state = getattr(source, "state", State.RUNNING)
    error = getattr(source, "last_error", None)
    if state is State.STALLED:
        return CameraState("stalled", str(error or ""))
    if state is State.INITIALISING:
        return CameraState("waiting") if error is None else CameraState("not opened", str(error))
    return CameraState("running")


def _opened(address: str, fps: float, repeat: bool) -> Source:
    source = open_source(address)
    if source.kind != "file":
        return source
    source.close()
    return Played(lambda: open_source(address), fps=fps, repeat=repeat)


def _unique(name: str, taken: dict[str, Source]) -> str:
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name} {number}", number + 1
    return unique
