"""DFDA-AD's distances to its centroids: by the kernel around the engine, or as products inside its graph.

    python benchmarks/head_inside.py --bundle B [--bundle B2 ...] --source DIR [--precisions fp32 bf16 int8]

Inside, the graph ends in |x|^2 - 2xc + |c|^2, its minimum over the centroids and a square root, which the engine
multiplies in its own precision; outside, `edgead.kernels.kmeans_assign` takes the patches that the engine gives. Both
judge the same frames in turns on the same threads; medians of the same run are compared, and how far scores differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from harness import interleave, save
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgead import images
from edgead.backends import member_for, open_backend
from edgead.bundle import Bundle, read_bundle
from edgead.evaluate import data
from edgead.heads import Head
from edgead.preprocess import Preprocess
from edgead.scorer import head_tensors


def with_head(model: bytes, centroids: NDArray[np.float32]) -> bytes:
    """A graph whose output is ``patches`` (n, h', w', D) -> the same with ``anomaly_map`` (n, h', w')."""
    graph = onnx.load_from_string(model)
    constants = {
        "head.weights": np.ascontiguousarray(-2 * centroids.T),
        "head.squares": np.square(centroids).sum(axis=1),
        "head.last": np.array([-1], np.int64),
    }
    graph.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    graph.graph.node.extend(
        helper.make_node(kind, inputs, [output], name=output, **options)
        for kind, inputs, output, options in (
            ("MatMul", ["patches", "head.weights"], "head.products", {}),
            ("Add", ["head.products", "head.squares"], "head.scores", {}),
            ("ReduceMin", ["head.scores", "head.last"], "head.nearest", {"keepdims": 0}),
            ("Mul", ["patches", "patches"], "head.squared", {}),
            ("ReduceSum", ["head.squared", "head.last"], "head.length", {"keepdims": 0}),
            ("Add", ["head.nearest", "head.length"], "head.distance", {}),
            ("Relu", ["head.distance"], "head.positive", {}),  # they cancel
            ("Sqrt", ["head.positive"], "anomaly_map", {}),
        )
    )
    shape = graph.graph.output[0].type.tensor_type.shape.dim
    sides = [side.dim_param or side.dim_value for side in shape][:3]
    del graph.graph.output[:]
    graph.graph.output.append(
        helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, sides)
    )
    return graph.SerializeToString()


def complete(bundle: Bundle, precision: str) -> dict[str, bytes]:
    """Members that hold a bundle's whole method in one graph for OpenVINO, its head inside."""
    name = member_for("openvino", precision, bundle.members)
    if bundle.manifest.head.kind != "kmeans":
        return {name: bundle.members[name]}
    return {name: with_head(bundle.members[name], head_tensors(bundle)["centroids"])}


Judge = Callable[[Any], float]


def judges(bundle: Bundle, precision: str, threads: int) -> dict[str, Judge]:
    """Picture -> score, both ways."""
    head = Head(bundle.manifest.head, head_tensors(bundle))
    requests = {
        way: open_backend("openvino", members, precision=precision, threads=threads).open_request()
        for way, members in (
            ("outside", bundle.members),
            ("inside", complete(bundle, precision)),
        )
    }

    def outside(picture: Any) -> float:
        requests["outside"].start({"image": picture})
        return float(head(requests["outside"].wait())[1][0])

    def inside(picture: Any) -> float:
        requests["inside"].start({"image": picture})
        return float(requests["inside"].wait()["anomaly_map"].max())

    return {"outside": outside, "inside": inside}


def all_of(judge: Judge, pictures: Sequence[Any]) -> Callable[[], list[float]]:
    return lambda: [judge(picture) for picture in pictures]


def measure(
    bundle: Bundle, precision: str, pictures: Sequence[Any], options: Any
) -> dict[str, Any]:
    """Milliseconds a frame of both ways, and the largest difference of their scores."""
    ways = {
        way: all_of(judge, pictures)
        for way, judge in judges(bundle, precision, options.threads).items()
    }
    scores = {way: np.array(call()) for way, call in ways.items()}
    ms = interleave(ways, seconds=options.seconds)
    scale = bundle.manifest.thresholds.score_scale
    centroids = head_tensors(bundle)["centroids"].shape
    return {
        "method": bundle.manifest.method,
        "backbone": bundle.manifest.backbone,
        "input": list(bundle.manifest.input.size),
        "precision": precision,
        "centroids": list(centroids),
        "ms": {way: round(total / len(pictures), 4) for way, total in ms.items()},
        "outside_over_inside": round(ms["inside"] / ms["outside"], 4),
        "score_difference": float(np.abs(scores["inside"] - scores["outside"]).max() / scale),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--bundle", type=Path, action="append", required=True, help="repeat for several")
    add("--source", type=Path, required=True, help="folder of images")
    add("--precisions", nargs="+", default=["fp32", "bf16", "int8"])
    add("--frames", type=int, default=8)
    add("--threads", type=int, default=2)
    add("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    runs = []
    for path in options.bundle:
        bundle = read_bundle(path)
        prepare = Preprocess.of(bundle)
        paths = data.find_images(options.source)[: options.frames]
        pictures = [prepare(images.read(one))[0] for one in paths]
        for precision in options.precisions:
            runs.append(measure(bundle, precision, pictures, options))
            print(runs[-1], file=sys.stderr)
    command = "python benchmarks/head_inside.py --bundle B --source DIR"
    print(save("head_inside", command, {"threads": options.threads, "runs": runs}))


if __name__ == "__main__":
    main()
