"""``edgead run --out``: the line gets what stdout gets, and a wrong address is a sentence."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gravel import PATH, gravel_frame
from line_outcomes import PATIENCE_S, wait_until
from mqtt_broker import Broker

import edgead.cli
from edgead.images import save_image

pytest.importorskip("paho.mqtt.client", reason="pip install 'edgead[plc]'")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``edgead ARGUMENTS``: (exit code, stdout, stderr)."""
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgead", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            edgead.cli.main()
        text = capsys.readouterr()
        return ended.value.code, text.out, text.err  # type: ignore[return-value]

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(5):
        save_image(folder / f"{n}.png", gravel_frame().pixels)
    return folder


def test_the_line_gets_what_stdout_gets(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker().start()
    address = f"mqtt://127.0.0.1:{broker.port}/hall/line3"
    # The whole run may be shorter than connecting: what waits is delivered at the end.
    monkeypatch.setattr("edgead.integrations.publisher.DRAIN_S", PATIENCE_S)
    code, out, _ = command("run", PATH, "--source", photos, "--out", address, "--fresh-s", 60)
    assert code == 0
    wait_until(lambda: len(broker.results("hall/line3")) == 5, "received")
    broker.stop()
    said = [json.loads(line) for line in out.splitlines()]
    assert [json.loads(payload) for payload in broker.results("hall/line3")] == said


def test_an_unreachable_broker_does_not_stop_the_loop(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgead.integrations.publisher.DRAIN_S", 0.0)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"mqtt://127.0.0.1:{held.getsockname()[1]}"
        code, out, _ = command("run", PATH, "--source", photos, "--out", address)
    assert (code, len(out.splitlines())) == (0, 5)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "mqt://line:s3cret@broker",
            "error: [OUTPUT_SCHEME] no output speaks 'mqt' (did you mean 'mqtt'?). "
            "There are: mqtt, mqtts, modbus, opcua, http, https, gpio.",
        ),
        (
            "modbus://127.0.0.1?holds=3",
            "error: [OUTPUT_OPTION] modbus://127.0.0.1/… has no option 'holds' (did you mean "
            "'hold_s'?). There are: acknowledge, hold_s, queue.",
        ),
    ],
)
def test_a_wrong_address(command: Command, photos: Path, address: str, message: str) -> None:
    code, out, err = command("run", PATH, "--source", photos, "--out", address)
    assert (code, out, err.strip()) == (2, "", message)


def test_a_port_in_use(command: Command, photos: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = command(
            "run", PATH, "--source", photos, "--out", f"modbus://127.0.0.1:{port}"
        )
    assert (code, out) == (2, "")
    assert err.startswith(
        f"error: [OUTPUT_PORT] cannot listen on 127.0.0.1:{port}: Address already"
    )
    assert len(err.splitlines()) == 1
