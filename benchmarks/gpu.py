"""Everything that only a GPU can tell, in one command of less than 8 minutes.

    python benchmarks/gpu.py

Builds edgead._C for this device in the checkout, then, each part in a process of its own: runs tests/gpu with
EDGEAD_REQUIRE_GPU=1 (parity), CuPy, torch and pycuda on one stream (interop), loads and runs a TensorRT or
TensorRT-RTX engine where one can be had (engine), looks for races with compute-sanitizer (races), and times the
kernels beside torch with TF32 off (timings). benchmarks/results/gpu.json is written after every part: a part that
fails, hangs or ends its process is there with its output, and the others still run. What cannot run says why.
Without a GPU nothing is run, and the command ends with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout itself: nothing need be installed

import harness  # noqa: E402

LIMIT_S = 470.0
SANITIZED = """
import cupy, numpy as np
from edgead import kernels
x = cupy.asarray(np.random.default_rng(0).standard_normal((99, 65), dtype=np.float32))
kernels.kmeans_assign(x, x[:70] + 1)
kernels.topk_neighbours(x[None], x[None], None, 40)
kernels.heatmap(x[None], (200, 150), sigma=4, threshold=0.5)
cupy.cuda.runtime.deviceSynchronize()
"""
#: Part -> seconds that it may take at the most. Those after ``build`` need it.
PARTS = {
    "build": 180.0,
    "parity": 150.0,
    "interop": 60.0,
    "engine": 100.0,
    "races": 60.0,
    "timings": 240.0,
}
#: What has to hold for the command to end with 0; the others depend on what is installed.
NEEDED = ("build", "parity", "interop", "timings")

Part = Callable[[float], dict[str, Any]]


def device() -> dict[str, Any] | None:
    """Name, driver and clocks as nvidia-smi or, on a Jetson, the device tree give them; None without a GPU."""
    smi = shutil.which("nvidia-smi")
    if smi is not None:
        fields = "name,driver_version,compute_cap,memory.total,clocks.max.sm,clocks.current.sm,power.limit"
        done = subprocess.run(
            [smi, f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and done.stdout.strip():
            return dict(
                zip(fields.split(","), done.stdout.splitlines()[0].split(", "), strict=False)
            )
    model = Path("/proc/device-tree/model")
    if Path("/dev/nvhost-gpu").exists() and model.exists():
        return {"name": model.read_text().strip("\0\n")}
    return None


def step(command: Sequence[str], seconds: float, **environment: str) -> dict[str, Any]:
    """Run a command; how it ended, how long it took and the end of what it printed."""
    started = time.monotonic()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=max(seconds, 1.0), capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        )  # fmt: skip
        passed, output = done.returncode == 0, done.stdout + done.stderr
        if done.returncode < 0:
            output += f"\nended by signal {-done.returncode}"
    except subprocess.TimeoutExpired as error:
        passed, output = False, f"no end after {seconds:.0f} s: {error}"
    except OSError as error:
        passed, output = False, str(error)
    took = round(time.monotonic() - started, 1)
    return {"passed": passed, "seconds": took, "output": "" if passed else output[-4000:]}


def build(seconds: float) -> dict[str, Any]:
    """edgead._C for this device, in the checkout."""
    architectures = os.environ.get("EDGEAD_CUDA_ARCHITECTURES") or "native"
    return step(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        seconds,
        EDGEAD_CUDA_ARCHITECTURES=architectures,
        EDGEAD_REQUIRE_NATIVE="1",
    )


def parity(seconds: float) -> dict[str, Any]:
    """The kernels against their NumPy references, and the engine where there is one."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    return step(command, seconds, EDGEAD_REQUIRE_GPU="1")


