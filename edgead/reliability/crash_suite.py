"""`edgead crashtest`: everything that writes is killed, and the journal's power is cut."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgead import files
from edgead.errors import ConfigError
from edgead.reliability.crash import crashtest, powercut
from edgead.reliability.crash_jobs import JOBS
from edgead.reliability.crash_work import kill_again_and_again

__all__ = ["FULL", "crash_suite"]

#: Part -> kills, or cuts, of a release.
FULL = {"writes": 1000, "powercut": 400, "train": 100, "quantize": 60, "build": 200, "run": 300}


def crash_suite(
    part: str = "all",
    *,
    kills: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    plant: bool = False,
    progress: Callable[[str], None] = lambda _text: None,
) -> dict[str, Any]:
    """Kill writers and whole jobs; see `crashtest`, `powercut` and `kill_again_and_again`.

    Args:
        part: One of `FULL`, or ``all``.
        kills: How often, each part; None takes `FULL`.
        seed: When.
        folder: Where to write, to test that file system; a temporary folder by default.
        plant: Positive control: files are written in place, and ``ok`` must come out False.
        progress: Told what happens.

    Returns:
        A part's figures, with ``left``: temporary files that no sweep removes. For ``all``:
        ``jobs``, the figures by part; ``kills``, ``torn``, ``lost`` in all; ``skipped``: parts that
        need what is not installed, and why; ``seconds``; ``ok``.

    Raises:
        ConfigError: CRASH_PART; CRASH_MISSING when a part asked for needs what is not installed.
    """
    if part not in ("all", *FULL):
        raise ConfigError("CRASH_PART", f"got {part!r}; want all, {', '.join(FULL)}.")
    if kills is not None and kills < 1:
        raise ConfigError("CRASH_PART", f"kills is {kills}; want 1 or more.")
    if part != "all":
        return _part(part, kills or FULL[part], seed, folder, plant)
    begun = time.monotonic()
    jobs: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name, full in FULL.items():
        progress(f"{name}: {kills or full} times")
        try:
            jobs[name] = _part(name, kills or full, seed, folder, plant)
        except ConfigError as error:
            if error.code != "CRASH_MISSING":
                raise
            skipped[name] = str(error)
            progress(f"{name} is left out: {error}")
    told: dict[str, Any] = {
        name: sum(one.get(name, 0) for one in jobs.values()) for name in ("kills", "torn", "lost")
    }
    told |= {"skipped": skipped, "jobs": jobs, "seconds": round(time.monotonic() - begun, 1)}
    return told | {"ok": all(one["ok"] for one in jobs.values())}


def _part(
    name: str, kills: int, seed: int, folder: str | Path | None, plant: bool
) -> dict[str, Any]:
    if name == "writes":
        return crashtest(kills=kills, seed=seed, folder=folder, plant=plant)
    if name == "powercut":
        return powercut(cuts=kills, seed=seed)
    with tempfile.TemporaryDirectory(prefix="edgead-crashtest-", dir=folder) as made:
        place = Path(made)
        figures = kill_again_and_again(JOBS[name](place), kills=kills, seed=seed, plant=plant)
        for one in (place, *(path for path in place.rglob("*") if path.is_dir())):
            files.sweep(one)
        left = [path.name for path in (*place.rglob("*.tmp"), *place.rglob("build-*"))]
    figures["left"] = len(left)
    figures["problems"] += [f"{one} was left for ever" for one in left]
    return figures | {"ok": figures["ok"] and not left}
