"""Who watches a line: numbers by WebSocket, pictures as MJPEG, and nobody in its way."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any

import httpx
import pytest
from serving import TIMEOUT_S, Tap, eventually, served
from starlette.websockets import WebSocketDisconnect, WebSocketState
from websockets.sync.client import connect

from edgead.errors import SourceError
from edgead.integrations.serve import Served, server, viewers
from edgead.integrations.serve.cameras import Unopened
from edgead.integrations.serve.viewers import BOUNDARY, Hub
from edgead.stream.sources.reconnect import Reconnecting, ReconnectLimits
from edgead.testing import FakeJudge


def live(line: Served) -> Any:
    return connect(line.url.replace("http", "ws") + "api/v1/live", open_timeout=TIMEOUT_S)


def message(viewer: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(viewer.recv(TIMEOUT_S))
    return found


def parts(client: httpx.Client, path: str, count: int) -> list[tuple[dict[str, str], bytes]]:
    """The first parts of an MJPEG stream: headers and body."""
    found: list[tuple[dict[str, str], bytes]] = []
    held = b""
    with client.stream("GET", path) as answer:
        assert answer.headers["content-type"] == f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        for chunk in answer.iter_raw():
            held += chunk
            while match := re.match(rb"--edgead-picture\r\n(.*?)\r\n\r\n", held, re.DOTALL):
                lines = [one.split(": ", 1) for one in match[1].decode().split("\r\n")]
                head = {name: value for name, value in lines}  # noqa: C416
                end = match.end() + int(head["Content-Length"])
                if len(held) < end + 2:
                    break
                found.append((head, held[match.end() : end]))
                held = held[end + 2 :]
            if len(found) >= count:
                return found
    raise AssertionError(f"only {len(found)} parts came")


def test_numbers_follow_the_line() -> None:
    tap = Tap()
    with served({"cam": tap}) as (line, _), live(line) as viewer:
        assert message(viewer)["cameras"][0]["counts"]["good"] == 0
        tap.open(3)
        camera = eventually(
            lambda: (c := message(viewer)["cameras"][0])["counts"]["good"] == 3 and c
        )
    assert (camera["verdict"], camera["accept"]) == ("GOOD", True)
    assert [point[0] for point in camera["points"]] == [0, 1, 2]


def test_what_a_viewer_sends_is_not_looked_at() -> None:
    with served() as (line, _), live(line) as viewer:
        viewer.send("stop the line")
        viewer.send(b"\x00" * 1000)
        message(viewer)
        assert message(viewer)["ready"] is False


def test_pictures_of_two_cameras_in_one_stream() -> None:
    left, right = Tap("left"), Tap("right")
    with served({"left": left, "right": right}) as (line, client):
        left.open()
        right.open()
        eventually(lambda: line.line.board.taken == 2)
        found = parts(client, "/api/v1/pictures.mjpg", 4)
    assert sorted((head["X-Camera"], head["X-Layer"]) for head, _ in found) == [
        ("0", "heat"), ("0", "picture"), ("1", "heat"), ("1", "picture"),
    ]  # fmt: skip
    assert [head["X-Layer"] for head, _ in found] == ["picture", "heat"] * 2
    for head, jpeg in found:
        assert jpeg.startswith(b"\xff\xd8")
        assert jpeg.endswith(b"\xff\xd9")
        assert json.loads(head["X-Meta"])["verdict"] == "GOOD"


def test_one_camera_for_other_programs() -> None:
    tap = Tap()
    with served({"cam": tap}) as (line, client):
        tap.open()
        eventually(lambda: line.line.board.taken == 1)
        ((head, jpeg),) = parts(client, "/api/v1/cameras/0/video.mjpg", 1)
    assert (head["X-Layer"], jpeg[:2]) == ("picture", b"\xff\xd8")


def test_nothing_is_encoded_while_nobody_looks() -> None:
    tap = Tap()
    with served({"cam": tap}, judge=FakeJudge(score_of=lambda _: 0.9)) as (line, _):
        tap.open(20)
        eventually(lambda: line.line.board.taken == 20)
        assert line.line.pictures.newest("cam", "layers") is None
        assert len(line.line.pictures.rejects("cam")) == 12
        assert line.line.pictures._version == 0


def test_a_stalled_camera_is_unknown_and_the_other_goes_on() -> None:
    tap, other = Tap("left"), Tap("right")
    silent = Reconnecting(
        lambda: other,
        source_id="right",
        limits=ReconnectLimits(stall_s=0.2, open_s=60.0, first_wait_s=60.0),
    )
    with served({"left": tap, "right": silent}) as (line, client):  # type: ignore[dict-item]
        tap.open()
        other.open()
        eventually(lambda: line.line.board.taken == 2)

        def right() -> dict[str, Any]:
            found: dict[str, Any] = client.get("/api/v1/state").json()["cameras"][1]
            return found

        stalled = eventually(lambda: (c := right())["state"] == "stalled" and c)
        tap.open(5)
        eventually(lambda: line.line.board.taken == 7)
        ready = client.get("/readyz")
        up = client.get("/metrics").text
    assert (stalled["verdict"], stalled["accept"], stalled["counts"]["good"]) == (
        "UNKNOWN",
        False,
        1,
    )
    assert stalled["state_text"].startswith("[SOURCE_TIMEOUT] right sent nothing for 0.")
    assert ready.status_code == 503
    cameras = next(one for one in ready.json()["checks"] if one["name"] == "cameras")
    assert cameras == {"name": "cameras", "ok": False, "text": "right: stalled"}
    assert 'edgead_camera_up{camera="right"} 0.0' in up


def test_a_camera_that_cannot_be_opened_is_shown_and_the_other_goes_on() -> None:
    tap = Tap("left")
    error = SourceError("SOURCE_NOT_FOUND", "photos does not exist.")
    with served({"left": tap, "right": Unopened(error, "right")}) as (line, client):
        tap.open(3)
        eventually(lambda: line.line.board.taken == 3)
        right = eventually(
            lambda: (
                (c := client.get("/api/v1/state").json()["cameras"][1])["state"] == "not opened"
                and c
            )
        )
    assert right["state_text"] == "[SOURCE_NOT_FOUND] photos does not exist."
    assert right["verdict"] == "UNKNOWN"


def test_more_viewers_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "_MOST", 1)
    with served() as (line, client), live(line) as viewer:
        message(viewer)
        answer = client.get("/api/v1/pictures.mjpg")
        with live(line) as second, pytest.raises(Exception, match="1013"):
            message(second)
        assert (answer.status_code, answer.json()["code"]) == (503, "TOO_MANY_VIEWERS")
        assert message(viewer)["cameras"]


def test_a_viewer_that_does_not_take_its_message_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(viewers, "_SEND_S", 0.05)

    async def run() -> tuple[bool, int]:
        hub = Hub(dict)
        return await hub.deliver(lambda: asyncio.sleep(60)), hub.dropped

    assert asyncio.run(run()) == (False, 1)


def test_a_viewer_that_goes_before_the_goodbye_is_no_error() -> None:
    class Gone:
        """Takes the numbers; away when it is told that the line ends."""

        client_state = WebSocketState.CONNECTED

        async def accept(self) -> None:
            pass

        async def receive(self) -> None:
            await asyncio.Event().wait()

        async def send_text(self, _: str) -> None:
            hub.close()

        async def close(self, *_: object) -> None:
            said.append("goodbye")
            raise WebSocketDisconnect(1006)

    said: list[str] = []
    hub = Hub(dict)
    asyncio.run(hub.numbers(Gone()))  # type: ignore[arg-type]
    assert (said, hub.viewers) == (["goodbye"], 0)


def test_a_slot_holds_the_newest_message_only() -> None:
    async def run() -> bytes:
        slot = viewers._Slot()
        for number in range(1000):
            slot.put(b"%d" % number)
        return await slot.get()

    assert asyncio.run(run()) == b"999"


def test_who_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SILENT_S", 0.1)
    with served() as (line, _), socket.create_connection(("127.0.0.1", line._server.port)) as raw:
        raw.settimeout(TIMEOUT_S)
        with pytest.raises(ConnectionResetError):
            raise ConnectionResetError if raw.recv(1) == b"" else AssertionError


def test_silent_connections_give_way_to_one_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 8)
    with served() as (line, _):
        silent = [socket.create_connection(("127.0.0.1", line._server.port)) for _ in range(40)]
        answer = httpx.get(f"{line.url}healthz", timeout=TIMEOUT_S)
        for one in silent:
            one.close()
    assert answer.status_code == 200


def test_many_are_heard_one_after_the_other() -> None:
    turns = server.Turns()
    assert [turns.wait_s(5.0, count) for count in (1, server._CROWD)] == [0.0, 0.0]
    crowd = [turns.wait_s(5.0, server._CROWD + 1) for _ in range(4)]
    assert crowd == pytest.approx([0.0, 0.05, 0.1, 0.15])
    assert turns.wait_s(60.0, server._CROWD + 1) == 0.0
    assert turns.wait_s(60.0, 1) == 0.0


def test_a_crowd_is_answered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_CROWD", 2)
    with served() as (line, _):
        crowd = [socket.create_connection(("127.0.0.1", line._server.port)) for _ in range(12)]
        for one in crowd:
            one.settimeout(TIMEOUT_S)
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert {one.recv(12) for one in crowd} == {b"HTTP/1.1 200"}
        for one in crowd:
            one.close()


def test_a_header_over_the_limit_is_refused() -> None:
    with served() as (_, client):
        answer = client.get("/healthz", headers={"x-long": "a" * 40_000})
    assert answer.status_code in (400, 431)  # as it came in one piece or in several


def test_the_books_of_a_broken_ledger_are_not_shown_as_sound() -> None:
    tap = Tap()
    with served({"cam": tap}) as (line, client):
        tap.open()
        eventually(lambda: line.line.board.taken == 1)
        ledger = line.line.stream.lanes["cam"].ledger
        ledger.received += 1
        ready = client.get("/readyz")
        state = client.get("/api/v1/state")
        metrics = client.get("/metrics").text
        with live(line) as viewer:
            shown = message(viewer)
        ledger.received -= 1
    books = next(one for one in ready.json()["checks"] if one["name"] == "books")
    assert (ready.status_code, books["ok"]) == (503, False)
    assert (state.status_code, state.json()["code"]) == (503, "LEDGER")
    assert shown["error"]["code"] == "LEDGER"
    assert 'edgead_check_ok{check="books"} 0.0' in metrics
    assert "edgead_frames_received" not in metrics
