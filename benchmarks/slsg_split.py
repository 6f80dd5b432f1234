"""SLSG's neighbour search: inside the graph as standard operators, or between two graphs as a kernel.

One graph holds TopK, Gather and ReduceMax; the split form ends a first graph at f(X) and g(X), calls
`edgead.kernels.topk_neighbours`, which never writes N x N, and ends in a second graph. Both come from the same
network and give the same map. Runs alternate; medians are compared.

    python benchmarks/slsg_split.py [--sizes 256 512 1024] [--repeats N]

The weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from torch import nn

import edgead
from edgead import kernels
from edgead.deploy.export import OPSET, onnx_from_spec
from edgead.files import write_text
from edgead.models.parts_graph import max_relative
from edgead.models.slsg import Slsg, SlsgConfig

RESULTS = Path(__file__).parent / "results" / "slsg_split.json"
#: The split form becomes the default only where it is faster by this share.
NEEDED = 0.10
Run = Callable[[np.ndarray], np.ndarray]


class Before(nn.Module):
    """Image -> the decoder's skips, f(X), g(X), Z and the nodes."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.input, self.net = whole.input, whole.net

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Four skips and `SGBlock.relate`'s four."""
        levels = self.net.encoder(self.input(image))
        return (*levels[:4], *self.net.sg.relate(levels[4]))


class After(nn.Module):
    """Skips, Z, nodes and their neighbours -> anomaly map."""

    def __init__(self, whole: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.net, self.size = whole.net, size

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        """Four skips, Z, nodes, index [1, N, K] int32."""
        *skips, dense, nodes, index = parts
        context = self.net.sg.update(dense, max_relative(nodes, index.long()), self.size)
        logits = self.net.decoder([*skips, context], context)
        return torch.sigmoid(logits[:, 1] - logits[:, 0])


def one_graph(method: Slsg, compiled: Callable[[bytes], Any]) -> Run:
    model = compiled(onnx_from_spec(method.export_spec(), method.image_size))
    return lambda image: model([image])[0]


def split(method: Slsg, compiled: Callable[[bytes], Any]) -> Run:
    whole = method.export_spec().module
    nodes = (method.image_size[0] // 16, method.image_size[1] // 16)
    before, after = Before(whole).eval(), After(whole, nodes).eval()
    image = torch.zeros(1, *method.image_size, 3, dtype=torch.uint8)
    with torch.no_grad():
        *skips, f, _g, dense, node = (part.clone() for part in before(image))
    k = whole.net.sg.neighbours
    index = torch.zeros(1, f.shape[1], k, dtype=torch.int32)
    first = compiled(_exported(before, (image,)))
    second = compiled(_exported(after, (*skips, dense, node, index)))
    code = whole.net.sg.position.numpy()
    position = np.ascontiguousarray(code @ code.T)

    def run(picture: np.ndarray) -> np.ndarray:
        parts = first([picture])
        *maps, f, g, dense, node = (parts[i] for i in range(8))
        found = kernels.topk_neighbours(f, g, position, k)
        return second([*maps, dense, node, found])[0]

    return run


def _exported(module: nn.Module, example: tuple[torch.Tensor, ...]) -> bytes:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, example, opset_version=OPSET, dynamo=True, verbose=False
        )
    data: bytes = program.model_proto.SerializeToString()
    return data


def measure(side: int, repeats: int, threads: int) -> dict[str, Any]:
    method = Slsg(SlsgConfig.edge((side, side)), weights="random")
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}

    def compiled(model: bytes) -> Any:
        return core.compile_model(core.read_model(model), "CPU", options)

    runs = {"one_graph": one_graph(method, compiled), "split": split(method, compiled)}
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    maps = {name: np.array(run(image)) for name, run in runs.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begun = time.perf_counter()
            run(image)
            times[name].append(1e3 * (time.perf_counter() - begun))
    median = {name: statistics.median(values) for name, values in times.items()}
    gain = 1 - median["split"] / median["one_graph"]
    return {
        "side": side,
        "nodes": (side // 16) ** 2,
        "one_graph_ms": round(median["one_graph"], 3),
        "split_ms": round(median["split"], 3),
        "gain": round(gain, 4),
        "split_wins": gain >= NEEDED,
        "largest_map_difference": float(np.abs(maps["one_graph"] - maps["split"]).max()),
        "repeats": repeats,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512, 1024])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    options = parser.parse_args()
    result = {
        "what": "SLSG, edge recipe, batch 1, median milliseconds of alternating runs, OpenVINO f32",
        "needed_gain": NEEDED,
        "threads": options.threads,
        "kernels": kernels.implementation(),
        "versions": {
            "edgead": edgead.__version__,
            "torch": torch.__version__,
            "openvino": openvino.__version__,
            "python": platform.python_version(),
        },
        "results": [measure(side, options.repeats, options.threads) for side in options.sizes],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")
    if options.json:
        print(json.dumps(result))
    else:
        for row in result["results"]:
            print(
                f"{row['side']:5} px: one graph {row['one_graph_ms']:8.1f} ms, split "
                f"{row['split_ms']:8.1f} ms, gain {100 * row['gain']:+.1f} %"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
