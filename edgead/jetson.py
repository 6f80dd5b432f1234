"""What a Jetson tells about itself: JetPack, power mode, clocks, DLA, camera daemon.

Read from /etc, /proc and /sys where possible; the tools (nvpmodel, systemctl) are asked only when they
are there. Everything is optional: a missing file is an empty answer. Below another root the functions
read a recorded machine (``EDGEAD_SYSTEM_ROOT``), and then no tool is asked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgead.backends.trt.device import system_root, tegra_model

__all__ = ["argus_state", "clocks", "dla_count", "jetpack", "l4t", "power_mode", "read", "said"]

_TIMEOUT_S = 5.0
#: Jetson Linux (L4T) major release -> JetPack.
_JETPACKS = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}


def read(path: str) -> str:
    """A file below the system root without its end; empty when it cannot be read."""
    try:
        return (system_root() / path).read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""


def said(command: Sequence[str]) -> str:
    """What a tool prints; empty when it is missing, fails, hangs, or the root is another machine's."""
    if system_root() != Path("/") or shutil.which(command[0]) is None:
        return ""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def l4t() -> tuple[int, str]:
    """Jetson Linux release as (major, revision), e.g. (36, "4.3"); (0, "") on other machines."""
    found = re.search(
        r"R(?P<major>\d+) \(release\), REVISION: (?P<revision>[\d.]+)", read("etc/nv_tegra_release")
    )
    return (int(found["major"]), found["revision"]) if found else (0, "")


def jetpack() -> str:
    """JetPack version: the package's where it is installed, else the major one that L4T implies."""
    package = said(["dpkg-query", "--showformat=${Version}", "--show", "nvidia-jetpack"])
    if package:
        return package.partition("-")[0]
    return _JETPACKS.get(l4t()[0], "")


def power_mode() -> str:
    """Name of the power mode, e.g. ``MAXN`` or ``15W``; empty when it cannot be told.

    ``nvpmodel -q`` needs no root for this; without the tool the status file names the mode's number.
    """
    found = re.search(r"NV Power Mode: *(\S+)", said(["nvpmodel", "-q"]))
    if found:
        return found[1]
    status = re.search(r"pmode:(\d+)", read("var/lib/nvpmodel/status"))
    return f"number {int(status[1])}" if status else ""


def clocks() -> dict[str, dict[str, float]]:
    """Present and largest clock of CPU, GPU and memory, MHz; what is not there is left out."""
    root = system_root()
    found: dict[str, dict[str, float]] = {}
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    if policies:
        base = policies[0].relative_to(root)
        _add(found, "cpu", f"{base}/scaling_cur_freq", f"{base}/scaling_max_freq", 1e3)
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        is_gpu = "gpu" in folder.name or "ga10b" in folder.name or "gv11b" in folder.name
        if is_gpu and "gpu" not in found:
            base = folder.relative_to(root)
            _add(found, "gpu", f"{base}/cur_freq", f"{base}/max_freq", 1e6)
    emc = "sys/kernel/debug/bpmp/debug/clk/emc"
    _add(found, "memory", f"{emc}/rate", f"{emc}/max_rate", 1e6)
    return found


def dla_count() -> int:
    """Deep learning accelerators in the device tree."""
    root = system_root()
    return len(
        {path.name for path in (root / "proc/device-tree").glob("**/nvdla*") if path.is_dir()}
    )


def argus_state() -> str:
    """State of the CSI cameras' daemon: active, inactive, failed; empty where there is none."""
    if not tegra_model():
        return ""
    return said(["systemctl", "show", "--property=ActiveState", "--value", "nvargus-daemon"])


def _add(
    found: dict[str, dict[str, float]], name: str, now: str, largest: str, scale: float
) -> None:
    values = read(now), read(largest)
    if all(value.isdigit() for value in values):
        found[name] = {
            "mhz": round(int(values[0]) / scale, 1),
            "max_mhz": round(int(values[1]) / scale, 1),
        }
