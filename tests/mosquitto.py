"""A mosquitto of our own on a free port, and a subscriber that keeps its session over a restart."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from line_outcomes import wait_until

SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
MOSQUITTO = shutil.which("mosquitto", path=SBIN)


class Mosquitto:
    """A mosquitto of our own that keeps its messages over a restart."""

    def __init__(self, folder: Path, *more: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            "\n".join(
                [
                    f"listener {self.port} 127.0.0.1",
                    "persistence true",
                    f"persistence_location {folder}/",
                    f"user {Path('/').owner() if os.geteuid() else 'root'}",
                    "max_queued_messages 100000",
                    *(more or ["allow_anonymous true"]),
                    "",
                ]
            )
        )
        self.start()

    def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._listens, "mosquitto listens")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _listens(self) -> bool:
        assert self._process.poll() is None, "mosquitto ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Subscriber:
    """Everything below a topic, by a session that the broker keeps."""

    def __init__(self, port: int, *, ca: Path | None = None, login: tuple[str, str] | None = None):
        self.messages: list[Any] = []
        self.is_subscribed = False
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id="subscriber", clean_session=False
        )
        if login:
            self._client.username_pw_set(*login)
        if ca:
            self._client.tls_set(ca_certs=str(ca))
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("t/#", qos=1)
        self._client.on_subscribe = lambda *_: setattr(self, "is_subscribed", True)
        self._client.on_message = lambda _client, _data, message: self.messages.append(message)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        wait_until(lambda: self.is_subscribed, "subscribed")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def seqs(self) -> list[int]:
        """Numbers of the results, those sent again left out."""
        found = [json.loads(m.payload)["seq"] for m in list(self.messages) if m.topic == "t"]
        seen: dict[int, None] = dict.fromkeys(found)
        return list(seen)

    def states(self) -> list[str]:
        said = [m.payload.decode() for m in list(self.messages) if m.topic == "t/state"]
        return [s for n, s in enumerate(said) if n == 0 or said[n - 1] != s]
