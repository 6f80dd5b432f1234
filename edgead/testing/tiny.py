"""A whole bundle in 3 kB whose answers are known: for tests, fuzzing and checks of an installation."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgead._version import __version__
from edgead.bundle import Bundle
from edgead.frame import PixelFormat
from edgead.images import encode_png
from edgead.manifest import (
    FrameSpec,
    Golden,
    HeadSpec,
    InputSpec,
    Manifest,
    Thresholds,
    Training,
)

__all__ = ["TINY_MODEL", "tiny_bundle", "tiny_frame", "tiny_manifest"]

#: ONNX: image (1, 8, 8, 3) uint8 -> anomaly_map (1, 8, 8) float32, the mean of the channels / 255.
TINY_MODEL = base64.b64decode(
    "CAk64AEKHwoFaW1hZ2USBWZsb2F0IgRDYXN0KgkKAnRvGAGgAQIKMAoFZmxvYXQKBGF4ZXMSBG1lYW4iClJlZHVjZU1l"
    "YW4qDwoIa2VlcGRpbXMYAKABAgofCgRtZWFuCgVzY2FsZRILYW5vbWFseV9tYXAiA011bBIEdGlueSoRCAEQASIEgYCA"
    "O0IFc2NhbGUqDQgBEAc6AQNCBGF4ZXNaHwoFaW1hZ2USFgoUCAISEAoCCAEKAggICgIICAoCCANiIQoLYW5vbWFseV9t"
    "YXASEgoQCAESDAoCCAEKAggICgIICEIECgAQEg=="
)


def tiny_manifest(**changes: Any) -> Manifest:
    """A manifest of schema 1 for `TINY_MODEL`, with some fields replaced."""
    manifest = Manifest(
        edgead=__version__,
        method="trisimplenet",
        config={"layers": [2, 3]},
        backbone="resnet18",
        frame=FrameSpec(format=PixelFormat.BGR8, size=(16, 16)),
        input=InputSpec(size=(8, 8), mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4]),
        head=HeadSpec(kind="max", sigma=0.0),
        thresholds=Thresholds(
            threshold=0.5,
            pixel_threshold=0.4,
            score_scale=0.2,
            false_reject_rate=0.01,
            bound=0.02,
            confidence=0.95,
            images=3,
            needed=299,
            how="held_out",
            good_scores=[0.25, 0.3, 0.35],
        ),
        training=Training(
            set_hash="0" * 64,
            images=10,
            seed=0,
            epochs=1,
            seconds=1.5,
            weights="none",
            versions={"numpy": "1.26.0"},
        ),
        golden=[],
        members={},
    )
    return msgspec.structs.replace(manifest, **changes)


def tiny_frame(seed: int = 0, peak: int = 100) -> NDArray[np.uint8]:
    """A (16, 16, 3) BGR frame with a bright square whose inner value is ``peak``."""
    pixels = np.random.default_rng(seed).integers(20, peak, (16, 16, 3), dtype=np.uint8)
    pixels[2:14, 2:14] = peak
    return pixels


def tiny_bundle(**members: bytes) -> Bundle:
    """A bundle with a model, a good and a defect golden image and their scores.

    Args:
        **members: Further members by name.
    """
    pictures = {"good_0": tiny_frame(1, 100), "defect_0": tiny_frame(2, 200)}
    content = {f"golden/{name}.png": encode_png(image) for name, image in pictures.items()}
    golden = [
        Golden(name="golden/good_0.png", kind="good", score=100 / 255, verdict="GOOD"),
        Golden(
            name="golden/defect_0.png", kind="simulated_defect", score=200 / 255, verdict="DEFECT"
        ),
    ]
    content["model.onnx"] = TINY_MODEL
    return Bundle.build(tiny_manifest(golden=golden), {**content, **members})
