"""`edgead demo`: the whole path on a photograph that comes with a dependency, offline, on a CPU.

scikit-image's wheel carries a CC0 photograph of a cup of coffee. A simulated camera looks at it again
and again, as a camera looks at part after part: each picture has its own shift, turn, light and sensor
noise, so no two pictures share their pixels. The defects are simulated too, and the report says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import ConfigError
from edgead.images import opencv, save_image
from edgead.train.loop import Progress

__all__ = ["SimulatedCamera", "make_data", "run_demo"]

PHOTOGRAPH = "cup of coffee (CC0, Rachel Michetti, from scikit-image)"
SIMULATED = "Camera movement, light, noise and all defects are simulated."
TRAINING, TEST_GOOD, TEST_DEFECTS = 100, 30, 30
KINDS = ("cutpaste", "scratch", "stain")
IMAGE_SIZE = 160
SEARCH_MINUTES = 1.0  # for INT8; what does not hold by then is left out
SIDE = 360


class SimulatedCamera:
    """Pictures of one photograph as a camera on a line would take them.

    Args:
        seed: Of every shift, turn, light and noise.
    """

    def __init__(self, seed: int = 0) -> None:
        try:
            library: Any = importlib.import_module("skimage.data")
        except ImportError as error:
            raise ConfigError(
                "DEMO_IMAGES",
                "the demo's photograph comes with scikit-image, which is not installed.",
                "pip install 'edgead[demo]'.",
            ) from error
        self._photograph = np.ascontiguousarray(library.coffee()[:, :, ::-1])
        self._rng = np.random.default_rng(seed)

    def __call__(self) -> NDArray[np.uint8]:
        """The next picture, (360, 360, 3) uint8 BGR."""
        cv2, rng = opencv(), self._rng
        height, width = self._photograph.shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-1.5, 1.5), 1.0)
        turn[:, 2] += rng.uniform(-5, 5, 2) + np.array([SIDE - width, SIDE - height]) / 2
        seen = cv2.warpAffine(
            self._photograph, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101
        )
        lit = seen * rng.uniform(0.94, 1.06) + rng.normal(0, 2.5, seen.shape)
        picture: NDArray[np.uint8] = np.clip(np.round(lit), 0, 255).astype(np.uint8)
        return picture


def make_data(root: Path, *, seed: int = 0) -> None:
    """Write an MVTec-layout set: ``train/good``, ``test/<class>``, ``ground_truth/<class>``."""
    from edgead.evaluate.anomalies import simulate

    camera, rng = SimulatedCamera(seed), np.random.default_rng(seed)
    for folder, count in (("train/good", TRAINING), ("test/good", TEST_GOOD)):
        for index in range(count):
            _save(root / folder, f"{index:03d}.png", camera())
    for index in range(TEST_DEFECTS):
        kind = KINDS[index % len(KINDS)]
        picture, mask = simulate(camera(), kind, rng)
        _save(root / "test" / kind, f"{index:03d}.png", picture)
        truth = mask.astype(np.uint8) * 255
        _save(root / "ground_truth" / kind, f"{index:03d}_mask.png", truth)


def run_demo(
    out: Path,
    *,
    minutes: float = 2.0,
    report: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> dict[str, Any]:
    """Train, quantise with certificates, evaluate, benchmark and report.

    The precisions are proven on the defects of the test set; calibration sees good training pictures.

    Args:
        out: Folder for data, bundle and report.
        minutes: Bound on the training time.
        report: Progress of training and quantising.
        say: Told what happens.

    Returns:
        ``photograph``, ``bundle``, ``quantize``, ``evaluate``, ``benchmark`` and ``report``.
    """
    from edgead.deploy.quantize import quantize
    from edgead.detector import Detector
    from edgead.evaluate.benchmark import benchmark
    from edgead.evaluate.report import write_report
    from edgead.evaluate.run import evaluate, report_of
    from edgead.models.registry import make_method
    from edgead.train.loop import Budget
    from edgead.train.run import train

    out.mkdir(parents=True, exist_ok=True)
    data, bundle, page = out / "data", out / "demo.edgead", out / "report.html"
    make_data(data)
    say(f"{PHOTOGRAPH}: {TRAINING} good pictures to train on. {SIMULATED}")
    trained = train(
        lambda: make_method("trisimplenet", image_size=IMAGE_SIZE),
        data,
        bundle,
        budget=Budget(minutes=minutes),
        false_reject_rate=0.1,
        report=report,
    )
    say(trained.promise.message)
    precisions = quantize(
        bundle, data, minutes=SEARCH_MINUTES,
        report=None if report is None else lambda stage, done: report(Progress(stage, done, 0.0, {})),
    )  # fmt: skip
    for one in precisions["certificates"]:
        say(_verdict(one))
    for note in precisions["notes"]:
        say(note)
    with Detector(bundle) as detector:
        found = evaluate(detector, data)
        write_report(page, report_of(found, detector.bundle, note=SIMULATED))
    speed = benchmark(bundle, source=data / "test" / "good", seconds=3.0)
    return {
        "photograph": f"{PHOTOGRAPH}. {SIMULATED}",
        "bundle": str(bundle),
        "quantize": precisions,
        "evaluate": found.figures,
        "benchmark": speed,
        "report": str(page),
    }


def _verdict(certificate: dict[str, Any]) -> str:
    """One certificate in a sentence."""
    figures = certificate["figures"]
    name = f"{certificate['precision']} on {certificate['backend']}"
    if not certificate["passed"]:
        return f"{name} does not hold: {'; '.join(certificate['reasons'])}."
    return (
        f"{name}: {figures['flips']} of {figures['frames']} verdicts flip, {figures['speedup']:.1f}x "
        f"FP32's speed, {100 * figures['size_ratio']:.0f} % of its size."
    )


def _save(folder: Path, name: str, pixels: NDArray[np.uint8]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_image(folder / name, pixels)
