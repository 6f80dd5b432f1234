"""Image files: a folder, a glob pattern, a list of paths. A bad file is a FAILED frame, not the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgead import images
from edgead.errors import EdgeadError, SourceError
from edgead.stream.sources.base import Captured, EndOfSource, SourceKind

__all__ = ["SUFFIXES", "FileSource", "image_files"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})


class FileSource:
    """Image files in the order given.

    Args:
        paths: The files; a missing or damaged one is a FAILED outcome with the reader's code.
        source_id: Name of the source.
    """

    is_simulated = True

    def __init__(self, paths: Sequence[str | Path], *, source_id: str = "files") -> None:
        self.source_id = source_id
        self.kind: SourceKind = "file"
        self.paths = [Path(path) for path in paths]
        self._next = 0

    def read(self, timeout_s: float) -> Captured:  # noqa: ARG002 - decoding is bounded
        """Decode the next file."""
        if self._next >= len(self.paths):
            raise EndOfSource
        path = self.paths[self._next]
        self._next += 1
        try:
            frame = images.read(path)
        except EdgeadError as error:
            return error
        return replace(frame, t_mono_ns=time.monotonic_ns(), part_id=path.name, is_simulated=True)

    def close(self) -> None:
        """Nothing is held open."""


def image_files(folder: str | Path) -> list[Path]:
    """The image files of a folder and its sub-folders, sorted by path.

    Raises:
        SourceError: SOURCE_NOT_FOUND or SOURCE_EMPTY.
    """
    root = Path(folder)
    if not root.is_dir():
        raise SourceError("SOURCE_NOT_FOUND", f"{root} is not a folder.")
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise SourceError(
            "SOURCE_EMPTY",
            f"{root} holds no image.",
            f"Images are files ending in {', '.join(sorted(SUFFIXES))}.",
        )
    return found
