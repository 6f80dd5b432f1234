"""A folder that one run at a time writes into."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from edgead.errors import StateError, StorageError

__all__ = ["claim"]


def claim(folder: Path, out: Path) -> int:
    """Make a folder and lock it.

    Args:
        folder: The folder; its parents are made too.
        out: What the run writes, for the message.

    Returns:
        A handle: the folder is free again when it is closed, or when this process ends in whatever way.

    Raises:
        StateError: RUN_BUSY while another run has it.
        StorageError: NO_FOLDER when it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(
            "NO_FOLDER",
            f"cannot make the folder {folder}: {error.strerror}.",
            "Name another --out.",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StateError(
            "RUN_BUSY",
            f"another run is writing {out} just now.",
            "Wait for its end, or name another --out.",
        ) from error
    return handle
