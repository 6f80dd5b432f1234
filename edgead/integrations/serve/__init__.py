"""`edgead serve`: a line with a live page, REST, metrics and health.

    cameras = open_cameras(["left=rtsp://cam/1", "right=rtsp://cam/2"])
    with serve(detector, cameras, host="127.0.0.1", port=8080) as served:
        print(served.url)
        for outcome in served:          # the inspection loop: the page only looks on
            if not outcome.accept:
                reject(outcome.frame_id, outcome.reason)

The loop that reads outcomes stores references; a thread encodes pictures, another answers clients.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.errors import ConfigError
from edgead.types import Detection, Frame, Outcome

if TYPE_CHECKING:
    from edgead.detector import Detector
    from edgead.integrations.serve.editing import Editing
    from edgead.integrations.serve.line import Line
    from edgead.stream import Source

__all__ = ["Served", "open_line", "require_extra", "serve"]

_log = logging.getLogger("edgead.serve")

_NEEDS = ("starlette", "uvicorn", "websockets", "prometheus_client")


def require_extra() -> None:
    """Check that the web packages are there.

    Raises:
        ConfigError: SERVE_MISSING.
    """
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            "SERVE_MISSING",
            f"serving needs {', '.join(missing)}, not installed.",
            "pip install 'edgead[serve]'.",
        )


def serve(
    detector: Detector,
    sources: Mapping[str, Source],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str = "",
    bundle_path: str | Path | None = None,
    **options: Any,
) -> Served:
    """Serve a detector on some cameras.

    Args:
        detector: Judges; closed by its owner.
        sources: Name -> source, as of `edgead.integrations.serve.cameras.open_cameras`.
        host: Where to listen; anything but loopback needs a token.
        port: 0 lets the system choose.
        token: 16 characters or more; sent as ``Authorization: Bearer`` or typed in at /login.
        bundle_path: The detector's file: the page's editor saves other views beside it; None leaves
            the editor out.
        options: As of `edgead.stream.run`: policy, deadline_ms, workers, journal, save_rejects.

    Raises:
        ConfigError: TOKEN, HOST, PORT, PORT_IN_USE or SERVE_MISSING; the sources are closed.
        SourceError: As of `edgead.stream.run`.
    """
    require_extra()
    from edgead.integrations.serve.editing import Editing
    from edgead.integrations.serve.line import about_detector

    edits = None if bundle_path is None else Editing(lambda: detector.bundle, Path(bundle_path))
    size = detector.bundle.manifest.frame.size
    return Served(
        detector,
        sources,
        about=lambda: about_detector(detector),  # another one after a hot swap
        unverified=lambda: detector.unverified,
        # A larger image than the line's is refused anyway, but with a better word for it.
        max_pixels=64_000_000 if size is None else max(4 * size[0] * size[1], 1_000_000),
        editing=edits,
        host=host,
        port=port,
        token=token,
        **options,
    )


class Served:
    """A served line: an iterator of its outcomes and a context manager.

    Args:
        judge: Called with each frame.
        sources: Name -> source.
        about: Gives the model that judges now, as `edgead.integrations.serve.line.about_detector`.
        unverified: Why the model may not be trusted; empty when it may.
        max_pixels: Of an image that comes by REST.
        editing: Where the page saves other views; None leaves its editor out.
        host: Where to listen.
        port: 0 lets the system choose.
        token: Empty for none.
        options: As of `edgead.stream.run`.

    Attributes:
        url: Where the page is.
        line: What is served.
    """

    def __init__(
        self,
        judge: Callable[[Frame], Detection],
        sources: Mapping[str, Source],
        *,
        about: Callable[[], Mapping[str, Any]],
        unverified: Callable[[], str] = lambda: "",
        max_pixels: int = 64_000_000,
        editing: Editing | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        **options: Any,
    ) -> None:
        from edgead.integrations.serve.access import check_token
        from edgead.integrations.serve.server import Server, listen
        from edgead.integrations.systemd import Watchdog

        with ExitStack() as opened:
            for source in sources.values():
                opened.callback(source.close)
            checked = check_token(host, token)
            listener = opened.enter_context(listen(host, port))
            self.line = open_line(
                judge, sources, about, unverified, max_pixels, options, editing=editing
            )
            opened.pop_all()
        self._server = Server(self.line, listener, checked)
        self._server.start()
        self.url = self._server.url
        self._watchdog = Watchdog(
            lambda: self.line.stream.counts, lambda: self.line.board.taken, self.line.status
        )
        self._watchdog.start()

    def __iter__(self) -> Iterator[Outcome]:
        """The outcomes; when they end, the page stays until `close`."""
        for outcome in self.line.stream:
            self.line.pictures.take(outcome)
            self.line.board.take(outcome)
            yield outcome

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the line, then its page; safe to call twice."""
        self._watchdog.close()
        self.line.stream.close()
        self._server.close()
        self.line.pictures.close()


def open_line(
    judge: Callable[[Frame], Detection],
    sources: Mapping[str, Source],
    about: Callable[[], Mapping[str, Any]],
    unverified: Callable[[], str],
    max_pixels: int,
    options: Mapping[str, Any],
    *,
    editing: Editing | None = None,
) -> Line:
    """Start the stream and what looks at it; see `Served` for the arguments."""
    from edgead import stream
    from edgead.integrations.serve.board import Board
    from edgead.integrations.serve.health import Readiness
    from edgead.integrations.serve.line import Line
    from edgead.integrations.serve.pictures import Pictures

    board = Board(sources)
    pictures = Pictures(sources, pixel_threshold=float(about()["pixel_threshold"]))
    try:
        running = stream.run(judge, dict(sources), on_frame=pictures.offer, **options)
    except BaseException:
        pictures.close()
        raise
    board.attach(running)
    return Line(
        stream=running,
        board=board,
        pictures=pictures,
        readiness=Readiness(running, board, unverified, lambda: int(about()["golden_images"])),
        judge=judge,
        unverified=unverified,
        about=about,
        max_pixels=max_pixels,
        editing=editing,
    )
