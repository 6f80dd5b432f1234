"""Sources of a served line: names, pace, what cannot be opened."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edgead.errors import ConfigError, SourceError
from edgead.images import save_image
from edgead.integrations.serve import require_extra
from edgead.integrations.serve.cameras import Played, Unopened, open_cameras, state_of
from edgead.integrations.serve.server import listen
from edgead.stream.sources import EndOfSource, FileSource
from edgead.stream.sources.reconnect import Reconnecting
from edgead.stream.watchdog import State
from edgead.testing import textured


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        save_image(tmp_path / f"{number}.png", textured(number))
    return tmp_path


def ids(source: Played, reads: int) -> list[str | None]:
    found = []
    for _ in range(reads):
        item = source.read(1.0)
        found.append(None if item is None else item.part_id)  # type: ignore[union-attr]
    return found


def test_files_once(folder: Path) -> None:
    source = open_cameras([str(folder)])[folder.name]
    assert isinstance(source, Played)
    assert ids(source, 3) == ["0.png", "1.png", "2.png"]
    with pytest.raises(EndOfSource):
        source.read(0.0)


def test_files_again_and_again(folder: Path) -> None:
    source = open_cameras([str(folder)], repeat=True)[folder.name]
    assert ids(source, 8) == ["0.png", "1.png", "2.png", None, "0.png", "1.png", "2.png", None]  # type: ignore[arg-type]
    source.close()
    with pytest.raises(EndOfSource):
        source.read(0.0)


def test_an_empty_repetition_ends() -> None:
    source = Played(lambda: FileSource([]), fps=0, repeat=True)
    with pytest.raises(EndOfSource):
        source.read(0.0)


def test_the_pace_is_kept(folder: Path) -> None:
    source = Played(lambda: FileSource([folder / "0.png"] * 2), fps=0.01, repeat=False)
    assert source.read(0.0) is not None
    assert source.read(0.0) is None, "the second is due in 100 s"


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (["csi://0", "csi://1"], ["csi0", "csi1"]),
        (["csi://0", "csi://0"], ["csi0", "csi0 2"]),
        (["left side=csi://0", "right=csi://0"], ["left side", "right"]),
        (["rtsp://10.0.0.5/stream?user=a"], ["rtsp_10.0.0.5"]),
        (["v4l2src device=/dev/video0 ! videoconvert"], ["gstreamer"]),
    ],
)
def test_names(specs: list[str], names: list[str]) -> None:
    cameras = open_cameras(specs)
    assert list(cameras) == [source.source_id for source in cameras.values()]
    for source in cameras.values():
        source.close()
    if names[0].startswith(("rtsp", "gst")):
        assert len(cameras) == 1
    else:
        assert list(cameras) == names


def test_one_of_several_cannot_be_opened(folder: Path) -> None:
    cameras = open_cameras([str(folder), "gone=/nowhere/at/all"])
    assert list(cameras) == [folder.name, "gone"]
    assert isinstance(cameras["gone"], Unopened)
    with pytest.raises(SourceError) as error:
        cameras["gone"].read(0.0)
    assert str(error.value) == "[SOURCE_NOT_FOUND] /nowhere/at/all does not exist."


def test_none_can_be_opened() -> None:
    with pytest.raises(SourceError) as error:
        open_cameras(["/nowhere/at/all", "nor/here"])
    assert str(error.value) == "[SOURCE_NOT_FOUND] /nowhere/at/all does not exist."


@pytest.mark.parametrize("count", [0, 17])
def test_too_few_or_too_many(count: int) -> None:
    with pytest.raises(ConfigError) as error:
        open_cameras(["csi://0"] * count)
    assert str(error.value) == f"[SOURCES] got {count} sources; want 1 to 16. Use --source URI."


def test_states() -> None:
    def connect() -> Reconnecting:
        raise SourceError("SOURCE_OPEN", "no camera.")

    source = Reconnecting(connect, source_id="cam")
    assert state_of(source, None, has_ended=False).name == "waiting"
    source.read(0.0)
    state = state_of(source, None, has_ended=False)
    assert (state.name, state.text, state.is_fresh) == (
        "not opened",
        "[SOURCE_OPEN] no camera.",
        False,
    )
    source.state = State.STALLED
    assert state_of(source, None, has_ended=False).name == "stalled"
    source.state = State.RUNNING
    assert state_of(source, None, has_ended=False).is_fresh
    assert state_of(source, None, has_ended=True).name == "ended"
    lost = SourceError("SOURCE_AUTH", "wrong password.")
    assert state_of(source, lost, has_ended=True).name == "lost"


def test_a_port_in_use_is_a_sentence() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as error:
            listen("127.0.0.1", port)
    assert str(error.value) == (
        f"[PORT_IN_USE] port {port} on 127.0.0.1 is in use. Choose another one: --port."
    )


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [
        ("127.0.0.1", 65536, "[PORT] --port is 65536; want 0 to 65535."),
        (
            "192.0.2.1",
            0,
            "[HOST] --host 192.0.2.1 is no address of this machine. Use 127.0.0.1 or 0.0.0.0.",
        ),
        (
            "a" * 64,
            0,
            f"[HOST] --host {'a' * 64} is no address of this machine. Use 127.0.0.1 or 0.0.0.0.",
        ),
    ],
)
def test_where_nobody_can_listen(host: str, port: int, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        listen(host, port)
    assert str(error.value) == text


def test_a_dead_peer_is_ended_by_the_kernel() -> None:
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "uvicorn" else real(name, *a)
    )
    with pytest.raises(ConfigError) as error:
        require_extra()
    assert str(error.value) == (
        "[SERVE_MISSING] serving needs uvicorn, not installed. pip install 'edgead[serve]'."
    )
