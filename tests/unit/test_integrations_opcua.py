"""OPC UA over real sockets, with a real client's subscription."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import logging
import math
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from line_outcomes import PATIENCE_S, outcome_of, wait_until

from edgead.errors import ConfigError, OutputError
from edgead.integrations.opcua import OpcUaOutput
from edgead.integrations.opcua_model import FIELDS, NAMESPACE, fields_of
from edgead.integrations.output import LineState, Result
from edgead.integrations.publisher import Publisher, open_outputs, output_of
from edgead.testing import FakeClock

asyncua = pytest.importorskip("asyncua", reason="pip install 'edgead[plc]'")
policies = pytest.importorskip("asyncua.crypto.security_policies")
ua = asyncua.ua
#: A busy machine may leave a client without an answer for a while.
CLIENT_S = PATIENCE_S


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)


class Line:
    """One server for the whole file: its start is what takes time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.output = OpcUaOutput(port=0)
        self.publisher = Publisher([self.output], clock=self.clock)
        self.url = f"opc.tcp://127.0.0.1:{self.output.port}/edgead"


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    opened = Line()
    yield opened
    opened.publisher.close(drain_s=0.0)


class Seen:
    """What a subscription was told."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.values: list[Any] = []

    def event_notification(self, event: Any) -> None:
        self.events.append(event)

    def datachange_notification(self, _node: Any, value: Any, _data: Any) -> None:
        self.values.append(value)


async def until(is_so: Callable[[], object]) -> None:
    async def wait() -> None:
        while not is_so():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), PATIENCE_S)


def with_client(url: str, work: Callable[[Any], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncua.Client(url, timeout=CLIENT_S) as client:
            await work(client)

    asyncio.run(run())


async def node(client: Any, *path: str) -> Any:
    index = await client.get_namespace_index(NAMESPACE)
    steps = [f"{index}:{name}" for name in ("VisionSystem", *path)]
    return await client.nodes.objects.get_child(steps)


async def event_type(client: Any) -> Any:
    index = await client.get_namespace_index(NAMESPACE)
    return await client.nodes.base_event_type.get_child([f"{index}:ResultReadyEventType"])


@pytest.mark.parametrize("source", ["Server", "VisionSystem"])
def test_a_thousand_events_in_order(line: Line, source: str) -> None:
    sent = [outcome_of(seq, at_ns=line.clock()) for seq in range(1000)]
    seen = Seen()
    before = line.publisher.health[0].delivered

    async def work(client: Any) -> None:
        subscription = await client.create_subscription(50, seen, queue_maxsize=100_000)
        at = client.nodes.server if source == "Server" else await node(client)
        await subscription.subscribe_events(at, await event_type(client), queuesize=100_000)
        for outcome in sent:
            line.publisher.publish(outcome)
        await until(lambda: len(seen.events) == 1000)

    with_client(line.url, work)
    health = line.publisher.health[0]
    assert (health.delivered - before, health.waiting, health.lost) == (1000, 0, 0)
    assert [event.FrameId for event in seen.events] == [o.frame_id for o in sent]
    assert [event.ResultEvaluation for event in seen.events] == [int(o.verdict) for o in sent]
    numbers = [event.Number for event in seen.events]
    assert numbers == list(range(numbers[0], numbers[0] + 1000))
    assert len({event.ResultId for event in seen.events}) == 1000
    for event, outcome in zip(seen.events[:20], sent, strict=False):
        assert event.PartId == outcome.part_id
        assert (event.IsSimulated, event.IsPartial) == (False, False)
        assert event.Verdict == outcome.verdict.name
        if outcome.detection is None:
            assert (event.ResultState, event.Reason) == (3, "DEADLINE")
            assert math.isnan(event.Score)
        else:
            assert (event.ResultState, event.Reason) == (1, "")
            assert (event.Score, event.Threshold) == (outcome.detection.score, 0.5)
            assert event.InternalConfigurationId == "fake/fp32"


def test_a_stall_takes_the_verdict_back_and_stops_the_heartbeat(line: Line) -> None:
    beats, states, evaluations = Seen(), Seen(), Seen()

    async def work(client: Any) -> None:
        for seen, path in (
            (beats, ("Heartbeat",)),
            (states, ("State",)),
            (evaluations, ("ResultManagement", "Results", "Result", "ResultEvaluation")),
        ):
            subscription = await client.create_subscription(20, seen, queue_maxsize=100_000)
            await subscription.subscribe_data_change(await node(client, *path), queuesize=1000)
        line.publisher.publish(outcome_of(0, score=0.1, at_ns=line.clock()))
        await until(lambda: evaluations.values[-1:] == [1])
        await until(lambda: states.values[-1:] == [LineState.ONLINE])
        await until(lambda: len(beats.values) > 5)
        line.clock.advance(1.1)
        await until(lambda: evaluations.values[-1] == 0)
        await until(lambda: states.values[-1] == LineState.STALLED)
        heartbeat = await node(client, "Heartbeat")
        stopped = await heartbeat.read_value()
        for _ in range(30):
            assert await heartbeat.read_value() == stopped
        verdict = await node(client, "ResultManagement", "Results", "Result", "Verdict")
        assert await verdict.read_value() == "UNKNOWN"
        count = len(beats.values)
        line.publisher.publish(outcome_of(1, score=0.1, at_ns=line.clock()))
        await until(lambda: len(beats.values) > count and evaluations.values[-1] == 1)

    with_client(line.url, work)
    assert all(a != b for a, b in itertools.pairwise(beats.values))


def test_clients_may_only_read(line: Line) -> None:
    async def work(client: Any) -> None:
        verdict = await node(client, "ResultManagement", "Results", "Result", "Verdict")
        with pytest.raises(ua.UaStatusCodeError):
            await verdict.write_value("GOOD")
        index = await client.get_namespace_index(NAMESPACE)
        with pytest.raises(ua.UaStatusCodeError):
            await client.nodes.objects.add_object(index, "Mine")

    with_client(line.url, work)


def test_an_admin_of_the_library_is_nobody_here(line: Line) -> None:
    async def run() -> None:
        client = asyncua.Client(line.url, timeout=CLIENT_S)
        client.set_user("admin")
        client.set_password("x")
        with pytest.raises(ua.UaStatusCodeError):
            await client.connect()
        client.disconnect_socket()

    asyncio.run(run())


def test_every_field_has_a_value() -> None:
    for seq in (1, 6):
        outcome = outcome_of(seq, trigger="t7")
        fields = fields_of(Result(3, "session", outcome))
        assert set(fields) == set(FIELDS)
        assert fields["ResultId"] == "session:3"
        assert (fields["JobId"], fields["MeasId"]) == ("session", "t7")
        age = dt.datetime.now(dt.timezone.utc) - fields["CreationTime"]
        assert dt.timedelta(0) <= age < dt.timedelta(seconds=PATIENCE_S)


def test_certificate_user_and_password(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    clients_key = tmp_path / "client.pem"  # asyncua's client goes by the file's name
    clients_key.write_bytes(key.read_bytes())
    address = f"opcua://line:s3cret@127.0.0.1:0?certificate={certificate}&key={key}"
    output = output_of(address)
    assert isinstance(output, OpcUaOutput)
    assert "s3cret" not in output.name
    with Publisher([output], is_ready=lambda: True) as publisher:
        publisher.publish(outcome_of(0, score=0.9))
        wait_until(lambda: publisher.health[0].delivered == 1, "written")
        url = f"opc.tcp://127.0.0.1:{output.port}/edgead"

        async def verdict_for(user: str, password: str) -> str:
            client = asyncua.Client(url, timeout=CLIENT_S)
            client.set_user(user)
            client.set_password(password)
            await client.set_security(
                policies.SecurityPolicyBasic256Sha256,
                str(certificate),
                str(clients_key),
                server_certificate=str(certificate),
            )
            async with client:
                found = await node(client, "ResultManagement", "Results", "Result", "Verdict")
                return str(await found.read_value())

        assert asyncio.run(verdict_for("line", "s3cret")) == "DEFECT"
        for user, password in (("line", "wrong"), ("", ""), ("admin", "s3cret")):
            with pytest.raises(ua.UaError):
                asyncio.run(verdict_for(user, password))

        async def unencrypted() -> None:
            async with asyncua.Client(url, timeout=CLIENT_S):
                pass

        with pytest.raises(ua.UaError):
            asyncio.run(unencrypted())


def self_signed(folder: Path) -> tuple[Path, Path]:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "line")])
    now = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    paths = folder / "line.pem", folder / "line.key"
    pem = serialization.Encoding.PEM
    paths[0].write_bytes(made.public_bytes(pem))
    plain = serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return paths


@pytest.mark.parametrize(
    "uri", ["opcua://line:s3cret@127.0.0.1", "opcua://127.0.0.1?certificate=server.pem"]
)
def test_a_password_is_never_sent_in_the_clear(uri: str) -> None:
    with pytest.raises(ConfigError) as error:
        open_outputs([uri])
    assert error.value.code == "OPCUA_LOGIN"
    assert str(error.value).endswith(
        ": a certificate needs its key, and a user and password need both. "
        "Give ?certificate=server.pem&key=server.key, or no user."
    )
    assert "s3cret" not in str(error.value)


def test_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as error:
        open_outputs([f"opcua://127.0.0.1:0?certificate={tmp_path}/a.pem&key={tmp_path}/b.pem"])
    assert str(error.value) == (
        "[OPCUA_START] opcua://127.0.0.1:0/…: the server does not start: [Errno 2] No such file or "
        f"directory: '{tmp_path}/a.pem'. Check certificate and key."
    )


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OutputError) as error:
            open_outputs([f"opcua://127.0.0.1:{taken.getsockname()[1]}"])
    assert error.value.code == "OUTPUT_PORT"


def test_a_server_that_hangs_loses_the_result_and_says_so(line: Line) -> None:
    output = OpcUaOutput(port=0)

    class Stuck:
        def run(self, coroutine: Any, _timeout_s: float) -> None:
            coroutine.close()
            raise TimeoutError

    output._background = Stuck()  # type: ignore[assignment]
    output._model = line.output._model
    with pytest.raises(OutputError) as error:
        output.send(Result(1, "s", outcome_of(0)), 0.1)
    assert str(error.value) == "[OPCUA_STUCK] opcua: the server hangs."


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncua", None)
    with pytest.raises(OutputError) as error:
        open_outputs(["opcua://127.0.0.1:0"])
    assert error.value.code == "OUTPUT_EXTRA"
    assert str(error.value).endswith("pip install 'edgead[plc]'.")
