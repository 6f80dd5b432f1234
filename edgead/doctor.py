"""What this machine can run, and why not more: the checks behind ``edgead doctor``.

Every check is a function that returns `Check` objects and never raises. Libraries are imported in a
child process, so that one that is broken, or ends its process, is an answer like any other.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgead
from edgead import jetson, power
from edgead.backends.trt import api, device
from edgead.backends.trt.cache import default_folder
from edgead.errors import EdgeadError

__all__ = ["CHECKS", "Check", "examine"]

_CHILD_TIMEOUT_S = 60.0
_LOW_DISK_BYTES = 2 * 10**9
_LOW_MEMORY_BYTES = 2 * 10**9


#: Name, module, extra that brings it.
_LIBRARIES = (
    ("tensorrt", "tensorrt", "tensorrt-cu13"),
    ("tensorrt-rtx", "tensorrt_rtx", "tensorrt-rtx"),
    ("pycuda", "pycuda.driver", "tensorrt-cu13"),
    ("cupy", "cupy", "tensorrt-cu13"),
    ("openvino", "openvino", "cpu"),
    ("onnxruntime", "onnxruntime", "onnxruntime"),
)


@dataclass(frozen=True)
class Check:
    """One answer.

    Attributes:
        name: What was looked at.
        status: ``ok``; ``note`` (worth knowing); ``missing`` (optional and not there); ``problem``
            (something will not work).
        text: What was found, in words.
        hint: What to do; empty when there is nothing to do.
        value: The bare fact for programs.
    """

    name: str
    status: str
    text: str
    hint: str = ""
    value: Any = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def examine(bundle: str | Path | None = None) -> dict[str, Any]:
    """Run all checks.

    Args:
        bundle: Bundle to say for which back end and precision will judge it.

    Returns:
        ``ok`` (no problem found), ``checks``, ``backends`` (name -> usable and why), ``choice``
        (back end, precision and why, or None).
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        groups = list(pool.map(_guarded, CHECKS))
    checks = [check for group in groups for check in group]
    backends = _backends({check.name: check for check in checks})
    choice = None
    if bundle is not None:
        check, choice = _choice(Path(bundle))
        checks.append(check)
    if not any(told["usable"] for told in backends.values()):
        checks.append(
            Check("back ends", "problem", "No back end can run.", "pip install 'edgead[cpu]'.")
        )
    return {
        "ok": not any(check.status == "problem" for check in checks),
        "checks": [check.to_json() for check in checks],
        "backends": backends,
        "choice": choice,
    }


def check_python() -> list[Check]:
    """Interpreter, package and NumPy, whose major version must suit the system's OpenCV."""
    text = f"edgead {edgead.__version__}, Python {platform.python_version()}, {platform.machine()}."
    found = [Check("python", "ok", text, value=platform.python_version())]
    numpy_text = f"NumPy {np.__version__}."
    if jetson.jetpack().startswith("6") and int(np.__version__.partition(".")[0]) >= 2:
        found.append(
            Check(
                "numpy",
                "problem",
                f"{numpy_text} JetPack 6's OpenCV and jetson-utils are built for NumPy 1.",
                "pip install 'numpy<2'.",
                np.__version__,
            )
        )
    else:
        found.append(Check("numpy", "ok", numpy_text, value=np.__version__))
    return found


def check_cuda() -> list[Check]:
    """Driver, CUDA version, devices."""
    cuda = device.probe()
    status = "ok" if cuda.code == "OK" else "missing"
    if cuda.code not in ("OK", "NO_DRIVER", "NO_GPU"):
        status = "problem"
    return [Check("cuda", status, cuda.sentence, cuda.hint, cuda.to_json())]


def check_jetpack() -> list[Check]:
    """JetPack: 6.0 is the oldest; 4 and 5 are refused by name."""
    model = device.tegra_model()
    if not model:
        return []
    major, revision = jetson.l4t()
    name = jetson.jetpack()
    release = f"{model}, JetPack {name or 'unknown'} (L4T {major}.{revision})"
    if 0 < major < 36:
        text = f"{release}. JetPack {name} is refused: its TensorRT is older than 8.6."
        return [Check("jetpack", "problem", text, "Flash JetPack 6.0 or newer.", name)]
    status = "ok" if name else "note"
    return [Check("jetpack", status, f"{release}.", value=name)]


