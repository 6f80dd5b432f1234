"""Passwords that cameras really have: every delimiter of an address, quotes, accents."""

from __future__ import annotations

import random
import string

__all__ = ["odd_passwords"]

_ODD = string.ascii_letters + string.digits + "@:/?#[]!$&'()*+,;=%\"\\<>^`{|}~ é€"


def odd_passwords(count: int) -> list[str]:
    """So many, always the same."""
    draw = random.Random(7)
    return ["".join(draw.choices(_ODD, k=draw.randint(6, 20))) for _ in range(count)]
