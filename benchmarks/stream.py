"""What the stream costs: one engine read by one loop, by a stream, by eight cameras, by eight files.

    python benchmarks/stream.py part.edgead --json

Candidates take turns within one run; each figure is a median of frames per second, each ratio is made within a
turn. The files' bound is decoding at its own rate and judging at the one source's rate, one after the other, both
using what cores they can: overlapping them can only beat it where cores are left over.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np

from edgead import Detector
from edgead.stream import Stream, open_source, run
from edgead.stream.sources import ArraySource
from edgead.types import Frame, PixelFormat

SOURCES = 8


def frames_for(detector: Detector, count: int) -> list[Frame]:
    """Pictures of blocks with a little noise, each another, as the bundle's camera sends them."""
    camera = detector.bundle.manifest.frame
    height, width = camera.size or (480, 640)
    draw = np.random.default_rng(0)
    blocks = draw.integers(60, 190, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    smooth = np.kron(blocks, np.ones((8, 8, 1), np.uint8))[:height, :width]
    pictures = [smooth + draw.integers(0, 6, smooth.shape, dtype=np.uint8) for _ in range(count)]
    if camera.format is PixelFormat.MONO8:
        pictures = [picture[:, :, 0] for picture in pictures]
    return [Frame(np.ascontiguousarray(picture), camera.format) for picture in pictures]


def consume(stream: Stream) -> int:
    """Read everything; every frame must have been judged."""
    count = 0
    for outcome in stream:
        if outcome.detection is None:
            raise SystemExit(f"not judged: {outcome.reason} {outcome.message}")
        count += 1
    return count


def rate(work: Callable[[], int]) -> float:
    """Frames per second of one turn."""
    start = time.perf_counter()
    return work() / (time.perf_counter() - start)


def loop(detector: Detector, frames: list[Frame], count: int) -> int:
    """The plain loop that the stream is measured against."""
    for number in range(count):
        detector(frames[number % len(frames)])
    return count


def in_memory(frames: list[Frame], count: int) -> ArraySource:
    """A source that hands over ``count`` frames without copying or decoding."""
    return ArraySource((frames[n % len(frames)] for n in range(count)), copy=False)


def eight(detector: Detector, frames: list[Frame], count: int, workers: int) -> int:
    """Eight in-memory cameras on one engine."""
    sources = {f"camera{n}": in_memory(frames, count // SOURCES) for n in range(SOURCES)}
    return consume(run(detector, sources, workers=workers))


def write_videos(folder: Path, frames: list[Frame], count: int) -> list[Path]:
    """Eight files of JPEG pictures, which FFmpeg plays."""
    import cv2

    encoded = [cv2.imencode(".jpg", frame.pixels)[1].tobytes() for frame in frames]
    data = b"".join(encoded[n % len(encoded)] for n in range(count // SOURCES))
    paths = [folder / f"camera{n}.mjpeg" for n in range(SOURCES)]
    for path in paths:
        path.write_bytes(data)
    return paths


def decode_only(paths: list[Path]) -> int:
    """Read all files one after the other, without an engine."""
    count = 0
    for path in paths:
        source = open_source(path)
        try:
            while source.read(1) is not None:
                count += 1
        except Exception:
            source.close()
    return count


def candidates(
    detector: Detector, frames: list[Frame], paths: list[Path], count: int, workers: int
) -> dict[str, Callable[[], int]]:
    """What takes turns."""
    return {
        "loop": lambda: loop(detector, frames, count),
        "one source": lambda: consume(run(detector, in_memory(frames, count), workers=workers)),
        "eight sources": lambda: eight(detector, frames, count, workers),
        "decode only": lambda: decode_only(paths),
        "eight files": lambda: consume(run(detector, {p.name: p for p in paths}, workers=workers)),
    }


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
    parser.add_argument("--frames", type=int, default=400, help="frames of each turn (%(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=7, help="turns of each candidate (%(default)s)"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Detector(
            arguments.bundle, backend="openvino", threads=arguments.threads, check_ranges=False
        ) as detector,
    ):
        frames = frames_for(detector, 16)
        paths = write_videos(Path(folder), frames, arguments.frames)
        for workers in arguments.workers:
            works = candidates(detector, frames, paths, arguments.frames, workers)
            results.append(measured(works, workers, arguments.rounds))
            print(results[-1], file=sys.stderr)
        about = repr(detector)
    body = {"detector": about, "frames": arguments.frames, "results": results}
    keep(arguments, "stream", "python benchmarks/stream.py BUNDLE --json --save", body)


def keep(arguments: argparse.Namespace, name: str, command: str, body: dict[str, Any]) -> None:
    """Print and store what was asked for."""
    if arguments.save:
        harness.save(name, command, body)
    if arguments.json:
        print(json.dumps(body))


def measured(works: dict[str, Callable[[], int]], workers: int, rounds: int) -> dict[str, Any]:
    """Take turns; ratios are made within a turn and their median is given."""
    for work in works.values():
        work()
    turns = [{name: rate(work) for name, work in works.items()} for _ in range(rounds)]
    bounds = [1 / (1 / t["one source"] + 1 / t["decode only"]) for t in turns]
    ratio = {
        "one source / loop": [t["one source"] / t["loop"] for t in turns],
        "eight sources / one source": [t["eight sources"] / t["one source"] for t in turns],
        "eight sources / loop": [t["eight sources"] / t["loop"] for t in turns],
        "eight files / bound": [
            t["eight files"] / bound for t, bound in zip(turns, bounds, strict=True)
        ],
        "eight files / eight sources": [t["eight files"] / t["eight sources"] for t in turns],
    }
    return {
        "workers": workers,
        "fps": {name: round(statistics.median(t[name] for t in turns), 1) for name in works},
        "ratios": {name: round(statistics.median(values), 3) for name, values in ratio.items()},
    }


if __name__ == "__main__":
    main()
