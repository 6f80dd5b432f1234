"""The served line over HTTP: verdicts, state, health, typed errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import httpx
import pytest
from serving import ABOUT, Tap, eventually, picture_png, served

from edgead.errors import BackendError, FrameError
from edgead.frame import Frame
from edgead.integrations.serve import Served, bodies, judging
from edgead.stream.drift_reference import Spread
from edgead.stream.drift_status import DriftFigure, DriftReason, DriftState, DriftStatus
from edgead.testing import FakeJudge, detection_of
from edgead.types import Detection


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[Served, httpx.Client, Tap]]:
    tap = Tap()
    scores = iter([0.25, 0.9] * 1000)
    judge = FakeJudge(score_of=lambda frame: 0.3 if frame.source_id == "rest" else next(scores))
    with served({"cam": tap}, judge=judge) as (found, client):
        tap.open(4)
        eventually(lambda: found.line.board.taken == 4)
        yield found, client, tap


def test_one_image_in_one_verdict_out(line: tuple[Served, httpx.Client, Tap]) -> None:
    answer = line[1].post("/api/v1/detect", content=picture_png())
    assert answer.status_code == 200
    found = answer.json()
    assert (found["verdict"], found["accept"], found["score"]) == ("GOOD", True, 0.3)
    assert found["frame_id"].startswith("rest:")
    assert found["is_simulated"] is True


def test_an_upload_is_not_in_the_books(line: tuple[Served, httpx.Client, Tap]) -> None:
    before = line[0].line.stream.counts.received
    line[1].post("/api/v1/detect", content=picture_png())
    assert line[0].line.stream.counts.received == before


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "message"),
    [
        (b"", {}, 422, "IMAGE_EMPTY", "the body is empty."),
        (
            b"hello",
            {},
            422,
            "IMAGE_FORMAT",
            "the image starts with 'hello'; not PNG, JPEG, BMP or TIFF.",
        ),
        (
            b"x",
            {"content-encoding": "gzip"},
            415,
            "BODY_ENCODING",
            "compressed bodies are not taken.",
        ),
    ],
)
def test_a_refused_body(
    line: tuple[Served, httpx.Client, Tap],
    body: bytes,
    headers: dict[str, str],
    status: int,
    code: str,
    message: str,
) -> None:
    answer = line[1].post("/api/v1/detect", content=body, headers=headers)
    found = answer.json()
    assert (answer.status_code, found["code"]) == (status, code)
    assert found["message"] == message
    assert (found["verdict"], found["accept"]) == ("UNKNOWN", False)
    assert found["hint"]


def test_a_body_over_the_limit_is_refused_unread(
    line: tuple[Served, httpx.Client, Tap], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "MAX_BODY", 1024 * 1024)
    for body in (bytes(1024 * 1024 + 1), (bytes(65536) for _ in range(20))):  # the last is chunked
        answer = line[1].post("/api/v1/detect", content=body)
        assert answer.status_code == 413
        assert answer.json() == {
            "code": "BODY_TOO_LARGE",
            "message": "the body is over 1 MiB.",
            "hint": "Send less.",
            "verdict": "UNKNOWN",
            "accept": False,
        }


def test_a_slow_body_is_given_up(
    line: tuple[Served, httpx.Client, Tap], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr(bodies, "_BODY_S", 0.1)
    with socket.create_connection(("127.0.0.1", line[0]._server.port), 60) as raw:
        raw.sendall(
            b"POST /api/v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"
        )
        head = raw.recv(4096).decode()
    assert head.startswith("HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (FrameError("FRAME_SIZE", "too small.", "Use another."), 422, "FRAME_SIZE"),
        (BackendError("DEVICE_LOST", "gone.", "Start again."), 503, "DEVICE_LOST"),
        (RuntimeError("CUDA error 700 at /some/path"), 503, "BACKEND_ERROR"),
    ],
)
def test_a_judge_that_fails(error: Exception, status: int, code: str) -> None:
    def judge(frame: Frame) -> Detection:
        raise error

    with served(judge=judge) as (_, client):
        answer = client.post("/api/v1/detect", content=picture_png())
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["accept"] is False
    assert "/some/path" not in answer.text


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_no_verdict(score: float) -> None:
    with served(judge=FakeJudge(score_of=lambda _: score)) as (_, client):
        answer = client.post("/api/v1/detect", content=picture_png())
    assert (answer.status_code, answer.json()["code"]) == (503, "BACKEND_NONFINITE")


def test_a_model_that_may_not_be_trusted_judges_nothing() -> None:
    why = "golden/good_0.png scored 0.9, expected 0.1."
    with served(unverified=lambda: why) as (_, client):
        answer = client.post("/api/v1/detect", content=picture_png())
        ready = client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "MODEL_UNVERIFIED")
    assert ready.status_code == 503
    assert {"name": "model", "ok": False, "text": why} in ready.json()["checks"]


def test_a_model_without_golden_images_is_said_to_be_unchecked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ABOUT, "golden_images", 0)
    with served() as (_, client):
        checks = client.get("/readyz").json()["checks"]
    text = "it has no golden images: nothing checks its scores"
    assert {"name": "model", "ok": True, "text": text} in checks


def test_more_images_than_may_wait_are_told_to_come_again() -> None:
    go_on, inside = threading.Event(), threading.Semaphore(0)

    def judge(frame: Frame) -> Detection:
        inside.release()
        assert go_on.wait(60)
        return detection_of(frame)

    with served(judge=judge) as (line, client):
        url = f"{line.url}api/v1/detect"
        threads = [
            threading.Thread(
                target=httpx.post, args=(url,), kwargs={"content": picture_png(), "timeout": 60}
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        assert inside.acquire(timeout=60)
        answer = eventually(
            lambda: (a := client.post("/api/v1/detect", content=b"")).status_code == 503 and a
        )
        go_on.set()
        for thread in threads:
            thread.join(60)
        after = client.post("/api/v1/detect", content=picture_png())
    assert answer.json()["code"] == "BUSY"
    assert answer.headers["retry-after"] == "1"
    assert after.status_code == 200


def test_the_state_adds_up(line: tuple[Served, httpx.Client, Tap]) -> None:
    state = line[1].get("/api/v1/state").json()
    (camera,) = state["cameras"]
    counts = camera["counts"]
    assert (counts["received"], counts["good"], counts["defect"]) == (4, 2, 2)
    assert (camera["name"], camera["state"]) == ("cam", "running")
    assert [one["seq"] for one in camera["rejects"]] == [3, 1]


def test_scores_for_the_what_if(line: tuple[Served, httpx.Client, Tap]) -> None:
    found = line[1].get("/api/v1/cameras/0/scores").json()
    assert found == {
        "camera": "cam",
        "scores": [[0, 0.25, 1], [1, 0.9, 2], [2, 0.25, 1], [3, 0.9, 2]],
    }


def test_the_model(line: tuple[Served, httpx.Client, Tap]) -> None:
    assert line[1].get("/api/v1/model").json() == {**ABOUT, "is_editable": False}


def test_a_reject_and_the_newest_picture(line: tuple[Served, httpx.Client, Tap]) -> None:
    for path in ("rejects/3.jpg", "rejects/1.jpg?size=large", "picture.jpg"):
        answer = line[1].get(f"/api/v1/cameras/0/{path}")
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.content.startswith(b"\xff\xd8")
    meta = json.loads(line[1].get("/api/v1/cameras/0/picture.jpg").headers["x-meta"])
    assert (meta["frame_id"], meta["verdict"], meta["size"]) == ("cam:3", "DEFECT", [48, 64])


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/cameras/7/scores",
        "/api/v1/cameras/7/picture.jpg",
        "/api/v1/cameras/7/video.mjpg",
        "/api/v1/cameras/0/rejects/2.jpg",
        "/api/v1/cameras/0/rejects/99.jpg",
        "/api/v1/pictures.mjpg?camera=7",
        "/api/v1/nothing",
        "/static/secret.txt",
        "/static/..%2Findex.html",
    ],
)
def test_what_is_not_there(line: tuple[Served, httpx.Client, Tap], path: str) -> None:
    answer = line[1].get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


def test_another_method_is_refused_by_type(line: tuple[Served, httpx.Client, Tap]) -> None:
    answer = line[1].put("/api/v1/detect", content=b"")
    assert (answer.status_code, answer.json()["code"]) == (405, "METHOD")
    assert answer.headers["allow"] == "POST"


def test_alive_and_ready(line: tuple[Served, httpx.Client, Tap]) -> None:
    assert line[1].get("/healthz").json()["alive"] is True
    answer = line[1].get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)


def test_the_page_needs_nothing_from_elsewhere(line: tuple[Served, httpx.Client, Tap]) -> None:
    answer = line[1].get("/")
    assert answer.headers["content-security-policy"].startswith(
        "default-src 'none'; script-src 'self'"
    )
    for name in ("page.css", "page.js", "charts.js", "pictures.js"):
        asset = line[1].get(f"/static/{name}")
        assert asset.status_code == 200
        assert "http://" not in asset.text.replace("http://www.w3.org", "")
        assert "https://" not in asset.text
    assert "//" not in answer.text.replace("<!--", "")


def test_every_label_of_the_page_has_its_control(line: tuple[Served, httpx.Client, Tap]) -> None:
    import re

    text = line[1].get("/").text
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    assert set(re.findall(r'<label for="([^"]+)"', text)) <= ids
    assert set(re.findall(r'aria-labelledby="([^"]+)"', text)) <= ids
    assert 'aria-live="polite"' in text
    script = line[1].get("/static/page.js").text
    assert set(re.findall(r'\$\("([a-z-]+)"\)', script)) <= ids


def test_metrics(line: tuple[Served, httpx.Client, Tap]) -> None:
    answer = line[1].get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    for one in (
        'edgead_frames_received_total{camera="cam"} 4.0',
        'edgead_frames_total{camera="cam",status="result"} 4.0',
        'edgead_verdicts_total{camera="cam",verdict="good"} 2.0',
        'edgead_verdicts_total{camera="cam",verdict="defect"} 2.0',
        'edgead_verdicts_total{camera="cam",verdict="unknown"} 0.0',
        'edgead_camera_up{camera="cam"} 1.0',
        'edgead_check_ok{check="books"} 1.0',
        'edgead_check_ok{check="model"} 1.0',
        'edgead_latency_seconds_count{camera="cam"} 4.0',
        "edgead_threshold 0.5",
    ):
        assert one in lines
    assert not any("lost_upstream_total{" in one for one in lines), "the camera numbers no frames"


def test_drift_is_a_warning_and_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    then = Spread(100.0, 101.0, 102.0)
    figure = DriftFigure("brightness", then, Spread(80.0, 81.0, 82.0), 95.0, 107.0, 63, True)
    text = "the light dropped: brightness 81, was 101"
    status = DriftStatus(DriftState.DRIFTED, (DriftReason("LIGHT", text, 8),), (figure,), 63, 50)
    with served() as (line, client):
        monkeypatch.setattr(line.line.stream.drift, "statuses", lambda: {"cam": status})
        warnings = client.get("/api/v1/state").json()["warnings"]
        metrics = client.get("/metrics").text.splitlines()
    assert warnings == [{"camera": "cam", "cause": "LIGHT", "text": text}]
    assert 'edgead_drift_out{camera="cam",figure="brightness"} 1.0' in metrics
    assert 'edgead_drift_median{camera="cam",figure="brightness"} 81.0' in metrics
