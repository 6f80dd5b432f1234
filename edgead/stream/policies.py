"""What happens when frames come faster than they are judged: four bounded policies, nothing hidden."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgead.errors import ConfigError

__all__ = ["Policy", "parse_policy"]

PolicyName = Literal["every", "latest", "drop_oldest", "reject_when_full"]
_NAMES: dict[str, int] = {"every": 8, "latest": 1, "drop_oldest": 8, "reject_when_full": 4}
_FOR_KIND: dict[str, PolicyName] = {
    "file": "every",
    "live": "latest",
    "triggered": "reject_when_full",
}
_PATTERN = re.compile(r"^(?P<name>[a-z_]+)(?:\((?P<bound>\d+)\))?$")


@dataclass(frozen=True)
class Policy:
    """A queue policy.

    Attributes:
        name: ``every``: the source waits while the queue is full. ``latest``: a new frame replaces
            the one that waits (SUPERSEDED). ``drop_oldest``: the oldest waiting frame goes
            (QUEUE_FULL). ``reject_when_full``: the new frame is rejected at once (QUEUE_FULL).
        bound: Most frames that wait, >= 1.
    """

    name: PolicyName
    bound: int

    def __str__(self) -> str:
        return self.name if self.name == "latest" else f"{self.name}({self.bound})"


def parse_policy(text: str, *, kind: str = "file") -> Policy:
    """Read ``every``, ``latest``, ``drop_oldest(8)``, ``reject_when_full(4)`` or ``auto``.

    Args:
        text: The policy; a bound in brackets is optional, ``latest`` takes none but 1.
        kind: Kind of source that ``auto`` fits: file, live or triggered.

    Raises:
        ConfigError: POLICY for anything else.
    """
    if text == "auto":
        name = _FOR_KIND[kind]
        return Policy(name, _NAMES[name])
    found = _PATTERN.match(text)
    names = ", ".join(_NAMES)
    if found is None or found["name"] not in _NAMES:
        raise ConfigError(
            "POLICY", f"policy is {text!r}; want auto or one of {names}.", "e.g. drop_oldest(8)."
        )
    name = found["name"]  # type: ignore[assignment]
    bound = _NAMES[name] if found["bound"] is None else int(found["bound"])
    if bound < 1 or (name == "latest" and bound != 1):
        raise ConfigError(
            "POLICY",
            f"policy {text!r} has a bound of {bound}; latest keeps 1, the others 1 or more.",
        )
    return Policy(name, bound)
