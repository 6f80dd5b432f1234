"""A PLC as far as the outputs are concerned: it polls, acknowledges, watches the heartbeat, and rejects."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pymodbus.client import ModbusTcpClient

from edgead.integrations import modbus_map as at

#: The heartbeat changes every 0.2 s; three missed changes are a stall.
WATCHDOG_S = 0.6


@dataclass(frozen=True)
class Block:
    """The registers, decoded as docs/plc.md says."""

    words: Sequence[int]

    @property
    def heartbeat(self) -> int:
        return self.words[0]

    @property
    def state(self) -> int:
        return self.words[1]

    @property
    def ready(self) -> bool:
        return bool(self.words[2] & 1)

    @property
    def busy(self) -> bool:
        return bool(self.words[2] & 2)

    @property
    def result_valid(self) -> bool:
        return bool(self.words[2] & 4)

    @property
    def accept(self) -> bool:
        return bool(self.words[2] & 8)

    @property
    def sequence(self) -> int:
        assert self.words[4] == self.words[34], "the block is torn"
        return self.words[4]

    @property
    def number(self) -> int:
        return self._long(5)

    @property
    def verdict(self) -> int:
        return self.words[7]

    @property
    def status(self) -> int:
        return self.words[8]

    @property
    def score(self) -> float:
        return self._float(10)

    @property
    def threshold(self) -> float:
        return self._float(12)

    @property
    def part_number(self) -> int:
        return self._long(14)

    @property
    def age_ms(self) -> int:
        return self.words[16]

    @property
    def trigger(self) -> int:
        return self.words[17]

    @property
    def part(self) -> str:
        return struct.pack(">16H", *self.words[18:34]).rstrip(b"\0").decode("ascii")

    @property
    def counters(self) -> tuple[int, int, int, int]:
        """Good, defect, unknown, lost."""
        return self._long(40), self._long(42), self._long(44), self._long(46)

    def _long(self, n: int) -> int:
        return self.words[n] << 16 | self.words[n + 1]

    def _float(self, n: int) -> float:
        (value,) = struct.unpack(">f", struct.pack(">2H", *self.words[n : n + 2]))
        return float(value)


class Plc:
    """Polls over a real socket.

    Attributes:
        is_alive: The heartbeat has changed within `WATCHDOG_S`; without it every part is rejected.
    """

    def __init__(self, port: int) -> None:
        self._client = ModbusTcpClient("127.0.0.1", port=port, timeout=30)
        assert self._client.connect()
        self._beat = -1
        self._changed = 0.0
        self.is_alive = False

    def read(self) -> Block:
        """One scan."""
        answer = self._client.read_holding_registers(0, count=at.SIZE)
        assert not answer.isError(), answer
        return self._seen(Block(answer.registers))

    def exchange(self, sequence: int) -> Block:
        """Acknowledge and read in one request, function code 23."""
        answer = self._client.readwrite_registers(
            read_address=0, read_count=at.SIZE, write_address=at.ACKNOWLEDGE, values=[sequence]
        )
        assert not answer.isError(), answer
        return self._seen(Block(answer.registers))

    def _seen(self, block: Block) -> Block:
        now = time.monotonic()
        if block.heartbeat != self._beat:
            self.is_alive = self._beat >= 0  # the first value proves nothing
            self._beat, self._changed = block.heartbeat, now
        elif now - self._changed > WATCHDOG_S:
            self.is_alive = False
        return block

    def would_accept(self) -> bool:
        """What the ejector does with the part now: False rejects it."""
        block = self.read()
        return self.is_alive and block.result_valid and block.accept

    def write(self, address: int, *values: int) -> None:
        answer = self._client.write_registers(address, list(values))
        assert not answer.isError(), answer

    def acknowledge(self, block: Block) -> None:
        self.write(at.ACKNOWLEDGE, block.sequence)

    def refused(self, address: int, *values: int) -> bool:
        """Whether a write is answered by an exception."""
        return bool(self._client.write_registers(address, list(values)).isError())

    def close(self) -> None:
        self._client.close()
