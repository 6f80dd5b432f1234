"""Out of memory in training, said with what to do about it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

from edgead.errors import CalibrationError

__all__ = ["memory_error_says"]

# torch's CPU allocator raises a plain RuntimeError.
_TEXT = re.compile(r"not enough memory|can't allocate memory|out of memory", re.IGNORECASE)


@contextlib.contextmanager
def memory_error_says(batch: int, image_size: tuple[int, int]) -> Iterator[None]:
    """Turn every kind of "out of memory" inside into one error that proposes a smaller batch.

    Args:
        batch: Images (or patches) a step, as tried.
        image_size: (h, w) of the engine input, as tried.

    Raises:
        CalibrationError: OUT_OF_MEMORY.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if isinstance(error, RuntimeError) and not _TEXT.search(str(error)):
            raise
        height, width = image_size
        fewer = f"--batch {batch // 2}" if batch >= 4 else ""
        smaller = fewer or f"--image-size {max(64, width // 64 * 32)}"
        raise CalibrationError(
            "OUT_OF_MEMORY",
            f"training ran out of memory with a batch of {batch} at {height} x {width} pixels.",
            f"Try {smaller}; the last checkpoint is kept.",
        ) from error
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
