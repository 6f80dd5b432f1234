"""`edgead demo`: the whole path on photographs that come with a dependency, offline, on a CPU.

scikit-image's wheel carries CC0 photographs of gravel, brick and grass. Training and test pieces are cut
from separate halves of one photograph; the defects are simulated, and the report says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import ConfigError
from edgead.images import save_image
from edgead.train.loop import Progress

__all__ = ["make_data", "run_demo"]

PHOTOGRAPH = "gravel"
PIECE = 160
STEP = 32
TEST_DEFECTS = ("cutpaste", "scratch", "stain")
IMAGE_SIZE = 160


def make_data(root: Path, photograph: str = PHOTOGRAPH, *, seed: int = 0) -> dict[str, int]:
    """Write an MVTec-layout set of pieces of one photograph.

    The upper 60 % gives training pieces, the lower 40 % test pieces: they share no pixel.

    Args:
        root: Where ``train``, ``test`` and ``ground_truth`` are made.
        photograph: ``gravel``, ``brick`` or ``grass``, 512 x 512 grey.
        seed: Of the simulated defects.

    Returns:
        How many images each folder got.
    """
    from edgead.evaluate.anomalies import simulate

    picture = _photograph(photograph)
    split = picture.shape[0] * 6 // 10
    counts = {"train/good": 0}
    for piece in _pieces(picture[:split], STEP):
        _write(root / "train" / "good", counts, "train/good", piece)
    rng = np.random.default_rng(seed)
    for index, piece in enumerate(_pieces(picture[split:], STEP // 2)):
        if index % 2:
            _write(root / "test" / "good", counts, "test/good", piece)
            continue
        kind = TEST_DEFECTS[index // 2 % len(TEST_DEFECTS)]
        drawn, mask = simulate(np.repeat(piece[:, :, None], 3, axis=2), kind, rng)
        name = _write(root / "test" / kind, counts, f"test/{kind}", drawn[:, :, 0])
        folder = root / "ground_truth" / kind
        folder.mkdir(parents=True, exist_ok=True)
        save_image(folder / f"{name}_mask.png", mask.astype(np.uint8) * 255)
    return counts


def run_demo(
    out: Path,
    *,
    minutes: float = 1.0,
    report: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> dict[str, Any]:
    """Train, evaluate, benchmark and report.

    Args:
        out: Folder for data, bundle and report.
        minutes: Training time.
        report: Progress of the training.
        say: Told what happens.

    Returns:
        ``photograph``, ``bundle``, ``evaluate``, ``benchmark`` and ``report``.
    """
    from edgead.detector import Detector
    from edgead.evaluate.benchmark import benchmark
    from edgead.evaluate.report import write_report
    from edgead.evaluate.run import evaluate, report_of
    from edgead.models.registry import make_method
    from edgead.train.loop import Budget
    from edgead.train.run import train

    out.mkdir(parents=True, exist_ok=True)
    data, bundle, page = out / "data", out / "demo.edgead", out / "report.html"
    counts = make_data(data)
    say(
        f"{PHOTOGRAPH}: {counts['train/good']} good pieces to train on, {sum(counts.values())} in all"
    )
    trained = train(
        lambda: make_method("trisimplenet", image_size=IMAGE_SIZE),
        data,
        bundle,
        budget=Budget(minutes=minutes),
        report=report,
    )
    say(trained.promise.message)
    with Detector(bundle) as detector:
        found = evaluate(detector, data)
        write_report(page, report_of(found, detector.bundle, note="The defects are simulated."))
    speed = benchmark(bundle, source=data / "test" / "good", seconds=3.0)
    return {
        "photograph": f"{PHOTOGRAPH}, CC0, from scikit-image; defects simulated",
        "bundle": str(bundle),
        "evaluate": found.figures,
        "benchmark": speed,
        "report": str(page),
    }


def _photograph(name: str) -> NDArray[np.uint8]:
    try:
        library: Any = importlib.import_module("skimage.data")
    except ImportError as error:
        raise ConfigError(
            "DEMO_IMAGES",
            "the demo's photographs come with scikit-image, which is not installed.",
            "pip install 'edgead[demo]'.",
        ) from error
    picture: NDArray[np.uint8] = np.asarray(getattr(library, name)(), dtype=np.uint8)
    return picture


def _pieces(picture: NDArray[np.uint8], step: int) -> list[NDArray[np.uint8]]:
    rows, columns = picture.shape
    return [
        np.ascontiguousarray(picture[y : y + PIECE, x : x + PIECE])
        for y in range(0, rows - PIECE + 1, step)
        for x in range(0, columns - PIECE + 1, step)
    ]


def _write(folder: Path, counts: dict[str, int], key: str, piece: NDArray[np.uint8]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{counts.get(key, 0):03d}"
    counts[key] = counts.get(key, 0) + 1
    save_image(folder / f"{name}.png", piece)
    return name
