"""Watts and clocks while a benchmark runs: the Jetson's own sensors, or nvidia-smi's.

Sensors are found, never assumed: on a machine without any, the answer is None and no figure.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from edgead import jetson
from edgead.backends.trt.device import system_root, tegra_model

__all__ = ["PowerMeter", "machine_power", "read_watts", "throttle_state"]

#: Rails that feed the whole module, by board.
_INPUT_RAILS = ("VDD_IN", "VIN_SYS_5V0", "POM_5V_IN")
_SMI = ["nvidia-smi", "--format=csv,noheader,nounits"]


def read_watts() -> tuple[float, str] | None:
    """Power at this moment, watts, and what was measured; None when no sensor is there.

    On a Jetson the INA3221's rail of the whole module (or, where there is none, the sum of its
    rails); on a PC the graphics card alone.
    """
    rails = _rails()
    for name in _INPUT_RAILS:
        if name in rails:
            return rails[name], f"module ({name})"
    if rails:
        return sum(rails.values()), f"sum of {', '.join(sorted(rails))}"
    drawn = jetson.said([*_SMI, "--query-gpu=power.draw"]).splitlines()
    try:
        return float(drawn[0]), "graphics card (nvidia-smi)"
    except (IndexError, ValueError):
        return None


def machine_power() -> dict[str, Any]:
    """Power mode and clocks, to be recorded beside every figure."""
    mode = jetson.power_mode() if tegra_model() else _smi_state()
    return {"mode": mode, "clocks": jetson.clocks()}


def throttle_state() -> dict[str, Any]:
    """Whether the machine slows itself down, by what, and its hottest sensor.

    On a Jetson (or any Linux) every cooling device that is not a fan and is engaged; on a PC the
    reasons that nvidia-smi names. ``throttled`` is None where nothing tells.
    """
    root = system_root()
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    millidegrees = [jetson.read(str(path.relative_to(root))) for path in zones]
    heats = [int(text) / 1000 for text in millidegrees if text.isdigit()]
    engaged, known = [], False
    for path in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        base = path.relative_to(root)
        kind, state = jetson.read(f"{base}/type"), jetson.read(f"{base}/cur_state")
        if not state.isdigit() or "fan" in kind.lower():
            continue
        known = True
        if int(state) > 0:
            engaged.append(kind)
    reasons = _smi_reasons()
    engaged += reasons or []
    return {
        "throttled": bool(engaged) if known or reasons is not None else None,
        "by": engaged,
        "hottest_c": max(heats, default=None),
    }


class PowerMeter:
    """Mean power over a block, from a thread that reads the sensors ten times a second.

    Attributes:
        watts: Mean power, None without sensors or readings.
        source: What was measured.
    """

    def __init__(self, *, interval_s: float = 0.1) -> None:
        self.watts: float | None = None
        self.source = ""
        self._interval_s = interval_s
        self._readings: list[float] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PowerMeter:
        first = read_watts()
        if first is not None:
            self.source = first[1]
            self._thread = threading.Thread(target=self._look, name="edgead-power", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._readings:
            self.watts = sum(self._readings) / len(self._readings)

    def to_json(self, frames: int, seconds: float) -> dict[str, Any]:
        """The benchmark's ``power`` object; figures are None where nothing was measured.

        Args:
            frames: Frames judged in the block.
            seconds: Length of the block.
        """
        millijoules = None
        if self.watts is not None and frames > 0:
            millijoules = round(1000 * self.watts * seconds / frames, 3)
        watts = None if self.watts is None else round(self.watts, 3)
        return {
            "watts": watts,
            "mj_per_frame": millijoules,
            "source": self.source or None,
            **machine_power(),
        }

    def _look(self) -> None:
        while not self._stop.wait(self._interval_s):
            now = read_watts()
            if now is not None:
                self._readings.append(now[0])


def _rails() -> dict[str, float]:
    """Rail name -> watts of every INA3221 channel: millivolts times milliamperes."""
    rails: dict[str, float] = {}
    root = system_root()
    for label in sorted((root / "sys/class/hwmon").glob("hwmon*/in[1-3]_label")):
        channel = label.name[2]
        base = str(label.parent.relative_to(root))
        name = jetson.read(f"{base}/in{channel}_label")
        volts = jetson.read(f"{base}/in{channel}_input")
        amperes = jetson.read(f"{base}/curr{channel}_input")
        if name and name != "NC" and volts.isdigit() and amperes.isdigit():
            rails[name] = int(volts) * int(amperes) / 1e6
    return rails


def _smi_reasons() -> list[str] | None:
    """Reasons for which the graphics card slows down; None when nvidia-smi does not tell."""
    names = ("hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "sw_power_cap")
    wanted = ",".join(f"clocks_throttle_reasons.{name}" for name in names)
    lines = jetson.said([*_SMI, f"--query-gpu={wanted}"]).splitlines()
    if not lines:
        return None
    states = [part.strip() for part in lines[0].split(",")]
    return [name for name, state in zip(names, states, strict=False) if state == "Active"]


def _smi_state() -> str:
    """Performance state, clocks and reasons for throttling of the first graphics card."""
    wanted = "pstate,clocks.sm,clocks.max.sm,power.limit,clocks_throttle_reasons.active"
    lines = jetson.said([*_SMI, f"--query-gpu={wanted}"]).splitlines()
    if not lines:
        return ""
    parts = [part.strip() for part in lines[0].split(",")]
    if len(parts) != 5:
        return lines[0]
    return f"{parts[0]}, SM {parts[1]} of {parts[2]} MHz, limit {parts[3]} W, throttle {parts[4]}"
