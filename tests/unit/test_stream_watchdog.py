"""Restarts within limits, throttling seen in time, systemd fed."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from edgead.stream.watchdog import Restarts, Throttle, notify_systemd
from edgead.testing import FakeClock


def test_five_restarts_a_minute_and_no_sixth() -> None:
    clock = FakeClock()
    restarts = Restarts(5, 60.0, clock)
    assert [restarts.allow() for _ in range(7)] == [True] * 5 + [False] * 2
    clock.advance(60.1)
    assert restarts.allow()
    assert restarts.total == 6


def test_throttling_is_seen_while_it_ramps() -> None:
    for seed in range(50):
        draw = random.Random(seed)
        throttle = Throttle()
        seen_at = None
        for n in range(600):
            factor = 1.0 if n < 200 else 1.0 + 2.0 * (n - 200) / 400  # to three times as slow
            throttle.add(int(10e6 * factor * draw.uniform(0.9, 1.1)))
            if n < 200:
                assert not throttle.is_throttled
            if throttle.is_throttled and seen_at is None:
                seen_at = factor
        assert seen_at is not None
        assert seen_at < 1.6  # a line with half a period to spare learns of it in time


def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify_systemd("READY=1")
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        assert notify_systemd("WATCHDOG=1")
        assert receiver.recv(100) == b"WATCHDOG=1"
