"""TensorRT engines: built for a named GPU without one, and run where there is one.

    python benchmarks/engines_trt.py BUNDLE... [--target sm86] [--json]
    python benchmarks/engines_trt.py METHOD.fp32.onnx METHOD.int8.onnx ...

Every FP32, FP16 and INT8 model of each bundle (or ONNX file, which says its precision in its name) is built
twice with TensorRT-RTX: seconds, bytes, and whether the same model gave the same plan. With a GPU and pycuda,
each back end at hand also runs: copy in, compute and copy out as trtexec splits them, a captured graph against
plain launches, mapped against pinned memory, a frame that is on the GPU already, and the largest difference
from OpenVINO's FP32 map. Without a GPU the run part is empty.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import finish, interleave, parser, report

from edgead.backends import open_backend as open_any
from edgead.backends.trt import TrtOptions, build_engine, device, header, open_backend
from edgead.backends.trt.cuda import DeviceArray
from edgead.bundle import Bundle, read_bundle
from edgead.errors import EdgeadError

MEMBERS = {
    "fp32": ("model.onnx",),
    "fp16": ("model.fp16.onnx",),
    "int8": ("model.int8-qdq.onnx", "model.int8.onnx"),
}
SMALLEST_RUNS = 50


def main() -> int:
    options = parser(__doc__, "engines_trt.json")
    options.add_argument("bundles", type=Path, nargs="+")
    options.add_argument("--target", default="sm86")
    chosen = options.parse_args()
    built, run = [], []
    for path in chosen.bundles:
        bundle = None if path.suffix == ".onnx" else read_bundle(path)
        for named, model in [_of_file(path)] if bundle is None else _of_bundle(bundle):
            built.append({**named, **build_twice(model, named["precision"], chosen.target)})
            print(built[-1], file=sys.stderr)
        run += [] if bundle is None else list(runs(bundle))
    cuda = device.probe()
    document = report("engines_trt", built, run=run, cuda=cuda.to_json())
    finish(document, chosen)
    return 0 if all("refused" not in one for one in built) else 1


def models(bundle: Bundle) -> Iterator[tuple[str, str, bytes]]:
    """(precision, member, model) of what a bundle holds."""
    for precision, names in MEMBERS.items():
        for name in names:
            if name in bundle.members:
                yield precision, name, bundle.members[name]


def build_twice(model: bytes, precision: str, target: str) -> dict[str, Any]:
    """Build in two new caches; the medians of nothing, just both times."""
    seconds, plans, told = [], [], {}
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            try:
                told = build_engine(
                    model, name="tensorrt-rtx", target=target, precision=precision, cache_dir=cache
                )  # fmt: skip
            except EdgeadError as error:
                return {"target": target, "refused": str(error)}
            secret = (cache / "machine.key").read_bytes()
            data = Path(told["engine"]).read_bytes()
            _, plan, info = header.unpack(data, secret, source="")
            seconds.append(told["seconds"])
            plans.append(hashlib.sha256(plan).hexdigest())
    return {
        "target": target, "version": told["version"], "seconds": seconds, "bytes": told["bytes"],
        "layers": info["layers"], "peak_rss_mb": round(info["peak_rss_bytes"] / 1e6), "onnx_bytes": len(model),
        "same_plan_twice": plans[0] == plans[1], "notes": told["notes"],
    }  # fmt: skip


def runs(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """One record for each back end and precision that runs here; none without a GPU."""
    if device.probe().code != "OK":
        return
    for name in ("tensorrt", "tensorrt-rtx"):
        for precision, member, model in models(bundle):
            told = {"backend": name, **_named(bundle, precision, member)}
            try:
                yield {**told, **measure(bundle, name, precision, model)}
            except EdgeadError as error:
                yield {**told, "not_run": str(error)}


def measure(bundle: Bundle, name: str, precision: str, model: bytes) -> dict[str, Any]:
    """Time one engine in its variants, interleaved, and compare its outputs."""
    height, width = bundle.manifest.input.size
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    variants = {
        "graph, pinned": TrtOptions(memory="pinned"),
        "launches, pinned": TrtOptions(memory="pinned", cuda_graph=False),
        "graph, mapped": TrtOptions(memory="mapped"),
    }
    opened = {
        label: open_backend(model, name=name, precision=precision, allow_build=True, options=variant)
        for label, variant in variants.items()
    }  # fmt: skip
    split = open_backend(model, name=name, precision=precision, options=TrtOptions(timing=True))
    try:
        requests = {label: backend.open_request() for label, backend in opened.items()}
        candidates = {
            label: (lambda request=request: request.infer({"image": frame}))
            for label, request in requests.items()
        }
        resident = _resident(opened["graph, pinned"], frame)
        candidates["graph, frame on the GPU"] = lambda: requests["graph, pinned"].infer(
            {"image": resident}
        )
        times = interleave(candidates)
        outputs = requests["graph, pinned"].infer({"image": frame})
        return {
            "device": split.device, "version": split.version,
            "median_ms": {label: timing.median_ms for label, timing in times.items()},
            "p90_ms": {label: timing.p90_ms for label, timing in times.items()},
            "split_ms": _split(split.open_request(), frame),
            "activation_mb": round(split.activation_bytes / 1e6, 1),
            "worst_share_of_fp32_range": _difference(bundle, frame, outputs),
        }  # fmt: skip
    finally:
        for backend in (*opened.values(), split):
            backend.close()


def _resident(backend: Any, frame: np.ndarray) -> Any:
    """The frame in device memory, as a GPU camera library would hand it over."""
    with backend.context.active() as driver:
        allocation = driver.mem_alloc(frame.nbytes)
        driver.memcpy_htod(allocation, frame)
    held = DeviceArray(int(allocation), frame.shape, frame.dtype)
    held.keep = allocation  # type: ignore[attr-defined]
    return held


def _split(request: Any, frame: np.ndarray) -> dict[str, float]:
    """Medians of copy in, compute and copy out, as trtexec splits them."""
    rows = []
    for _ in range(SMALLEST_RUNS):
        request.infer({"image": frame})
        rows.append(dict(request.timings_ms))
    return {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]}


def _difference(bundle: Bundle, frame: np.ndarray, outputs: dict[str, np.ndarray]) -> float:
    """Largest difference from OpenVINO at FP32, as a share of that output's range, over all outputs."""
    reference = open_any("openvino", bundle.members, precision="fp32")
    try:
        wanted = reference.open_request().infer({"image": frame})
    finally:
        reference.close()
    return max(
        float(np.abs(outputs[name].astype(np.float32) - array).max() / max(np.ptp(array), 1e-9))
        for name, array in wanted.items()
    )


def _named(bundle: Bundle, precision: str, member: str) -> dict[str, Any]:
    return {"method": bundle.manifest.method, "precision": precision, "model": member}


def _of_bundle(bundle: Bundle) -> list[tuple[dict[str, Any], bytes]]:
    return [
        (_named(bundle, precision, member), model) for precision, member, model in models(bundle)
    ]


def _of_file(path: Path) -> tuple[dict[str, Any], bytes]:
    """``slsg.int8-qdq.onnx`` is an INT8 model of slsg."""
    method, _, rest = path.stem.partition(".")
    precision = rest.partition("-")[0]
    return {"method": method, "precision": precision, "model": path.name}, path.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
