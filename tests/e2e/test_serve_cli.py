"""`edgead serve` as a user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from gravel import PATH, gravel_bundle, gravel_frame, with_blot
from mqtt_broker import Broker
from serving import TIMEOUT_S, eventually

from edgead.images import encode_png, save_image
from edgead.integrations.serve.server import listen
from edgead.types import Verdict

COMMAND = [sys.executable, "-m", "edgead", "serve", str(PATH), "--backend", "openvino"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("EDGEAD_", "NOTIFY_"))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    gravel_bundle()
    where = tmp_path / "parts"
    where.mkdir()
    for number in range(6):
        frame = gravel_frame() if number % 3 else with_blot(gravel_frame(), 30, 30, 24)
        save_image(where / f"{number}.png", frame.pixels)
    return where


@contextmanager
def started(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**ENVIRONMENT, **environment},
    )
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            found = re.search(r"page: (http\S+/)", line)
            if found:
                break
        else:
            raise AssertionError("".join(said))
        yield process, found[1]
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
        assert process.stderr is not None
        process.stderr.close()


def refused(*options: str) -> str:
    done = subprocess.run(
        [*COMMAND, *options],
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT_S,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_a_folder_is_served_judged_and_ended_by_a_signal(folder: Path, tmp_path: Path) -> None:
    journal = tmp_path / "line.sqlite"
    options = ["--source", f"belt={folder}", "--fps", "20", "--repeat", "--journal", str(journal)]
    with started(*options, "--json-logs") as (process, url):
        with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
            state = eventually(
                lambda: (
                    (s := client.get("/api/v1/state").json()["cameras"][0])["counts"]["received"]
                    > 8
                    and s
                )
            )
            eventually(lambda: client.get("/readyz").status_code == 200)
            body = encode_png(gravel_frame().pixels)
            verdict = client.post("/api/v1/detect", content=body).json()
            small = client.post("/api/v1/detect", content=encode_png(gravel_frame().pixels[:40]))
            assert client.get("/api/v1/view").json()["bundle"] == PATH.name  # the editor is there
        assert (state["name"], state["state"], state["is_simulated"]) == ("belt", "running", True)
        assert (verdict["verdict"], verdict["bundle_hash"]) == ("GOOD", gravel_bundle().hash)
        assert (small.status_code, small.json()["code"]) == (422, "FRAME_SIZE")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 143
    assert journal.stat().st_size > 0


def test_the_page_stays_when_the_files_have_ended(folder: Path) -> None:
    options = ["--source", str(folder), "--fps", "0"]
    with started(*options) as (_, url), httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:

        def camera() -> dict[str, Any]:
            found: dict[str, Any] = client.get("/api/v1/state").json()["cameras"][0]
            return found

        eventually(lambda: camera()["state"] == "ended" and camera()["counts"]["good"])
        last = camera()
        assert client.get("/readyz").status_code == 503
    assert (last["counts"]["received"], last["verdict"]) == (6, "UNKNOWN")


def test_what_the_page_shows_goes_out_to_the_line(folder: Path) -> None:
    pytest.importorskip("paho.mqtt.client", reason="pip install 'edgead[plc]'")
    broker = Broker().start()
    out = f"mqtt://127.0.0.1:{broker.port}/hall/line3"
    options = ["--source", str(folder), "--fps", "0", "--out", out, "--fresh-s", "60"]
    with started(*options) as (_, url), httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        eventually(lambda: len(broker.results("hall/line3")) == 6)
        sent = [json.loads(payload) for payload in broker.results("hall/line3")]
        shown = client.get("/api/v1/cameras/0/scores").json()["scores"]
    broker.stop()
    assert [one["seq"] for one in sent] == [seq for seq, _, _ in shown] == list(range(6))
    for one, (_, score, verdict) in zip(sent, shown, strict=True):
        assert (one["score"], Verdict[one["verdict"]]) == (score, verdict)


def test_a_token_from_the_environment(folder: Path) -> None:
    token = "0123456789abcdef"
    with started("--source", str(folder), "--host", "0.0.0.0", EDGEAD_TOKEN=token) as (_, url):
        url = url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}api/v1/state", timeout=TIMEOUT_S).status_code == 401
        headers = {"authorization": f"Bearer {token}"}
        assert httpx.get(f"{url}api/v1/state", headers=headers, timeout=TIMEOUT_S).is_success


def test_a_port_in_use(folder: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        said = refused("--source", str(folder), "--port", str(port))
    assert said.endswith(
        f"error: [PORT_IN_USE] port {port} on 127.0.0.1 is in use. Choose another one: --port."
    )


def test_no_token_for_other_machines(folder: Path) -> None:
    said = refused("--source", str(folder), "--host", "0.0.0.0")
    assert said.startswith("error: [TOKEN] --host 0.0.0.0 can be reached from other machines;")


def test_a_camera_that_is_not_there() -> None:
    said = refused("--source", "/nowhere/at/all", "--port", "0")
    assert said.endswith("error: [SOURCE_NOT_FOUND] /nowhere/at/all does not exist.")
