"""Webhooks against a real HTTP server on loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from line_outcomes import outcome_of, wait_until

from edgead.integrations import webhook
from edgead.integrations.publisher import open_outputs


class Receiver(ThreadingHTTPServer):
    """Answers with the next status of its script, then with 204."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[int] = []
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.script.pop(0) if self.server.script else 204
        self.server.posts.append((self.path, dict(self.headers), body))
        self.send_response(status)
        if status in (301, 307):
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_FIRST_S", 0.001)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.stop()


def test_in_order_and_as_run_writes_them(receiver: Receiver) -> None:
    sent = [outcome_of(seq) for seq in range(300)]
    with open_outputs(
        [f"http://line:s3cret@127.0.0.1:{receiver.server_port}/v?key=k"]
    ) as publisher:
        for outcome in sent:
            publisher.publish(outcome)
        wait_until(lambda: publisher.health[0].delivered == 300, "delivered")
        assert publisher.health[0].name == f"http://***@127.0.0.1:{receiver.server_port}/…"
    assert [json.loads(body) for _, _, body in receiver.posts] == [o.to_json() for o in sent]
    path, headers, _ = receiver.posts[0]
    assert path == "/v?key=k"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic bGluZTpzM2NyZXQ="
    assert len({headers["Idempotency-Key"] for _, headers, _ in receiver.posts}) == 300


def test_what_passes_is_tried_again_in_order(receiver: Receiver) -> None:
    receiver.script = [500, 429, 503, 204, 502]
    with open_outputs([f"http://127.0.0.1:{receiver.server_port}/"]) as publisher:
        for seq in range(3):
            publisher.publish(outcome_of(seq))
        wait_until(lambda: publisher.health[0].delivered == 3, "delivered")
        assert publisher.health[0].problem == ""
    assert [json.loads(body)["seq"] for _, _, body in receiver.posts] == [0, 0, 0, 0, 1, 1, 2]
    keys = [headers["Idempotency-Key"] for _, headers, _ in receiver.posts]
    assert len(set(keys[:4])) == 1
    assert len(set(keys)) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 301, 307])
def test_what_does_not_pass_is_lost_and_counted(receiver: Receiver, status: int) -> None:
    receiver.script = [status]
    address = f"http://127.0.0.1:{receiver.server_port}"
    with open_outputs([address]) as publisher:
        publisher.publish(outcome_of(0))
        wait_until(lambda: publisher.health[0].lost == 1, "lost")
        assert publisher.health[0].problem == (
            f"[WEBHOOK_REFUSED] {address} refuses with HTTP {status}. Correct the address."
        )
        publisher.publish(outcome_of(1))
        wait_until(lambda: publisher.health[0].delivered == 1, "the next one delivered")
        assert publisher.health[0].problem == ""
    assert len(receiver.posts) == 2


def test_a_receiver_that_is_not_there(receiver: Receiver) -> None:
    with socket.socket() as held:  # bound and not listening: nobody else gets the port
        held.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{held.getsockname()[1]}/v"
        shown = address.replace("/v", "/…")
        with open_outputs([address]) as publisher:
            publisher.publish(outcome_of(0))
            wait_until(lambda: publisher.health[0].lost == 1, "given up")
            assert publisher.health[0].problem == (
                f"[WEBHOOK_LOST] {shown} does not answer (Connection refused), 8 times."
            )
            output = publisher._outlets[0].output
            output._attempts = 10**6  # type: ignore[attr-defined]
            publisher.publish(outcome_of(1))
            wait_until(lambda: "[WEBHOOK] " in publisher.health[0].problem, "tried again")
            assert publisher.health[0].problem == (
                f"[WEBHOOK] {shown} does not answer (Connection refused). "
                "Results wait and are sent again."
            )
            publisher.close(drain_s=0.0)
    assert (publisher.health[0].delivered, publisher.health[0].lost) == (0, 2)
