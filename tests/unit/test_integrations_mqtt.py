"""MQTT over real sockets: none lost, none out of order, also over a broker that restarts."""

from __future__ import annotations

import itertools
import json
import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from line_outcomes import outcome_of, wait_until
from mqtt_broker import Broker

pytest.importorskip("paho.mqtt.client", reason="pip install 'edgead[plc]'")

from edgead.errors import ConfigError, OutputError
from edgead.integrations.publisher import Publisher, open_outputs, output_of
from edgead.testing import FakeClock


@pytest.fixture
def broker() -> Iterator[Broker]:
    running = Broker().start()
    yield running
    running.stop()


def seqs(broker: Broker, topic: str = "hall/line3") -> list[int]:
    return [json.loads(payload)["seq"] for payload in broker.results(topic)]


def states(broker: Broker, topic: str = "hall/line3") -> list[str]:
    """Values of the state topic, repetitions left out."""
    said = [payload.decode() for payload in broker.results(f"{topic}/state")]
    return [value for n, value in enumerate(said) if n == 0 or said[n - 1] != value]


def test_a_thousand_in_order(broker: Broker) -> None:
    sent = [outcome_of(seq) for seq in range(1000)]
    with open_outputs([f"mqtt://line:s3cret@127.0.0.1:{broker.port}/hall/line3"]) as publisher:
        for outcome in sent:
            publisher.publish(outcome)
        wait_until(lambda: publisher.health[0].delivered == 1000, "acknowledged")
        health = publisher.health[0]
        assert (health.waiting, health.lost, health.problem) == (0, 0, "")
        assert health.name == f"mqtt://***@127.0.0.1:{broker.port}/…"
    results = broker.results("hall/line3")
    assert [json.loads(payload) for payload in results] == [o.to_json() for o in sent]
    assert {m.qos for m in broker.messages if m.topic == "hall/line3"} == {1}
    session = broker.sessions[0]
    assert (session.user, session.password) == ("line", "s3cret")
    assert len(session.client_id) <= 23  # what every 3.1.1 broker must take


def test_state_will_and_heartbeat(broker: Broker) -> None:
    address = f"mqtt://127.0.0.1:{broker.port}/hall/line3"
    with open_outputs([address], is_ready=lambda: True) as publisher:
        wait_until(lambda: len(broker.results("hall/line3/heartbeat")) >= 4, "heartbeats")
        beats = broker.results("hall/line3/heartbeat")
        assert all(a != b for a, b in itertools.pairwise(beats))
        assert publisher.health[0].problem == ""
    assert states(broker) == ["online", "offline"]
    assert broker.retained["hall/line3/state"].payload == b"offline"
    will = broker.sessions[0].will
    assert will is not None
    assert (will.topic, will.payload, will.qos, will.retain) == (
        "hall/line3/state",
        b"offline",
        1,
        True,
    )
    (state, *_) = [m for m in broker.messages if m.topic == "hall/line3/state"]
    assert (state.qos, state.retain) == (1, True)


def test_a_stall_stops_the_heartbeat_and_says_so(broker: Broker) -> None:
    clock = FakeClock()
    output = output_of(f"mqtt://127.0.0.1:{broker.port}/t")
    with Publisher([output], clock=clock) as publisher:
        wait_until(lambda: states(broker, "t") == ["offline"], "nothing judged yet")
        publisher.publish(outcome_of(0, at_ns=clock()))
        wait_until(lambda: broker.results("t/heartbeat"), "beats")
        clock.advance(1.1)
        wait_until(lambda: states(broker, "t")[-1] == "stalled", "stalled")
        publisher.publish(outcome_of(1, at_ns=clock()))
        wait_until(lambda: states(broker, "t")[-1] == "online", "online again")
    assert states(broker, "t") == ["offline", "online", "stalled", "online", "offline"]
    state = "offline"
    for message in broker.messages:  # no beat in any other state
        state = message.payload.decode() if message.topic == "t/state" else state
        assert message.topic != "t/heartbeat" or state == "online"


