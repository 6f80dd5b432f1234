"""Small ONNX graphs with all that the exported methods bring to TensorRT: typed, and with explicit Q/DQ."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32


def graph(precision: str = "fp32", *, batch: int | str = 1, transpose_first: bool = False) -> bytes:
    """uint8 NHWC image -> Cast, Transpose, normalise, two convolutions, top-K with Gather, Resize -> map and score.

    Args:
        precision: fp32, fp16 (a typed graph) or int8 (Q/DQ around the convolutions, weights stored as int8).
        batch: Number of frames, or a name for a free size.
        transpose_first: Put the Transpose before the Cast, which TensorRT refuses.
    """
    half = precision == "fp16"
    dtype, kind = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    rng = np.random.default_rng(0)
    build = _Graph(dtype)
    if transpose_first:
        build.node("Transpose", ["image"], "turned", perm=[0, 3, 1, 2])
        build.node("Cast", ["turned"], "planes", to=kind)
    else:
        build.node("Cast", ["image"], "numbers", to=kind)
        build.node("Transpose", ["numbers"], "planes", perm=[0, 3, 1, 2])
    build.constant("mean", np.full((1, 3, 1, 1), 127, dtype))
    build.constant("scale", np.full((1, 3, 1, 1), 1 / 128, dtype))
    build.node("Sub", ["planes", "mean"], "centred")
    build.node("Mul", ["centred", "scale"], "x")
    x = build.convolution(
        "x", "stem", rng.normal(0, 0.2, (16, 3, 3, 3)), quantised=precision == "int8"
    )
    build.node("Relu", [x], "stem_relu")
    x = build.convolution(
        "stem_relu", "body", rng.normal(0, 0.1, (16, 16, 3, 3)), quantised=precision == "int8"
    )
    build.constant("k", np.array([4], np.int64))
    build.node("TopK", [x, "k"], ["largest", "where"], axis=1)
    build.node("GatherElements", [x, "where"], "gathered", axis=1)
    build.constant("channel_axis", np.array([1], np.int64))
    build.node("ReduceMean", ["gathered", "channel_axis"], "small", keepdims=1)
    build.constant("sizes", np.array([1, 1, 2, 2], np.float32))
    build.node("Resize", ["small", "", "sizes"], "large", mode="linear")
    build.node("Cast", ["large"], "large_f32", to=TensorProto.FLOAT)
    build.node("Squeeze", ["large_f32", "channel_axis"], "anomaly_map")
    build.constant("map_axes", np.array([1, 2], np.int64))
    build.node("ReduceMax", ["anomaly_map", "map_axes"], "score", keepdims=0)
    return build.finish(batch)


class _Graph:
    def __init__(self, dtype: type) -> None:
        self.dtype, self.nodes, self.initialisers = dtype, [], []

    def node(self, kind: str, inputs: list[str], outputs: str | list[str], **attributes) -> None:
        outputs = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(
            helper.make_node(kind, inputs, outputs, name=f"n/{outputs[0]}", **attributes)
        )

    def constant(self, name: str, value: np.ndarray) -> None:
        self.initialisers.append(numpy_helper.from_array(np.asarray(value), name))

    def convolution(self, x: str, name: str, weights: np.ndarray, *, quantised: bool) -> str:
        """Per-tensor activations, per-channel weights, all symmetric, no Q/DQ on the bias."""
        if quantised:
            scales = (np.abs(weights).max(axis=(1, 2, 3)) / 127).astype(np.float32)
            stored = np.rint(weights / scales[:, None, None, None]).astype(np.int8)
            self.constant(f"{name}_w8", stored)
            self.constant(f"{name}_scales", scales)
            self.constant(f"{name}_zeros", np.zeros(len(scales), np.int8))
            self.constant(f"{name}_scale", np.float32(0.02))
            self.constant(f"{name}_zero", np.int8(0))
            self.node("QuantizeLinear", [x, f"{name}_scale", f"{name}_zero"], f"{name}_q")
            self.node(
                "DequantizeLinear", [f"{name}_q", f"{name}_scale", f"{name}_zero"], f"{name}_x"
            )
            self.node(
                "DequantizeLinear",
                [f"{name}_w8", f"{name}_scales", f"{name}_zeros"],
                f"{name}_w",
                axis=0,
            )
            x = f"{name}_x"
        else:
            self.constant(f"{name}_w", weights.astype(self.dtype))
        self.constant(f"{name}_bias", np.zeros(len(weights), self.dtype))
        self.node(
            "Conv",
            [x, f"{name}_w", f"{name}_bias"],
            name,
            pads=[1] * 4,
            strides=[2 if name == "stem" else 1] * 2,
        )
        return name

    def finish(self, batch: int | str) -> bytes:
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, SIDE, SIDE, 3])
        outputs = [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [batch, SIDE, SIDE]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [batch]),
        ]
        made = helper.make_graph(self.nodes, "small", [image], outputs, self.initialisers)
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())
