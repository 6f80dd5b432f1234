"""The routes: page, live numbers and pictures, REST, metrics, health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import Future
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from edgead._version import __version__
from edgead.errors import EdgeadError
from edgead.integrations.metrics import CONTENT_TYPE, LineMetrics, render
from edgead.integrations.serve.access import COOKIE, Access, Token, problem
from edgead.integrations.serve.board import BUCKETS_S
from edgead.integrations.serve.bodies import BodyRefused, read_body
from edgead.integrations.serve.drawing import Saving
from edgead.integrations.serve.judging import Judging
from edgead.integrations.serve.line import Line
from edgead.integrations.serve.openapi import openapi_document
from edgead.integrations.serve.viewers import Hub, MjpegResponse, TooManyViewers

__all__ = ["make_app"]

_log = logging.getLogger("edgead.serve")

_KINDS = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "pictures.js": "text/javascript; charset=utf-8",
    "edit.css": "text/css; charset=utf-8",
    "edit.js": "text/javascript; charset=utf-8",
    "shapes.js": "text/javascript; charset=utf-8",
}
_DRAWING_S = 8.0  # a reject that is not drawn by then is not waited for
_LOGIN_BYTES = 4096


def make_app(line: Line, hub: Hub, *, token: Token, any_host: bool) -> ASGIApp:
    """The application of a line.

    Args:
        line: What is served.
        hub: Who watches it.
        token: Who may ask.
        any_host: Whether it may be addressed by any name, and not only as localhost.
    """
    routes = _Routes(line, hub, token)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with hub.running():
            yield

    return Starlette(
        routes=routes.table(),
        lifespan=lifespan,
        middleware=[Middleware(Access, token=token, any_host=any_host)],
        exception_handlers={HTTPException: _http_problem, Exception: _internal},
    )


class _Routes:
    """The handlers, which share the line."""

    def __init__(self, line: Line, hub: Hub, token: Token) -> None:
        self.hub = hub
        self._line, self._token = line, token
        self._names = {one.number: name for name, one in line.board.cameras.items()}
        self._judging = Judging(line.judge, line.unverified, line.max_pixels)
        self._saving = None if line.editing is None else Saving(line.editing)
        line.pictures.announce = self.hub.announce
        self._metrics = LineMetrics(
            line,
            buckets_s=BUCKETS_S,
            about=line.about,
            viewers=lambda: (self.hub.viewers, self.hub.dropped),
        )

    def table(self) -> list[Route | WebSocketRoute]:
        """Path -> handler."""
        camera = "/api/v1/cameras/{camera:int}"
        return [
            Route("/", self._page),
            Route("/edit", self._edit_page),
            Route("/static/{name}", self._static),
            Route("/login", self._login_page),
            Route("/login", self._login, methods=["POST"]),
            Route("/healthz", _alive),
            Route("/readyz", self._ready),
            Route("/metrics", self._metrics_text),
            Route("/api/openapi.json", self._openapi),
            Route("/api/v1/state", self._state),
            Route("/api/v1/model", self._model),
            Route("/api/v1/view", self._view, methods=["GET", "POST"]),
            Route("/api/v1/view/mask.png", self._view_mask),
            Route("/api/v1/detect", self._detect, methods=["POST"]),
            Route("/api/v1/pictures.mjpg", self._layers),
            Route(f"{camera}/video.mjpg", self._video),
            Route(f"{camera}/picture.jpg", self._picture),
            Route(f"{camera}/frame.jpg", self._frame),
            Route(f"{camera}/scores", self._scores),
            Route(f"{camera}/rejects/{{seq:int}}.jpg", self._reject),
            WebSocketRoute("/api/v1/live", self.hub.numbers),
        ]

    async def _page(self, _: Request) -> Response:
        return _asset("index.html", "text/html; charset=utf-8")

    async def _edit_page(self, _: Request) -> Response:
        if self._line.editing is None:
            return _missing()
        return _asset("edit.html", "text/html; charset=utf-8")

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        return _asset(name, _KINDS[name]) if name in _KINDS else _missing()

    async def _login_page(self, _: Request) -> Response:
        return _asset("login.html", "text/html; charset=utf-8")

    async def _login(self, request: Request) -> Response:
        try:
            body = await read_body(request, _LOGIN_BYTES)
        except BodyRefused as refused:
            return problem(refused.status, refused.code, refused.message, refused.hint)
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        if not self._token.matches(given):
            await asyncio.sleep(1.0)  # guessing is slow
            _log.warning("a wrong token was given at /login")
            return _asset("login.html", "text/html; charset=utf-8", status=401)
        entered = RedirectResponse("/", 303)
        is_https = request.url.scheme == "https"
        entered.set_cookie(
            COOKIE, self._token.cookie, httponly=True, samesite="strict", secure=is_https
        )
        return entered

    async def _ready(self, _: Request) -> Response:
        checks = self._line.readiness()
        ready = all(check.ok for check in checks)
        shown = [{"name": c.name, "ok": c.ok, "text": c.text} for c in checks]
        return JSONResponse({"ready": ready, "checks": shown}, 200 if ready else 503)

    async def _metrics_text(self, _: Request) -> Response:
        return Response(render(self._metrics), headers={"content-type": CONTENT_TYPE})

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(openapi_document(with_token=bool(self._token)))

    async def _state(self, _: Request) -> Response:
        try:
            return JSONResponse(self._line.state())
        except EdgeadError as error:
            return problem(503, error.code, error.message, error.hint)

    async def _model(self, _: Request) -> Response:
        return JSONResponse({**self._line.about(), "is_editable": self._line.editing is not None})

    async def _view(self, request: Request) -> Response:
        if self._line.editing is None or self._saving is None:
            return _missing()
        if request.method == "POST":
            return await self._saving(request)
        return JSONResponse(self._line.editing.about())

    async def _view_mask(self, _: Request) -> Response:
        mask = None if self._line.editing is None else self._line.editing.mask()
        return _missing() if mask is None else Response(mask, media_type="image/png")

    async def _frame(self, request: Request) -> Response:
        name = self._names.get(request.path_params["camera"])
        if name is None:
            return _missing()
        asked = self._line.pictures.frame_jpeg(name)
        if asked is None:
            return problem(503, "NO_PICTURE", "no frame of this camera was judged yet.")
        meta, drawing = asked
        return await _drawn(drawing, {"X-Meta": meta})

    async def _scores(self, request: Request) -> Response:
        name = self._names.get(request.path_params["camera"])
        if name is None:
            return _missing()
        return JSONResponse({"camera": name, "scores": self._line.board.scores(name)})

    async def _detect(self, request: Request) -> Response:
        return await self._judging(request)

    async def _layers(self, request: Request) -> Any:
        asked = [text for text in request.query_params.getlist("camera") if text.isascii()]
        wanted = {int(text) for text in asked if text.isdigit()} or set(self._names)
        cameras = {number: name for number, name in self._names.items() if number in wanted}
        return await self._stream(cameras, "layers")

    async def _video(self, request: Request) -> Any:
        number = request.path_params["camera"]
        if number not in self._names:
            return _missing()
        return await self._stream({number: self._names[number]}, "overlay")

    async def _stream(self, cameras: dict[int, str], kind: Any) -> Any:
        if not cameras:
            return _missing()
        return _Viewing(self.hub, MjpegResponse(self.hub, self._line.pictures, cameras, kind))

    async def _picture(self, request: Request) -> Response:
        name = self._names.get(request.path_params["camera"])
        if name is None:
            return _missing()
        loop = asyncio.get_running_loop()
        until = loop.time() + 2.0
        with self._line.pictures.watch([name], "overlay"):
            while (one := self._line.pictures.newest(name, "overlay")) is None:
                if loop.time() > until:
                    return problem(503, "NO_PICTURE", "no frame of this camera was judged yet.")
                await self.hub.picture()
        return Response(one.jpeg, media_type="image/jpeg", headers={"X-Meta": one.meta})

    async def _reject(self, request: Request) -> Response:
        name = self._names.get(request.path_params["camera"])
        is_large = request.query_params.get("size") == "large"
        seq = request.path_params["seq"]
        drawing = name and self._line.pictures.reject_jpeg(
            name, seq, "large" if is_large else "small"
        )
        if not drawing:
            return _missing()
        # Frame numbers begin again with each run: the page asks with the run's name.
        return await _drawn(drawing, {"Cache-Control": "private, max-age=3600, immutable"})


class _Viewing:
    """A stream of pictures that counts as a viewer while it lasts."""

    def __init__(self, hub: Hub, inner: MjpegResponse) -> None:
        self._hub, self._inner = hub, inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            with self._hub.viewer():
                await self._inner(scope, receive, send)
        except TooManyViewers:
            refused = problem(503, "TOO_MANY_VIEWERS", "too many watch.", "Close another page.")
            await refused(scope, receive, send)


async def _drawn(drawing: Future[bytes], headers: dict[str, str]) -> Response:
    """A picture once the encoder's thread has come to it."""
    try:
        jpeg = await asyncio.wait_for(_shared(drawing), _DRAWING_S)
    except (asyncio.TimeoutError, asyncio.CancelledError, EdgeadError):
        return problem(503, "NO_PICTURE", "the picture was not drawn in time.", "Try again.")
    return Response(jpeg, media_type="image/jpeg", headers=headers)


async def _shared(drawing: Future[bytes]) -> bytes:
    """Its result; giving up waiting does not cancel it for others who asked for the same."""
    return await asyncio.shield(asyncio.wrap_future(drawing))


async def _alive(_: Request) -> Response:
    return JSONResponse({"alive": True, "version": __version__})


async def _http_problem(_: Request, error: Exception) -> Response:
    """404 and 405 as typed errors."""
    assert isinstance(error, HTTPException)
    code = {404: "NOT_FOUND", 405: "METHOD"}.get(error.status_code, f"HTTP_{error.status_code}")
    answer = problem(error.status_code, code, str(error.detail), "See /api/openapi.json.")
    answer.headers.update(error.headers or {})
    return answer


async def _internal(_: Request, __: Exception) -> Response:
    """A bug of ours: the log has it, the answer does not."""
    return problem(500, "INTERNAL", "the server failed.", "Its log says why.")


def _missing() -> Response:
    return problem(404, "NOT_FOUND", "there is no such thing here.", "See /api/openapi.json.")


def _asset(name: str, kind: str, *, status: int = 200) -> Response:
    data = files("edgead.integrations.serve").joinpath("page").joinpath(name).read_bytes()
    return Response(data, status, headers={"content-type": kind})
