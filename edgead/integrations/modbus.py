"""Modbus TCP: a server whose registers a PLC polls; results by handshake, with a heartbeat.

A result stays until the PLC acknowledges it, by writing its sequence number back; the next one comes
then, so that a slow poll loses none. One that nobody acknowledges within ``hold_s`` is lost and counted.
The PLC may also trigger: it writes the number of its trigger, and `ModbusOutput.next_trigger` hands it
to the program that takes the picture. Registers: `edgead.integrations.modbus_map`, docs/plc.md.

Modbus has no login and no encryption: it belongs into the machine's own network.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from edgead.errors import OutputError
from edgead.integrations import modbus_map as at
from edgead.integrations.addresses import OutputAddress, count, flag, number
from edgead.integrations.background import Background
from edgead.integrations.output import LineState, Output, Result, check_port, library
from edgead.stream.handshake import (
    Acknowledge,
    Event,
    Handshake,
    Mode,
    NotReady,
    Reset,
    Trigger,
    TriggerLow,
)
from edgead.stream.handshake import Result as Shown

__all__ = ["ModbusOutput", "PlcTrigger", "output_from_address"]

_START_S = 10.0
_TRIGGERS = 16
#: Function codes that write registers: single, multiple, masked, read and write.
_WRITES = frozenset({6, 16, 22, 23})


@dataclass(frozen=True)
class PlcTrigger:
    """A trigger that the PLC has raised.

    Attributes:
        trigger_id: Its number as text: give it to `edgead.stream.Triggered.on_trigger`.
        part_id: The part's number as text, None where the PLC wrote 0.
    """

    trigger_id: str
    part_id: str | None


class ModbusOutput(Output):
    """Serves the registers. Safe from several threads.

    Args:
        host: Address to listen on.
        port: 0 takes a free one: see `port`.
        name: As shown.
        acknowledge: Each result waits for the PLC; False: each replaces the one before.
        hold_s: So long a result waits for the PLC before it is lost.
        queue: Results that may wait behind it.

    Attributes:
        port: The port in use once it is open.
        handshake: Where the handshake stands.
    """

    queue = 100

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 502,
        *,
        name: str = "modbus",
        acknowledge: bool = True,
        hold_s: float = 2.0,
        queue: int = 100,
    ) -> None:
        super().__init__(name)
        self.port = port
        self.queue = queue
        self.handshake = Handshake(mode=Mode.NOT_READY, reason=LineState.OFFLINE.name)
        self._host = host
        self._acknowledge = acknowledge
        self._hold_ns = int(hold_s * 1e9)
        self._changed = threading.Condition()
        self._shown: Result | None = None
        self._shown_ns = 0
        self._state = LineState.OFFLINE
        self._heartbeat = 0
        self._is_open = False
        self._counters = at.Counters()
        self._commands = [0] * 5
        self._triggers: deque[PlcTrigger] = deque(maxlen=_TRIGGERS)
        self._is_triggered = False
        self._is_closed = False
        self._background: Background | None = None
        self._server: Any = None

    def open(self) -> None:
        """Listen.

        Raises:
            OutputError: OUTPUT_EXTRA, OUTPUT_PORT.
        """
        library("pymodbus.server", "plc")
        check_port(self._host, self.port)
        self._background = Background("edgead modbus")
        try:
            self._background.run(self._serve(), _START_S)
        except Exception as error:
            self._background.close()
            text = f"cannot listen on {self._host}:{self.port}: {error}."
            raise OutputError("OUTPUT_PORT", text, "Give another port.") from error

    def send(self, result: Result, wait_s: float) -> bool:
        """Show a result once the one before it is done with."""
        with self._changed:
            if not self._changed.wait_for(self._is_free, wait_s):
                self._expire()
                return False
            outcome = result.outcome
            trigger_id = outcome.trigger_id or ""
            if not self._is_triggered:  # a PLC that reads only: each result asks for itself
                trigger_id = result.id
                self._apply(Reset(), Trigger(trigger_id), TriggerLow())
            shown = self.handshake.results
            self._apply(Shown(trigger_id, outcome.verdict, outcome.reason))
            if self.handshake.results == shown:
                text = f"{self.name}: a result came that answers no trigger of the PLC."
                raise OutputError("MODBUS_STALE", text)
            self._shown, self._shown_ns = result, time.monotonic_ns()
            self._is_open = True
            self._counters.add(outcome.verdict)
            self.delivered += not self._acknowledge
        return True

    def beat(self, state: LineState) -> None:
        """Toggle while ONLINE; else show UNKNOWN in place of whatever is shown."""
        with self._changed:
            self._expire()
            self._state = state
            if state is LineState.ONLINE:
                self._heartbeat = 1 - self._heartbeat
                if self.handshake.mode is Mode.NOT_READY:
                    self._apply(Reset())
            elif self.handshake.mode is not Mode.NOT_READY:
                if self.handshake.mode is Mode.BUSY:
                    self._shown_ns = time.monotonic_ns()  # UNKNOWN, which the PLC may read now
                self._apply(NotReady(state.name))

    def close(self) -> None:
        """Close every connection: a PLC that reads nothing rejects."""
        with self._changed:
            self._state = LineState.OFFLINE
            self._is_closed = True
            self._apply(NotReady(self._state.name))
        background, self._background = self._background, None
        if background is not None:
            try:
                background.run(self._server.shutdown(), _START_S)
            finally:
                background.close()

    def next_trigger(self, timeout_s: float | None = None) -> PlcTrigger | None:
        """The next trigger of the PLC.

        Args:
            timeout_s: Wait at most so long; None: until there is one.

        Returns:
            None when there was none in time, or the output was closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._triggers or self._is_closed, timeout_s)
            return self._triggers.popleft() if self._triggers else None

    def _is_free(self) -> bool:
        return not self._acknowledge or self.handshake.mode is not Mode.RESULT_VALID

    def _expire(self) -> None:
        """Give up a result that the PLC does not acknowledge. Called under the lock."""
        if self._is_free() or time.monotonic_ns() - self._shown_ns <= self._hold_ns:
            return
        self._reset()
        hint = f"Write the sequence (register {at.SEQUENCE}) to register {at.ACKNOWLEDGE}."
        self.note(OutputError("MODBUS_UNREAD", f"{self.name}: no PLC acknowledges.", hint))

    def _reset(self) -> None:
        if self._is_open and self._acknowledge:
            self.lose()
        self._is_open = False
        self._apply(Reset())

    def _apply(self, *events: Event) -> None:
        for event in events:
            self.handshake = self.handshake.after(event)
        self._changed.notify_all()

    async def _serve(self) -> None:
        from pymodbus.server import ModbusTcpServer
        from pymodbus.simulator import DataType, SimData, SimDevice

        kind = DataType.REGISTERS
        device = SimDevice(
            id=0,  # answers to every unit
            simdata=[
                SimData(0, count=at.SIZE, datatype=kind, readonly=True),
                SimData(at.COMMANDS, count=len(self._commands), datatype=kind),
            ],
            action=self._on_access,
        )
        self._server = ModbusTcpServer(device, address=(self._host, self.port))
        await self._server.serve_forever(background=True)
        self.port = self._server.transport.sockets[0].getsockname()[1]

    async def _on_access(
        self,
        code: int,
        _start: int,
        address: int,
        _count: int,
        registers: list[int],
        written: list[int] | list[bool] | None,
    ) -> None:
        """Called in the loop at each request: fill in the registers, or take what was written.

        One request is answered from one state, so that what is read together belongs together.
        """
        with self._changed:
            if written is not None and code in _WRITES:
                raised = self._commands[at.TRIGGER_COMMAND - at.COMMANDS]
                for n, value in enumerate(written):
                    self._on_command(address + n, int(value))
                if self._commands[at.TRIGGER_COMMAND - at.COMMANDS] not in (0, raised):
                    self._on_trigger()  # many PLCs write it again in every cycle: only a change
            self._counters.lost = self.lost
            words = at.registers_of(
                self._shown,
                self.handshake.signals,
                is_open=self._is_open,
                heartbeat=self._heartbeat,
                state=self._state,
                counters=self._counters,
                now_ns=time.monotonic_ns(),
            )
            registers[: len(words)] = words

    def _on_command(self, address: int, value: int) -> None:
        self._commands[address - at.COMMANDS] = value
        if address == at.ACKNOWLEDGE and self.handshake.mode is Mode.RESULT_VALID:
            if self._shown is not None and value == at.sequence_of(self._shown):
                self._apply(Acknowledge())
                self.delivered += self._is_open and self._acknowledge
                self._is_open = False
                self.note(None)
        elif address == at.RESET and value:
            self._reset()
        elif address == at.TRIGGER_COMMAND and not value:
            self._apply(TriggerLow())

    def _on_trigger(self) -> None:
        """A trigger was raised; the part's number has come with it or before."""
        value = self._commands[at.TRIGGER_COMMAND - at.COMMANDS]
        self._is_triggered = True
        taken = self.handshake.triggers
        self._apply(Trigger(str(value)))
        if self.handshake.triggers > taken:
            high, low = self._commands[at.PART_COMMAND - at.COMMANDS :][:2]
            part = high << 16 | low
            self._triggers.append(PlcTrigger(str(value), str(part) if part else None))
            self._changed.notify_all()


def output_from_address(address: OutputAddress) -> ModbusOutput:
    """``modbus://[address to listen on][:port]``.

    Raises:
        ConfigError: OUTPUT_OPTION.
    """
    return ModbusOutput(
        address.host or "127.0.0.1",
        502 if address.port is None else address.port,
        name=address.shown,
        **address.options({"acknowledge": flag, "hold_s": number, "queue": count}),
    )
