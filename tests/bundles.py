"""Small, real bundles: an ONNX graph of two nodes with a known answer, and its manifest."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from edgead.bundle import Bundle
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
    """Image [1, size, size, 3] uint8 -> map [1, 1, size, size] float32: the mean channel / 255."""
    import onnx
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, size, size, 3])
    native = helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 1, size, size])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [1], [1 / 255])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [3])
    shape = helper.make_tensor("shape", TensorProto.INT64, [4], [1, 1, size, size])
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["map"]),
    ]
    graph = helper.make_graph(nodes, "tiny", [image], [native], [scale, axes, shape])
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


def tiny_bundle(**members: bytes) -> Bundle:
    """A bundle with a model and one golden image."""
    golden = [Golden(name="golden/good_0.png", kind="good", score=0.25, verdict="GOOD")]
    content = {"model.onnx": tiny_model(), "golden/good_0.png": b"\x89PNG\r\n\x1a\n" + bytes(24)}
    return Bundle.build(tiny_manifest(golden=golden), {**content, **members})
