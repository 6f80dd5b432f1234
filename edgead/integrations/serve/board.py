"""A line in numbers: written by the one loop that reads outcomes, read by the page, the metrics and the API."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from itertools import islice, takewhile
from typing import Any

from edgead.integrations.serve.cameras import CameraState, state_of
from edgead.stream import Source, Stream
from edgead.types import LedgerCounts, Outcome, Status, Verdict

__all__ = ["BUCKETS_S", "Board", "CameraBoard"]

#: Upper ends of the latency histogram, seconds.
BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SCORES = 2000  # remembered a camera, for the what-if
_LATENCIES = 1024
_TAIL_S, _TAIL = (
    2.0,
    400,
)  # of the scores: what a message to the page repeats, so that one may be lost


class CameraBoard:
    """The numbers of one camera; every access is under the board's lock.

    Attributes:
        verdicts: Frames by verdict; a dropped frame is in none of them.
        dropped: Dropped frames by reason.
        failed: Failed frames by code.
        latency_counts: Judged frames by bucket of `BUCKETS_S`; the last one is open.
        latency_sum_s: Of all judged frames.
        last: The newest outcome that was not a drop.
    """

    def __init__(self, number: int, name: str, source: Source) -> None:
        self.number = number
        self.name = name
        self.source = source
        self.verdicts: Counter[Verdict] = Counter()
        self.dropped: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.latency_counts = [0] * (len(BUCKETS_S) + 1)
        self.latency_sum_s = 0.0
        self.last: Outcome | None = None
        self.state = CameraState("waiting")
        self.counts = LedgerCounts()
        self._taken_s = 0.0
        self._sorted_s = -1.0
        self._latency: dict[str, float | None] = {"p50": None, "p99": None}
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES)
        self._points: deque[tuple[float, int, float | None, int]] = deque(maxlen=_SCORES)

    def take(self, outcome: Outcome, now_s: float) -> None:
        """Count one outcome."""
        if outcome.status is Status.DROPPED:
            self.dropped[outcome.reason] += 1
            return
        self.last, self._taken_s = outcome, now_s
        self.verdicts[outcome.verdict] += 1
        found = outcome.detection
        if found is None:
            self.failed[outcome.reason] += 1
        else:
            seconds = outcome.latency_ms / 1e3
            self._latencies_ms.append(outcome.latency_ms)
            self.latency_counts[bisect_left(BUCKETS_S, seconds)] += 1
            self.latency_sum_s += seconds
        score = None if found is None else float(found.score)
        self._points.append((now_s, outcome.seq, score, int(outcome.verdict)))

    def scores(self) -> list[list[Any]]:
        """``[seq, score, verdict]`` of the remembered frames, oldest first."""
        return [list(point[1:]) for point in self._points]

    def snapshot(self, now_s: float) -> dict[str, Any]:
        """What the page shows; a camera that is not fresh has no verdict any more."""
        last, fresh = self.last, self.state.is_fresh
        found = None if last is None else last.detection
        shown = Verdict.UNKNOWN if last is None or not fresh else last.verdict
        recent = takewhile(lambda point: now_s - point[0] < _TAIL_S, reversed(self._points))
        tail = list(islice(recent, _TAIL))[::-1]
        return {
            "id": self.number,
            "name": self.name,
            "state": self.state.name,
            "state_text": self.state.text,
            "verdict": shown.name,
            "accept": shown is Verdict.GOOD,
            "reason": "" if last is None else last.reason,
            "message": "" if last is None else last.message,
            "frame_id": None if last is None else last.frame_id,
            "is_simulated": self.source.is_simulated,
            "age_s": None if last is None else round(now_s - self._taken_s, 2),
            "score": None if found is None else float(found.score),
            "threshold": None if found is None else float(found.threshold),
            "bundle_hash": None if found is None else found.bundle_hash,
            "confidence": None if found is None else float(found.confidence),
            "counts": {
                "received": self.counts.received,
                "good": self.verdicts[Verdict.GOOD],
                "defect": self.verdicts[Verdict.DEFECT],
                "unknown": self.verdicts[Verdict.UNKNOWN],
                "dropped": self.dropped.total(),
                "late": self.counts.late,
                "lost_upstream": self.counts.lost_upstream,
            },
            "unknown_by": dict(self.failed.most_common(5)),
            "dropped_by": dict(self.dropped),
            "latency_ms": self._percentiles(now_s),
            "fps": round(len(tail) / _TAIL_S, 1),
            "points": [list(point[1:]) for point in tail],
        }

    def _percentiles(self, now_s: float) -> dict[str, float | None]:
        """Of the remembered latencies, computed once a second."""
        if self._latencies_ms and now_s - self._sorted_s >= 1.0:
            self._sorted_s = now_s
            known = sorted(self._latencies_ms)
            ranks = {"p50": 0.5, "p99": 0.99}
            last = len(known) - 1
            self._latency = {n: round(known[round(q * last)], 2) for n, q in ranks.items()}
        return dict(self._latency)


class Board:
    """The numbers of every camera.

    Args:
        sources: Name -> source, as the stream has them.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.cameras = {
            name: CameraBoard(number, name, source)
            for number, (name, source) in enumerate(sources.items())
        }
        self.taken = 0
        self.taken_s = time.monotonic()
        self._lock = threading.Lock()
        self._stream: Stream | None = None

    def attach(self, stream: Stream) -> None:
        """Whose books are shown beside the outcomes that were read."""
        self._stream = stream

    def take(self, outcome: Outcome) -> None:
        """Count an outcome that was handed over; called by the loop that reads them."""
        now_s = time.monotonic()
        with self._lock:
            self.taken += 1
            self.taken_s = now_s
            self.cameras[outcome.source_id].take(outcome, now_s)

    def states(self) -> dict[str, CameraState]:
        """What each camera is doing now."""
        if self._stream is None:
            return {name: CameraState("waiting") for name in self.cameras}
        lost, ended = self._stream.errors, self._stream.ended
        return {
            name: state_of(one.source, lost.get(name), has_ended=name in ended)
            for name, one in self.cameras.items()
        }

    def snapshot(self) -> list[dict[str, Any]]:
        """All cameras, for the page.

        Raises:
            StateError: LEDGER when the stream's books do not balance.
        """
        counts = {} if self._stream is None else self._stream.counts_by_source
        states, now_s = self.states(), time.monotonic()
        with self._lock:
            for name, one in self.cameras.items():
                one.counts = counts.get(name, one.counts)
                one.state = states[name]
            return [one.snapshot(now_s) for one in self.cameras.values()]

    def scores(self, name: str) -> list[list[Any]]:
        """``[seq, score, verdict]`` of a camera's remembered frames, oldest first."""
        with self._lock:
            return self.cameras[name].scores()

    def counted(self) -> dict[str, dict[str, Any]]:
        """Totals of each camera, for the metrics."""
        with self._lock:
            return {
                name: {
                    "verdicts": dict(one.verdicts),
                    "dropped": dict(one.dropped),
                    "failed": dict(one.failed),
                    "latency_counts": list(one.latency_counts),
                    "latency_sum_s": one.latency_sum_s,
                    "score": None
                    if one.last is None or one.last.detection is None
                    else float(one.last.detection.score),
                }
                for name, one in self.cameras.items()
            }
