"""What every output to the line is: it is opened, given results in order, and beats while they are fresh."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import socket
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from enum import IntEnum
from types import ModuleType

from edgead.errors import EdgeadError, OutputError
from edgead.types import Outcome

__all__ = ["LineState", "Output", "OutputHealth", "Result", "check_port", "library"]

_log = logging.getLogger("edgead.integrations")
_LAST = 0xFFFF_FFFF


class LineState(IntEnum):
    """What the line may rely on; OFFLINE is 0, so that a zeroed word never reads as available."""

    OFFLINE = 0  # nothing was judged yet, or closed
    ONLINE = 1
    STALLED = 2  # verdicts are no longer fresh: reject


@dataclass(frozen=True)
class Result:
    """One outcome on its way out, without its maps.

    Attributes:
        number: 1 to 2**32 - 1, +1 an outcome, then 1 again; 0 is never used.
        session: Id of the run; ``session:number`` is unique.
        outcome: How the frame ended.
    """

    number: int
    session: str
    outcome: Outcome

    @classmethod
    def of(cls, outcome: Outcome, *, count: int, session: str) -> Result:
        """The ``count``-th outcome of a run, from 0; maps stay behind, since results may wait."""
        found = outcome.detection
        if found is not None and not (found.anomaly_map is None and found.mask is None):
            outcome = replace(outcome, detection=replace(found, anomaly_map=None, mask=None))
        return cls(count % _LAST + 1, session, outcome)

    @property
    def id(self) -> str:
        """Unique over runs."""
        return f"{self.session}:{self.number}"


@dataclass(frozen=True)
class OutputHealth:
    """How one output does; ``published == waiting + delivered + lost``.

    Attributes:
        name: Its address without secrets.
        published: Results that it was given.
        waiting: Not delivered yet.
        delivered: Acknowledged by the other side, or shown where its protocol has no receipt.
        lost: Given up: the queue was full, the other side refused, or it was closed first.
        problem: What is wrong now, as ``[CODE] sentence``; empty when nothing is.
    """

    name: str
    published: int
    waiting: int
    delivered: int
    lost: int
    problem: str


class Output(ABC):
    """Base of the outputs.

    `open`, `send` and `close` are called from one thread at a time, `beat` from another.

    Args:
        name: Its address without secrets.

    Attributes:
        queue: Results that may wait for it.
        delivered: Results that reached the other side; the output itself counts.
        lost: Results given up, whoever did it.
    """

    queue = 10_000

    def __init__(self, name: str) -> None:
        self.name = name
        self.delivered = 0
        self.lost = 0
        self._problem = ""
        self._lock = threading.Lock()

    @property
    def problem(self) -> str:
        """What is wrong now; empty when nothing is."""
        return self._problem

    @abstractmethod
    def open(self) -> None:
        """Start; a partner that does not answer is tried again for ever and is no error.

        Raises:
            OutputError: It can never work, e.g. the port is in use or a library is missing.
        """

    @abstractmethod
    def send(self, result: Result, wait_s: float) -> bool:
        """Take one result.

        Args:
            result: The next in order.
            wait_s: Return within about so many seconds.

        Returns:
            False when it could not be taken yet: it comes again.

        Raises:
            OutputError: It is given up.
        """

    @abstractmethod
    def beat(self, state: LineState) -> None:
        """Called five times a second, must not block: toggle the heartbeat while ONLINE."""

    @abstractmethod
    def close(self) -> None:
        """Stop; whatever the line reads afterwards means reject. Safe to call twice."""

    def lose(self) -> None:
        """Count a result that is given up."""
        with self._lock:
            self.lost += 1

    def note(self, problem: EdgeadError | None) -> None:
        """Set or clear `problem`, and log it when it is new."""
        text = "" if problem is None else str(problem)
        with self._lock:
            was, self._problem = self._problem, text
        if text and text != was:
            _log.warning("%s: %s", self.name, text)
        elif was and not text:
            _log.info("%s: works again", self.name)


def library(module: str, extra: str) -> ModuleType:
    """An optional package, imported on use.

    Raises:
        OutputError: OUTPUT_EXTRA.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # Jetson.GPIO raises on other machines
        raise OutputError(
            "OUTPUT_EXTRA",
            f"this output needs {module.split('.')[0]}, which does not import ({error}).",
            f"pip install 'edgead[{extra}]'.",
        ) from error


def check_port(host: str, port: int) -> None:
    """Say in a sentence why a server could not listen, before a library says it in its own words.

    Raises:
        OutputError: OUTPUT_PORT.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            trial.listen()
    except OSError as error:
        hint = "Give an address of this machine and a free port."
        if error.errno == errno.EADDRINUSE:
            hint = f"Stop the other program (ss -ltnp 'sport = {port}' names it), or give another port."
        elif error.errno == errno.EACCES:
            hint = "Ports below 1024 need privileges: give one above."
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        text = f"cannot listen on {host}:{port}: {reason}."
        raise OutputError("OUTPUT_PORT", text, hint) from error
