"""Addresses of outputs, one grammar for all.

    SCHEME://[user[:password]@][host][:port][/path][?option=value&option=value]

User and password may also come from the environment (``EDGEAD_MQTT_USER``, ``EDGEAD_MQTT_PASSWORD``;
likewise ``OPCUA`` and ``HTTP``), which keeps them out of the list of processes.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from edgead.errors import ConfigError, SourceError
from edgead.urls import SourceUrl

__all__ = ["OutputAddress", "count", "flag", "number", "text"]


@dataclass(frozen=True)
class OutputAddress:
    """The address of an output; prints without its secrets.

    Attributes:
        scheme: Lower case.
        host: Empty when none was given.
        port: None when none was given.
        path: Without the leading slash, decoded.
        user: None when none was given, here or in the environment.
        password: Likewise.
        query: Everything after the ``?``, as given.
        shown: The address without secrets.
    """

    scheme: str
    host: str
    port: int | None
    path: str
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    query: str = field(repr=False)
    given: SourceUrl = field(repr=False)

    @classmethod
    def parse(cls, uri: str, *, schemes: Mapping[str, str]) -> OutputAddress:
        """Read an address.

        Args:
            uri: As of the grammar above.
            schemes: Known scheme -> the name of its variables in the environment.

        Raises:
            ConfigError: OUTPUT_ADDRESS when it is none, OUTPUT_SCHEME when nothing speaks it.
        """
        try:
            given = SourceUrl(uri)
            parts = urlsplit(uri)
            host, port = parts.hostname or "", parts.port
        except (SourceError, ValueError) as error:
            raise ConfigError(
                "OUTPUT_ADDRESS", "an output's address cannot be read.", _GRAMMAR
            ) from error
        if "://" not in uri:
            text = f"the output {given} is no address."
            raise ConfigError("OUTPUT_ADDRESS", text, _GRAMMAR)
        if parts.scheme not in schemes:
            near = difflib.get_close_matches(parts.scheme, schemes, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(
                "OUTPUT_SCHEME",
                f"no output speaks {parts.scheme!r}{meant}.",
                f"There are: {', '.join(schemes)}.",
            )
        prefix = f"EDGEAD_{schemes[parts.scheme]}"
        user = (
            os.environ.get(f"{prefix}_USER") if parts.username is None else unquote(parts.username)
        )
        word = (
            os.environ.get(f"{prefix}_PASSWORD")
            if parts.password is None
            else unquote(parts.password)
        )
        path = unquote(parts.path).strip("/")
        return cls(parts.scheme, host, port, path, user, word, parts.query, given)

    @property
    def shown(self) -> str:
        """The address without secrets."""
        return str(self.given)

    def require_host(self) -> None:
        """Refuse an address that leads nowhere.

        Raises:
            ConfigError: OUTPUT_ADDRESS.
        """
        if not self.host:
            text = f"the output {self.shown} names no host."
            raise ConfigError("OUTPUT_ADDRESS", text, _GRAMMAR)

    def options(self, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
        """The options that were given.

        Args:
            readers: Option -> what makes its value of the text; it raises ValueError.

        Raises:
            ConfigError: OUTPUT_OPTION for an unknown, repeated or unreadable one.
        """
        found: dict[str, Any] = {}
        for name, value in parse_qsl(self.query, keep_blank_values=True):
            if name not in readers:
                near = difflib.get_close_matches(name, readers, n=1)
                meant = f" (did you mean {near[0]!r}?)" if near else ""
                known = ", ".join(readers)
                raise self._refused(f"has no option {name!r}{meant}.", f"There are: {known}.")
            if name in found:
                raise self._refused(f"has the option {name!r} twice.", "Give it once.")
            try:
                found[name] = readers[name](value)
            except ValueError as error:
                text = f"has {name}={value!r}; want {error}."
                raise self._refused(text, "Correct it or leave it out.") from error
        return found

    def _refused(self, text: str, hint: str) -> ConfigError:
        return ConfigError("OUTPUT_OPTION", f"{self.shown} {text}", hint)


_GRAMMAR = (
    "Want scheme://[user:password@]host[:port][/path][?option=value], special characters as %XX."
)


def text(value: str) -> str:
    """Any text but none."""
    if not value:
        raise ValueError("a text")
    return value


def flag(value: str) -> bool:
    """Yes or no."""
    if value not in ("yes", "no"):
        raise ValueError("yes or no")
    return value == "yes"


def number(value: str) -> float:
    """A number above 0."""
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e9:
        raise ValueError("a number above 0")
    return found


def count(value: str) -> int:
    """A whole number above 0."""
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 10**9):
        raise ValueError("a whole number above 0")
    return int(value)
