"""One image in, one verdict out: the REST endpoint beside the line, which it may never hold up."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgead import images
from edgead.errors import BackendError, EdgeadError, FrameError, StateError
from edgead.integrations.serve.access import problem
from edgead.integrations.serve.bodies import BodyRefused, read_body
from edgead.stream.checks import DetectionCheck
from edgead.types import Detection, Frame

__all__ = ["MAX_BODY", "Judging"]

_log = logging.getLogger("edgead.serve")

MAX_BODY = 32 * 1024 * 1024
_WAITING = 4  # requests, the one that runs included
#: Every error says that nothing may be accepted.
_UNKNOWN: dict[str, Any] = {"verdict": "UNKNOWN", "accept": False}


class Judging:
    """Judges one uploaded image at a time.

    Args:
        judge: The detector of the line, or another.
        unverified: Why the model may not be trusted now; empty when it may.
        max_pixels: Larger images are refused before they are decoded.
    """

    def __init__(
        self, judge: Callable[[Frame], Detection], unverified: Callable[[], str], max_pixels: int
    ) -> None:
        self.answers: dict[int, int] = {}
        self._judge, self._unverified = judge, unverified
        self._limits = images.ImageLimits(max_pixels=max_pixels, max_bytes=MAX_BODY)
        self._turn = asyncio.Lock()
        self._inside = 0
        self._numbers = itertools.count()

    async def __call__(self, request: Request) -> Response:
        """Answer a request, whatever is in it."""
        if self._inside >= _WAITING:
            answer: Response = _busy()
        else:
            self._inside += 1
            try:
                answer = await self._answer(request)
            finally:
                self._inside -= 1
        self.answers[answer.status_code] = self.answers.get(answer.status_code, 0) + 1
        return answer

    async def _answer(self, request: Request) -> Response:
        why = self._unverified()
        if why:
            return problem(503, "MODEL_UNVERIFIED", why, "Run edgead verify.", **_UNKNOWN)
        try:
            body = await read_body(request, MAX_BODY)
        except BodyRefused as refused:
            return problem(refused.status, refused.code, refused.message, refused.hint, **_UNKNOWN)
        if not body:
            hint = "Send the image file as the body."
            return problem(422, "IMAGE_EMPTY", "the body is empty.", hint, **_UNKNOWN)
        async with self._turn:
            return await anyio.to_thread.run_sync(self._judged, body)

    def _judged(self, body: bytes) -> Response:
        try:
            frame = images.decode(body, name="the image", limits=self._limits)
            numbered = replace(frame, source_id="rest", seq=next(self._numbers))
            found = self._judge(numbered)
            wrong = DetectionCheck()(found)
            if wrong is not None:
                raise wrong
        except (BackendError, StateError) as error:
            _log.error("REST: %s", error)
            return problem(503, error.code, error.message, error.hint, **_UNKNOWN)
        except FrameError as error:
            return problem(422, error.code, error.message, error.hint, **_UNKNOWN)
        except EdgeadError as error:
            return problem(503, error.code, error.message, error.hint, **_UNKNOWN)
        except Exception:
            _log.exception("REST: the judge raised")
            hint = "Its log says why."
            return problem(503, "BACKEND_ERROR", "the judge failed.", hint, **_UNKNOWN)
        return JSONResponse({**found.to_json(), "is_simulated": True})


def _busy() -> Response:
    text = f"{_WAITING} images are being judged or wait."
    answer = problem(503, "BUSY", text, "Try again in a second.", **_UNKNOWN)
    answer.headers["Retry-After"] = "1"
    return answer
