"""A small MQTT 3.1.1 broker on loopback: what a publisher needs, and a record of all it said.

It parses real packets from real sockets, acknowledges QoS 1, keeps retained messages, and publishes a
will when a connection ends without DISCONNECT. It has no subscribers: a test reads `messages`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field

_CONNECT, _PUBLISH, _PINGREQ, _DISCONNECT = 1, 3, 12, 14


@dataclass(frozen=True)
class Message:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool


@dataclass
class Session:
    client_id: str
    keepalive_s: int
    user: str | None
    password: str | None
    will: Message | None


@dataclass
class Broker:
    """Runs from `start` to `stop`, and again on the same port.

    Attributes:
        messages: Every PUBLISH in the order received, wills too.
        retained: Topic -> the message kept.
        sessions: One a CONNECT.
        refuse: Return code of CONNACK; 5 is "not authorised".
        silent_after: After so many results no PUBACK is sent any more until the next start.
    """

    port: int = 0
    messages: list[Message] = field(default_factory=list)
    retained: dict[str, Message] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    refuse: int = 0
    silent_after: int | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def start(self) -> Broker:
        self._is_stopped = False
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._spawn(self._accept, self._listener)
        return self

    def stop(self) -> None:
        """Cut every connection, as a broker that is killed does; its wills stay unsaid."""
        self._is_stopped = True
        with self._lock:
            listener, connections = self._listener, list(self._open)
        # shutdown wakes up a blocked accept or recv; close alone does not
        for one in (listener, *connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        listener.close()

    def results(self, topic: str) -> list[bytes]:
        """Payloads of a topic, those sent again too."""
        with self._lock:
            return [m.payload for m in self.messages if m.topic == topic]

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                if self._is_stopped:
                    connection.close()
                    return
                self._open.add(connection)
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        will = None
        try:
            with connection, connection.makefile("rb") as stream:
                while True:
                    head = stream.read(1)
                    if not head:
                        break
                    kind, flags = head[0] >> 4, head[0] & 15
                    body = stream.read(_length(stream))
                    if kind == _CONNECT:
                        session = _session(body)
                        self.sessions.append(session)
                        connection.sendall(bytes([0x20, 2, 0, self.refuse]))
                        if self.refuse:
                            break
                        will = session.will
                    elif kind == _PUBLISH:
                        self._publish(connection, flags, body)
                    elif kind == _PINGREQ:
                        connection.sendall(b"\xd0\x00")
                    elif kind == _DISCONNECT:
                        will = None
                        break
        except OSError:
            pass
        with self._lock:
            self._open.discard(connection)
            if will is not None and not self._is_stopped:
                self._keep(will)

    def _publish(self, connection: socket.socket, flags: int, body: bytes) -> None:
        topic, rest = _text(body)
        qos = (flags >> 1) & 3
        mid, payload = (rest[:2], rest[2:]) if qos else (b"", rest)
        with self._lock:
            self._keep(Message(topic, payload, qos, bool(flags & 1), bool(flags & 8)))
            said = sum(m.qos == 1 and not m.retain for m in self.messages)
        if qos and (self.silent_after is None or said <= self.silent_after):
            connection.sendall(b"\x40\x02" + mid)

    def _keep(self, message: Message) -> None:
        self.messages.append(message)
        if message.retain:
            self.retained[message.topic] = message


def _length(stream: object) -> int:
    """Remaining length, 2.2.3."""
    value, shift = 0, 0
    while True:
        byte = stream.read(1)[0]  # type: ignore[attr-defined]
        value |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return value


def _text(data: bytes) -> tuple[str, bytes]:
    size = struct.unpack(">H", data[:2])[0]
    return data[2 : 2 + size].decode(), data[2 + size :]


def _session(body: bytes) -> Session:
    """The payload of CONNECT, 3.1.3."""
    protocol, rest = _text(body)
    assert (protocol, rest[0]) == ("MQTT", 4), "MQTT 3.1.1 only"
    flags, keepalive = rest[1], struct.unpack(">H", rest[2:4])[0]
    client_id, rest = _text(rest[4:])
    will = None
    if flags & 4:
        topic, rest = _text(rest)
        size = struct.unpack(">H", rest[:2])[0]
        will = Message(topic, rest[2 : 2 + size], (flags >> 3) & 3, bool(flags & 32), False)
        rest = rest[2 + size :]
    user, rest = _text(rest) if flags & 128 else (None, rest)
    password = _text(rest)[0] if flags & 64 else None
    return Session(client_id, keepalive, user, password, will)
