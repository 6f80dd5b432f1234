"""Structured logs: one JSON object a line, for journald, Loki, Elasticsearch and their kind.

Keys: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, ``thread``; ``code`` and ``hint`` where the
record carries an `edgead.errors.EdgeadError`; ``exception`` with the traceback.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import TextIO

from edgead.errors import EdgeadError

__all__ = ["JsonFormatter", "log_to"]

_LOGGERS = ("edgead", "uvicorn")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; what is in it never breaks the line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        when = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "thread": record.threadName,
        }
        error = _error_of(record)
        if error is not None:
            line["code"], line["hint"] = error.code, error.hint
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def log_to(stream: TextIO | None = None, *, as_json: bool) -> logging.Handler:
    """Send edgead's and the web server's records to a stream, from level INFO.

    Args:
        stream: Where to; stderr by default.
        as_json: `JsonFormatter`, else a line for a person.

    Returns:
        The handler, which replaces one that was set before.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if as_json else plain)
    handler.set_name("edgead logs")
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for old in [h for h in logger.handlers if h.get_name() == handler.get_name()]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    # Its lines on starting and each connection are about itself, not about the line.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return handler


def _error_of(record: logging.LogRecord) -> EdgeadError | None:
    """The typed error of a record: raised, or among what was formatted into it."""
    if record.exc_info and isinstance(record.exc_info[1], EdgeadError):
        return record.exc_info[1]
    arguments = record.args if isinstance(record.args, tuple) else ()
    return next((one for one in arguments if isinstance(one, EdgeadError)), None)
