"""Frames that are already in memory: an array, a list, a generator, CUDA arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from edgead.errors import EdgeadError, SourceError
from edgead.frame import Frame
from edgead.stream.sources.base import Captured, EndOfSource, SourceKind

__all__ = ["ArraySource"]


class ArraySource:
    """Frames of any iterable of arrays or `Frame`.

    Args:
        items: Arrays (H, W), (H, W, 1) or (H, W, 3) uint8, frames, or CUDA arrays.
        source_id: Name of the source.
        is_simulated: False when the iterable stands for a live camera.
        kind: ``file`` lets the iterable wait for the judge.
        copy: Copy pixels at receipt, so that an iterable that reuses its buffer is safe.
    """

    def __init__(
        self,
        items: Iterable[Any],
        *,
        source_id: str = "array",
        is_simulated: bool = True,
        kind: SourceKind = "file",
        copy: bool = True,
    ) -> None:
        self.source_id = source_id
        self.kind: SourceKind = kind
        self.is_simulated = is_simulated
        self._items: Iterator[Any] = iter(items)
        self._copy = copy

    def read(self, timeout_s: float) -> Captured:  # noqa: ARG002 - an iterable cannot be timed out
        """The next item as a frame."""
        try:
            item = next(self._items)
        except StopIteration:
            raise EndOfSource from None
        except EdgeadError as error:
            raise error if isinstance(error, SourceError) else _failed(self, error) from error
        except Exception as error:
            raise _failed(self, error) from error
        try:
            frame = Frame.from_array(item)
        except EdgeadError as error:
            return error
        pixels = _owned(frame.pixels) if self._copy else frame.pixels
        return replace(frame, pixels=pixels, is_simulated=self.is_simulated or frame.is_simulated)

    def close(self) -> None:
        """Close a generator."""
        close = getattr(self._items, "close", None)
        if callable(close):
            try:
                close()
            except ValueError:
                return  # the generator is running in the capture thread and ends there


def _owned(pixels: Any) -> Any:
    return np.array(pixels, copy=True) if isinstance(pixels, np.ndarray) else pixels.copy()


def _failed(source: ArraySource, error: Exception) -> SourceError:
    return SourceError(
        "SOURCE_FAILED",
        f"the iterable behind source {source.source_id!r} raised {type(error).__name__}: {error}.",
        "The frames before it were accounted for.",
    )
