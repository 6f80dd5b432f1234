"""Five hundred swaps of a real bundle under load: how many frames they lose, what latency they cost.

    python benchmarks/stream_swap.py part.edgead --swaps 500 --json

A live source is paced so that judging takes at most 30 % of the time. Beside it one thread builds the next detector
(memory head-room first, its golden images last), switches, and so frees the one before the last; every third
candidate is refused by its check on purpose and must leave the old one serving. p99 is given for frames settled while
a model was being compiled, and for those in between.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from stream import frames_for, keep

from edgead import Detector
from edgead.errors import BundleError
from edgead.stream import Stream, Swappable
from edgead.stream.sources import Captured, EndOfSource
from edgead.stream.swap import require_memory
from edgead.types import Frame

NEEDED_BYTES = 300_000_000


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
    """The thread that builds, checks and switches."""

    def __init__(self, holder: Swappable, bundle: str, count: int, threads: int) -> None:
        self.refused = self.switched = 0
        self.compiling: list[tuple[int, int]] = []
        self._holder, self._bundle, self._count, self._threads = holder, bundle, count, threads

    def run(self) -> None:
        """Build, check and switch, again and again."""
        for number in range(self._count):
            require_memory(NEEDED_BYTES)
            start = time.monotonic_ns()
            detector = Detector(
                self._bundle, backend="openvino", threads=self._threads, check_ranges=False
            )
            self.compiling.append((start, time.monotonic_ns()))
            try:
                self._holder.switch(detector, check=_refuse if number % 3 == 2 else None)
                self.switched += 1
            except BundleError:
                self.refused += 1
            time.sleep(0.05)


def _refuse(_: Any) -> None:
    raise BundleError("GOLDEN", "planted: this candidate must not serve.")


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
    parser.add_argument(
        "--load", type=float, default=0.3, help="share of time that judging takes (%(default)s)"
    )
    arguments = parser.parse_args()
    first = Detector(
        arguments.bundle, backend="openvino", threads=arguments.threads, check_ranges=False
    )
    frames = frames_for(first, 16)
    service_s = statistics.median(_seconds(first, frame) for frame in frames * 4)
    holder = Swappable(first)
    source = Paced(frames, service_s / arguments.load)
    swaps = Swaps(holder, arguments.bundle, arguments.swaps, arguments.threads)
    thread = threading.Thread(target=lambda: (swaps.run(), source.is_over.set()))
    outcomes = []
    memory: list[float] = []
    with Stream(holder, {"camera": source}, policy="drop_oldest(32)") as stream:
        thread.start()
        for outcome in stream:
            outcomes.append(
                (outcome.generation, outcome.settled_mono_ns, outcome.latency_ms, outcome.reason)
            )
            if len(outcomes) % 200 == 0:
                memory.append(resident_mb())
                print(len(outcomes), swaps.switched, round(memory[-1]), file=sys.stderr)
        counts = stream.counts
    thread.join()
    holder.close()
    result = summary(outcomes, swaps, memory)
    result.update(
        lost=counts.dropped + counts.failed,
        received=counts.received,
        lost_upstream=counts.lost_upstream,
    )
    result.update(service_ms=round(service_s * 1e3, 2), load=arguments.load)
    keep(
        arguments,
        "stream-swap",
        "python benchmarks/stream_swap.py BUNDLE --json --save",
        {"results": [result]},
    )


def _seconds(detector: Detector, frame: Frame) -> float:
    start = time.perf_counter()
    detector(frame)
    return time.perf_counter() - start


def summary(
    outcomes: list[tuple[int, int, float, str]], swaps: Swaps, memory: list[float]
) -> dict[str, Any]:
    """Counts, generations, latencies in and out of compiling."""
    latency = np.array([o[2] for o in outcomes])
    moments = np.array([o[1] for o in outcomes])
    starts, ends = (np.array(side) for side in zip(*swaps.compiling, strict=True))
    place = np.searchsorted(starts, moments) - 1
    busy = (place >= 0) & (moments <= ends[np.maximum(place, 0)] + 5_000_000)
    generations = np.array([o[0] for o in outcomes if o[3] == ""])
    half = memory[len(memory) // 2 :]
    return {
        "swaps": swaps.switched,
        "refused": swaps.refused,
        "lost_while_compiling": sum(
            o[3] != "" for o, is_busy in zip(outcomes, busy, strict=True) if is_busy
        ),
        "reasons": sorted({o[3] for o in outcomes if o[3]}),
        "generations_seen": len(set(generations.tolist())),
        "generation_went_back": int((np.diff(generations) < 0).sum()),
        "p50_ms": round(float(np.median(latency)), 2),
        "p99_ms_steady": round(float(np.quantile(latency[~busy], 0.99)), 2)
        if (~busy).any()
        else None,
        "p99_ms_while_compiling": round(float(np.quantile(latency[busy], 0.99)), 2)
        if busy.any()
        else None,
        "max_ms": round(float(latency.max()), 2),
        "compile_s": round(float(np.median((ends - starts) / 1e9)), 3),
        "memory_mb_half": round(half[0]) if half else None,
        "memory_mb_end": round(half[-1]) if half else None,
    }


if __name__ == "__main__":
    main()
