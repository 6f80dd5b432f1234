"""What each exact change to a graph at export is worth: the same network, exported with and without it.

``python benchmarks/surgery.py [--methods M...] [--seconds S]`` exports each method's network three times, times the
three graphs in turns on OpenVINO and ONNX Runtime, and compares their maps. The heads are untrained: speed does not
depend on their weights.

* as written: what torch writes.
* simplified: batch norms folded into convolutions, constants folded, dead branches and unread stages gone (onnxsim).
* commuted: 1x1 convolutions before the interpolations that they read (`edgead.deploy.surgery`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import onnx
from harness import interleave, save

from edgead.backends import open_backend
from edgead.deploy.export import onnx_from_spec
from edgead.models.base import Method
from edgead.models.registry import METHODS, make_method

WAYS = [("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32")]
_EXPORT = "edgead.deploy.export"


def exports(method: Method) -> Iterator[tuple[str, bytes]]:
    """A method's network with more and more changes."""
    spec = method.export_spec()

    def left(model: onnx.ModelProto) -> onnx.ModelProto:
        return model

    with mock.patch(f"{_EXPORT}.commuted", left):
        with mock.patch(f"{_EXPORT}.onnxsim.simplify", lambda model: (model, True)):
            yield "as written", onnx_from_spec(spec, method.image_size)
        yield "simplified", onnx_from_spec(spec, method.image_size)
    yield "commuted", onnx_from_spec(spec, method.image_size)


def measure(name: str, *, threads: int, seconds: float) -> dict[str, Any]:
    """Milliseconds, nodes and the largest difference of the maps of one method's three graphs."""
    method = make_method(name)
    rng = np.random.default_rng(0)
    graphs = dict(exports(method))
    image = rng.integers(0, 256, (1, *method.image_size, 3), dtype=np.uint8)
    times: dict[str, dict[str, float]] = {}
    maps: dict[str, np.ndarray] = {}
    for backend, precision in WAYS:
        calls: dict[str, Callable[[], object]] = {}
        for form, data in graphs.items():
            engine = open_backend(
                backend, {"model.onnx": data}, precision=precision, threads=threads
            )
            request = engine.open_request()
            calls[form] = lambda one=request: one.infer({"image": image})
            if (backend, precision) == WAYS[0]:
                outputs = request.infer({"image": image})
                maps[form] = np.array(next(iter(outputs.values())))
        times[f"{backend} {precision}"] = {
            form: round(ms, 3)
            for form, ms in interleave(calls, seconds=seconds, burst=3, pause_s=0.005).items()
        }
    first = maps["as written"]
    return {
        "method": name,
        "backbone": method.backbone,
        "input": list(method.image_size),
        "nodes": {form: len(onnx.load_from_string(d).graph.node) for form, d in graphs.items()},
        "ms": times,
        "largest_difference": {
            form: float(np.abs(found - first).max() / np.abs(first).max())
            for form, found in maps.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="a method and back end")
    options = parser.parse_args()
    rows = [
        measure(name, threads=options.threads, seconds=options.seconds) for name in options.methods
    ]
    print(
        save("surgery", "python benchmarks/surgery.py", {"threads": options.threads, "rows": rows})
    )


if __name__ == "__main__":
    main()
