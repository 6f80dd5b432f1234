"""Precisions of a quantised bundle: agreement on labelled frames, speed, size, and which engines take it.

``python benchmarks/precision.py --bundle B --data ROOT --name bottle`` reads the certificates that
``edgead quantize B --images ROOT`` wrote, times all engines of the machine in turns on a real frame,
builds TensorRT-RTX engines where that library is installed (building needs no GPU), checks the golden
images at every precision, and writes ``results/precision_<method>_<name>.json``.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import interleave, save

from edgead.backends import member_for, open_backend
from edgead.bundle import Bundle, read_bundle
from edgead.choice import certificates, choose
from edgead.detector import Detector
from edgead.errors import EdgeadError
from edgead.evaluate import data
from edgead.golden import golden_frame
from edgead.preprocess import Preprocess

WAYS = [
    ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "fp16"), ("openvino", "int8"),
    ("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("onnxruntime", "int8"),
]  # fmt: skip
RTX = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}


def held(bundle: Bundle) -> list[tuple[str, str]]:
    """Ways that the bundle has a member for."""
    found = []
    for backend, precision in WAYS:
        try:
            member_for(backend, precision, bundle.members)
        except EdgeadError:
            continue
        found.append((backend, precision))
    return found


def calls(bundle: Bundle, backend: str, *, threads: int) -> dict[str, Callable[[], object]]:
    """An inference of a real frame in each precision of a back end."""
    manifest = bundle.manifest
    frame = golden_frame(bundle, manifest.golden[0].name)
    tensor = Preprocess(manifest.frame, manifest.input, manifest.view)(frame)[0]
    found: dict[str, Callable[[], object]] = {}
    for name, precision in held(bundle):
        if name == backend:
            engine = open_backend(name, bundle.members, precision=precision, threads=threads)
            request = engine.open_request()
            found[precision] = lambda one=request: one.infer({"image": tensor})
    return found


def times(bundle: Bundle, *, threads: int, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds an inference of each way; back ends apart, since their threads spin on."""
    return {
        backend: interleave(
            calls(bundle, backend, threads=threads),
            seconds=seconds, burst=3, pause_s=0.01, least=9,
        )
        for backend in ("openvino", "onnxruntime")
    }  # fmt: skip


def processor_times(bundle: Bundle, *, turns: int = 15) -> dict[str, dict[str, float]]:
    """Median milliseconds of processor time an inference takes on one thread, in turns."""
    result: dict[str, dict[str, float]] = {}
    for backend in ("openvino", "onnxruntime"):
        candidates = calls(bundle, backend, threads=1)
        spent: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(turns):
            for name, call in candidates.items():
                call()
                started = time.process_time()
                call()
                call()
                spent[name].append((time.process_time() - started) / 2)
        result[backend] = {k: statistics.median(v) * 1e3 for k, v in spent.items()}
    return result


def speedups(table: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """FP32's time over each precision's."""
    return {
        backend: {name: row["fp32"] / ms for name, ms in row.items()}
        for backend, row in table.items()
    }


def golden(bundle: Bundle, *, threads: int) -> dict[str, dict[str, Any]]:
    """``edgead verify`` at every precision on every back end."""
    found = {}
    for backend, precision in held(bundle):
        with Detector(
            bundle, backend=backend, precision=precision, threads=threads, self_check=False
        ) as detector:
            checked = detector.verify()
            found[f"{backend} {precision}"] = {"ok": checked["ok"], "worst": checked["worst"]}
    return found


def rtx_builds(bundle: Bundle, target: str) -> dict[str, Any] | None:
    """Seconds and bytes of a TensorRT-RTX engine of each member, or its refusal; None without it."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return None
    from edgead.backends.trt import build_engine

    found: dict[str, Any] = {"target": target}
    for precision, member in RTX.items():
        if member not in bundle.members:
            continue
        with tempfile.TemporaryDirectory() as cache:
            try:
                told = build_engine(
                    bundle.members[member], name="tensorrt-rtx", precision=precision,
                    target=target, cache_dir=cache,
                )  # fmt: skip
            except EdgeadError as error:
                found[precision] = {"refused": str(error)}
                continue
        found[precision] = {k: told[k] for k in ("seconds", "bytes", "version", "precision")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--name", required=True, help="of the data set, for the file's name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--target", default="sm86")
    parser.add_argument("--note", default="", help="what else a reader must know of this run")
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    manifest = bundle.manifest
    sizes = {name: len(one) for name, one in bundle.members.items() if name.endswith(".onnx")}
    timed = times(bundle, threads=options.threads, seconds=options.seconds)
    worked = processor_times(bundle)
    body = {
        "set": options.name,
        "test_frames": len(data.find_test(options.data)),
        "method": manifest.method,
        "backbone": manifest.backbone,
        "weights": manifest.training.weights,
        "input_size": list(manifest.input.size),
        "threads": options.threads,
        "bytes": sizes,
        "size_ratio": {name: size / sizes["model.onnx"] for name, size in sizes.items()},
        "ms": timed,
        "speedup": speedups(timed),
        "processor_ms_one_thread": worked,
        "processor_speedup": speedups(worked),
        "int8_over_bf16": timed["openvino"]["bf16"] / timed["openvino"]["int8"]
        if "int8" in timed["openvino"]
        else None,
        "verify": golden(bundle, threads=options.threads),
        "tensorrt_rtx_builds": rtx_builds(bundle, options.target),
        "auto": choose(bundle).why,
        "note": options.note,
        "certificates": [{**one, "search": len(one["search"])} for one in certificates(bundle)],
    }
    name = f"precision_{manifest.method}_{options.name}"
    command = f"python benchmarks/precision.py --bundle B --data ROOT --name {options.name} --threads {options.threads}"
    print(save(name, command, body))


if __name__ == "__main__":
    main()
