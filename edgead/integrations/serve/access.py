"""Who may ask: the token, the Host and Origin that a browser sends, and the headers of every answer.

On 127.0.0.1 no token is needed, but a page of another site that a browser on this machine shows must
not reach the line: its requests name another Host (DNS rebinding) or another Origin.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgead.errors import ConfigError

__all__ = ["COOKIE", "Access", "Token", "check_token", "is_loopback", "problem"]

COOKIE = "edgead"
_SHORTEST = 16
_HEADER_BYTES = 16 * 1024
#: What answers without a token: that the process is alive, and how to log in.
_OPEN = frozenset({"/healthz", "/login", "/static/page.css"})
_PAGES = frozenset({"/", "/edit"})
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Token:
    """A secret that is compared in constant time and never printed.

    Args:
        text: The secret; empty lets everybody in.
    """

    def __init__(self, text: str) -> None:
        self._digest = hashlib.sha256(text.encode()).digest() if text else b""

    def __bool__(self) -> bool:
        return bool(self._digest)

    def matches(self, given: str) -> bool:
        """Whether this is the secret."""
        return hmac.compare_digest(hashlib.sha256(given.encode()).digest(), self._digest)

    @property
    def cookie(self) -> str:
        """What a browser keeps instead of the secret."""
        return hmac.new(self._digest, b"edgead page", hashlib.sha256).hexdigest()

    def admits(self, connection: HTTPConnection) -> bool:
        """Whether a request shows the secret (``Authorization: Bearer``) or the page's cookie."""
        if not self:
            return True
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.matches(given.strip()):
            return True
        kept = connection.cookies.get(COOKIE, "").encode()
        return hmac.compare_digest(kept, self.cookie.encode())


def is_loopback(host: str) -> bool:
    """Whether a host is this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_token(host: str, token: str) -> Token:
    """The token of a server that listens on ``host``.

    Raises:
        ConfigError: TOKEN when one is needed and missing, or is too short.
    """
    make = "Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(24))'."
    if not token and not is_loopback(host):
        raise ConfigError(
            "TOKEN",
            f"--host {host} can be reached from other machines; want a token in EDGEAD_TOKEN or --token.",
            make,
        )
    if token and (len(token) < _SHORTEST or not token.isascii() or not token.isprintable()):
        raise ConfigError(
            "TOKEN",
            f"the token has {len(token)} characters; want {_SHORTEST} or more, ASCII.",
            make,
        )
    return Token(token)


def problem(status: int, code: str, message: str, hint: str = "", **more: object) -> JSONResponse:
    """An error as every error of the API looks: a stable code, what is wrong, what to do."""
    return JSONResponse({"code": code, "message": message, "hint": hint, **more}, status)


class Access:
    """Middleware that lets through who may ask.

    Args:
        app: The application.
        token: The secret.
        any_host: Whether the server may be addressed by any name; False on loopback.
    """

    def __init__(self, app: ASGIApp, *, token: Token, any_host: bool) -> None:
        self._app, self._token, self._any_host = app, token, any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with the headers added."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "not allowed"})
        else:
            await refused(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        connection = HTTPConnection(scope)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _HEADER_BYTES:
            return problem(431, "HEADERS_TOO_LARGE", "the headers are over 16 KiB.")
        host = connection.headers.get("host", "")
        name = host.rpartition(":")[0] if _has_port(host) else host
        if not self._any_host and name.lower() not in _LOCAL_NAMES:
            return problem(421, "HOST", "this server answers to localhost only.", "Use --host.")
        if not _same_origin(connection.headers, host):
            return problem(403, "ORIGIN", "the request comes from a page of another site.")
        if scope["path"] in _OPEN or self._token.admits(connection):
            return None
        if scope["path"] in _PAGES and scope["type"] == "http":
            return RedirectResponse("/login", 303)
        hint = "Send Authorization: Bearer TOKEN, or log in at /login."
        refused = problem(401, "UNAUTHORIZED", "a token is needed.", hint)
        refused.headers["WWW-Authenticate"] = "Bearer"
        return refused


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _same_origin(headers: Headers, host: str) -> bool:
    """Whether a browser's Origin, where there is one, is this server's."""
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _with_headers(send: Send) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return add
