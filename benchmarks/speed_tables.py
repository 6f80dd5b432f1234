"""README's tables of speed: against anomalib, around the engine, over sizes and cameras, over workers.

Drawn from ``benchmarks/results``; `tables` puts them into the README.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from harness import NOT_MEASURED, RESULTS, markdown

__all__ = ["archive", "arithmetic", "end_to_end", "head_inside", "overhead", "scaling"]


def _results(pattern: str) -> Iterator[dict[str, Any]]:
    for path in sorted(RESULTS.glob(pattern)):
        yield json.loads(path.read_text())


def end_to_end() -> str:
    """Each candidate beside anomalib's, a table a data set."""
    text = ""
    for found in _results("end_to_end-*.json"):
        rows = []
        for name, one in found["candidates"].items():
            ratios = [
                f"{found['ratios'][f'{name} / {peer}']['speed']:.2f}x"
                for peer in found["candidates"]
                if f"{name} / {peer}" in found["ratios"]
            ]
            rows.append(
                [
                    name,
                    f"{one['p50_ms']:.2f}",
                    f"{one['p99_ms'] / one['p50_ms']:.2f}",
                    ", ".join(ratios) or "-",
                    f"{one['peak_mb']:.0f}",
                    f"{one['first_verdict_s']:.2f}",
                    f"{one['image_auroc']:.4f}",
                ]
            )
        peers = [name for name in found["candidates"] if name.startswith("anomalib")]
        head = ["candidate", "ms a frame", "p99 / p50", f"times {', '.join(peers)}", "peak MB"]
        head += ["start to first verdict, s", "image AUROC"]
        text += f"{found['set']}, {_machine(found)}:\n\n{markdown(head, rows)}\n"
    return text or f"{NOT_MEASURED}\n"


def overhead() -> str:
    """What the way around the engine costs."""
    text = ""
    for found in _results("overhead-*.json"):
        pairs = list(found["runs"][0]["overhead_ratio"])
        rows = [
            [
                f"{run['bundle']} {run['backbone']} {run['precision']}",
                f"{run['ms']['raw']:.2f}",
                f"{run['ms']['whole']:.2f}",
                *(f"{run['overhead_ratio'][pair]:.3f}" for pair in pairs),
                f"{run['p99_over_p50']['whole'] / run['p99_over_p50']['raw']:.2f}",
            ]
            for run in found["runs"]
        ]
        head = ["method", "engine alone, ms", "frame to regions, ms", *pairs]
        head.append("p99 / p50 over the engine's")
        frame = found["runs"][0]["frame"]
        text += (
            f"Frames of {frame[1]}x{frame[0]}, {_machine(found)}; ratios to the engine alone:\n\n"
        )
        text += f"{markdown(head, rows)}\n"
    return text or f"{NOT_MEASURED}\n"


def head_inside() -> str:
    """For docs/methods.md: DFDA-AD's distances by a kernel or inside its graph."""
    text = ""
    for found in _results("head_inside.json"):
        rows = [
            [
                f"{run['backbone']} {run['precision']}",
                " x ".join(map(str, run["centroids"])),
                f"{run['ms']['outside']:.2f}",
                f"{run['ms']['inside']:.2f}",
                f"{run['score_difference']:.4f}",
            ]
            for run in found["runs"]
        ]
        head = ["backbone, precision", "centroids", "by the kernel, ms", "inside the graph, ms"]
        text += markdown([*head, "scores differ by, of score_scale"], rows)
        text += f"\n{_machine(found)}.\n"
    return text or f"{NOT_MEASURED}\n"


def scaling() -> str:
    """Cost over input size, and cameras on one engine."""
    text = ""
    for found in _results("scaling.json"):
        rows = [
            [
                side,
                *(f"{row[part]:.2f}" for part in ("ms", "preprocess", "infer", "postprocess")),
                f"{found['growth_per_pixel'][side]['ms']:.2f}",
            ]
            for side, row in found["sizes"].items()
        ]
        head = ["frame and input side", "ms a frame", "preprocess", "infer", "postprocess"]
        head += ["growth over the pixels'"]
        text += f"{found['method']}, {_machine(found)}:\n\n{markdown(head, rows)}\n"
        rows = [
            [hint, *(f"{rate:.0f}" for rate in row.values())]
            for hint, row in found["cameras"].items()
        ]
        numbers = found["cameras"]["latency"]
        text += "Frames a second of all cameras together, by hint:\n\n"
        text += markdown(["cameras on one engine", *numbers], rows) + "\n"
    return text or f"{NOT_MEASURED}\n"


def archive() -> str:
    """Workers of `edgead score` against one process."""
    text = ""
    for found in _results("archive.json"):
        rows = []
        for name, run in found["runs"].items():
            times = found["runs"]["processes_1"]["seconds"] / run["seconds"]
            same = "yes" if run["same_rows"] else "NO"
            rows.append(
                [
                    name.replace("_", " "),
                    f"{run['images_per_second']:.0f}",
                    f"{times:.2f}x",
                    same,
                    len(run["killed"]),
                ]
            )
        head = ["workers", "images a second", "of one process", "same rows, bit for bit", "killed"]
        text += f"{found['images']} images, {_machine(found)}:\n\n{markdown(head, rows)}\n"
    return text or f"{NOT_MEASURED}\n"


def arithmetic() -> str:
    """docs/fleet.md: what an image costs a worker, and what a simulation makes of more workers."""
    text = ""
    for found in _results("archive.json"):
        one, simulated = found["runs"]["processes_1"], found["simulated"]
        stages = {**one["stages_ms"], "overhead": found["overhead_ms_per_image"]["processes_1"]}
        total = sum(stages.values())
        ahead = total - stages["infer"] - stages["overhead"]
        row = [f"{ms:.2f}" for ms in (*stages.values(), total)]
        text += markdown(["", *stages, "t"], [["ms an image", *row]])
        text += (
            f"\n{found['images']} images, {_machine(found)}, one worker with one engine thread: "
            f"{86.4 / total:.1f} million images a day and core, {total / 3.6:.1f} core-hours a "
            f"million images. All but engine and overhead is {ahead:.1f} ms: a GPU wants "
            f"{ahead:.1f} cores beside it for each 1,000 images a second. The one writer takes "
            f"{simulated['serial_ms_per_image']:.2f} ms of CPU time an image, and so "
            f"{simulated['serial_limit_images_per_second']:,.0f} images a second at most.\n\n"
        )
        workers = simulated["workers"]
        rows = [
            ["images a second", *(f"{one['images_per_second']:,.0f}" for one in workers.values())],
            ["of the ideal", *(f"{one['share_of_ideal']:.3f}" for one in workers.values())],
        ]
        text += markdown(["workers, simulated", *workers], rows) + "\n"
        text += archive()
    return text or f"{NOT_MEASURED}\n"


def _machine(found: dict[str, Any]) -> str:
    threads = f", {found['threads']} threads" if "threads" in found else ""
    return f"{found['provenance']['cpu']}, {found['provenance']['cores']} cores{threads}"
