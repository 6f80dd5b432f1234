"""What flows to those who watch: numbers by WebSocket, pictures as MJPEG, a slow viewer never in the way.

Each viewer has one slot that holds the newest message only. A viewer that does not take its message
within five seconds is dropped; of more viewers than there is room for the last is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from edgead.errors import EdgeadError
from edgead.integrations.serve.pictures import Encoded, Kind, Pictures

__all__ = ["BOUNDARY", "Hub", "MjpegResponse", "TooManyViewers"]

_log = logging.getLogger("edgead.serve")

BOUNDARY = "edgead-picture"
_PERIOD_S = 0.2  # between two messages of numbers
_SEND_S = 5.0  # a viewer that takes longer to take a message is dropped
_MOST = 24  # viewers of numbers and of pictures together


class TooManyViewers(Exception):
    """There is no room for one more."""


class _Slot:
    """One viewer's newest message."""

    def __init__(self) -> None:
        self._message = b""
        self._is_new = asyncio.Event()

    def put(self, message: bytes) -> None:
        self._message = message
        self._is_new.set()

    async def get(self) -> bytes:
        await self._is_new.wait()
        self._is_new.clear()
        return self._message


class Hub:
    """Everybody who watches; lives on the server's event loop.

    Args:
        state: Makes the message of numbers; called only while somebody watches.
    """

    def __init__(self, state: Callable[[], object]) -> None:
        self.viewers = 0
        self.dropped = 0
        self.is_closing = False
        self._state = state
        self._slots: set[_Slot] = set()
        self._pictured = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send numbers inside the block."""
        self._loop = asyncio.get_running_loop()
        task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            self._loop = None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def close(self) -> None:
        """Let every viewer go; from any thread."""
        self.is_closing = True
        self.announce()

    def announce(self) -> None:
        """There is a new picture; from any thread."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._wake)

    async def picture(self) -> None:
        """Wait for the next announcement, at most half a second."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._pictured.wait(), 0.5)

    @contextlib.contextmanager
    def viewer(self) -> Iterator[None]:
        """Count one viewer inside the block.

        Raises:
            TooManyViewers: There is no room.
        """
        if self.viewers >= _MOST:
            raise TooManyViewers
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1

    async def numbers(self, socket: WebSocket) -> None:
        """Serve one WebSocket until it ends or is too slow."""
        with contextlib.suppress(
            WebSocketDisconnect
        ):  # it may go at any moment, also before a goodbye
            await socket.accept()
            try:
                with self.viewer():
                    await self._send_numbers(socket)
            except TooManyViewers:
                await socket.close(1013, "too many viewers")

    async def deliver(self, sending: Callable[[], object]) -> bool:
        """Whether a viewer took what was sent to it in time."""
        try:
            await asyncio.wait_for(sending(), _SEND_S)  # type: ignore[arg-type]
        except (asyncio.TimeoutError, WebSocketDisconnect, OSError):
            self.dropped += 1
            return False
        return True

    async def _send_numbers(self, socket: WebSocket) -> None:
        slot = _Slot()
        self._slots.add(slot)
        listening = asyncio.create_task(_until_gone(socket))
        try:
            slot.put(self._message())
            while not (listening.done() or self.is_closing):
                asked = asyncio.create_task(slot.get())
                await asyncio.wait({asked, listening}, return_when=asyncio.FIRST_COMPLETED)
                if not asked.done():
                    asked.cancel()
                    return
                if self.is_closing:
                    break
                text = asked.result().decode()
                if not await self.deliver(lambda text=text: socket.send_text(text)):  # type: ignore[misc]
                    return
            if not listening.done():
                await socket.close(1001, "the line ends")
        finally:
            self._slots.discard(slot)
            listening.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S)
            if self._slots:
                message = self._message()
                for slot in self._slots:
                    slot.put(message)

    def _message(self) -> bytes:
        try:
            return msgspec.json.encode(self._state())
        except EdgeadError as error:  # the books do not balance: say so instead of falling silent
            return msgspec.json.encode({"error": {"code": error.code, "message": str(error)}})

    def _wake(self) -> None:
        if self.is_closing:
            for slot in self._slots:
                slot.put(b"")
        self._pictured.set()
        self._pictured = asyncio.Event()


async def _until_gone(socket: WebSocket) -> None:
    """Take and forget what a viewer sends: nothing is expected."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while socket.client_state is not WebSocketState.DISCONNECTED:
            await socket.receive()


class MjpegResponse:
    """Pictures of some cameras, ``multipart/x-mixed-replace``, as fast as this viewer takes them.

    ``X-Camera``, ``X-Layer`` (picture or heat) and ``X-Meta`` name each part; of the kind ``layers``
    the heat follows its picture.

    Args:
        hub: Says when there is a new picture.
        pictures: Where they are.
        cameras: Number -> name of those to send.
        kind: What to send.
    """

    def __init__(self, hub: Hub, pictures: Pictures, cameras: dict[int, str], kind: Kind) -> None:
        self._hub, self._pictures, self._cameras, self._kind = hub, pictures, cameras, kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the viewer goes or does not keep up."""
        kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}".encode()
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", kind), (b"connection", b"close")],
        }
        request = Request(scope, receive)
        with self._pictures.watch(self._cameras.values(), self._kind):
            await send(start)
            seen = dict.fromkeys(self._cameras, 0)
            while not (self._hub.is_closing or await request.is_disconnected()):
                body = b"".join(self._news(seen))
                if body:
                    part = {"type": "http.response.body", "body": body, "more_body": True}
                    if not await self._hub.deliver(lambda part=part: send(part)):  # type: ignore[misc]
                        break
                await self._hub.picture()
        with contextlib.suppress(OSError):
            await self._hub.deliver(lambda: send({"type": "http.response.body", "body": b""}))

    def _news(self, seen: dict[int, int]) -> Iterator[bytes]:
        for number, name in self._cameras.items():
            one = self._pictures.newest(name, self._kind)
            if one is not None and one.version != seen[number]:
                seen[number] = one.version
                yield _part(number, "picture", one, one.jpeg)
                if one.heat:
                    yield _part(number, "heat", one, one.heat)


def _part(number: int, layer: str, one: Encoded, jpeg: bytes) -> bytes:
    head = (
        f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n"
        f"X-Camera: {number}\r\nX-Layer: {layer}\r\nX-Meta: {one.meta}\r\n\r\n"
    )
    return head.encode() + jpeg + b"\r\n"
