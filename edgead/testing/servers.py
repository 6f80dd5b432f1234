"""Small camera servers on this machine: one that streams pictures by RTSP, one that says nothing.

The RTSP server sends the JPEG files as they are (RTP over the RTSP connection), so that a reader gets
exactly the pictures that a file of the same JPEG files gives.

Source: RFC 2326 (RTSP), RFC 2435 (RTP payload for JPEG).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, cast

__all__ = ["RtspServer", "SilentServer"]

_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=edgead\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 26\r\na=control:track0\r\n"
)
_PAYLOAD = 1200  # bytes of a packet


class _Server:
    """Accepts connections on 127.0.0.1, each served by a daemon thread."""

    def __init__(self) -> None:
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._is_closed = False
        self._thread = threading.Thread(target=self._accept, name="test server", daemon=True)
        self._thread.start()

    def __enter__(self) -> _Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_all()
        self._thread.join(2)

    def drop_all(self) -> None:
        """Cut the connections that are open, as a camera does that loses power."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._serve(connection)
        connection.close()
        if connection in self._open:
            self._open.remove(connection)

    def _serve(self, connection: socket.socket) -> None:
        raise NotImplementedError


class SilentServer(_Server):
    """Accepts and says nothing: a black hole.

    Args:
        describes: Answer OPTIONS and DESCRIBE, and only then fall silent.
    """

    def __init__(self, *, describes: bool = False) -> None:
        self._describes = describes
        super().__init__()

    def _serve(self, connection: socket.socket) -> None:
        stream = _stream(connection)
        while (request := _request(stream)) is not None:
            if self._describes and request[0] in ("OPTIONS", "DESCRIBE"):
                _answer(stream, request, _SDP if request[0] == "DESCRIBE" else "")


class RtspServer(_Server):
    """Plays JPEG pictures by RTSP; each client gets all of them from the beginning.

    Args:
        pictures: Baseline JPEG files, 4:2:0, with the standard Huffman tables, sizes in multiples
            of 8 (what ``cv2.imencode`` writes).
        fps: Pictures a second.
        loops: Start again after the last picture; else the connection ends.
        password: Anything but ``user`` with this password (basic) gets 401.
        falls_silent_after: Pictures after which a connection says nothing more, None for never.
    """

    def __init__(
        self,
        pictures: Sequence[bytes],
        *,
        fps: float = 25.0,
        loops: bool = False,
        password: str | None = None,
        falls_silent_after: int | None = None,
    ) -> None:
        self._pictures = [_parse(picture) for picture in pictures]
        self._fps = fps
        self._loops = loops
        self._password = password
        self._silent_after = falls_silent_after
        super().__init__()

    @property
    def url(self) -> str:
        """Its address."""
        return f"rtsp://127.0.0.1:{self.port}/pictures"

    def _serve(self, connection: socket.socket) -> None:
        stream = _stream(connection)
        while (request := _request(stream)) is not None:
            method, headers = request[0], request[2]
            if self._password is not None and "authorization" not in headers:
                demand = 'WWW-Authenticate: Basic realm="edgead"\r\n'
                _answer(stream, request, "", extra=demand, status="401 Unauthorized")
            elif method == "DESCRIBE":
                _answer(stream, request, _SDP)
            elif method == "SETUP":
                transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                _answer(stream, request, "", extra=transport)
            elif method == "PLAY":
                _answer(stream, request, "")
                self._play(connection)
                return
            else:
                _answer(stream, request, "")

    def _play(self, connection: socket.socket) -> None:
        sequence, sent, start = 0, 0, time.monotonic()
        while True:
            for picture in self._pictures:
                if sent == self._silent_after:
                    while connection.recv(4096):  # until the client goes
                        continue
                    return
                wait_s = start + sent / self._fps - time.monotonic()
                if wait_s > 0:
                    time.sleep(wait_s)
                for packet in _packets(picture, sequence, int(sent * 90_000 / self._fps)):
                    connection.sendall(b"$\x00" + struct.pack(">H", len(packet)) + packet)
                    sequence += 1
                sent += 1
            if not self._loops:
                return


def _stream(connection: socket.socket) -> IO[bytes]:
    return cast("IO[bytes]", connection.makefile("rwb"))


_Request = tuple[str, str, dict[str, str]]


def _request(stream: IO[bytes]) -> _Request | None:
    """Method, address and headers; None at the end of the connection."""
    line = stream.readline()
    while line and not line.strip():
        line = stream.readline()
    if not line:
        return None
    method, address = line.decode().split()[:2]
    headers = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode().partition(":")
        headers[name.strip().lower()] = value.strip()
    return method, address, headers


def _answer(
    stream: IO[bytes],
    request: _Request,
    body: str,
    *,
    extra: str = "",
    status: str = "200 OK",
) -> None:
    head = f"RTSP/1.0 {status}\r\nCSeq: {request[2].get('cseq', '0')}\r\nSession: 1\r\n{extra}"
    if request[0] == "OPTIONS":
        head += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
    if body:
        head += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
    stream.write((head + "\r\n" + body).encode())
    stream.flush()


class _Picture:
    """What RFC 2435 sends of a JPEG file: size, two quantisation tables, the scan."""

    def __init__(self, width: int, height: int, tables: bytes, scan: bytes) -> None:
        self.width, self.height, self.tables, self.scan = width, height, tables, scan


def _parse(picture: bytes) -> _Picture:
    tables: dict[int, bytes] = {}
    width = height = 0
    place = 2
    while True:
        marker, length = picture[place + 1], struct.unpack_from(">H", picture, place + 2)[0]
        body = picture[place + 4 : place + 2 + length]
        if marker == 0xDB:
            for start in range(0, len(body), 65):
                tables[body[start] & 15] = body[start + 1 : start + 65]
        elif marker == 0xC0:
            height, width = struct.unpack_from(">HH", body, 1)
            if body[7] != 0x22:
                raise ValueError("want a JPEG file with 4:2:0 sampling")
        elif marker == 0xDA:
            scan = picture[place + 2 + length : picture.rindex(b"\xff\xd9")]
            return _Picture(width, height, tables[0] + tables[1], scan)
        place += 2 + length


def _packets(picture: _Picture, sequence: int, timestamp: int) -> list[bytes]:
    packets: list[bytes] = []
    for offset in range(0, len(picture.scan), _PAYLOAD):
        part = picture.scan[offset : offset + _PAYLOAD]
        is_last = offset + _PAYLOAD >= len(picture.scan)
        rtp = struct.pack(
            ">BBHII", 0x80, 26 | is_last << 7, (sequence + len(packets)) & 0xFFFF, timestamp, 1
        )
        jpeg = struct.pack(
            ">IBBBB", offset, 1, 255, picture.width // 8, picture.height // 8
        )  # type 1: 4:2:0; Q 255: tables follow
        if offset == 0:
            jpeg += struct.pack(">BBH", 0, 0, len(picture.tables)) + picture.tables
        packets.append(rtp + jpeg + part)
    return packets
