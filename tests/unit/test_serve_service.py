"""A served line as a service: systemd's watchdog and structured logs."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import TIMEOUT_S, Tap, eventually, served

from edgead.errors import StateError, StorageError
from edgead.integrations.logs import JsonFormatter, log_to
from edgead.integrations.systemd import Watchdog, watchdog_period_s
from edgead.stream.watchdog import notify_systemd
from edgead.types import LedgerCounts


class Line:
    """Books that a test writes."""

    def __init__(self) -> None:
        self.counts = LedgerCounts()
        self.taken = 0
        self.sent: list[str] = []
        self.watchdog = Watchdog(
            lambda: self.counts, lambda: self.taken, lambda: "ready", notify=self.sent.append
        )


def test_a_line_that_moves_or_has_nothing_to_do_is_fed() -> None:
    line = Line()
    assert line.watchdog.look(), "nothing was received yet"
    line.counts = LedgerCounts(received=2, results=1, in_flight=1)
    line.taken = 1
    assert line.watchdog.look(), "one was judged since"
    line.counts = LedgerCounts(received=2, results=2)
    line.taken = 2
    assert line.watchdog.look()
    assert line.watchdog.look(), "a camera that is silent is no line that hangs"
    assert line.sent == ["STATUS=ready", *["READY=1\nWATCHDOG=1"] * 4]


def test_frames_that_are_never_settled_are_a_line_that_hangs() -> None:
    line = Line()
    line.counts = LedgerCounts(received=2, results=1, in_flight=1)
    line.taken = 1
    line.watchdog.look()
    assert not line.watchdog.look()


def test_outcomes_that_nobody_reads_are_a_line_that_hangs() -> None:
    line = Line()
    line.taken = 1
    line.counts = LedgerCounts(received=5, results=5)
    line.watchdog.look()
    line.counts = LedgerCounts(received=9, results=9)
    assert not line.watchdog.look(), "frames are settled, and the loop that hands them over stands"


def test_books_that_do_not_balance_are_not_fed() -> None:
    def broken() -> LedgerCounts:
        raise StateError("LEDGER", "it does not balance.")

    sent: list[str] = []
    watchdog = Watchdog(broken, lambda: 0, lambda: "", notify=sent.append)
    assert not watchdog.look()
    assert sent == []


@pytest.mark.parametrize(
    ("usec", "pid", "period"),
    [
        ("30000000", "", 30.0),
        ("", "", None),
        ("0", "", None),
        ("x", "", None),
        ("1000000", "1", None),
    ],
)
def test_the_period(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, period: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_period_s() == period


def test_a_served_line_tells_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(TIMEOUT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        said: list[bytes] = []
        listener = threading.Thread(target=_listen, args=(systemd, said), daemon=True)
        listener.start()
        tap = Tap()
        with served({"cam": tap}) as (line, _):
            tap.open()
            eventually(lambda: line.line.board.taken == 1)
            eventually(lambda: b"STATUS=cameras: 1 running; ready" in said)
        listener.join(TIMEOUT_S)
    assert b"READY=1\nWATCHDOG=1" in said
    assert said[-1] == b"STOPPING=1"


def _listen(systemd: socket.socket, said: list[bytes]) -> None:
    while not said or said[-1] != b"STOPPING=1":
        said.append(systemd.recv(4096))


def test_a_service_manager_that_takes_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        assert notify_systemd("READY=1")
        assert not all(notify_systemd("WATCHDOG=1") for _ in range(5000))


@pytest.fixture
def logger() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    found, out = logging.getLogger("edgead"), io.StringIO()
    before = (found.handlers[:], found.level, found.propagate)
    others = logging.getLogger("uvicorn")
    before_others = (others.handlers[:], others.level, others.propagate)
    log_to(io.StringIO(), as_json=False)
    log_to(out, as_json=True)
    yield logging.getLogger("edgead.serve"), out
    for one, (handlers, level, propagate) in ((found, before), (others, before_others)):
        one.handlers[:] = handlers
        one.setLevel(level)
        one.propagate = propagate


def test_a_record_is_one_line_of_json(logger: tuple[logging.Logger, io.StringIO]) -> None:
    log, out = logger
    error = StorageError("DISK_FULL", "no space left.", "Free some.")
    log.warning("reject not saved: %s\nof line %d", error, 3)
    (line,) = out.getvalue().splitlines()
    found = json.loads(line)
    assert found["message"] == "reject not saved: [DISK_FULL] no space left. Free some.\nof line 3"
    assert (found["level"], found["logger"]) == ("WARNING", "edgead.serve")
    assert (found["code"], found["hint"]) == ("DISK_FULL", "Free some.")
    assert found["time"].endswith("+00:00")


def test_an_exception_carries_its_code(logger: tuple[logging.Logger, io.StringIO]) -> None:
    log, out = logger
    try:
        raise StateError("CLOSED", "this Detector is closed.")
    except StateError:
        log.exception("it failed")
    found = json.loads(out.getvalue())
    assert (found["message"], found["code"]) == ("it failed", "CLOSED")
    assert "Traceback" in found["exception"]


def test_a_plain_record_has_no_code() -> None:
    record = logging.LogRecord("edgead", logging.INFO, "f", 1, "policy %s", ("latest",), None)
    assert set(json.loads(JsonFormatter().format(record))) == {
        "time", "level", "logger", "message", "thread",
    }  # fmt: skip
