"""Trainers of one product for tests: the product's name says what becomes of it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from bundles import tiny_bundle
from fleet_judges import MARK, above_is_ray

from edgead.bundle import write_bundle
from edgead.errors import CalibrationError

__all__ = ["by_name"]


def by_name(request: dict[str, Any]) -> dict[str, Any]:
    """Writes a tiny bundle, unless the product is called otherwise."""
    if request["product"] == "dies":
        os.write(2, b"Killed\n")
        os._exit(9)
    if request["product"] == "refused":
        raise CalibrationError("DATA_TOO_FEW", "3 images.", "Take more.")
    if request["product"] == "buggy":
        raise ZeroDivisionError("a bug")
    if request["product"] == "slow":
        time.sleep(3600)
    if request["product"] == "loses_worker" and above_is_ray():
        mark = Path(os.environ[MARK])
        if not mark.exists():
            mark.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(3600)  # it ends with its parent
    write_bundle(request["bundle"], tiny_bundle())
    return {
        "product": request["product"], "ok": True, "bundle": request["bundle"],
        "bundle_hash": tiny_bundle().hash, "threshold": 0.5, "bound": 0.02, "precisions": ["fp32"],
        "seconds": 0.1, "code": None, "message": "", "notes": [], "key": request["key"],
    }  # fmt: skip
