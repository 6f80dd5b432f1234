"""The tiny bundle of `edgead.testing.tiny`, and its model as the onnx package writes it."""

from __future__ import annotations

from functools import lru_cache

from edgead.testing.tiny import TINY_MODEL, tiny_bundle, tiny_frame, tiny_manifest

__all__ = ["TINY_MODEL", "score_of", "tiny_bundle", "tiny_frame", "tiny_manifest", "tiny_model"]


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


def score_of(path: str) -> float:
    """Open a bundle and judge one frame; here, so that a spawned process can import it."""
    from edgead import Detector

    with Detector(path, backend="openvino", threads=1) as detector:
        return detector(tiny_frame()).score
