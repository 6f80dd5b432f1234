"""docs/plc.md says what the registers, the options and the snippets really are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgead.integrations import modbus_map as at
from edgead.integrations.opcua_model import EVENT_TYPE, FIELDS, NAMESPACE
from edgead.integrations.publisher import _SCHEMES, BEAT_S

_TEXT = (Path(__file__).parents[2] / "docs" / "plc.md").read_text()


def register_of(words: str) -> int:
    """First register of the row that begins with these words."""
    (found,) = re.findall(rf"^\| (\d+)[^|]*\| {re.escape(words)}", _TEXT, re.MULTILINE)
    return int(found)


@pytest.mark.parametrize(
    ("words", "register"),
    [
        ("heartbeat", at.HEARTBEAT),
        ("state:", at.STATE),
        ("bits:", at.SIGNALS),
        (f"version of this table: {at.VERSION}", at.MAP_VERSION),
        ("sequence of the result", at.SEQUENCE),
        ("number of the result", at.NUMBER),
        ("verdict:", at.VERDICT),
        ("result state:", at.STATUS),
        ("bit 0: simulated", at.FLAGS),
        ("score", at.SCORE),
        ("threshold", at.THRESHOLD),
        ("part id where", at.PART),
        ("age of", at.AGE_MS),
        ("number of the trigger", at.TRIGGER),
        ("part id as text", at.PART_TEXT),
        ("the sequence again", at.SEQUENCE_END),
        ("counters", at.COUNTERS),
        ("*write* the sequence", at.ACKNOWLEDGE),
        ("*write* the number of a trigger", at.TRIGGER_COMMAND),
        ("*write* the part", at.PART_COMMAND),
        ("*write* 1 to reset", at.RESET),
    ],
)
def test_registers(words: str, register: int) -> None:
    assert register_of(words) == register


def test_names() -> None:
    assert all(f"`{scheme}://" in _TEXT for scheme in _SCHEMES if scheme != "http")
    assert all(re.search(rf"\b{name}\b", _TEXT) for name in (*FIELDS, EVENT_TYPE, NAMESPACE))
    assert f"toggles every {BEAT_S} s" in _TEXT


def test_snippets(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pymodbus.server", reason="pip install 'edgead[plc]'")
    snippets = re.findall(r"```python\n(.*?)```", _TEXT, re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        exec(snippet, {})
    assert "modbus://127.0.0.1:0 0 0 0 0" in capsys.readouterr().out
