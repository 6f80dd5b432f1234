"""Cost against size: time a frame over input sizes, frames a second over cameras; drawn as a plot.

    python benchmarks/scaling.py --photos DIR --bundle B --keep FOLDER [--method M] [--sizes 256 384 ...]

A bundle of each input size is trained for one epoch on a few photographs (speed does not depend on how well it is
trained) and judges frames of its own size from memory, on OpenVINO in FP32; the sizes take turns. Then one to eight
cameras in memory share the engine of ``--bundle``, with either hint. ``docs/images/scaling.svg`` is drawn from the
figures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, load, save
from stream import consume, frames_for, in_memory

from edgead import files, images
from edgead.backends import HINTS
from edgead.detector import Detector
from edgead.evaluate import data
from edgead.models.registry import make_method
from edgead.preprocess import as_bgr
from edgead.train.loop import Budget
from edgead.train.run import train
from edgead.types import Frame

NAME = "scaling"
PLOT = ROOT / "docs" / "images" / "scaling.svg"
CAMERAS = (1, 2, 4, 8)
_PHOTOS = 45
_STAGES = ("preprocess", "infer", "postprocess")


def photographs(folder: Path, side: int) -> list[Frame]:
    """Photographs of a folder, brought to ``side`` x ``side``."""
    paths = data.find_images(folder)[:_PHOTOS]
    return [
        Frame(np.ascontiguousarray(as_bgr(images.read(path), size=(side, side)))) for path in paths
    ]


def bundle_of(method: str, side: int, frames: Sequence[Frame], keep: Path) -> Path:
    """A bundle whose input has this size, hardly trained; made once."""
    path = keep / f"{method}-{side}.edgead"
    if path.exists():
        return path
    print(f"training {method} at {side}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        good = Path(scratch, "good")
        good.mkdir()
        for number, frame in enumerate(frames):
            files.write_bytes(good / f"{number:03d}.png", images.encode_png(frame.pixels))
        train(lambda: make_method(method, image_size=side), good, path, budget=Budget(epochs=1))
    return path


def over_sizes(
    detectors: Mapping[int, Detector], frames: Mapping[int, Sequence[Frame]], turns: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds a frame and of each stage, by input size."""
    whole: dict[int, list[float]] = {side: [] for side in detectors}
    stages: dict[int, dict[str, list[float]]] = {
        side: {stage: [] for stage in _STAGES} for side in detectors
    }
    for turn in range(turns + 2):
        for side, detector in detectors.items():
            for frame in frames[side][:8]:
                started = time.perf_counter()
                found = detector(frame)
                spent = (time.perf_counter() - started) * 1e3
                if turn >= 2:  # warm-up
                    whole[side].append(spent)
                    for stage in _STAGES:
                        stages[side][stage].append(found.timings_ms[stage])
    return {
        str(side): {
            "ms": round(statistics.median(whole[side]), 3),
            "frames_a_second": round(1e3 / statistics.median(whole[side]), 1),
            **{stage: round(statistics.median(stages[side][stage]), 3) for stage in _STAGES},
        }
        for side in detectors
    }


