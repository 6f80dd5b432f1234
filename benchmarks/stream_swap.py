"""Five hundred swaps of a real bundle under load: how many frames they lose, what latency they cost.

    python benchmarks/stream_swap.py part.edgead --swaps 500 --json

A live source is paced so that judging takes at most 30 % of the time. Beside it one thread calls `Detector.swap` again
and again: memory head-room first, then loading, golden images, the switch, and the end of the one before the last. Two
bundles of other thresholds take turns, so that a frame judged by the wrong one would show; every tenth candidate
besides has wrong golden scores and must leave the old one serving. p99 is given for frames settled during a swap, and
for those in between.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from stream import frames_for, keep

from edgead import Detector
from edgead.bundle import Bundle
from edgead.errors import BundleError
from edgead.stream.sources import Captured, EndOfSource
from edgead.types import Frame, Outcome


class Paced:
    """A live camera that hands over a frame each ``period_s`` until it is told to end."""

    kind = "live"
    is_simulated = False

    def __init__(self, frames: list[Frame], period_s: float) -> None:
        self.source_id = "camera"
        self.is_over = threading.Event()
        self._frames = frames
        self._period_s = period_s
        self._start = time.monotonic()
        self._next = 0

    def read(self, timeout_s: float) -> Captured:
        """The next frame when its moment has come."""
        wait_s = self._start + self._next * self._period_s - time.monotonic()
        if wait_s > 0:
            time.sleep(min(wait_s, timeout_s))
            if wait_s > timeout_s:
                return None
        if self.is_over.is_set():
            raise EndOfSource
        number, self._next = self._next, self._next + 1
        frame = self._frames[number % len(self._frames)]
        return Frame(frame.pixels, frame.format, block_id=number)

    def close(self) -> None:
        """End the source."""
        self.is_over.set()


class Swaps:
    """The thread that swaps."""

    def __init__(self, detector: Detector, count: int, minutes: float) -> None:
        self.refused = self.switched = 0
        self.compiling: list[tuple[int, int]] = []
        self.bundles = (detector.bundle, _stricter(detector.bundle))
        self._wrong = _wrong(detector.bundle)
        self._detector, self._count = detector, count
        self._until = time.monotonic() + minutes * 60

    def run(self) -> None:
        """Swap, again and again; the bundle of a generation is that of its number's parity."""
        while self.switched < self._count and time.monotonic() < self._until:
            self._time(self.bundles[(self.switched + 1) % 2])
            self.switched += 1
            if self.switched % 10 == 0:
                try:
                    self._time(self._wrong)
                except BundleError as error:
                    self.refused += error.code == "GOLDEN"
            time.sleep(0.02)

    def _time(self, bundle: Bundle) -> None:
        start = time.monotonic_ns()
        try:
            self._detector.swap(bundle)
        finally:
            self.compiling.append((start, time.monotonic_ns()))


def _stricter(bundle: Bundle) -> Bundle:
    learnt = bundle.manifest.thresholds
    threshold = learnt.threshold - 1e-6 * learnt.score_scale
    return bundle.with_members({}, thresholds=msgspec.structs.replace(learnt, threshold=threshold))


def _wrong(bundle: Bundle) -> Bundle:
    scale = bundle.manifest.thresholds.score_scale
    golden = [
        msgspec.structs.replace(
            g, score=g.score + scale if g.verdict == "DEFECT" else g.score - scale
        )
        for g in bundle.manifest.golden
    ]
    return bundle.with_members({}, golden=golden)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the figures on stdout")
    parser.add_argument("--save", action="store_true", help="keep them in benchmarks/results")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of the engine (%(default)s)"
    )
    parser.add_argument("bundle", help="a .edgead file")
    parser.add_argument("--swaps", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=60.0, help="end earlier after this time")
    parser.add_argument(
        "--load", type=float, default=0.3, help="share of time that judging takes (%(default)s)"
    )
    arguments = parser.parse_args()
    result = swapped(arguments)
    keep(
        arguments,
        "stream-swap",
        "python benchmarks/stream_swap.py BUNDLE --json --save",
        {"results": [result]},
    )


