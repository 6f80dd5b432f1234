"""Trainers of one product for tests: the product's name says what becomes of it."""

from __future__ import annotations

import os
from typing import Any

from bundles import tiny_bundle

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
    write_bundle(request["bundle"], tiny_bundle())
    return {
        "product": request["product"], "ok": True, "bundle": request["bundle"],
        "bundle_hash": tiny_bundle().hash, "threshold": 0.5, "bound": 0.02, "precisions": ["fp32"],
        "seconds": 0.1, "code": None, "message": "", "notes": [], "key": request["key"],
    }  # fmt: skip