def over_cameras(
    bundle: Path, threads: int, turns: int, count: int = 64
) -> dict[str, dict[str, float]]:
    """Median frames a second of all cameras together, by hint and by how many share one engine."""
    options: dict[str, Any] = {"threads": threads, "check_ranges": False}  # the frames are drawn
    detectors = {
        hint: Detector(bundle, backend="openvino", precision="fp32", hint=hint, **options)
        for hint in HINTS
    }
    rates: dict[str, dict[str, list[float]]] = {
        hint: {str(number): [] for number in CAMERAS} for hint in HINTS
    }
    frames = frames_for(detectors[HINTS[0]], 16)
    for turn in range(turns + 1):
        for number in CAMERAS:
            for hint, detector in detectors.items():
                sources = {f"camera{n}": in_memory(frames, count // number) for n in range(number)}
                started = time.perf_counter()
                judged = consume(detector.stream(sources))
                if turn:
                    rates[hint][str(number)].append(judged / (time.perf_counter() - started))
    for detector in detectors.values():
        detector.close()
    return {
        hint: {number: round(statistics.median(values), 1) for number, values in row.items()}
        for hint, row in rates.items()
    }


def growth(rows: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Each size's time over the smallest size's, per pixel: above 1 grows faster than the pixels."""
    first, *_ = rows
    found = {}
    for side, row in rows.items():
        pixels = (int(side) / int(first)) ** 2
        found[side] = {
            part: round(row[part] / rows[first][part] / pixels, 3) for part in ("ms", *_STAGES)
        }
    return found


def drawing(body: Mapping[str, Any]) -> str:
    """Both curves as one SVG on log axes: milliseconds over side, frames a second over cameras."""
    sizes = {int(side): row["ms"] for side, row in body["sizes"].items()}
    colours = dict(zip(HINTS, ("#999999", "#0a6ebd"), strict=True))
    cameras = [
        (colours[hint], {int(number): rate for number, rate in row.items()})
        for hint, row in body["cameras"].items()
    ]
    smallest = min(sizes)
    pixels = {side: sizes[smallest] * (side / smallest) ** 2 for side in sizes}
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 380" role="img" '
        'font-family="system-ui, sans-serif" font-size="14" fill="#444">',
        "<title>Milliseconds a frame over input sizes; frames a second over cameras</title>",
        '<rect width="920" height="380" fill="#ffffff"/>',
        *_panel(40, "input side, pixels", "ms a frame", [("#999999", pixels), ("#0a6ebd", sizes)]),
        *_panel(500, "cameras on one engine", "frames a second, all", cameras),
        '<text x="90" y="60" fill="#777">grey: growth of the pixels</text>',
        '<text x="550" y="60" fill="#777">grey: latency, blue: throughput</text></svg>\n',
    ]
    return "\n".join(parts)


def _panel(
    left: int, across: str, up: str, curves: Sequence[tuple[str, Mapping[int, float]]]
) -> list[str]:
    """One plot, logarithmic both ways, ticks at the measured points."""
    every = [value for _, curve in curves for value in curve.values()]
    low, high = min(0.0, np.log(min(every))), np.log(max(every) * 1.15)
    sides = sorted(curves[-1][1])
    x0, x1, y0, y1 = left + 50, left + 380, 320, 40

    def x(value: float) -> float:
        return float(
            x0 + (x1 - x0) * np.log(value / sides[0]) / max(np.log(sides[-1] / sides[0]), 1e-9)
        )

    def y(value: float) -> float:
        return float(y0 + (y1 - y0) * (np.log(value) - low) / (high - low))

    parts = [f'<path d="M{x0} {y1}V{y0}H{x1}" fill="none" stroke="#888"/>']
    for colour, curve in curves:
        points = " ".join(f"{x(k):.1f},{y(v):.1f}" for k, v in sorted(curve.items()))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
    for side, value in sorted(curves[-1][1].items()):
        parts.append(f'<circle cx="{x(side):.1f}" cy="{y(value):.1f}" r="4" fill="#0a6ebd"/>')
        parts.append(
            f'<text x="{x(side):.1f}" y="{y(value) - 10:.1f}" text-anchor="middle">{value:g}</text>'
        )
        parts.append(f'<text x="{x(side):.1f}" y="{y0 + 20}" text-anchor="middle">{side}</text>')
    middle = (x0 + x1) / 2
    parts.append(f'<text x="{middle}" y="{y0 + 45}" text-anchor="middle">{across}</text>')
    parts.append(f'<text x="{x0}" y="{y1 - 26}" text-anchor="middle">{up}</text>')
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--photos", type=Path, help="folder of photographs")
    add("--bundle", type=Path, help="whose engine the cameras share")
    add("--method", default="trisimplenet")
    add("--sizes", type=int, nargs="+", default=[256, 384, 512, 768, 1024])
    add("--threads", type=int, default=2)
    add("--turns", type=int, default=15)
    add("--keep", type=Path, help="existing folder for the bundles of each size")
    add("--train", action="store_true", help="only make those bundles")
    add("--plot", action="store_true", help="only draw, from the results file")
    options = parser.parse_args()
    if options.plot:
        files.write_text(PLOT, drawing(load(NAME)))
        return
    if not (options.photos and options.bundle and options.keep):
        parser.error("give --photos, --bundle and --keep, or --plot")
    frames = {side: photographs(options.photos, side) for side in options.sizes}
    kept = {
        side: bundle_of(options.method, side, frames[side], options.keep) for side in options.sizes
    }
    if options.train:
        return
    detectors = {
        side: Detector(path, backend="openvino", precision="fp32", threads=options.threads)
        for side, path in kept.items()
    }
    sizes = over_sizes(detectors, frames, options.turns)
    body = {
        "method": options.method,
        "threads": options.threads,
        "sizes": sizes,
        "growth_per_pixel": growth(sizes),
        "cameras": over_cameras(options.bundle, options.threads, options.turns),
    }
    save(NAME, "python benchmarks/scaling.py --photos DIR --bundle B --keep FOLDER", body)
    files.write_text(PLOT, drawing(load(NAME)))
    print(body)


if __name__ == "__main__":
    main()
