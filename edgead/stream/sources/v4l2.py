"""USB cameras: what may be set in their name, and why one does not open.

``usb://0?width=1920&height=1080&fps=30&fourcc=MJPG``
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qsl

from edgead.errors import SourceError

__all__ = ["device_path", "settings_of", "why_not"]

_NUMBERS = ("width", "height", "fps")


def device_path(name: str) -> str:
    """``0`` or ``/dev/video0`` -> ``/dev/video0``."""
    return f"/dev/video{name}" if name.isdigit() else name


def settings_of(query: str) -> dict[str, int | str]:
    """Read ``width=…&height=…&fps=…&fourcc=…``.

    Raises:
        SourceError: SOURCE_URL for another name, or a value that is none.
    """
    found: dict[str, int | str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _NUMBERS and value.isdigit() and int(value) > 0:
            found[name] = int(value)
        elif name == "fourcc" and len(value) == 4:
            found[name] = value
        else:
            raise SourceError(
                "SOURCE_URL",
                f"{name}={value} is no setting of a USB camera.",
                "e.g. usb://0?width=1920&height=1080&fps=30&fourcc=MJPG.",
            )
    return found


def why_not(path: str, *, processes: Path = Path("/proc")) -> tuple[str, str]:
    """Code and text of why a video device does not open."""
    if not Path(path).exists():
        return "SOURCE_NOT_FOUND", f"{path} is not there; is the camera plugged in?"
    if not os.access(path, os.R_OK | os.W_OK):
        return "SOURCE_PERMISSION", f"{path} may not be opened; add this user to the group video."
    for process in sorted(processes.glob("[0-9]*")):
        if int(process.name) != os.getpid() and _holds(process, path):
            name = (process / "comm").read_text().strip()
            return "SOURCE_BUSY", f"{path} is in use by pid {process.name} ({name})."
    return "SOURCE_FAILED", f"{path} cannot be opened as a camera."


def _holds(process: Path, path: str) -> bool:
    try:
        return any(str(handle.readlink()) == path for handle in (process / "fd").iterdir())
    except OSError:
        return False  # another user's, or gone