def races(seconds: float) -> dict[str, Any]:
    """Race check with compute-sanitizer; `ran` says whether it could work here at all."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"ran": False, "why": "compute-sanitizer is not on the PATH"}
    tool = [program, "--tool", "racecheck", "--error-exitcode", "9"]
    result = step([*tool, sys.executable, "-c", SANITIZED], seconds)
    unable = not result["passed"] and "RACECHECK SUMMARY" not in result["output"]
    return {"ran": not unable, **result}


def own_process(name: str) -> Part:
    """A part of this file's in a process of its own, which may write results before it ends."""

    def run(seconds: float) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "result.json"
            command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--part", name, "--out", str(out)]  # fmt: skip
            ended = step([*command, "--seconds", str(seconds - 5)], seconds, XDG_CACHE_HOME=folder)
            told = json.loads(out.read_text()) if out.exists() else {}
        return {**ended, **told, "passed": ended["passed"] and told.get("passed", False)}

    return run


def interop(seconds: float, tell: Callable[[dict[str, Any]], None]) -> None:  # noqa: ARG001
    """CuPy, torch and pycuda on one stream, without a copy."""
    import gpu_interop

    gpu_interop.run(tell)


def engine(seconds: float, tell: Callable[[dict[str, Any]], None]) -> None:
    """TensorRT and TensorRT-RTX."""
    import gpu_engine

    gpu_engine.run(seconds, tell)


def timings(seconds: float, tell: Callable[[dict[str, Any]], None]) -> None:
    """The kernels beside torch."""
    import gpu_kernels

    gpu_kernels.timings(time.monotonic() + seconds, tell)


CHILDREN = {"interop": interop, "engine": engine, "timings": timings}
RUNNERS: dict[str, Part] = {
    "build": build, "parity": parity, "races": races, **{name: own_process(name) for name in CHILDREN}
}  # fmt: skip


def run_parts(
    runners: dict[str, Part], deadline: float, save: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """Run every part in what time is left, and save after each; nothing that one does ends the others."""
    report: dict[str, Any] = {}
    for name, limit in PARTS.items():
        left = deadline - time.monotonic()
        if name != "build" and not report["build"].get("passed"):
            report[name] = {"passed": False, "why": "not run: the kernels were not built"}
        elif left < 10:
            report[name] = {"passed": False, "why": "not run: no time was left"}
        else:
            try:
                report[name] = runners[name](min(limit, left))
            except Exception as error:  # a part is reported, whatever it did
                report[name] = {"passed": False, "why": f"{type(error).__name__}: {error}"}
        told = report[name]
        state = (
            "passed" if told.get("passed") else f"NOT passed: {told.get('why', 'see its output')}"
        )
        print(f"{name}: {state} ({told.get('seconds', 0)} s)", flush=True)
        save(report)
    return report


def child(name: str, seconds: float, out: Path) -> int:
    """One part, here; what it tells is written at once."""
    told: dict[str, Any] = {"passed": False}

    def tell(more: dict[str, Any]) -> None:
        told.update(more)
        out.write_text(json.dumps(told))

    CHILDREN[name](seconds, tell)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--part", choices=sorted(CHILDREN), help="run this part alone, here")
    options.add_argument("--out", type=Path, default=Path("part.json"))
    options.add_argument("--seconds", type=float, default=60.0)
    chosen = options.parse_args(arguments)
    if chosen.part is not None:
        return child(chosen.part, chosen.seconds, chosen.out)
    gpu = device()
    if gpu is None:
        print(
            "No NVIDIA GPU was found on this machine: nothing was built, run or measured.",
            file=sys.stderr,
        )
        return 1

    def save(report: dict[str, Any]) -> object:
        return harness.save("gpu", "python benchmarks/gpu.py", {"gpu": gpu, **report})

    report = run_parts(RUNNERS, time.monotonic() + LIMIT_S, save)
    print(f"written to {harness.RESULTS / 'gpu.json'}")
    return 0 if all(report[name].get("passed") for name in NEEDED) else 1


if __name__ == "__main__":
    sys.exit(main())
