"""The body of a request, read with a bound on its size and on patience."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

__all__ = ["BodyRefused", "read_body"]

_BODY_S = 15.0  # a body that takes longer is given up


class BodyRefused(Exception):
    """A body that is not read on; what the answer says.

    Attributes:
        status: Of the answer.
        code: Stable, as of `edgead.integrations.serve.access.problem`.
        message: What is wrong.
        hint: What to do.
    """

    def __init__(self, status: int, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint


async def read_body(request: Request, most: int) -> bytes:
    """The whole body, refused as soon as it is known to be too long.

    Args:
        request: Its body was not read yet.
        most: Bytes.

    Raises:
        BodyRefused: BODY_ENCODING, BODY_SLOW, BODY_INCOMPLETE or BODY_TOO_LARGE.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise BodyRefused(
            415, "BODY_ENCODING", "compressed bodies are not taken.", "Send it as it is."
        )
    try:
        return await asyncio.wait_for(_joined(request, most), _BODY_S)
    except asyncio.TimeoutError:
        text = f"no whole body in {_BODY_S:g} s."
        raise BodyRefused(408, "BODY_SLOW", text, "Try again.") from None
    except ClientDisconnect:
        raise BodyRefused(400, "BODY_INCOMPLETE", "the client went away.", "Try again.") from None


async def _joined(request: Request, most: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(most)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


def _too_large(most: int) -> BodyRefused:
    size = f"{most // 1024**2} MiB" if most >= 1024**2 else f"{most // 1024} KiB"
    return BodyRefused(413, "BODY_TOO_LARGE", f"the body is over {size}.", "Send less.")
