"""Small, real bundles: an ONNX graph of two nodes with a known answer, and its manifest."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgead.bundle import Bundle
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
from edgead.types import PixelFormat


@lru_cache(maxsize=1)
def tiny_model(size: int = 8) -> bytes:
    """Image [1, size, size, 3] uint8 -> anomaly_map [1, size, size] float32: mean channel / 255."""
    import onnx
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, size, size, 3])
    native = helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [1, size, size])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [1], [1 / 255])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [3])
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["anomaly_map"]),
    ]
    graph = helper.make_graph(nodes, "tiny", [image], [native], [scale, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny_manifest(**changes: Any) -> Manifest:
    """A manifest of schema 1 for `tiny_model`."""
    manifest = Manifest(
        edgead="0.1.0",
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
    """A bundle with a model, a good and a defect golden image and their scores."""
    pictures = {"good_0": tiny_frame(1, 100), "defect_0": tiny_frame(2, 200)}
    content = {f"golden/{name}.png": encode_png(image) for name, image in pictures.items()}
    golden = [
        Golden(name="golden/good_0.png", kind="good", score=100 / 255, verdict="GOOD"),
        Golden(
            name="golden/defect_0.png", kind="simulated_defect", score=200 / 255, verdict="DEFECT"
        ),
    ]
    content["model.onnx"] = tiny_model()
    return Bundle.build(tiny_manifest(golden=golden), {**content, **members})


def score_of(path: str) -> float:
    """Open a bundle and judge one frame; here, so that a spawned process can import it."""
    from edgead import Detector

    with Detector(path, backend="openvino", threads=1) as detector:
        return detector(tiny_frame()).score
