"""OPC UA: a server with results after OPC 40100-1, an event for each, and a heartbeat.

A client that subscribes to the event sees every result, whole and in order; the variables show the
newest. What of the companion specification is there, and what is not: `edgead.integrations.opcua_model`.
Without a certificate the server is open to whoever reaches its port, for reading; with one it speaks
encrypted only, and then it may ask for a user and a password.
"""

from __future__ import annotations

import hmac
import socket
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from edgead.errors import ConfigError, OutputError
from edgead.integrations.addresses import OutputAddress, count, text
from edgead.integrations.background import Background
from edgead.integrations.opcua_model import Model
from edgead.integrations.output import LineState, Output, Result, check_port, library

__all__ = ["OpcUaOutput", "output_from_address"]

#: The standard address space has some thousand nodes: a small machine takes its time.
_START_S = 120.0
_WRITE_S = 5.0
_STOP_S = 5.0


class OpcUaOutput(Output):
    """Serves OPC UA (opc.tcp, binary).

    Args:
        host: Address to listen on.
        port: 0 takes a free one: see `port`.
        name: As shown, without secrets.
        certificate: The server's, PEM or DER; needs ``key``.
        key: Its private key.
        user: Who may connect; None: anybody. Needs a certificate: a password goes encrypted.
        password: Likewise.
        queue: Results that may wait.

    Attributes:
        port: The port in use once it is open.

    Raises:
        ConfigError: OPCUA_LOGIN.
    """

    queue = 1000

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 4840,
        *,
        name: str = "opcua",
        certificate: str | None = None,
        key: str | None = None,
        user: str | None = None,
        password: str | None = None,
        queue: int = 1000,
    ) -> None:
        super().__init__(name)
        if (certificate is None) != (key is None) or (user is not None and certificate is None):
            raise ConfigError(
                "OPCUA_LOGIN",
                f"{name}: a certificate needs its key, and a user and password need both.",
                "Give ?certificate=server.pem&key=server.key, or no user.",
            )
        self.port = port
        self.queue = queue
        self._host = host
        self._files = (certificate, key) if certificate is not None and key is not None else None
        self._users = _Users(user, password)
        self._background: Background | None = None
        self._beating: Future[None] | None = None
        self._asyncua: Any = None
        self._server: Any = None
        self._model: Any = None

    def open(self) -> None:
        """Listen.

        Raises:
            OutputError: OUTPUT_EXTRA, OUTPUT_PORT, OPCUA_START.
        """
        self._asyncua = library("asyncua", "plc")
        check_port(self._host, self.port)
        self._background = Background("edgead opcua")
        try:
            self._background.run(self._start(), _START_S)
        except Exception as error:
            self._background.close()
            text = f"{self.name}: the server does not start: {error}."
            raise OutputError("OPCUA_START", text, "Check certificate and key.") from error

    def send(self, result: Result, wait_s: float) -> bool:  # noqa: ARG002 - never waits long
        """Write the result's variables and fire its event."""
        if self._background is None:
            return False
        try:
            self._background.run(self._model.show(result), _WRITE_S)
        except TimeoutError as error:
            raise OutputError("OPCUA_STUCK", f"{self.name}: the server hangs.") from error
        self.delivered += 1
        self.note(None)
        return True

    def beat(self, state: LineState) -> None:
        """Toggle while ONLINE; else show UNKNOWN in place of the last result."""
        is_free = self._beating is None or self._beating.done()
        if self._background is not None and is_free:
            self._beating = self._background.begin(self._model.beat(state))

    def close(self) -> None:
        """Close every session: a client that reads nothing rejects."""
        background, self._background = self._background, None
        if background is None:
            return
        try:
            background.run(self._stop(), _STOP_S)
        finally:
            background.close()

    async def _start(self) -> None:
        ua = self._asyncua.ua
        server = self._asyncua.Server(user_manager=self._users)
        server.set_endpoint(f"opc.tcp://{_bracketed(self._host)}:{self.port}/edgead")
        server.set_server_name("edgead")
        server.manufacturer_name, server.product_uri = "edgead", "urn:edgead"
        await server.init()
        await server.set_application_uri(f"urn:{socket.gethostname()}:edgead")
        policies = ua.SecurityPolicyType
        if self._files is None:
            server.set_security_policy([policies.NoSecurity])
            server.set_identity_tokens([ua.AnonymousIdentityToken])
        else:
            certificate, key = (Path(file).read_bytes() for file in self._files)
            await server.load_certificate(certificate, _format_of(certificate))
            await server.load_private_key(key, format=_format_of(key))
            server.set_security_policy(
                [policies.Basic256Sha256_SignAndEncrypt, policies.Aes256Sha256RsaPss_SignAndEncrypt]
            )
            token = ua.UserNameIdentityToken if self._users.user else ua.AnonymousIdentityToken
            server.set_identity_tokens([token])
        self._model = Model(server, ua)
        await self._model.build()
        await server.start()
        self._server = server
        self.port = server.bserver._server.sockets[0].getsockname()[1]  # noqa: SLF001 - no other way

    async def _stop(self) -> None:
        await self._model.beat(LineState.OFFLINE)
        await self._server.stop()


class _Users:
    """Checks user and password, in constant time; nobody may write."""

    def __init__(self, user: str | None, password: str | None) -> None:
        self.user = user
        self._password = password or ""

    def get_user(
        self,
        _server: Any,
        username: str | None = None,
        password: str | bytes | None = None,
        certificate: Any = None,  # noqa: ARG002 - asyncua's signature
    ) -> Any:
        """The role of one who may connect, None for one who may not."""
        from asyncua.crypto.permission_rules import User, UserRole

        if self.user is not None:
            given = password.encode() if isinstance(password, str) else password or b""
            is_user = hmac.compare_digest((username or "").encode(), self.user.encode())
            if not hmac.compare_digest(given, self._password.encode()) or not is_user:
                return None
        return User(role=UserRole.User)


def _format_of(content: bytes) -> str:
    """``pem`` or ``der``, whatever the file's name is."""
    return "pem" if b"-----BEGIN" in content[:100] else "der"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def output_from_address(address: OutputAddress) -> OpcUaOutput:
    """``opcua://[user:password@][address to listen on][:port]``.

    Raises:
        ConfigError: OUTPUT_OPTION, OPCUA_LOGIN.
    """
    return OpcUaOutput(
        address.host or "127.0.0.1",
        4840 if address.port is None else address.port,
        name=address.shown,
        user=address.user,
        password=address.password,
        **address.options({"certificate": text, "key": text, "queue": count}),
    )
