"""edgead: industrial image anomaly detection at the edge.

>>> from edgead import Detector                                     # doctest: +SKIP
>>> with Detector("part.edgead") as detector:                       # doctest: +SKIP
...     detection = detector(frame)

Importing this package is cheap and starts nothing: each name is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgead._version import __version__

if TYPE_CHECKING:
    from edgead.detector import Detector
    from edgead.errors import EdgeadError
    from edgead.types import Detection, Frame, Outcome, PixelFormat, Region, Status, Verdict

__all__ = [
    "Detection",
    "Detector",
    "EdgeadError",
    "Frame",
    "Outcome",
    "PixelFormat",
    "Region",
    "Status",
    "Verdict",
    "__version__",
]

_HOMES = {"Detector": "edgead.detector", "EdgeadError": "edgead.errors"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "edgead.types")), name)
    raise AttributeError(f"module 'edgead' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