def test_a_broker_that_restarts_loses_nothing(broker: Broker) -> None:
    """The first broker stops acknowledging, then dies; everything waits for the second."""
    broker.silent_after = 300
    with open_outputs([f"mqtt://127.0.0.1:{broker.port}/hall/line3"]) as publisher:
        for seq in range(700):
            publisher.publish(outcome_of(seq))
        wait_until(lambda: publisher.health[0].delivered == 300, "the first acknowledgements")
        broker.stop()
        wait_until(lambda: publisher.health[0].problem, "seen")
        assert publisher.health[0].problem.startswith(
            f"[MQTT_UNREACHABLE] mqtt://127.0.0.1:{broker.port}/…"
        )
        for seq in range(700, 1000):
            publisher.publish(outcome_of(seq))
        broker.silent_after = None
        broker.start()
        wait_until(lambda: publisher.health[0].delivered == 1000, "all acknowledged")
        health = publisher.health[0]
        assert (health.waiting, health.lost, health.problem) == (0, 0, "")
    found = seqs(broker)
    first = [seq for n, seq in enumerate(found) if seq not in found[:n]]
    assert first == list(range(1000))
    assert len(found) <= 1020  # sent twice: at most what was on its way
    again = [m for m in broker.messages if m.topic == "hall/line3" and m.dup]
    assert {json.loads(m.payload)["seq"] for m in again} <= set(range(300, 320))
    # In order also among those sent again: the second connection starts at the first open one.
    second = found[found.index(300, found.index(300) + 1) :]
    assert second == list(range(300, 1000))
    assert states(broker)[-1] == "offline"


def test_an_unreachable_broker_is_a_sentence_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as held:  # bound and not listening: nobody else gets the port
        held.bind(("127.0.0.1", 0))
        address = f"mqtt://line:s3cret@127.0.0.1:{held.getsockname()[1]}"
        with caplog.at_level(logging.WARNING), open_outputs([f"{address}?queue=50"]) as publisher:
            for seq in range(100):
                publisher.publish(outcome_of(seq))
            wait_until(lambda: publisher.health[0].problem, "noticed")
            shown = address.replace("line:s3cret", "***")
            assert publisher.health[0].problem == (
                f"[MQTT_UNREACHABLE] {shown}/… does not answer: Connection refused. "
                "Results wait, at most 50, and are sent when it is back."
            )
            assert publisher.health[0].lost in (49, 50)  # one is in the sender's hands
            publisher.close(drain_s=0.0)
    assert publisher.health[0].lost == 100
    assert caplog.text.count("MQTT_UNREACHABLE") == 1
    assert "s3cret" not in caplog.text


def test_a_wrong_password_is_a_sentence(broker: Broker) -> None:
    broker.refuse = 5
    address = f"mqtt://127.0.0.1:{broker.port}"
    with open_outputs([address]) as publisher:
        wait_until(lambda: "REFUSED" in publisher.health[0].problem, "refused")
        assert publisher.health[0].problem == (
            f"[MQTT_REFUSED] {address} refuses: Not authorized. Check user and password, in the "
            "address or in EDGEAD_MQTT_USER and _PASSWORD."
        )
        broker.refuse = 0
        wait_until(lambda: publisher.health[0].problem == "", "let in")


def test_certificates_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as error:
        open_outputs([f"mqtts://broker?ca={tmp_path}/ca.pem"])
    assert str(error.value) == (
        f"[MQTT_TLS] mqtts://broker/…: cannot use the certificates ({tmp_path}/ca.pem): "
        "No such file or directory. Give readable PEM files: ca=…, certificate=… and key=…."
    )


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "mqtt://broker/hall/+/x",
            "[OUTPUT_ADDRESS] mqtt://broker/…: the topic holds + or #, which only subscribers may "
            "use. Give a plain topic, e.g. hall1/line3/camera1.",
        ),
        (
            "mqtt://broker/t?ca=x",
            "[OUTPUT_OPTION] mqtt://broker/… has no option 'ca'. There are: queue.",
        ),
        (
            "mqtts://broker/t?cert=x",
            "[OUTPUT_OPTION] mqtts://broker/… has no option 'cert'. There are: queue, ca, "
            "certificate, key.",
        ),
    ],
)
def test_bad_addresses(uri: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        open_outputs([uri])
    assert str(error.value) == message


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(OutputError) as error:
        open_outputs(["mqtt://broker"])
    assert error.value.code == "OUTPUT_EXTRA"
    assert str(error.value).endswith("pip install 'edgead[plc]'.")
