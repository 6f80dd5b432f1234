"""The registers of the Modbus server: where what stands. Documented for PLC programmers in docs/plc.md.

Addresses are those of the protocol, from 0 (40001 in the old notation is 0). Values of two registers
have the high word first.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from edgead.integrations.output import LineState, Result
from edgead.stream.handshake import Signals
from edgead.types import Status, Verdict

__all__ = ["COMMANDS", "SIZE", "VERSION", "Counters", "registers_of"]

VERSION = 1
#: Read-only registers, from 0.
SIZE = 64

HEARTBEAT = 0
STATE = 1
SIGNALS = 2
MAP_VERSION = 3
SEQUENCE = 4
NUMBER = 5  # and 6
VERDICT = 7
STATUS = 8
FLAGS = 9
SCORE = 10  # and 11
THRESHOLD = 12  # and 13
PART = 14  # and 15
AGE_MS = 16
TRIGGER = 17
PART_TEXT = 18  # to 33
PART_TEXT_BYTES = 32
SEQUENCE_END = 34
COUNTERS = 40  # good, defect, unknown, lost; each two

#: What the PLC writes: acknowledge, trigger, part (2), reset.
COMMANDS = 100
ACKNOWLEDGE = 100
TRIGGER_COMMAND = 101
PART_COMMAND = 102  # and 103
RESET = 104

#: OPC 40100-1, 12.19: Completed, Aborted, Failed.
_STATUS = {Status.RESULT: 1, Status.DROPPED: 3, Status.FAILED: 4}


@dataclass
class Counters:
    """Results shown so far by verdict, and those lost; each modulo 2**32."""

    good: int = 0
    defect: int = 0
    unknown: int = 0
    lost: int = 0

    def add(self, verdict: Verdict) -> None:
        """One more was shown."""
        self.good += verdict is Verdict.GOOD
        self.defect += verdict is Verdict.DEFECT
        self.unknown += verdict is Verdict.UNKNOWN


def registers_of(
    result: Result | None,
    signals: Signals,
    *,
    is_open: bool,
    heartbeat: int,
    state: LineState,
    counters: Counters,
    now_ns: int,
) -> list[int]:
    """All read-only registers.

    Args:
        result: The newest result shown; None before the first.
        signals: Of the handshake; without ``result_valid`` no verdict, score or part is shown.
        is_open: Whether the signals speak of that result: a trigger that found no answer has none.
        heartbeat: 0 or 1.
        state: What the line may rely on.
        counters: As of `Counters`.
        now_ns: Monotonic time, for the result's age.
    """
    words = [0] * SIZE
    words[HEARTBEAT] = heartbeat
    words[STATE] = state
    words[SIGNALS] = (
        signals.ready | signals.busy << 1 | signals.result_valid << 2 | signals.accept << 3
    )
    words[MAP_VERSION] = VERSION
    words[AGE_MS] = 0xFFFF
    words[TRIGGER] = _whole(signals.trigger_id, 0xFFFF)
    _put(words, SCORE, _float(math.nan))
    _put(words, THRESHOLD, _float(math.nan))
    if result is not None:
        words[SEQUENCE] = words[SEQUENCE_END] = sequence_of(result)
        _put(words, NUMBER, _long(result.number))
        if signals.result_valid and is_open:
            _put_result(words, result, signals, now_ns)
    for n, value in enumerate(astuple(counters)):
        _put(words, COUNTERS + 2 * n, _long(value))
    return words


def sequence_of(result: Result) -> int:
    """What the PLC writes back to acknowledge: 1 to 65535, +1 a result; 0 acknowledges nothing."""
    return (result.number - 1) % 0xFFFF + 1


def _put_result(words: list[int], result: Result, signals: Signals, now_ns: int) -> None:
    outcome = result.outcome
    found = outcome.detection
    part = outcome.part_id or ""
    words[VERDICT] = signals.verdict
    words[STATUS] = _STATUS[outcome.status]
    words[FLAGS] = int(outcome.is_simulated)
    words[AGE_MS] = min(0xFFFF, max(0, (now_ns - outcome.settled_mono_ns) // 1_000_000))
    words[TRIGGER] = _whole(outcome.trigger_id or signals.trigger_id, 0xFFFF)
    _put(words, PART, _long(_whole(part, 0xFFFF_FFFF)))
    _put(words, PART_TEXT, _text(part))
    if found is not None:
        _put(words, SCORE, _float(found.score))
        _put(words, THRESHOLD, _float(found.threshold))


def _put(words: list[int], at: int, values: Sequence[int]) -> None:
    words[at : at + len(values)] = values


def _long(value: int) -> tuple[int, int]:
    return (value >> 16) & 0xFFFF, value & 0xFFFF


def _float(value: float) -> tuple[int, ...]:
    if abs(value) > 3.4e38:  # also infinite: float32 has no room for it
        value = math.copysign(math.inf, value)
    return struct.unpack(">2H", struct.pack(">f", value))


def _whole(text: str, largest: int) -> int:
    """An id that is a number, else 0."""
    is_whole = text.isascii() and text.isdigit() and len(text) <= 10
    value = int(text) if is_whole else 0
    return value if value <= largest else 0


def _text(text: str) -> tuple[int, ...]:
    data = text.encode("ascii", "replace")[:PART_TEXT_BYTES].ljust(PART_TEXT_BYTES, b"\0")
    return struct.unpack(f">{PART_TEXT_BYTES // 2}H", data)
