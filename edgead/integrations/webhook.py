"""Webhook: every outcome as one HTTP POST of the JSON line of ``edgead run``, in order, with retries."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.parse import urlsplit

from edgead.errors import OutputError
from edgead.integrations.addresses import OutputAddress
from edgead.integrations.output import LineState, Output, Result

__all__ = ["WebhookOutput", "output_from_address"]

_FIRST_S = 0.2
_LONGEST_S = 10.0
#: These pass; every other refusal is for good.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class WebhookOutput(Output):
    """POSTs results to a web address.

    The header ``Idempotency-Key`` is the same when a result is sent again. The heartbeat of this
    output is the flow of its requests: a receiver that controls something rejects when they stop.

    Args:
        url: http or https, without user and password.
        name: As shown, without secrets.
        user: For basic authentication; None for none.
        password: Likewise.
        attempts: After so many a result is given up.
        timeout_s: Of one attempt.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        user: str | None = None,
        password: str | None = None,
        attempts: int = 8,
        timeout_s: float = 5.0,
    ) -> None:
        super().__init__(name)
        self._url = url
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json", "User-Agent": "edgead"}
        if user is not None:
            secret = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {secret}"
        self._tried = 0
        self._not_before = 0.0
        self._closed = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirect)

    def open(self) -> None:
        """Nothing to open: an address that does not answer is tried again."""

    def send(self, result: Result, wait_s: float) -> bool:
        """One attempt, or a part of the pause after one that failed."""
        if (pause := self._not_before - time.monotonic()) > 0:
            self._closed.wait(min(pause, wait_s))
            if pause > wait_s:
                return False
        failure = self._post(result)
        if not failure:
            self._tried = 0
            self.delivered += 1
            self.note(None)
            return True
        self._tried += 1
        error = OutputError(
            "WEBHOOK", f"{self.name} {failure}.", "Results wait and are sent again."
        )
        if self._tried >= self._attempts:
            self._tried = 0
            raise OutputError("WEBHOOK_LOST", f"{self.name} {failure}, {self._attempts} times.")
        self.note(error)
        self._not_before = time.monotonic() + min(_LONGEST_S, _FIRST_S * 2 ** (self._tried - 1))
        return False

    def beat(self, state: LineState) -> None:
        """A webhook has no heartbeat but its results."""

    def close(self) -> None:
        """End a pause."""
        self._closed.set()

    def _post(self, result: Result) -> str:
        """Send once; what went wrong, empty when nothing did."""
        request = urllib.request.Request(
            self._url,
            data=json.dumps(result.outcome.to_json()).encode(),
            headers={**self._headers, "Idempotency-Key": result.id},
            method="POST",
        )
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                answer.read(1 << 16)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in _PASSING:
                self._tried = 0
                text = f"{self.name} refuses with HTTP {error.code}."
                raise OutputError("WEBHOOK_REFUSED", text, "Correct the address.") from error
            return f"answers HTTP {error.code}"
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            return f"does not answer ({getattr(reason, 'strerror', None) or reason})"
        return ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without the result."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """None: the redirection itself is the error."""


def output_from_address(address: OutputAddress) -> WebhookOutput:
    """The webhook of an address; its query is the receiver's own.

    Raises:
        ConfigError: OUTPUT_ADDRESS without a host.
    """
    address.require_host()
    parts = urlsplit(address.given.reveal())
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return WebhookOutput(url, name=address.shown, user=address.user, password=address.password)
