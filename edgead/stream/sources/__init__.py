"""Sources: where frames come from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgead.errors import SourceError
from edgead.stream.sources.arrays import ArraySource
from edgead.stream.sources.base import BadBuffer, Captured, EndOfSource, Source, SourceKind
from edgead.stream.sources.files import FileSource
from edgead.stream.sources.uri import parse_source

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
        spec: A name (`edgead.stream.sources.uri` has the grammar), a camera number, a list of image
            files, an array (H, W) or (H, W, 3), an array of them (N, H, W, 3), a CUDA array, any
            iterable of arrays or `Frame`, or a `Source`.

    Raises:
        SourceError: SOURCE_NOT_FOUND, SOURCE_EMPTY, SOURCE_URL, or SOURCE_UNKNOWN for anything else.
    """
    if isinstance(spec, (str, Path)):
        return parse_source(str(spec))
    if isinstance(spec, int):
        return parse_source(str(spec))
    if isinstance(spec, Source):
        return spec
    if hasattr(spec, "shape") and hasattr(spec, "dtype"):
        return ArraySource(spec if len(spec.shape) == 4 else [spec])
    if isinstance(spec, (list, tuple)) and spec and all(isinstance(s, (str, Path)) for s in spec):
        return FileSource(spec)
    if isinstance(spec, Iterable):
        return ArraySource(spec)
    raise SourceError(
        "SOURCE_UNKNOWN",
        f"got {type(spec).__module__}.{type(spec).__name__}.",
        "Give a folder, a file, a camera's address or number, arrays, or an iterable of them.",
    )
