"""The editor's request: a drawing in, a bundle beside the running one out."""

from __future__ import annotations

import anyio.to_thread
import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgead.errors import EdgeadError, StorageError
from edgead.integrations.serve.access import problem
from edgead.integrations.serve.bodies import BodyRefused, read_body
from edgead.integrations.serve.editing import MAX_BODY, Drawn, Editing

__all__ = ["Saving"]


class Saving:
    """Saves one drawing at a time: a bundle is written whole.

    Args:
        editing: Where it is saved.
    """

    def __init__(self, editing: Editing) -> None:
        self._editing = editing
        self._is_busy = False

    async def __call__(self, request: Request) -> Response:
        """Answer a request, whatever is in it."""
        # A browser sends JSON to another site's server only when that server agrees first.
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return problem(415, "BODY_TYPE", "want Content-Type: application/json.")
        try:
            drawn = msgspec.json.decode(await read_body(request, MAX_BODY), type=Drawn)
        except BodyRefused as refused:
            return problem(refused.status, refused.code, refused.message, refused.hint)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            hint = "See Drawing in /api/openapi.json."
            return problem(422, "DRAWING", f"the drawing cannot be read: {error}.", hint)
        if self._is_busy:
            return problem(503, "BUSY", "another view is being saved.", "Try again in a second.")
        self._is_busy = True
        try:
            return JSONResponse(await anyio.to_thread.run_sync(self._editing.save, drawn))
        except StorageError as error:
            hint = f"{error.hint} The folder of the bundle must be writable.".strip()
            return problem(503, error.code, error.message, hint)
        except EdgeadError as error:
            return problem(422, error.code, error.message, error.hint)
        finally:
            self._is_busy = False
