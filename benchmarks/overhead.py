"""What the way around the engine costs: frames a second from memory to verdict over the raw engine's.

    python benchmarks/overhead.py --bundle B [--bundle B2 ...] --source DIR [--precisions fp32 int8]

Frames are decoded before the clock starts and have defects, so that each ends in a map, a mask and regions. Four
ways alternate in short turns with the raw engine on the same threads: one frame at a time, several in flight on an
engine with the throughput hint (and as many on the raw one beside it), and both with the score alone. The ratio is of
medians of the same run. The raw engine computes the whole method: DFDA-AD's distances, which the run-time leaves to a
kernel, are inside its graph.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import save
from head_inside import complete

from edgead import images
from edgead.backends import open_backend
from edgead.bundle import read_bundle
from edgead.detector import Detector
from edgead.evaluate import data
from edgead.preprocess import Preprocess
from edgead.types import Frame, Verdict

#: Pairs of the engine alone and the whole way, and the ratio that is wanted of them.
PAIRS = {
    "one at a time": ("raw", "whole", 0.88),
    "in flight": ("raw pipelined", "whole pipelined", 0.93),
    "score only": ("raw", "score only", 0.97),
    "score only, in flight": ("raw pipelined", "score only pipelined", 0.97),
}


#: Pipelines fill and run empty once a turn: that often each frame comes meanwhile.
_OVER = 4


def defects(bundle: Path, source: Path, count: int) -> list[Frame]:
    """Frames of ``source`` that the bundle calls DEFECT, so that none skips mask and regions."""
    found: list[Frame] = []
    with Detector(bundle, backend="openvino", precision="fp32") as detector:
        for path in data.find_images(source):
            frame = images.read(path)
            if detector(frame).verdict is Verdict.DEFECT:
                found.append(frame)
            if len(found) == count:
                return found
    if not found:
        raise SystemExit(f"{source}: the bundle finds no defect, so regions would not be measured")
    return found


class Engine:
    """The engine alone, on pictures that were prepared before."""

    def __init__(self, bundle: Path, options: Mapping[str, Any], frames: Sequence[Frame]) -> None:
        opened = read_bundle(bundle)
        backend: Any = open_backend("openvino", complete(opened, options["precision"]), **options)
        self._requests = [backend.open_request() for _ in range(backend.in_flight)]
        prepare = Preprocess.of(opened)
        self._pictures = [prepare(frame)[0] for frame in frames]

    def one_at_a_time(self) -> list[float]:
        """Each picture alone: seconds."""
        request = self._requests[0]

        def judge(picture: Any) -> None:
            request.start({"image": picture})
            request.wait()

        return each(judge, self._pictures)

    def pipelined(self) -> list[float]:
        """As many requests in flight as keep it busy: seconds a picture."""
        many = [*self._pictures] * _OVER
        started = time.perf_counter()
        for number, picture in enumerate(many):
            request = self._requests[number % len(self._requests)]
            if number >= len(self._requests):
                request.wait()
            request.start({"image": picture})
        for request in self._requests[: len(many)]:
            request.wait()
        return [(time.perf_counter() - started) / len(many)]


def each(judge: Callable[[Any], object], items: Sequence[Any]) -> list[float]:
    """Seconds of each item alone."""
    spent = []
    for item in items:
        started = time.perf_counter()
        judge(item)
        spent.append(time.perf_counter() - started)
    return spent


def together(detector: Detector, frames: Sequence[Frame]) -> list[float]:
    """Seconds a frame when all are handed over at once, a few times over."""
    many = [*frames] * _OVER
    started = time.perf_counter()
    detector.batch(many)
    return [(time.perf_counter() - started) / len(many)]


def ways(
    bundle: Path, precision: str, threads: int, frames: Sequence[Frame]
) -> dict[str, Callable[[], list[float]]]:
    """Name -> judges all frames once and gives seconds a frame."""
    soon: dict[str, Any] = {"precision": precision, "threads": threads}
    many = {**soon, "hint": "throughput"}

    def detector(options: Mapping[str, Any], *, score_only: bool = False) -> Detector:
        return Detector(bundle, backend="openvino", score_only=score_only, **options)

    whole, brief = detector(soon), detector(soon, score_only=True)
    whole_many, brief_many = detector(many), detector(many, score_only=True)
    return {
        "raw": Engine(bundle, soon, frames).one_at_a_time,
        "whole": lambda: each(whole, frames),
        "score only": lambda: each(brief, frames),
        "raw pipelined": Engine(bundle, many, frames).pipelined,
        "whole pipelined": lambda: together(whole_many, frames),
        "score only pipelined": lambda: together(brief_many, frames),
    }


def measure(
    bundle: Path, precision: str, threads: int, frames: Sequence[Frame], turns: int
) -> dict[str, Any]:
    """Milliseconds a frame of each way, and the ratios."""
    candidates = ways(bundle, precision, threads, frames)
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(turns + 2):
        for name, call in candidates.items():
            seconds = call()
            if turn >= 2:  # warm-up
                spent[name] += [one * 1e3 for one in seconds]
    ms = {name: round(statistics.median(values), 4) for name, values in spent.items()}
    tails = {
        name: round(float(np.percentile(spent[name], 99)) / ms[name], 3)
        for name in ("raw", "whole")
    }
    return {
        "bundle": read_bundle(bundle).manifest.method,
        "backbone": read_bundle(bundle).manifest.backbone,
        "input": list(read_bundle(bundle).manifest.input.size),
        "frame": list(frames[0].size),
        "frames": len(frames),
        "precision": precision,
        "ms": ms,
        "p99_over_p50": tails,
        "overhead_ratio": {
            name: round(ms[raw] / ms[own], 4) for name, (raw, own, _) in PAIRS.items()
        },
        "wanted": {name: wanted for name, (_, _, wanted) in PAIRS.items()},
    }


def _runs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for bundle in options.bundle:
        frames = defects(bundle, options.source, options.frames)
        for precision in options.precisions:
            run = measure(bundle, precision, options.threads, frames, options.turns)
            print(run["bundle"], precision, run["ms"], run["overhead_ratio"], file=sys.stderr)
            yield run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--bundle", type=Path, action="append", required=True, help="repeat for several")
    add("--source", type=Path, required=True, help="folder of images with defects")
    add("--precisions", nargs="+", default=["fp32"])
    add("--frames", type=int, default=16)
    add("--threads", type=int, default=2)
    add("--turns", type=int, default=60)
    add("--name", default="", help="of the data set, for the file's name; none: nothing is saved")
    options = parser.parse_args()
    runs = list(_runs(options))
    if options.name:
        command = "python benchmarks/overhead.py --bundle B --source DIR"
        save(f"overhead-{options.name}", command, {"threads": options.threads, "runs": runs})


if __name__ == "__main__":
    main()
