"""The web server: a thread of its own, bounded in connections and in patience.

Who connects and says nothing is let go after a few seconds; when all places are taken such a silent
connection gives way to a new one. Of many connections each is heard in its turn, so that a crowd that
comes again and again costs the line a share of time that does not grow with it. A peer that stops reading
is ended by the kernel.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from asyncio import BaseTransport
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgead.errors import ConfigError
from edgead.integrations.serve.access import Token, is_loopback
from edgead.integrations.serve.app import make_app
from edgead.integrations.serve.line import Line
from edgead.integrations.serve.viewers import Hub

__all__ = ["Server", "listen"]

_log = logging.getLogger("edgead.serve")

MOST_CONNECTIONS = 128
_SILENT_S = 5.0  # until the first request
_CROWD = 32  # connections that are heard at once
_TURN_S = 0.05  # beyond them one after the other: the first request costs most
_ACCEPTED = 32  # connections taken at once before others are served
_HEADERS = 16 * 1024
_MESSAGE = 1024  # bytes that a viewer may send at once: nothing is expected
_UNREAD_MS = 20_000  # a peer that takes nothing for so long is ended


class Turns:
    """When a new connection is heard: at once, or after those before it when there are many."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def wait_s(self, now_s: float, connections: int) -> float:
        """How long one more connection waits.

        Args:
            now_s: Time of the event loop.
            connections: How many there are with it.
        """
        if connections <= _CROWD:
            return 0.0
        at_s = max(now_s, self._next_s)
        self._next_s = at_s + _TURN_S
        return at_s - now_s


class PatientProtocol(H11Protocol):
    """HTTP with a bound on connections, on how many are heard a second and on how long one may be silent.

    Attributes:
        turns: Shared by the connections of one server.
    """

    turns = Turns()

    def connection_made(self, transport: BaseTransport) -> None:
        """Take a connection, or the place of one that has asked nothing yet."""
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > MOST_CONNECTIONS:
            silent = (one for one in self.connections if isinstance(one, PatientProtocol))
            found = next((one for one in silent if one.is_silent and one is not self), self)
            found.transport.abort()
        wait_s = self.turns.wait_s(self.loop.time(), len(self.connections))
        if wait_s > 0:
            self.loop.call_soon(
                self.transport.pause_reading
            )  # asyncio begins to read after this call
            self.loop.call_later(wait_s, self.transport.resume_reading)
        self.loop.call_later(wait_s + _SILENT_S, self._let_go)

    @property
    def is_silent(self) -> bool:
        """Whether nothing was asked yet; what became a WebSocket is no longer among these."""
        return self.cycle is None

    def _let_go(self) -> None:
        if self.is_silent and self in self.connections and not self.transport.is_closing():
            self.transport.abort()


class Server:
    """Serves a line until it is closed.

    Args:
        line: What is served.
        listener: A listening socket, as of `listen`; closed with the server.
        token: Who may ask.
    """

    def __init__(self, line: Line, listener: socket.socket, token: Token) -> None:
        host, self.port = listener.getsockname()[:2]
        any_host = bool(token) or not is_loopback(host)
        self.hub = Hub(line.state)
        config = uvicorn.Config(
            make_app(line, self.hub, token=token, any_host=any_host),
            http=type("PatientProtocol", (PatientProtocol,), {"turns": Turns()}),
            backlog=_ACCEPTED,
            ws="websockets-sansio",
            ws_max_size=_MESSAGE,
            ws_per_message_deflate=False,
            h11_max_incomplete_event_size=_HEADERS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
        )
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        self._listener = listener
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="edgead web", daemon=True)

    def start(self) -> None:
        """Serve in a thread; returns at once, what connects meanwhile is answered when it is up."""
        self._thread.start()

    def close(self) -> None:
        """End every connection and the thread; safe to call twice."""
        self.hub.close()
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(5)
        self._listener.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except Exception:
            _log.exception("the web server ended; the line goes on without its page")


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 lets the system choose.

    Raises:
        ConfigError: PORT_IN_USE, PORT or HOST.
    """
    if not 0 <= port <= 65535:
        raise ConfigError("PORT", f"--port is {port}; want 0 to 65535.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            "HOST", f"--host {host} is no address of this machine.", "Use 127.0.0.1 or 0.0.0.0."
        ) from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _end_dead_peers(listener)
        listener.bind(address)
        listener.listen(_ACCEPTED)
    except OSError as error:
        listener.close()
        raise _refused(host, port, error) from error
    return listener


def _end_dead_peers(listener: socket.socket) -> None:
    """Accepted sockets inherit this. Source: tcp(7), TCP_USER_TIMEOUT; it also ends a zero window."""
    option: Any = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, _UNREAD_MS)


def _refused(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        text = f"port {port} on {host} is in use."
        return ConfigError("PORT_IN_USE", text, "Choose another one: --port.")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            "HOST", f"--host {host} is no address of this machine.", "Use 127.0.0.1 or 0.0.0.0."
        )
    if error.errno == errno.EACCES:
        text = f"port {port} on {host} needs more rights."
        return ConfigError("PORT", text, "Choose one above 1023.")
    return ConfigError("PORT", f"cannot listen on {host}:{port}: {error.strerror}.")
