"""What every benchmark shares: interleaved timing, medians, provenance, results as JSON.

A machine's speed drifts, so candidates are timed in turn, A B C A B C, and compared by the medians of
the same run; absolute times of different runs are never compared.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgead import files

__all__ = [
    "NOT_MEASURED",
    "RESULTS",
    "SCHEMA",
    "interleave",
    "load",
    "markdown",
    "provenance",
    "save",
]

SCHEMA = 1
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NOT_MEASURED = "not measured"
_PACKAGES = (
    "edgead", "numpy", "torch", "openvino", "onnxruntime", "opencv-python-headless", "faiss-cpu", "pillow",
    "scikit-learn", "scipy", "cupy-cuda13x", "tensorrt", "tensorrt-rtx-cu13", "anomalib",
)  # fmt: skip


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    warm_up: int = 3,
    least: int = 5,
    burst: int = 1,
    pause_s: float = 0.0,
) -> dict[str, float]:
    """Median milliseconds of each candidate, called in turn.

    Threads of one candidate may still spin when the next one's turn comes, and the caches hold what
    the last one left. For calls far below a millisecond give each turn a pause and a burst: one
    call more is made before a burst and not counted.

    Args:
        candidates: Name -> call; each must end its own work (synchronise a GPU).
        seconds: For all of them together, warm-up not counted.
        warm_up: Calls of each before the clock starts.
        least: Turns of each at the least.
        burst: Calls counted in each turn.
        pause_s: Sleep before each turn.
    """
    for _ in range(warm_up):
        for call in candidates.values():
            call()
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(spent.values()))) < least * burst:
        for name, call in candidates.items():
            time.sleep(pause_s)
            if burst > 1:
                call()
            for _ in range(burst):
                started = time.perf_counter()
                call()
                spent[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) * 1e3 for name, values in spent.items()}


def provenance() -> dict[str, Any]:
    """Machine, versions and commit, for the head of every results file."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "schema": SCHEMA,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions,
        "load_at_end": round(os.getloadavg()[0], 2),
    }


def save(name: str, command: str, body: Mapping[str, Any]) -> Path:
    """Write ``results/<name>.json``: the body, the command that makes it, where it was made."""
    path = RESULTS / f"{name}.json"
    tree = {"command": command, **body, "provenance": provenance()}
    files.write_text(path, json.dumps(tree, indent=1, allow_nan=False) + "\n")
    return path


def load(name: str) -> dict[str, Any]:
    """Read ``results/<name>.json``."""
    tree: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return tree


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; None is written as what it is: not measured."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(NOT_MEASURED if cell is None else str(cell) for cell in line) + " |\n"
        for line in lines
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
