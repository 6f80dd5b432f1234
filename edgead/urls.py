"""Camera addresses that never show their password: not in repr, logs, errors, metrics or journals.

A `SourceUrl` prints ``rtsp://***@10.0.0.5:554/…``. Only scheme, host and port are ever shown: some
cameras carry the password in the path or the query. Where a raw password makes the address
ambiguous (an ``@`` after the first ``/``), the host is withheld too, since showing the wrong part
would show a piece of the password. The real address comes from `SourceUrl.reveal`, which the one
line that opens the source calls.
"""

from __future__ import annotations

import json
import re
from urllib.parse import quote, quote_plus, unquote

from edgead.errors import SourceError

__all__ = ["SourceUrl"]

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://(.*)$", re.DOTALL)
_HOST = re.compile(r"^(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.%]+\])(?::[0-9]{1,5})?$")
_LOCAL = frozenset({"file", "v4l2"})
_SECRET_PAIR = re.compile(
    r'(?:pass|pwd|pw|token|secret|key|auth)\w*?=("[^"]*"|[^&;/?#\s]+)', re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: A shorter secret is likely to be part of ordinary words: the whole text is withheld instead.
_SHORTEST = 4
_HIDDEN = "***"


class SourceUrl:
    """The address of a camera, stream or file; prints without its secrets.

    Args:
        address: A URL, a path, or a device number as text.

    Attributes:
        scheme: Lower case, e.g. ``rtsp``; empty for a plain path or device number.

    Raises:
        SourceError: SOURCE_URL when the address is empty or holds control characters, which
            could smuggle lines into a camera's protocol.
    """

    __slots__ = ("_address", "_secrets", "_shown", "scheme")

    def __init__(self, address: str | SourceUrl) -> None:
        text = address.reveal() if isinstance(address, SourceUrl) else address
        found = _SCHEME.match(text)
        self.scheme = found[1].lower() if found else ""
        self._address = text
        if found and self.scheme not in _LOCAL:
            self._shown, self._secrets = _dissect(self.scheme, found[2])
        elif re.search(r":.*@", text, re.DOTALL):
            # Not a URL that we know, yet it looks like user:password@host with a typing error.
            rest = re.sub(r"^[A-Za-z0-9+.-]*:?/+", "", text)
            self._shown, self._secrets = _HIDDEN, {text, *_passwords(text), *_passwords(rest)}
        elif " ! " in text and _SECRET_PAIR.search(text):
            # A GStreamer pipeline, e.g. rtspsrc location=rtsp://10.0.0.5/s user-pw=…
            self._secrets = {value.strip("\"'") for value in _SECRET_PAIR.findall(text)}
            self._shown = _HIDDEN
        else:
            self._shown, self._secrets = text, set()
        if not text or _CONTROL.search(text):
            raise SourceError(
                "SOURCE_URL",
                "the source address is empty or holds control characters.",
                "Give a URL, a file or a device, e.g. rtsp://user:password@10.0.0.5/stream.",
            )

    @property
    def is_network(self) -> bool:
        """Whether it leads to another machine."""
        return bool(self.scheme) and self.scheme not in _LOCAL

    def reveal(self) -> str:
        """The address as given, with its password: for opening the source and nothing else."""
        return self._address

    def scrub(self, text: str) -> str:
        """``text``, e.g. a native library's error, without any spelling of this secret."""
        spellings = {form for secret in self._secrets for form in _spellings(secret)}
        for form in sorted(spellings, key=len, reverse=True):
            if form in text:
                if len(form) < _SHORTEST:
                    return "(text withheld: it may hold the password)"
                text = text.replace(form, _HIDDEN)
        return text

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"SourceUrl({self._shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SourceUrl) and other._address == self._address

    def __hash__(self) -> int:
        return hash(self._address)


def _dissect(scheme: str, rest: str) -> tuple[str, set[str]]:
    """What may be shown of ``scheme://rest``, and which parts must never be."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    _, at, host = authority.rpartition("@")
    tail = rest[len(authority) :]
    secrets = _passwords(rest)
    for value in _SECRET_PAIR.findall(tail):
        # XMeye cameras separate with "_": rtsp://host/user=a_password=b_channel=1
        secrets |= {value, value.split("_", 1)[0]}
    if len(tail) >= _SHORTEST:
        secrets |= {rest, tail}
    if "@" in tail:
        return f"{scheme}://{_HIDDEN}", secrets
    shown_host = host if _HOST.match(host) else _HIDDEN
    shown_tail = "/…" if len(tail) > 1 else ""
    return f"{scheme}://{_HIDDEN + at if at else ''}{shown_host}{shown_tail}", secrets


def _passwords(text: str) -> set[str]:
    """Every reading of the password in ``user:password@host/path``: one for each ``@``.

    Pieces between delimiters count too: a library that splits at another place shows those.
    """
    start = text.find(":") + 1
    readings = [text[start : at.start()] for at in re.finditer("@", text) if start < at.start()]
    if not start:
        readings = []
    if len(readings) > 1:  # a short one is then a piece; as the whole password it counts
        readings = [reading for reading in readings if len(reading) >= _SHORTEST]
    pieces = {piece for reading in readings for piece in re.split(r"[@/?#:]", reading)}
    userinfo = {text[: at.start()] for at in re.finditer("@", text) if at.start() >= _SHORTEST}
    return userinfo.union(readings, (p for p in pieces if len(p) >= _SHORTEST))


def _spellings(secret: str) -> set[str]:
    """How libraries print a secret: raw, percent-coded, or escaped as by Python or JSON."""
    forms = {secret, unquote(secret)}
    forms |= {coded for s in forms for coded in (quote(s, safe=""), quote(s), quote_plus(s))}
    forms |= {form.lower() for form in forms if "%" in form}
    escaped = {repr(form)[1:-1] for form in forms} | {json.dumps(form)[1:-1] for form in forms}
    return forms | escaped
