"""Whether a camera can be reached at all: a cheap look, while opening it is a process and seconds."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["look_of"]

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_LOOK_S = 0.3  # as long as a stop may have to wait for it


def look_of(shown: str) -> Callable[[], bool] | None:
    """How to see whether a camera is there, None where only opening it shows.

    Args:
        shown: Path of a device; or a stream's address as `edgead.urls.SourceUrl` shows it, for a part
            of a password taken for the host would be asked of the name server.
    """
    if shown.startswith("/dev/"):
        return Path(shown).exists
    try:
        url = urlsplit(shown)
        port = url.port or _PORTS.get(url.scheme)
    except ValueError:  # opening it says so
        return None
    if port is None or url.scheme not in _PORTS or not url.hostname or "*" in url.hostname:
        return None
    return partial(_answers, url.hostname, port)


def _answers(host: str, port: int) -> bool:
    """Whether somebody takes a TCP connection; nothing is said over it."""
    try:
        socket.create_connection((host, port), _LOOK_S).close()
    except OSError:
        return False
    return True
