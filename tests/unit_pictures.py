"""Generated good images, a training that is killed, and an exported file run in OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgead.train.loop import Budget, Loop


class Pictures:
    """Good images that differ: noise on a gradient."""

    def __init__(self, count: int, side: int = 64) -> None:
        rng = np.random.default_rng(7)
        slope = np.linspace(60, 180, side)[None, :, None]
        self.made = [
            np.clip(slope + rng.normal(0, 8, (side, side, 3)), 0, 255).astype(np.uint8)
            for _ in range(count)
        ]

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.made[index]


def openvino_run(model: bytes, image: np.ndarray) -> np.ndarray:
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(model), "CPU", options)([image])[0]


class Stop(Exception):
    """Stands for a kill."""


class StoppedLoop(Loop):
    """Ends as by a kill in the first step after ``epochs`` epochs of all stages together."""

    def __init__(self, epochs: int, each: int, folder: Path) -> None:
        super().__init__(
            Budget(epochs=each), seed=5, device="cpu", checkpoint=folder, checkpoint_every_s=0.0
        )
        self._last = epochs

    def record(self, **losses) -> None:
        super().record(**losses)
        if self.epochs_run == self._last:
            raise Stop
