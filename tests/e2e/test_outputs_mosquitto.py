"""MQTT against mosquitto, with a real subscriber: restart, password and TLS."""

from __future__ import annotations

import datetime as dt
import gc
import ipaddress
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from line_outcomes import outcome_of, wait_until

from edgead.integrations.publisher import open_outputs

pytest.importorskip("paho.mqtt.client", reason="pip install 'edgead[plc]'")

from mosquitto import MOSQUITTO, SBIN, Mosquitto, Subscriber

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    started: list[Mosquitto] = []

    def start(*more: str) -> Mosquitto:
        started.append(Mosquitto(tmp_path, *more))
        return started[-1]

    yield start
    for one in started:
        one.stop()


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
