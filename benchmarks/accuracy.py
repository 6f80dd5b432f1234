"""Accuracy of every method on MVTec-layout data: train, bundle, judge, measure; resumable.

    python benchmarks/accuracy.py ROOT... [--methods M...] [--minutes T...] [--seeds S...] [--set FIELD=JSON...]
    python benchmarks/accuracy.py --table

A ROOT holds ``train/good`` and ``test/<class>``, or folders that do. Each method x category x seed x budget is one
run of the product's own path (`edgead.train.run.train`, then `edgead.evaluate.run.evaluate` through a
`Detector`) and one entry of the results file, which is replaced whole after each run; a run that is in the file
already, with the same settings and the same training images, is passed over. The test images are read
only to measure.

Several ``--minutes`` give the curve of accuracy over training time: each is a training of its own, since learning
rates follow the time that is given. ``--set`` puts values in the place of a recipe's own, for ablations.
``--table`` draws the results as Markdown beside the papers' figures; ``tables.py`` puts it into the README.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_table import table

import edgead
from edgead.detector import Detector
from edgead.errors import EdgeadError
from edgead.evaluate import data
from edgead.evaluate.metrics import worst_and_mean
from edgead.evaluate.run import evaluate
from edgead.files import write_text
from edgead.models.backbones import DEFAULT_BACKBONE
from edgead.models.registry import METHODS, make_method
from edgead.train.loop import Budget, Progress
from edgead.train.run import train

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
Settings = dict[str, Any]


def main() -> int:
    options = _options()
    found = _read(options.out)
    if options.table:
        print(table(found))
        return 0
    torch.set_num_threads(options.threads or torch.get_num_threads())
    failed = 0
    for root, settings in _planned(options):
        if any(_is_same(run, settings) for run in found):
            _say(f"{_name(settings)}: measured before")
            continue
        _say(f"{_name(settings)}: training")
        try:
            run = measure(
                root, settings, weights=options.weights, backend=options.backend, keep=options.keep
            )
        except EdgeadError as error:
            failed += 1
            _say(f"{_name(settings)}: {error}")
            continue
        # Another process may have added runs meanwhile: read again, and never lose one.
        found = [*_read(options.out), run]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, json.dumps(found, indent=1) + "\n")
        _say(_sentence(run))
    if options.json:
        print(json.dumps(found))
    return 1 if failed else 0


def measure(
    root: Path,
    settings: Settings,
    *,
    weights: Path | None,
    backend: str = "auto",
    keep: Path | None = None,
) -> dict[str, Any]:
    """One training and one evaluation, with everything that they depended on."""
    budget = Budget(epochs=settings["epochs"], minutes=settings["minutes"])
    started, used = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="edgead-accuracy-") as folder:
        path = (keep or Path(folder)) / f"{_name(settings)} {settings['backbone']}.edgead"
        trained = train(
            lambda: make_method(
                settings["method"],
                recipe=settings["recipe"],
                backbone=settings["backbone"],
                weights=weights,
                image_size=settings["image_size"],
                seed=settings["seed"],
                settings=settings["set"],
            ),
            root,
            path,
            budget=budget,
            seed=settings["seed"],
            report=_Ticker(_name(settings)),
        )
        with Detector(path, backend=backend, precision="fp32") as detector:
            figures = evaluate(detector, root).figures
    worst, mean = worst_and_mean(figures["per_defect"])
    manifest = trained.bundle.manifest
    return {
        **settings,
        "figures": figures,
        "worst_defect_auroc": worst,
        "mean_defect_auroc": mean,
        "promise": {
            "how": manifest.thresholds.how,
            "images": manifest.thresholds.images,
            "false_reject_rate": manifest.thresholds.false_reject_rate,
            "bound": manifest.thresholds.bound,
            "confidence": manifest.thresholds.confidence,
        },
        "training": {
            "images": manifest.training.images,
            "epochs": manifest.training.epochs,
            "seconds": round(trained.seconds, 1),
            "weights": manifest.training.weights,
            "config": manifest.config,
            "parity": trained.parity.worst,
        },
        "seconds": round(time.monotonic() - started, 1),
        # Far below threads x seconds the machine was busy elsewhere, and a budget in minutes was less.
        "cpu_seconds": round(time.process_time() - used, 1),
        "bundle_hash": trained.bundle.hash,
        "versions": _versions(manifest.training.versions),
        "commit": _commit(),
        "machine": _machine(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _planned(options: argparse.Namespace) -> Iterator[tuple[Path, Settings]]:
    """Every run asked for, cheap budgets first within a category."""
    weights = None
    if options.weights is not None:
        weights = hashlib.sha256(options.weights.read_bytes()).hexdigest()
    for root in _categories(options.roots):
        category = {
            "category": root.name,
            "train_hash": data.set_hash(data.find_training(root)),
            "test_images": len(data.find_test(root)),
        }
        for minutes in sorted(options.minutes or [None], key=lambda m: m or 0):
            for seed in options.seeds:
                for method in options.methods:
                    yield (
                        root,
                        {
                            "method": method,
                            **category,
                            "seed": seed,
                            "recipe": options.recipe,
                            "backbone": options.backbone,
                            "weights_sha256": weights,
                            "image_size": options.image_size,
                            "minutes": minutes,
                            "epochs": options.epochs,
                            "set": dict(options.set) or None,
                        },
                    )


def _categories(roots: Sequence[Path]) -> list[Path]:
    """Roots that hold ``train/good`` themselves, and the folders of the others that do."""
    found = []
    for root in roots:
        inside = [root] if (root / "train").is_dir() else sorted(root.iterdir())
        chosen = [one for one in inside if (one / "train" / "good").is_dir()]
        if not chosen:
            raise SystemExit(f"{root}: neither it nor a folder in it has train/good")
        found += chosen
    return found


def _is_same(run: dict[str, Any], settings: Settings) -> bool:
    return all(run.get(key) == value for key, value in settings.items())


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.is_file() else []


def _versions(training: dict[str, str]) -> dict[str, str]:
    import onnxruntime
    import openvino

    return {
        "edgead": edgead.__version__,
        **training,
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__,
        "python": platform.python_version(),
    }


def _commit() -> str:
    """Commit of the code; ``+`` when files of the package differ from it."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    return commit + ("+" if git("status", "--porcelain", "--", "../edgead") else "")


def _machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "system": platform.system(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class _Ticker:
    """One line a minute on stderr."""

    def __init__(self, name: str) -> None:
        self._name, self._next = name, time.monotonic() + 60

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 60
            losses = " ".join(f"{k} {v:.4g}" for k, v in progress.losses.items())
            _say(f"{self._name}: {progress.stage} {100 * progress.done:.0f} % {losses}")


def _name(settings: Settings) -> str:
    budget = f"{settings['minutes']:g} min" if settings["minutes"] else "recipe's epochs"
    if settings["epochs"]:
        budget = f"{settings['epochs']} epochs"
    if settings["set"]:
        budget += "".join(f", {k}={json.dumps(v)}" for k, v in settings["set"].items())
    return f"{settings['category']} {settings['method']} seed {settings['seed']} ({budget})"


def _sentence(run: dict[str, Any]) -> str:
    figures = run["figures"]
    pixel = figures["pixel_auroc"]
    return (
        f"{_name(run)}: image AUROC {figures['image_auroc']:.4f}"
        f" (worst defect {run['worst_defect_auroc']:.4f})"
        f", pixel {'-' if pixel is None else format(pixel, '.4f')}"
        f", false rejects {figures['false_reject_rate']:.3f}"
        f", missed {figures['missed_defect_rate']:.3f}, {run['seconds']:.0f} s"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, json.loads(value)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("roots", nargs="*", type=Path, metavar="ROOT", help="MVTec-layout data")
    add("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    add("--minutes", nargs="+", type=float, help="budgets; the recipe's epochs by default")
    add("--epochs", type=int)
    add("--seeds", nargs="+", type=int, default=[0])
    add("--recipe", choices=("edge", "paper"), default="edge")
    add("--backbone", default=DEFAULT_BACKBONE)
    add("--weights", type=Path, help="checkpoint of the backbone")
    add("--image-size", type=int)
    add("--set", nargs="+", type=_setting, default=[], metavar="FIELD=JSON")
    add("--backend", default="auto", help="that judges the test images, at fp32")
    add("--threads", type=int, help="CPU threads of the training")
    add("--out", type=Path, default=RESULTS)
    add("--keep", type=Path, help="existing folder for the bundles, which are else thrown away")
    add("--table", action="store_true", help="draw the results file and stop")
    add("--json", action="store_true", help="print the results as one JSON array")
    options = parser.parse_args()
    if not (options.roots or options.table):
        parser.error("give at least one ROOT, or --table")
    return options


if __name__ == "__main__":
    np.seterr(all="warn")
    sys.exit(main())
