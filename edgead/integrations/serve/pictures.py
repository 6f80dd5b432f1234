"""Pictures off the hot path: the line stores references, one thread encodes, and only what is watched.

The encoder works at most a small share of the time, so that what it costs the line is bounded by
construction and not by how many people look.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from edgead.errors import EdgeadError
from edgead.frame import Frame
from edgead.integrations.serve.draw import (
    HeatLevels,
    Seen,
    encode_jpeg,
    heat_levels,
    meta_of,
    overlay,
    picture,
)
from edgead.types import Outcome, Status

__all__ = ["Encoded", "Kind", "Pictures"]

#: ``layers``: camera image and map apart, for a page that mixes them. ``overlay``: both in one.
Kind: TypeAlias = Literal["layers", "overlay"]
#: Of a reject with its map; ``frame`` is the camera image alone, to draw on.
Size: TypeAlias = Literal["small", "large", "frame"]

_log = logging.getLogger("edgead.serve")

_SHARE = 0.03  # of one core: what the encoder's thread may use while people watch
_PERIOD_S = 0.1  # no more than ten pictures a second of one camera
_UNREAD = 8  # frames kept until their outcome is read
_REJECTS = 12
_REJECT_BYTES = 64_000_000  # of pixels, all cameras together
_MOST_ASKED = 4 * _REJECTS  # drawings of rejects that may wait
_SIDES: dict[Size, int] = {"small": 220, "large": 440, "frame": 1280}


@dataclass(frozen=True)
class Encoded:
    """A picture as it is sent.

    Attributes:
        version: Grows with each picture of the camera.
        meta: `edgead.integrations.serve.draw.meta_of`.
        jpeg: The camera image, or the overlay.
        heat: The map's grey levels as JPEG, empty without a map and for overlays.
    """

    version: int
    meta: str
    jpeg: bytes
    heat: bytes = b""


class Pictures:
    """The newest picture and the last rejects of each camera.

    Args:
        cameras: Their names.
        pixel_threshold: In the middle of the map's colours.
        announce: Called from the encoder's thread when there is a new picture.
    """

    def __init__(
        self,
        cameras: Iterable[str],
        *,
        pixel_threshold: float,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        names = list(cameras)
        self.announce = announce
        self._levels = HeatLevels(pixel_threshold)
        self._changed = threading.Condition()
        self._unread: dict[str, OrderedDict[int, Frame]] = {n: OrderedDict() for n in names}
        self._newest: dict[str, Seen] = {}
        self._rejects: dict[str, deque[Seen]] = {n: deque(maxlen=_REJECTS) for n in names}
        self._small: dict[tuple[str, int, Size], bytes] = {}
        self._encoded: dict[tuple[str, Kind], Encoded] = {}
        self._drawn: dict[tuple[str, Kind], tuple[Seen, float]] = {}
        self._watchers: Counter[tuple[str, Kind]] = Counter()
        self._asked: OrderedDict[tuple[str, int, Size], tuple[Seen, Future[bytes]]] = OrderedDict()
        self._version = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="edgead pictures", daemon=True)
        self._thread.start()

    def offer(self, outcome: Outcome, frame: Frame | None) -> None:
        """Keep a settled frame until its outcome is read; called under the stream's lock."""
        if frame is None or outcome.status is Status.DROPPED:
            return
        with self._changed:
            waiting = self._unread[outcome.source_id]
            waiting[outcome.seq] = frame
            if len(waiting) > _UNREAD:
                waiting.popitem(last=False)

    def take(self, outcome: Outcome) -> None:
        """An outcome was read: this, and not what was settled before, is what a picture says."""
        if outcome.status is Status.DROPPED:
            return
        name = outcome.source_id
        with self._changed:
            frame = self._unread[name].pop(outcome.seq, None)
            if frame is None:
                return
            seen = self._newest[name] = Seen(outcome, frame)
            if not outcome.accept:
                self._rejects[name].append(seen)
                self._keep_to_budget()

    def rejects(self, name: str) -> list[dict[str, Any]]:
        """The last frames of a camera that were not accepted, newest first."""
        with self._changed:
            kept = [seen.outcome for seen in reversed(self._rejects[name])]
        return [
            {
                "seq": one.seq,
                "verdict": one.verdict.name,
                "reason": one.reason,
                "message": one.message,
                "score": None if one.detection is None else float(one.detection.score),
                "part_id": one.part_id,
            }
            for one in kept
        ]

    def reject_jpeg(self, name: str, seq: int, size: Size) -> Future[bytes] | None:
        """The overlay of a remembered reject; None when it is no longer remembered."""
        key = (name, seq, size)
        done: Future[bytes] = Future()
        with self._changed:
            if key in self._small:
                done.set_result(self._small[key])
                return done
            if key in self._asked:
                return self._asked[key][1]
            seen = next((s for s in self._rejects[name] if s.outcome.seq == seq), None)
            if seen is None or self._is_closed:
                return None
            self._ask(key, seen, done)
        return done

    def frame_jpeg(self, name: str) -> tuple[str, Future[bytes]] | None:
        """The newest judged frame as the camera saw it, with its `meta_of`; None before the first."""
        with self._changed:
            seen = self._newest.get(name)
            if seen is None or self._is_closed:
                return None
            key: tuple[str, int, Size] = (name, seen.outcome.seq, "frame")
            if key not in self._asked:
                self._ask(key, seen, Future())
            return meta_of(seen), self._asked[key][1]

    @contextmanager
    def watch(self, names: Iterable[str], kind: Kind) -> Iterator[None]:
        """Have these cameras' pictures encoded inside the block."""
        keys = [(name, kind) for name in names]
        with self._changed:
            self._watchers.update(keys)
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._watchers.subtract(keys)

    def newest(self, name: str, kind: Kind) -> Encoded | None:
        """The latest encoded picture of a camera, None before the first."""
        return self._encoded.get((name, kind))

    def close(self) -> None:
        """Stop the encoder; safe to call twice."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(2)

    def _ask(self, key: tuple[str, int, Size], seen: Seen, done: Future[bytes]) -> None:
        self._asked[key] = (seen, done)
        while len(self._asked) > _MOST_ASKED:  # those who asked first have gone on
            self._asked.popitem(last=False)[1][1].cancel()
        self._changed.notify()

    def _keep_to_budget(self) -> None:
        """Forget the oldest rejects beyond the memory that they may hold, and pictures of gone ones."""
        every = [seen for kept in self._rejects.values() for seen in kept]
        total = sum(seen.frame.pixels.nbytes for seen in every)
        for kept in self._rejects.values():
            while total > _REJECT_BYTES and len(kept) > 1:
                total -= kept.popleft().frame.pixels.nbytes
        if len(self._small) > 4 * _REJECTS * len(self._rejects):
            alive = {(n, s.outcome.seq) for n, kept in self._rejects.items() for s in kept}
            self._small = {k: v for k, v in self._small.items() if k[:2] in alive}

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._is_closed and not self._asked and not self._is_watched():
                    self._changed.wait()
                if self._is_closed:
                    for _, done in self._asked.values():
                        done.cancel()
                    return
                due = self._next_due()
                asked = self._asked.popitem(last=False) if self._asked else None
            started = time.thread_time()
            if due is not None:
                self._draw(*due)
            if asked is not None:
                self._draw_asked(asked[0], *asked[1])
            spent_s = time.thread_time() - started
            rest_s = spent_s / _SHARE if asked or due else _PERIOD_S / 4
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed, min(rest_s, 1.0))

    def _is_watched(self) -> bool:
        return any(count > 0 for count in self._watchers.values())

    def _next_due(self) -> tuple[tuple[str, Kind], Seen] | None:
        """The watched camera whose picture is oldest and no longer the newest."""
        now, found = time.monotonic(), []
        for key, count in self._watchers.items():
            seen, (drawn, at) = self._newest.get(key[0]), self._drawn.get(key, (None, 0.0))
            if count > 0 and seen is not None and seen is not drawn and now - at >= _PERIOD_S:
                found.append((at, key, seen))
        if not found:
            return None
        _, key, seen = min(found, key=lambda one: one[0])
        self._drawn[key] = (seen, now)
        return key, seen

    def _draw(self, key: tuple[str, Kind], seen: Seen) -> None:
        try:
            self._encoded[key] = self._encode(key[1], seen)
        except EdgeadError as error:
            _log.warning("no picture of %s: %s", seen.outcome.frame_id, error)
            return
        self.announce()

    def _encode(self, kind: Kind, seen: Seen) -> Encoded:
        self._version += 1
        if kind == "overlay":
            return Encoded(self._version, meta_of(seen), encode_jpeg(overlay(seen, self._levels)))
        found, heat = seen.outcome.detection, b""
        if found is not None and found.anomaly_map is not None:
            scale = self._levels.scale_for(found.anomaly_map)
            heat = encode_jpeg(heat_levels(found.anomaly_map, scale))
        return Encoded(self._version, meta_of(seen), encode_jpeg(picture(seen.frame)), heat)

    def _draw_asked(self, key: tuple[str, int, Size], seen: Seen, done: Future[bytes]) -> None:
        if not done.set_running_or_notify_cancel():
            return
        side, is_frame = _SIDES[key[2]], key[2] == "frame"
        try:
            drawn = picture(seen.frame, side) if is_frame else overlay(seen, self._levels, side)
            jpeg = encode_jpeg(drawn)
        except EdgeadError as error:
            done.set_exception(error)
            return
        if not is_frame:
            with self._changed:
                self._small[key] = jpeg
        done.set_result(jpeg)