def check_libraries() -> list[Check]:
    """Engine libraries and what they need, each imported in a child process."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(_library, *zip(*_LIBRARIES, strict=True)))


def check_opencv() -> list[Check]:
    """OpenCV, and whether it can open GStreamer pipelines (CSI cameras need that)."""
    code = (
        "import cv2; i = cv2.getBuildInformation(); "
        "g = [l for l in i.splitlines() if 'GStreamer' in l]; "
        "print(cv2.__version__, 'YES' if g and 'YES' in g[0] else 'NO')"
    )
    answer = _in_child("cv2", code)
    if answer.status != "ok":
        return [Check("opencv", answer.status, answer.text, answer.hint or "edgead[cpu]")]
    version, has_gstreamer = answer.text.split()
    if has_gstreamer == "YES":
        return [Check("opencv", "ok", f"OpenCV {version} with GStreamer.", value=version)]
    hint = ""
    if device.tegra_model():
        hint = "Use JetPack's own OpenCV: pip uninstall opencv-python-headless opencv-python."
    text = f"OpenCV {version} without GStreamer: no CSI cameras through it."
    return [Check("opencv", "note" if hint else "ok", text, hint, version)]


def check_cameras() -> list[Check]:
    """Video devices, and whether this user may open them; the CSI daemon on a Jetson."""
    found = []
    root = device.system_root()
    for path in sorted((root / "dev").glob("video[0-9]*")):
        name = jetson.read(f"sys/class/video4linux/{path.name}/name") or "camera"
        shown = f"/dev/{path.name}: {name}"
        if os.access(path, os.R_OK | os.W_OK):
            found.append(Check("camera", "ok", f"{shown}.", value=f"/dev/{path.name}"))
        else:
            hint = "sudo usermod -aG video $USER, then log in again."
            found.append(Check("camera", "problem", f"{shown}: no permission.", hint))
    if not found:
        found.append(Check("camera", "note", "No video device below /dev."))
    argus = jetson.argus_state()
    if argus:
        status = "ok" if argus == "active" else "problem"
        hint = "" if argus == "active" else "sudo systemctl restart nvargus-daemon."
        found.append(Check("nvargus", status, f"The CSI cameras' daemon is {argus}.", hint, argus))
    return found


def check_power() -> list[Check]:
    """Power mode, clocks and sensors: what figures of this machine depend on."""
    state = power.machine_power()
    clocks = ", ".join(
        f"{name} {now['mhz']:.0f} of {now['max_mhz']:.0f} MHz"
        for name, now in state["clocks"].items()
    )
    mode = f"power mode {state['mode']}" if state["mode"] else "power mode not known"
    found = [Check("power", "ok", f"{mode}; {clocks or 'clocks not known'}.", value=state)]
    watts = power.read_watts()
    if watts is None:
        found.append(Check("power sensors", "note", "None: watts are not measured here."))
    else:
        found.append(Check("power sensors", "ok", f"{watts[0]:.1f} W, {watts[1]}.", value=watts[0]))
    if device.tegra_model() and shutil.which("jetson_clocks"):
        hint = "For steady figures: sudo nvpmodel -m 0; sudo jetson_clocks."
        found.append(Check("jetson_clocks", "note", "Clocks follow the load.", hint))
    return found


def check_dla() -> list[Check]:
    """Deep learning accelerators: told, and not used."""
    count = jetson.dla_count()
    if count == 0:
        return []
    text = (
        f"{count} DLA present, not used: graphs with a uint8 input, per-channel Q/DQ and top-K are "
        "not what it computes; layer after layer would fall back to the GPU."
    )
    return [Check("dla", "note", text, value=count)]


def check_space() -> list[Check]:
    """Memory, and disk below the engine cache."""
    available = device.available_memory()
    low = available < _LOW_MEMORY_BYTES
    hint = "An engine build takes about 1.7 GB on a Jetson." if low else ""
    text = f"{available / 1e9:.1f} GB available."
    found = [Check("memory", "note" if low else "ok", text, hint, available)]
    folder = default_folder()
    home = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(home).free
    engines = list(folder.glob("*.engine")) if folder.is_dir() else []
    size = sum(path.stat().st_size for path in engines)
    text = f"{free / 1e9:.1f} GB free; {len(engines)} engines, {size / 1e6:.0f} MB, in {folder}."
    if not os.access(home, os.W_OK):
        found.append(
            Check("disk", "problem", f"{home} cannot be written to.", "Set XDG_CACHE_HOME.")
        )
    elif free < _LOW_DISK_BYTES:
        found.append(Check("disk", "problem", text, "Free some space.", free))
    else:
        found.append(Check("disk", "ok", text, value=free))
    return found


CHECKS: tuple[Callable[[], list[Check]], ...] = (
    check_python, check_cuda, check_jetpack, check_libraries, check_opencv, check_cameras,
    check_power, check_dla, check_space,
)  # fmt: skip


def _guarded(check: Callable[[], list[Check]]) -> list[Check]:
    """A check that breaks is a finding, not the end of the others."""
    try:
        return check()
    except Exception as error:
        name = check.__name__.removeprefix("check_")
        return [Check(name, "problem", f"The check failed: {type(error).__name__}: {error}.")]


def _library(name: str, module: str, extra: str) -> Check:
    top = module.partition(".")[0]
    shown = f"getattr({top}, '__version__', None) or getattr({top}, 'VERSION_TEXT', '?')"
    answer = _in_child(top, f"import {module}; print({shown})")
    if answer.status == "missing":
        hint = f"pip install 'edgead[{extra}]'."
        if device.tegra_model() and name == "tensorrt":
            hint = "It comes with JetPack: make the environment with --system-site-packages."
        elif device.tegra_model() and name in ("pycuda", "cupy"):
            hint = "pip install 'edgead[jetson]'."
        return Check(name, "missing", "Not installed.", hint)
    if answer.status != "ok":
        return Check(name, "problem", answer.text, answer.hint)
    if name in api.MODULES:
        try:
            api.api_for(name, answer.text)
        except EdgeadError as error:
            return Check(name, "problem", str(error), value=answer.text)
    return Check(name, "ok", f"{name} {answer.text}.", value=answer.text)


def _in_child(module: str, code: str) -> Check:
    """Run ``code`` in a child: ok with its output, missing, or a problem with the reason."""
    guard = (
        f"import importlib.util, sys\n"
        f"if importlib.util.find_spec({module!r}) is None: sys.exit(44)\n{code}"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", guard],
            capture_output=True,
            text=True,
            timeout=_CHILD_TIMEOUT_S,
            cwd="/",  # what is installed, not a file of that name that happens to lie here
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(module, "problem", f"Importing {module} did not end: {error}.")
    if done.returncode == 44:
        return Check(module, "missing", f"{module} is not installed.")
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return Check(module, "ok", lines[-1])
    if done.returncode < 0:
        reason = f"ended its process by signal {-done.returncode}"
    else:
        last = done.stderr.strip().splitlines()
        reason = f"failed: {last[-1] if last else f'exit code {done.returncode}'}"
    return Check(module, "problem", f"Importing {module} {reason}.", "Install it again.")


def _backends(checks: dict[str, Check]) -> dict[str, dict[str, Any]]:
    """Which back ends can run here, and why not."""
    told = {}
    for name in ("tensorrt", "tensorrt-rtx", "openvino", "onnxruntime"):
        needs = [name] + (["cuda", "pycuda"] if name in api.MODULES else [])
        missing = [checks[need] for need in needs if checks[need].status != "ok"]
        why = "; ".join(f"{check.name}: {check.text}" for check in missing)
        told[name] = {"usable": not missing, "why": why or checks[name].text}
    return told


def _choice(bundle: Path) -> tuple[Check, dict[str, Any] | None]:
    """The back end and precision that ``auto`` takes for a bundle."""
    from edgead.bundle import read_bundle
    from edgead.choice import choose

    try:
        chosen = choose(read_bundle(bundle))
    except (EdgeadError, OSError) as error:
        return Check("choice", "problem", str(error)), None
    told = {"backend": chosen.backend, "precision": chosen.precision, "why": chosen.why}
    return Check("choice", "ok", f"{chosen.why}.", value=told), told
