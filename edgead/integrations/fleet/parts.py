"""What of a run is done: a folder of parts beside the results, and whose run it is.

A part appears whole or not at all, under the number of its chunk; so an image has no row or one, however
often the run is stopped, and rows are in the archive's order, whoever judged them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgead import files
from edgead.errors import StateError
from edgead.integrations.fleet.claim import claim
from edgead.integrations.fleet.rows import Row, encode

__all__ = ["Parts"]

_RUN = "run.json"


class Parts:
    """The folder of one run; locked while it is in use.

    Args:
        out: The file of results; the folder is ``<out>.parts``.
        key: What the rows depend on: bundle, archive and how it is judged.

    Raises:
        StateError: RUN_BUSY while another run uses the folder; RUN_DIFFERS when its rows were made
            from something else.
        StorageError: The folder cannot be made.
    """

    def __init__(self, out: Path, key: Mapping[str, Any]) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        self._out, self._key = out, dict(key)
        self._lock = claim(self.folder, out)
        try:
            self._take()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def missing(self, chunks: int) -> list[int]:
        """Numbers of the chunks without a part."""
        return [number for number in range(chunks) if not self.path(number).exists()]

    def path(self, number: int) -> Path:
        """Where a chunk's rows lie."""
        return self.folder / f"part-{number:07d}.parquet"

    def write(self, number: int, rows: Sequence[Row]) -> None:
        """Keep a chunk's rows.

        Raises:
            StorageError: DISK_FULL and its like; what was written before is kept.
        """
        files.write_bytes(self.path(number), encode(rows, self._key))

    def discard(self) -> None:
        """The results are written: nothing here is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take(self) -> None:
        path = self.folder / _RUN
        if path.exists():
            differs = _differences(_json(path), self._key)
            if differs:
                raise StateError(
                    "RUN_DIFFERS",
                    f"{self.folder} holds rows of another run: {', '.join(differs)} differs.",
                    "Repeat the command that began it, name another --out, or delete that folder.",
                )
        files.sweep(self.folder)
        files.write_text(path, json.dumps(self._key, indent=1, sort_keys=True))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
