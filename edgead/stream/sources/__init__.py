"""Sources: where frames come from, and the one grammar that names them."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgead.errors import SourceError
from edgead.stream.sources.arrays import ArraySource
from edgead.stream.sources.base import BadBuffer, Captured, EndOfSource, Source, SourceKind
from edgead.stream.sources.files import SUFFIXES, FileSource, image_files

__all__ = [
    "ArraySource",
    "BadBuffer",
    "Captured",
    "EndOfSource",
    "FileSource",
    "Source",
    "SourceKind",
    "open_source",
]


def open_source(spec: Any) -> Source:
    """Open what ``spec`` names.

    Args:
        spec: A folder, a glob pattern, an image file, a list of image files, an array, a list or
            iterator of arrays or frames, or a `Source`.

    Raises:
        SourceError: SOURCE_NOT_FOUND, SOURCE_EMPTY, or SOURCE_UNKNOWN for anything else.
    """
    if isinstance(spec, (str, Path)):
        return _open_text(str(spec))
    if isinstance(spec, Source):
        return spec
    if hasattr(spec, "shape"):
        return ArraySource([spec])
    if isinstance(spec, (list, tuple)) and spec and all(isinstance(s, (str, Path)) for s in spec):
        return FileSource(spec)
    if isinstance(spec, Iterable):
        return ArraySource(spec)
    raise SourceError("SOURCE_UNKNOWN", f"got {type(spec).__name__}.")


def _open_text(text: str) -> Source:
    path = Path(text)
    if path.is_dir():
        return FileSource(image_files(path), source_id=path.name)
    if any(sign in text for sign in "*?["):
        found = [Path(p) for p in sorted(glob.glob(text, recursive=True))]
        return FileSource([p for p in found if p.suffix.lower() in SUFFIXES], source_id="glob")
    if path.suffix.lower() in SUFFIXES:
        return FileSource([path], source_id=path.name)
    raise SourceError("SOURCE_NOT_FOUND", f"{text} does not exist.")
