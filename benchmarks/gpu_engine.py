"""TensorRT and TensorRT-RTX on a GPU: build an engine for it, load it, run it, hold it to the golden images."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parent.parent / "tests" / "data" / "gravel.edgead"
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
PRECISIONS = ("fp32", "fp16", "int8")


def run(seconds: float, tell: Callable[[dict[str, Any]], None]) -> None:
    """Each back end that is installed, each precision that can be had; the others say why not."""
    deadline = time.monotonic() + seconds
    told: dict[str, Any] = {}
    for name, module in MODULES.items():
        why = why_not(module)
        told[name] = {"ran": False, "why": why} if why else on(name, deadline)
        tell({"engines": told})
    ran = [one for one in told.values() if one["ran"]]
    tell({"passed": bool(ran) and all(one["ok"] for one in ran), "why": _summary(told)})


def why_not(module: str) -> str:
    """Why a back end cannot run here; empty when nothing is known against it."""
    for needed in (module, "pycuda"):
        if importlib.util.find_spec(needed) is None:
            return f"not run: no {needed}"
    return ""


def on(name: str, deadline: float) -> dict[str, Any]:
    """Every precision on one back end."""
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.edgead"
        held = complete(path)
        for precision in PRECISIONS:
            if precision not in held:
                told[precision] = {
                    "ran": False,
                    "why": "not run: no onnx package to make the model",
                }
            elif deadline - time.monotonic() < 10:
                told[precision] = {"ran": False, "why": "not run: no time was left"}
            else:
                told[precision] = measured(name, precision, path)
    ran = [one for one in told.values() if one["ran"]]
    return {"ran": bool(ran), "ok": all(one["ok"] for one in ran), "precisions": told}


def complete(path: Path) -> tuple[str, ...]:
    """The bundle with FP16 and INT8 models beside FP32's where they can be made; precisions that it holds."""
    from edgead.bundle import read_bundle, write_bundle

    bundle = read_bundle(BUNDLE)
    try:
        from engines_trt import missing_precisions
    except ImportError:
        write_bundle(path, bundle)
        return ("fp32",)
    write_bundle(path, bundle.with_members(missing_precisions(bundle)))
    return PRECISIONS


def measured(name: str, precision: str, path: Path) -> dict[str, Any]:
    """Build for this GPU, judge the golden images, time; an error is the answer."""
    try:
        from edgead.backends import members_for
        from edgead.backends.trt import build_engine
        from edgead.bundle import read_bundle
        from edgead.evaluate.benchmark import benchmark

        members = read_bundle(path).members
        first = members[members_for(name, precision, members)[0]]
        built = build_engine(first, name=name, precision=precision)
        result = benchmark(path, backend=name, precision=precision, seconds=1.0)
    except Exception as error:  # one engine that is refused must not hide the others
        return {"ran": False, "why": f"{type(error).__name__}: {error}"}
    # INT8 is made on four pictures here: whether it holds the golden images is told, not asked for.
    ok = precision == "int8" or bool(result["gpu"]["golden"]["ok"])
    return {"ran": True, "ok": ok, "build": built, "benchmark": result}


def _summary(told: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {one['why']}" for name, one in told.items() if "why" in one)