def swapped(arguments: argparse.Namespace) -> dict[str, Any]:
    """The run itself."""
    detector = Detector(
        arguments.bundle, backend="openvino", threads=arguments.threads, check_ranges=False
    )
    frames = frames_for(detector, 16)
    service_s = statistics.median(_seconds(detector, frame) for frame in frames * 4)
    source = Paced(frames, service_s / arguments.load)
    swaps = Swaps(detector, arguments.swaps, arguments.minutes)
    thread = threading.Thread(target=lambda: (swaps.run(), source.is_over.set()))
    outcomes: list[Row] = []
    memory: list[float] = []
    with detector.stream({"camera": source}, policy="drop_oldest(32)") as stream:
        thread.start()
        for outcome in stream:
            outcomes.append(row(outcome, swaps.bundles))
            if len(outcomes) % 200 == 0:
                memory.append(resident_mb())
                print(len(outcomes), swaps.switched, round(memory[-1]), file=sys.stderr)
        counts = stream.counts
    thread.join()
    detector.close()
    result = summary(outcomes, swaps, memory)
    result.update(
        lost=counts.dropped + counts.failed,
        received=counts.received,
        lost_upstream=counts.lost_upstream,
    )
    result.update(service_ms=round(service_s * 1e3, 2), load=arguments.load)
    return result


class Row(NamedTuple):
    """What is kept of an outcome."""

    generation: int
    settled_ns: int
    latency_ms: float
    reason: str
    is_mixed: bool


def row(outcome: Outcome, bundles: tuple[Bundle, Bundle]) -> Row:
    found, number = outcome.detection, outcome.generation
    is_mixed = found is not None and found.bundle_hash != bundles[number % 2].hash
    return Row(number, outcome.settled_mono_ns, outcome.latency_ms, outcome.reason, is_mixed)


def _seconds(detector: Detector, frame: Frame) -> float:
    start = time.perf_counter()
    detector(frame)
    return time.perf_counter() - start


def summary(outcomes: list[Row], swaps: Swaps, memory: list[float]) -> dict[str, Any]:
    """Counts, generations, latencies in and out of swaps."""
    latency = np.array([o.latency_ms for o in outcomes])
    moments = np.array([o.settled_ns for o in outcomes])
    starts, ends = (np.array(side) for side in zip(*swaps.compiling, strict=True))
    place = np.searchsorted(starts, moments) - 1
    busy = (place >= 0) & (moments <= ends[np.maximum(place, 0)] + 5_000_000)
    generations = np.array([o.generation for o in outcomes if o.reason == ""])
    half = memory[len(memory) // 2 :]
    return {
        "swaps": swaps.switched,
        "refused": swaps.refused,
        "lost_during_a_swap": sum(
            o.reason != "" for o, is_busy in zip(outcomes, busy, strict=True) if is_busy
        ),
        "reasons": sorted({o.reason for o in outcomes if o.reason}),
        "generations_seen": len(set(generations.tolist())),
        "generation_went_back": int((np.diff(generations) < 0).sum()),
        "judged_by_another_bundle": sum(o.is_mixed for o in outcomes),
        "p50_ms": round(float(np.median(latency)), 2),
        "p99_ms_steady": _p99(latency[~busy]),
        "p99_ms_during_a_swap": _p99(latency[busy]),
        "frames_during_a_swap": int(busy.sum()),
        "max_ms": round(float(latency.max()), 2),
        "swap_s": round(float(np.median((ends - starts) / 1e9)), 3),
        "memory_mb_half": round(half[0]) if half else None,
        "memory_mb_end": round(half[-1]) if half else None,
    }


def _p99(latency_ms: np.ndarray) -> float | None:
    return round(float(np.quantile(latency_ms, 0.99)), 2) if len(latency_ms) else None


if __name__ == "__main__":
    main()
