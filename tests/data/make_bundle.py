"""Train the tiny bundle that the tests share: ``python tests/data/make_bundle.py``.

Real photographs (scikit-image's gravel, CC0), the product's own path, a small network with random weights:
it finds a white square, and its files and figures are those of any bundle. Needs ``edgead[demo]``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgead.images import save_image
from edgead.models.trisimplenet import TrisimpleConfig, TrisimpleNet
from edgead.train.loop import Budget
from edgead.train.run import Trained, train

BUNDLE = Path(__file__).with_name("gravel.edgead")
BACKBONE = "test_efficientnet"
SIDE = 96
SIZE = 64
CONFIG = TrisimpleConfig(
    image_size=(SIZE, SIZE),
    strides=(4, 8),
    sigma_defect=0.5,
    sigma_normal=0.0025,
    learning_rate=1e-3,
    epochs=20,
    hidden=64,
    step_patches=512,
    standardise=True,
    smoothing=2.0,
)


def tiny_method(seed: int = 0) -> TrisimpleNet:
    """TrisimpleNet on a network of 80,000 random weights."""
    return TrisimpleNet(CONFIG, backbone=BACKBONE, weights="random", seed=seed)


def pieces(step: int = 52) -> list[NDArray[np.uint8]]:
    """Overlapping pieces of one photograph of gravel, (SIDE, SIDE) uint8."""
    from skimage import data

    picture = np.asarray(data.gravel(), dtype=np.uint8)
    rows, columns = picture.shape
    return [
        np.ascontiguousarray(picture[y : y + SIDE, x : x + SIDE])
        for y in range(0, rows - SIDE + 1, step)
        for x in range(0, columns - SIDE + 1, step)
    ]


def write_pieces(folder: Path, count: int | None = None) -> Path:
    """Write pieces as PNG files into ``folder``, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, piece in enumerate(pieces()[:count]):
        save_image(folder / f"{index:03d}.png", piece)
    return folder


def make(
    folder: Path, out: Path, *, count: int | None = None, epochs: int = CONFIG.epochs
) -> Trained:
    """Train on the pieces in ``folder`` and write the bundle ``out``."""
    write_pieces(folder, count)
    return train(tiny_method, folder, out, budget=Budget(epochs=epochs))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        made = make(Path(scratch), BUNDLE)
    sys.stdout.write(f"{BUNDLE}: {BUNDLE.stat().st_size} bytes, {made.bundle.hash}\n")
