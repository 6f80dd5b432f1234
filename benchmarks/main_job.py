"""The main job on one MVTec-layout set: trained, exported, judged; three engines must agree.

``python benchmarks/main_job.py ROOT`` prints the figures and writes ``results/main_job.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import save

from edgead import images
from edgead.backends import open_backend
from edgead.bundle import read_bundle
from edgead.deploy.export import check_parity
from edgead.detector import Detector
from edgead.evaluate import data
from edgead.evaluate.run import evaluate
from edgead.heads import Head
from edgead.models.registry import make_method
from edgead.scorer import Scorer
from edgead.train.loop import Budget
from edgead.train.run import train

_FIRST_VERDICT = """
import sys, time
started = time.perf_counter()
from edgead import Detector, images
with Detector(sys.argv[1]) as detector:
    detector(images.read(sys.argv[2]))
print(time.perf_counter() - started)
"""
_IMPORT = "import time; t = time.perf_counter(); import edgead; print(time.perf_counter() - t)"


def measure(root: Path, folder: Path, minutes: float) -> dict[str, Any]:
    """Train on ``root`` and measure everything that the main job promises."""
    out = folder / "part.edgead"
    kept: list[Any] = []

    def make() -> Any:
        kept.append(make_method("trisimplenet"))
        return kept[-1]

    started = time.monotonic()
    trained = train(make, root, out, budget=Budget(minutes=minutes))
    seconds = time.monotonic() - started
    agreement = _agreement(kept[-1], out, root)
    with Detector(out, backend="openvino") as detector:
        figures = evaluate(detector, root).figures
    sample = data.find_test(root)[0].path
    return {
        "set": root.name,
        "images trained on": trained.bundle.manifest.training.images,
        "training, all in, s": round(seconds, 1),
        "image AUROC": round(figures["image_auroc"], 4),
        "pixel AUROC": _rounded(figures["pixel_auroc"]),
        "PRO (FPR 0.3)": _rounded(figures["pro"]),
        "false rejects at the shipped threshold": _rate(figures, "false_reject"),
        "missed defects at the shipped threshold": _rate(figures, "missed_defect"),
        "promise": trained.promise.message,
        "frames judged alike by torch, ONNX Runtime and OpenVINO f32": agreement["alike"],
        "largest score difference, of score_scale": f"{agreement['worst']:.1e}",
        "import edgead, ms (median of 5)": round(_median(_IMPORT) * 1e3, 1),
        "process start to first verdict, s (median of 5)": round(
            _median(_FIRST_VERDICT, str(out), str(sample)), 2
        ),
    }


def _agreement(method: Any, bundle_path: Path, root: Path) -> dict[str, Any]:
    """Scores of every test image in torch and both CPU engines."""
    bundle = read_bundle(bundle_path)
    limits = bundle.manifest.thresholds
    frames = [images.read(sample.path) for sample in data.find_test(root)]
    scores = []
    spec = method.export_spec()
    head = Head(spec.head, spec.head_tensors)
    worst = 0.0
    for name in ("onnxruntime", "openvino"):
        scorer = Scorer(bundle, open_backend(name, bundle.members), check_ranges=False)
        scored = [scorer(frame) for frame in frames]
        worst = max(worst, check_parity(spec, head, scored, limits).worst)
        scores.append(np.array([one.score for one in scored]))
    alike = (scores[0] > limits.threshold) == (scores[1] > limits.threshold)
    between = np.abs(scores[0] - scores[1]).max() / limits.score_scale
    return {"alike": f"{int(alike.sum())} of {len(frames)}", "worst": float(max(worst, between))}


def _rate(figures: dict[str, Any], name: str) -> str:
    low, high = figures[f"{name}_interval"]
    return f"{figures[f'{name}_rate']:.1%} (95 %: {low:.1%} to {high:.1%})"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _median(code: str, *arguments: str) -> float:
    runs = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        runs.append(float(done.stdout))
    return float(np.median(runs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        figures = measure(given.root, Path(made), given.minutes)
    print(json.dumps(figures, indent=1))
    save(
        "main_job" if given.root.name == "bottle" else f"main_job-{given.root.name}",
        f"python benchmarks/main_job.py {given.root.name}",
        {"figures": figures},
    )
