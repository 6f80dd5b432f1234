"""TensorRT-RTX engines for a named GPU, built on a machine without one.

    python benchmarks/engines_trt.py BUNDLE... [--target sm86]

Runs ``edgead build BUNDLE --backend tensorrt-rtx --target T --precision P`` twice, each time with an empty cache,
for FP32, FP16 and INT8: seconds, bytes, and whether the same model gave the same plan. A precision that a bundle
does not hold is made here, in a copy, by the method's recipe on the golden images alone: ``certified`` is then false,
and nobody may judge parts with it. That a graph builds shows that it parses under strong typing and compiles; it
says nothing about results or speed on a device. Writes benchmarks/results/engines_trt.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import onnx

from edgead.backends import members_for
from edgead.backends.trt import header
from edgead.bundle import MODEL, Bundle, read_bundle, write_bundle
from edgead.calibration.recipes import kept_nodes, recipe_for
from edgead.deploy.activations import float_tensors, watch
from edgead.deploy.half import half_model
from edgead.deploy.qdq import int8_model, quantisable
from edgead.deploy.rewrite import split
from edgead.golden import golden_frame
from edgead.preprocess import Preprocess

BACKEND = "tensorrt-rtx"
PRECISIONS = ("fp32", "fp16", "int8")


def rows(path: Path, target: str) -> Iterator[dict[str, Any]]:
    """One record for each precision."""
    bundle = read_bundle(path)
    manifest = bundle.manifest
    head = {
        "method": manifest.method,
        "backbone": manifest.backbone,
        "input": list(manifest.input.size),
    }
    made = missing_precisions(bundle)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "part.edgead"
        write_bundle(whole, bundle.with_members(made))
        for precision in PRECISIONS:
            member = members_for(BACKEND, precision, {**bundle.members, **made})[0]
            size = len({**bundle.members, **made}[member])
            certified = None if precision == "fp32" else member not in made
            told = build_twice(whole, precision, target)
            yield {**head, "asked": precision, "certified": certified, "onnx_bytes": size, **told}


def missing_precisions(bundle: Bundle) -> dict[str, bytes]:
    """Models that the bundle does not hold, by the recipe, from the ranges on its golden images."""
    made: dict[str, bytes] = {}
    model = onnx.load_from_string(bundle.members[MODEL])
    recipe = recipe_for(bundle.manifest.method)
    if "model.fp16.onnx" not in bundle.members:
        kept = kept_nodes([node.name for node in model.graph.node], recipe.fp16)
        made["model.fp16.onnx"] = half_model(model, kept).SerializeToString()
    if "model.int8.onnx" not in bundle.members:
        whole = split(model)
        nodes = quantisable(whole)
        kept = kept_nodes(nodes, recipe.int8)
        ranges = ranges_on(whole, bundle)
        chosen = [name for name in nodes if name not in kept]
        made["model.int8.onnx"] = int8_model(whole, ranges, chosen, "s8")
    return made


def ranges_on(model: onnx.ModelProto, bundle: Bundle) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each tensor over the golden images."""
    preprocess = Preprocess.of(bundle)
    frames = [golden_frame(bundle, one.name) for one in bundle.manifest.golden]
    tensors = [preprocess(frame, check_ranges=False)[0] for frame in frames]
    found: dict[str, tuple[float, float]] = {}
    for values in watch(model, tensors, float_tensors(model)):
        for name, array in values.items():
            low, high = found.get(name, (0.0, 0.0))
            found[name] = (min(low, float(array.min())), max(high, float(array.max())))
    return found


def build_twice(bundle: Path, precision: str, target: str) -> dict[str, Any]:
    """Both builds' seconds; the rest from the second one."""
    seconds, wall, plans = [], [], []
    told: dict[str, Any] = {}
    info: dict[str, Any] = {}
    for _ in range(2):
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, "-m", "edgead", "build", str(bundle.resolve()), "--backend", BACKEND,
                       "--target", target, "--precision", precision, "--json"]  # fmt: skip
            started = time.monotonic()
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env={**os.environ, "XDG_CACHE_HOME": cache}
            )  # fmt: skip
            if done.returncode != 0:
                said = done.stderr.strip().splitlines()
                return {"refused": next((x for x in said if x.startswith("error:")), said[-1])}
            wall.append(round(time.monotonic() - started, 2))
            told = json.loads(done.stdout)
            engine = Path(told["engine"])
            _, plan, info = header.unpack(
                engine.read_bytes(), (engine.parent / "machine.key").read_bytes(), source=str(engine)
            )  # fmt: skip
            seconds.append(round(told["seconds"], 2))
            plans.append(hashlib.sha256(plan).hexdigest())
    return {
        "built": told["precision"], "seconds": seconds, "command_seconds": wall, "bytes": told["bytes"],
        "same_plan_twice": plans[0] == plans[1], "plan_sha256": plans[0], "layers": info["layers"],
        "peak_rss_mb": round(info["peak_rss_bytes"] / 1e6), "version": told["version"], "notes": told["notes"],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("bundles", type=Path, nargs="+")
    options.add_argument("--target", default="sm86")
    chosen = options.parse_args(arguments)
    built = []
    for path in chosen.bundles:
        for row in rows(path, chosen.target):
            built.append(row)
            print(json.dumps(row), flush=True)
    command = f"python benchmarks/engines_trt.py BUNDLE... --target {chosen.target}"
    print(harness.save("engines_trt", command, {"target": chosen.target, "built": built}))
    return 0 if all("refused" not in row for row in built) else 1


if __name__ == "__main__":
    sys.exit(main())
