"""The library's log: where its None results and False returns carry their reason.

Standard library only: the build's child process imports this module.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Log", "make_logger", "says_out_of_memory"]


class Log:
    """Keeps the last messages of the library: its exceptions and None results carry no reason."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, message: str) -> None:
        """Keep one message."""
        self.lines = [*self.lines[-19:], message]

    def clear(self) -> None:
        """Forget what was said of earlier work."""
        self.lines = []

    def reason(self) -> str:
        """The last messages in one line."""
        return " | ".join(self.lines[-3:]) or "the library gave no reason"


def make_logger(trt: Any, log: Log) -> Any:
    """A TensorRT logger that keeps warnings and errors."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                log.add(msg)

    return Logger()


def says_out_of_memory(text: str) -> bool:
    """True when a message of the library or of CUDA says that memory ran out."""
    lowered = text.lower()
    return any(word in lowered for word in ("out of memory", "outofmemory", "std::bad_alloc"))
