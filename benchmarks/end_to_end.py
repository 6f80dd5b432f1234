"""edgead against anomalib's OpenVINO inferencer, frame in memory to score, map and mask.

    python benchmarks/end_to_end.py --bundle B [--bundle B2 ...] --data ROOT --weights RESNET18.pth --peers FOLDER

anomalib lives in a virtual environment of its own under FOLDER, made on the first call (``pip install
anomalib[openvino]``), where its PaDiM, PatchCore and STFPM are trained on ``ROOT/train/good`` and exported once. Then
each candidate is a process of its own; they judge the same decoded frames in short turns, one after the other, on the
same number of threads, and medians of the same run are compared. Accuracy is taken over all test images of ROOT,
start-up from process start to the first verdict with a warm model cache, memory as the process's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import save

from edgead.bundle import read_bundle
from edgead.evaluate import data
from edgead.evaluate.metrics import image_auroc

PEERS = ("padim", "patchcore", "stfpm")
REQUIREMENT = "anomalib[openvino]==2.7.0"
_HERE = Path(__file__).parent


def main() -> int:
    options = _options()
    root = options.data.resolve()
    python = _peers_python(options.peers.resolve())
    commands: dict[str, list[str]] = {}
    for bundle in options.bundle:
        for precision in options.precisions:
            manifest = read_bundle(bundle).manifest
            name = f"edgead {manifest.method} {manifest.backbone} {precision}"
            commands[name] = [
                sys.executable,
                str(_HERE / "end_to_end_own.py"),
                str(bundle.resolve()),
                precision,
            ]
    for peer in options.peer:
        model = options.peers.resolve() / f"{peer}-{root.name}.xml"
        if not model.exists():
            _say(f"training anomalib's {peer} on {root.name}")
            peer_file = str(_HERE / "end_to_end_peer.py")
            words = [python, peer_file, "train", peer, root, options.weights.resolve(), model]
            subprocess.run(
                [str(w) for w in words], check=True, cwd=options.peers, stdout=sys.stderr
            )
        commands[f"anomalib {peer}"] = [
            python,
            str(_HERE / "end_to_end_peer.py"),
            "serve",
            str(model),
        ]
    found = measure(commands, root, options.threads, options.turns, options.peers)
    report = {
        "set": root.name,
        "threads": options.threads,
        "candidates": found,
        "ratios": ratios(found),
    }
    command = "python benchmarks/end_to_end.py --bundle B --data ROOT --weights W --peers FOLDER"
    save(f"end_to_end-{root.name}", command, report)
    print(json.dumps(report, indent=1))
    return 0


def measure(
    commands: Mapping[str, Sequence[str]], root: Path, threads: int, turns: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """Start-up (three of each, in turn), then short turns of timing, accuracy and memory."""
    samples = data.find_test(root)
    paths = [str(sample.path) for sample in samples]
    labels = np.array([sample.label for sample in samples])
    frames = paths[:: max(1, len(paths) // 16)][:16]
    starts: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(4):
        for name, command in commands.items():
            with _Process(command, threads, frames[0], folder) as process:
                starts[name].append(process.started_s)
    found: dict[str, dict[str, Any]] = {}
    running = {name: _Process(c, threads, frames[0], folder) for name, c in commands.items()}
    spent: dict[str, list[float]] = {name: [] for name in commands}
    try:
        for turn in range(turns + 1):
            for name, process in running.items():
                times = process.ask(time=frames)["ms"]
                if turn:  # the first is warm-up
                    spent[name] += times[
                        1:
                    ]  # a turn's first call finds the other's data in the caches
        for name, process in running.items():
            peak = process.ask(memory=True)["peak_mb"]
            scores = np.array(process.ask(score=paths)["scores"])
            p50, p99 = (float(np.percentile(spent[name], q)) for q in (50, 99))
            found[name] = {
                "p50_ms": round(p50, 3),
                "p99_ms": round(p99, 3),
                "frames_a_second": round(1e3 / p50, 1),
                "peak_mb": round(peak, 1),
                # The first of four may still compile; the rest find the cache warm.
                "first_verdict_s": round(float(np.median(starts[name][1:])), 3),
                "image_auroc": round(image_auroc(scores, labels) or 0.0, 4),
                "batch": process.batch,
            }
            _say(f"{name}: {found[name]}")
    finally:
        for process in running.values():
            process.close()
    return found


def ratios(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Each of edgead's candidates over each peer: speed, memory, start-up, and the AUROC difference."""
    table = {}
    for ours, own in found.items():
        for theirs, peer in found.items():
            if ours.startswith("edgead") and theirs.startswith("anomalib"):
                table[f"{ours} / {theirs}"] = {
                    "speed": round(peer["p50_ms"] / own["p50_ms"], 2),
                    "memory": round(own["peak_mb"] / peer["peak_mb"], 3),
                    "start": round(own["first_verdict_s"] / peer["first_verdict_s"], 3),
                    "auroc_difference": round(own["image_auroc"] - peer["image_auroc"], 4),
                }
    return table


class _Process:
    """One candidate; ready when its first verdict is out."""

    def __init__(self, command: Sequence[str], threads: int, frame: str, folder: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if "end_to_end_peer.py" in " ".join(command):
            environment.pop("PYTHONPATH", None)  # its packages are its own
        started = time.monotonic()
        self._process = subprocess.Popen(
            [*command, str(threads), frame],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env=environment,
        )
        self.batch = int(self._answer()["batch"])
        self.started_s = time.monotonic() - started

    def ask(self, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise SystemExit(f"{self._process.args} ended with {self._process.wait()}")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _peers_python(folder: Path) -> str:
    """Python of anomalib's own environment, which is made where it is missing."""
    python = folder / "venv/bin/python"
    if not python.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _say(f"installing {REQUIREMENT} into {folder / 'venv'}")
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", REQUIREMENT], check=True)
    return str(python)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--bundle", type=Path, action="append", required=True, help="repeat for several")
    add("--data", type=Path, required=True, metavar="ROOT", help="the bundles' MVTec-layout data")
    add(
        "--weights", type=Path, required=True, help="ResNet18 with torchvision's keys, for anomalib"
    )
    add(
        "--peers",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="anomalib's environment and models",
    )
    add("--peer", nargs="+", choices=PEERS, default=list(PEERS), help="anomalib's models")
    add("--precisions", nargs="+", default=["fp32", "bf16", "int8"])
    add("--threads", type=int, default=2)
    add("--turns", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
