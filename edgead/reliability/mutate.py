"""Seeded damage: bytes of any file, and values of a JSON tree."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

__all__ = ["mutate_bytes", "mutate_json", "mutate_tree"]

_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.0, -0.0, 0.5, 1e308),
    *(-1e308, 5e-324, "", "0.5", "NaN", "../x", "a" * 5000, "\0", "\ud800", "é", "schema"),
    *([], {}, [[]], [{}], {"": 0}, [0] * 1000, [1.5, None], {"bytes": -1, "sha256": "0" * 64}),
)


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """``data`` with one to four changes: flips, edge numbers, cuts, copies, insertions."""
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        _CHANGES[draw.randrange(len(_CHANGES))](damaged, draw)
    return bytes(damaged)


def _flip(data: bytearray, draw: random.Random) -> None:
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _replace(data: bytearray, draw: random.Random) -> None:
    if data:
        data[draw.randrange(len(data))] = draw.randrange(256)


def _edge(data: bytearray, draw: random.Random) -> None:
    """Overwrite 1, 2 or 4 bytes with a number at the edge of a type."""
    size = draw.choice((1, 2, 4))
    if len(data) >= size:
        at = draw.randrange(len(data) - size + 1)
        value = draw.choice(_EDGES) & ((1 << 8 * size) - 1)
        data[at : at + size] = value.to_bytes(size, draw.choice(("little", "big")))


def _cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data) + 1) :]


def _remove(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data) + 1)
    del data[at : at + draw.choice((1, 2, 4, 16, 64))]


def _insert(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data) + 1)
    data[at:at] = draw.choice((b"\0", b"\xff", b"\0\0\0\0", draw.randbytes(4), draw.randbytes(32)))


def _copy(data: bytearray, draw: random.Random) -> None:
    """Insert or overwrite with a piece of the file itself."""
    start = draw.randrange(len(data) + 1)
    piece = data[start : start + draw.choice((4, 16, 64, 256))]
    at = draw.randrange(len(data) + 1)
    data[at : at + draw.choice((0, len(piece)))] = piece


def _extend(data: bytearray, draw: random.Random) -> None:
    data += draw.choice((b"\0", b"\n", draw.randbytes(8), bytes(data[:64])))


_CHANGES = (_flip, _flip, _replace, _edge, _cut, _remove, _insert, _copy, _extend)


def mutate_json(data: bytes, draw: random.Random) -> bytes:
    """A JSON file changed in its tree, in its text (keys twice, NaN), or in its bytes."""
    kind = draw.randrange(10)
    if kind < 6:
        return json.dumps(mutate_tree(json.loads(data), draw)).encode("utf-8", "surrogatepass")
    if kind == 6:
        return mutate_bytes(data, draw)
    text = data.decode()
    if kind == 7:  # a key twice
        keys = [part.split('"')[0] for part in text.split('"')[1:] if part]
        key = draw.choice(keys)
        return text.replace("{", '{"' + key + '": 1, "' + key + '": 2, ', 1).encode()
    if kind == 8:  # what JSON does not have
        odd = draw.choice(("NaN", "Infinity", "-Infinity", "1e999", "0x10", "01", "'a'", "// x\n1"))
        values = [at for at, letter in enumerate(text) if letter == ":"]
        at = draw.choice(values)
        return (text[: at + 1] + odd + text[at + 1 :].lstrip(" 0123456789.-")).encode()
    depth = draw.choice((20, 1000, 100_000))
    return text.replace(":", ":" + "[" * depth + "]" * depth + ",", 1).encode()


def mutate_tree(tree: Any, draw: random.Random) -> Any:
    """A copy of a JSON tree with one to three values, keys or items changed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return draw.choice(_ODD_VALUES)
        parent, key = draw.choice(places)
        _CHANGE_PLACE[draw.randrange(len(_CHANGE_PLACE))](parent, key, draw)
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in the tree."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        pairs = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in list(pairs):
            found.append((part, key))
            if isinstance(value, (dict, list)):
                waiting.append(value)
    return found


def _other_value(parent: Any, key: Any, draw: random.Random) -> None:
    parent[key] = copy.deepcopy(draw.choice(_ODD_VALUES))


def _near_value(parent: Any, key: Any, draw: random.Random) -> None:
    value = parent[key]
    if isinstance(value, bool) or value is None:
        parent[key] = draw.choice((0, 1, "true", None))
    elif isinstance(value, (int, float)):
        # A change of a changed file may meet an integer that no float holds.
        near = value if abs(value) < 1e300 else 1
        parent[key] = draw.choice((near + 1, -value, near * 1e6, float(near), str(near), [value]))
    elif isinstance(value, str):
        parent[key] = draw.choice((value[:-1], value + "x", value.upper(), value[::-1], [value]))
    else:
        parent[key] = draw.choice((None, list(value), {"a": value}))


def _drop(parent: Any, key: Any, _: random.Random) -> None:
    del parent[key]


def _rename(parent: Any, key: Any, draw: random.Random) -> None:
    if isinstance(parent, dict):
        name = str(key)
        parent[draw.choice((name + "s", name[:-1], name.upper(), "", "__class__"))] = parent.pop(
            key
        )
    else:
        parent.insert(key, copy.deepcopy(parent[key]))


_CHANGE_PLACE = (_other_value, _near_value, _drop, _rename)
