"""What a camera's failure says: each code with its whole text, and never the camera's password."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from odd_passwords import odd_passwords

from edgead.errors import SourceError
from edgead.stream import run
from edgead.stream.sources.capture import CaptureConfig, ChildCapture
from edgead.stream.sources.reconnect import Reconnecting
from edgead.stream.sources.uri import parse_source
from edgead.testing import FakeClock, FakeJudge
from edgead.urls import SourceUrl

#: What a library wrote to stderr, what the capture child says -> the whole refusal.
_LOSSES = [
    (
        "[rtsp @ 0x55] method DESCRIBE failed: 401 Unauthorized",
        "[SOURCE_AUTH] {shown}: it cannot be opened. Check the user and the password.",
    ),
    (
        "[rtsp @ 0x55] method DESCRIBE failed: 404 Not Found",
        "[SOURCE_NOT_FOUND] {shown}: it cannot be opened. Check the address and the path.",
    ),
    (
        "[tcp @ 0x55] Failed to resolve hostname cam: Name or service not known",
        "[SOURCE_NOT_FOUND] {shown}: it cannot be opened. Check the address and the path.",
    ),
    (
        "[tcp @ 0x55] Connection to tcp://10.0.0.5:554 failed: Connection refused",
        "[SOURCE_REFUSED] {shown}: it cannot be opened. "
        "Is the camera's stream switched on, and the port right?",
    ),
    (
        "[v4l2] VIDIOC_REQBUFS: Device or resource busy",
        "[SOURCE_BUSY] {shown}: it cannot be opened. Close the other program that uses the camera.",
    ),
    ("[tls @ 0x55] certificate verify failed", "[SOURCE_TLS] {shown}: it cannot be opened."),
    ("", "[SOURCE_LOST] {shown}: it cannot be opened."),
]


class _Words:
    """A capture child that has died and left some words."""

    def __init__(self, text: str) -> None:
        self._text = text

    def last_words(self) -> str:
        return self._text

    def close(self) -> None:
        pass


def _lost(address: str, native: str, said: str) -> SourceError:
    capture = ChildCapture.__new__(ChildCapture)
    capture._url = SourceUrl(address)
    capture._child = _Words(native)  # type: ignore[assignment]
    return capture._lost("SOURCE_LOST", said)


@pytest.mark.parametrize(("native", "message"), _LOSSES)
def test_each_loss_in_full(native: str, message: str) -> None:
    error = _lost("rtsp://admin:secret@10.0.0.5:554/ch1", native, "it cannot be opened.")
    assert str(error).strip() == message.format(shown="rtsp://***@10.0.0.5:554/…")


def _addresses() -> Iterator[tuple[str, str]]:
    """500 (password, address)."""
    for password in odd_passwords(125):
        coded = quote(password, safe="")
        for form in (
            f"rtsp://admin:{password}@10.0.0.5:554/ch1",
            f"rtsp://admin:{coded}@10.0.0.5:554/ch1",
            f"rtsp://10.0.0.5/user=admin_password={coded}_channel=1",
            f"http://10.0.0.5/mjpg?user=admin&password={coded}&x=1",
        ):
            yield password, form


def test_500_passwords_through_every_way_a_camera_fails(caplog: pytest.LogCaptureFixture) -> None:
    """Losses of each kind, a source that is opened again and again, its name in metrics, its log."""
    caplog.set_level(logging.DEBUG)
    tried = 0
    for password, address in _addresses():
        source = parse_source(address)  # opens nothing yet
        errors = [_lost(address, native, f"cannot open {address}") for native, _ in _LOSSES]
        clock = FakeClock()
        left = iter(errors[3:])  # those after which it is tried again

        def fail(left: Iterator[SourceError] = left) -> ChildCapture:
            raise next(left)

        again = Reconnecting(fail, source_id=source.source_id, clock=clock, wait=clock.advance)
        for _ in range(40):
            clock.advance(30.0)
            try:
                again.read(0.1)
            except StopIteration:
                break
        assert again.failed_opens >= 3
        texts = [*map(str, errors), *map(repr, errors), str(again.last_error), source.source_id]
        texts += [repr(source), repr(again), repr(CaptureConfig(address, "FFMPEG")), caplog.text]
        texts += ["".join(traceback.format_exception_only(type(one), one)) for one in errors]
        for form in (password, quote(password, safe=""), quote_plus(password)):
            for text in texts:
                assert form not in text
        caplog.clear()
        tried += 1
    assert tried == 500


def test_a_stream_ends_without_the_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Raised to the caller, and in the journal's file."""
    caplog.set_level(logging.DEBUG)
    for number, password in enumerate(odd_passwords(10)):
        address = f"rtsp://admin:{password}@10.0.0.5:554/ch1"

        def fail(address: str = address) -> ChildCapture:
            raise _lost(address, "method DESCRIBE failed: 401", f"cannot open {address}")

        journal = tmp_path / f"{number}.sqlite"
        source = Reconnecting(fail, source_id=parse_source(address).source_id)
        with pytest.raises(SourceError) as error, run(FakeJudge(), source, journal=journal) as line:
            list(line)
        assert error.value.code == "SOURCE_AUTH"
        kept = b"".join(path.read_bytes() for path in tmp_path.glob(f"{number}.sqlite*"))
        assert password.encode() not in kept
        for text in (*traceback.format_exception_only(error.value), caplog.text):
            assert password not in text


def test_the_process_list_does_not_hold_the_password() -> None:
    password = "S3cr#t-äß%"
    with socket.socket() as nobody:  # a port at which nobody listens
        nobody.bind(("127.0.0.1", 0))
        address = f"rtsp://admin:{password}@127.0.0.1:{nobody.getsockname()[1]}/ch1"
        config = CaptureConfig(address, "FFMPEG", open_ms=300, read_ms=300)
        child = ChildCapture(config, SourceUrl(address))
        try:
            assert child._child.control.poll(60)  # it runs, and has said why it cannot open
            for name in ("cmdline", "environ"):
                told = Path(f"/proc/{child.pid}/{name}").read_bytes()
                assert b"capture_child" in told or name == "environ"
                for form in (password, quote(password, safe="")):
                    assert form.encode() not in told
        finally:
            child.close()
