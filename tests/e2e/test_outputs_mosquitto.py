"""MQTT against mosquitto, with a real subscriber: restart, password and TLS."""

from __future__ import annotations

import datetime as dt
import gc
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from line_outcomes import outcome_of, wait_until

from edgead.integrations.publisher import open_outputs

paho = pytest.importorskip("paho.mqtt.client", reason="pip install 'edgead[plc]'")
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
MOSQUITTO = shutil.which("mosquitto", path=SBIN)
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


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


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    started: list[Mosquitto] = []

    def start(*more: str) -> Mosquitto:
        started.append(Mosquitto(tmp_path, *more))
        return started[-1]

    yield start
    for one in started:
        one.stop()


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


def test_a_thousand_over_a_restart(broker: Callable[..., Mosquitto]) -> None:
    running = broker()
    subscriber = Subscriber(running.port)
    with open_outputs([f"mqtt://127.0.0.1:{running.port}/t"], is_ready=lambda: True) as publisher:
        for seq in range(500):
            publisher.publish(outcome_of(seq))
        wait_until(lambda: publisher.health[0].delivered >= 100, "under way")
        running.stop()
        for seq in range(500, 1000):
            publisher.publish(outcome_of(seq))
        wait_until(lambda: publisher.health[0].problem, "noticed")
        running.start()
        wait_until(lambda: publisher.health[0].delivered == 1000, "all acknowledged")
        assert publisher.health[0].lost == 0
        wait_until(lambda: len(subscriber.seqs()) == 1000, "all received")
        assert subscriber.seqs() == list(range(1000))
        wait_until(lambda: any(m.topic == "t/heartbeat" for m in subscriber.messages), "heartbeat")
    wait_until(lambda: subscriber.states()[-1] == "offline", "said goodbye")
    subscriber.close()


def test_the_will_of_a_process_that_dies(broker: Callable[..., Mosquitto]) -> None:
    running = broker()
    subscriber = Subscriber(running.port)
    code = (
        "import sys, time; from edgead.integrations.publisher import open_outputs\n"
        "open_outputs([sys.argv[1]], is_ready=lambda: True); time.sleep(600)"
    )
    victim = subprocess.Popen([sys.executable, "-c", code, f"mqtt://127.0.0.1:{running.port}/t"])
    wait_until(lambda: "online" in subscriber.states(), "online")
    victim.kill()
    victim.wait()
    wait_until(lambda: subscriber.states()[-1] == "offline", "the will")
    subscriber.close()


# paho leaves the socket of a refused certificate to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_tls_and_password(
    broker: Callable[..., Mosquitto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwd = shutil.which("mosquitto_passwd", path=SBIN)
    if passwd is None:
        pytest.skip("mosquitto_passwd is not installed")
    certificate, key = self_signed(tmp_path)
    users = tmp_path / "users"
    subprocess.run([passwd, "-b", "-c", str(users), "line", "s3cret word"], check=True)
    users.chmod(0o600)
    running = broker(
        f"certfile {certificate}",
        f"keyfile {key}",
        f"password_file {users}",
        "allow_anonymous false",
    )
    subscriber = Subscriber(running.port, ca=certificate, login=("line", "s3cret word"))
    monkeypatch.setenv("EDGEAD_MQTT_USER", "line")
    monkeypatch.setenv("EDGEAD_MQTT_PASSWORD", "wrong")
    address = f"mqtts://127.0.0.1:{running.port}/t?ca={certificate}"
    with open_outputs([address]) as publisher:
        wait_until(lambda: "[MQTT_REFUSED]" in publisher.health[0].problem, "refused")
    monkeypatch.setenv("EDGEAD_MQTT_PASSWORD", "s3cret word")
    with open_outputs([f"mqtts://127.0.0.1:{running.port}/t"]) as publisher:
        wait_until(lambda: "certificate" in publisher.health[0].problem, "not trusted")
    gc.collect()
    with open_outputs([address]) as publisher:
        publisher.publish(outcome_of(7))
        wait_until(lambda: subscriber.seqs() == [7], "received")
    subscriber.close()


def self_signed(folder: Path) -> tuple[Path, Path]:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    now = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "broker.pem", folder / "broker.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths
