"""A child process that never outlives its parent, however either of them ends.

The child owns one end of a pipe in which nothing is ever written. When the parent ends, in whatever
way, the kernel closes the other end and sends the child SIGIO, whose default action ends it: no
Python of the child has to run, so this holds while native code keeps the GIL. Pixels travel in
anonymous shared memory, which has no name that could be left behind.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from typing import Any, Protocol

__all__ = ["Child", "main", "shared_memory_fd"]

_LOG_BYTES = 65536
_BOOT = "from edgead.stream.child import main; main()"


class _Program(Protocol):
    def __call__(self, control: Connection, memory_fd: int) -> None: ...


class Child:
    """Run ``module:function(control, memory_fd)`` in a process of its own.

    Nothing secret is in its arguments or environment: send that over `control`.

    Args:
        program: ``module:function``.
        environment: Added to this process's environment.
        keep_log: Keep the end of its stderr for `last_words`, instead of letting it through.

    Attributes:
        control: Messages both ways.
        memory_fd: Anonymous shared memory, empty at first; either side may enlarge it.
    """

    def __init__(
        self, program: str, *, environment: dict[str, str] | None = None, keep_log: bool = False
    ) -> None:
        self.memory_fd = shared_memory_fd()
        self._log = shared_memory_fd()
        fcntl.fcntl(self._log, fcntl.F_SETFL, os.O_APPEND)  # so that it can be cut to nothing
        ours, theirs = socket.socketpair()
        reader, self._lifeline = os.pipe()
        inherited = (theirs.fileno(), self.memory_fd, reader)
        paths = os.pathsep.join(path for path in sys.path if path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, program, *map(str, inherited)],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if keep_log else None,
                stderr=self._log if keep_log else None,
                env={**os.environ, **(environment or {}), "PYTHONPATH": paths},
            )
        finally:
            theirs.close()
            os.close(reader)
        self.control = Connection(ours.detach())
        self._is_closed = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it is still running."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait for its end: its exit code, or minus the signal."""
        return self._process.wait()

    def last_words(self, count: int = 2000) -> str:
        """The end of what it wrote to stderr."""
        size = os.fstat(self._log).st_size
        return os.pread(self._log, count, max(0, size - count)).decode(errors="replace")

    def trim_log(self) -> None:
        """Forget what it wrote once that is long: a camera may complain for years."""
        if os.fstat(self._log).st_size > _LOG_BYTES:
            os.ftruncate(self._log, 0)

    def kill(self) -> None:
        """End it at once; whoever waits for a message gets EOFError."""
        self._process.kill()

    def close(self) -> None:
        """Kill it and free everything; safe to call twice. Does not wait for its goodwill."""
        if self._is_closed:
            return
        self._is_closed = True
        self._process.kill()
        self._process.wait()
        self.control.close()
        for handle in (self._lifeline, self.memory_fd, self._log):
            os.close(handle)


def shared_memory_fd() -> int:
    """Anonymous memory as a file descriptor: it is gone when the last holder closes it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("edgead")
    with tempfile.TemporaryFile() as stream:
        return os.dup(stream.fileno())


def main() -> None:
    """Entry of the child."""
    program, control, memory, lifeline = sys.argv[1:5]
    _die_with_parent(int(lifeline))
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C reaches the whole group: the parent decides when the child ends.
        signal.signal(number, signal.SIG_IGN)
    module, _, name = program.partition(":")
    run: _Program = getattr(importlib.import_module(module), name)
    run(Connection(int(control)), int(memory))


def _die_with_parent(lifeline: int) -> None:
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    ended: Any = None
    try:
        ended = os.read(lifeline, 1)
    except BlockingIOError:
        return  # the parent is there, and nothing was written: as it should be
    if ended == b"":
        os._exit(0)  # the parent ended before the signal was armed
