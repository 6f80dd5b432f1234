"""Every error that edgead raises: a stable code, what was given, what was expected, what to do."""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BundleError",
    "CalibrationError",
    "ConfigError",
    "EdgeadError",
    "FrameError",
    "OutputError",
    "SourceError",
    "StateError",
    "StorageError",
]


class EdgeadError(Exception):
    """Base of all edgead errors.

    Args:
        code: Stable identity in capitals, e.g. ``FRAME_SIZE``; programs switch on it.
        message: What was given and what was expected.
        hint: What to do about it; empty when the message already says so.

    The text is ``[CODE] message hint``. Errors of native libraries never surface raw: they stay in
    ``__cause__``.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return " ".join(part for part in (f"[{self.code}]", self.message, self.hint) if part)


class FrameError(EdgeadError, ValueError):
    """A frame or an image that must not be judged. Its verdict is UNKNOWN."""


class BundleError(EdgeadError, ValueError):
    """A bundle, manifest or model that is damaged, foreign or of another version."""


class BackendError(EdgeadError, RuntimeError):
    """An inference back end that is missing, refuses the model, or failed."""


class SourceError(EdgeadError, RuntimeError):
    """A camera, stream, video or folder that cannot be opened or read."""


class OutputError(EdgeadError, RuntimeError):
    """A broker, PLC, web address or pin that cannot be reached, opened or written."""


class CalibrationError(EdgeadError, ValueError):
    """Good images that cannot carry the training, threshold or calibration asked for."""


class StateError(EdgeadError, RuntimeError):
    """Use after close, in a forked child, or re-entrantly."""


class StorageError(EdgeadError, RuntimeError):
    """A file that cannot be written or read: disk full, read-only, no permission."""


class ConfigError(EdgeadError, ValueError):
    """An option or a configuration that is out of range or contradicts another."""
