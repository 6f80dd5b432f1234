"""Pins of a Jetson: a pulse for a part that is accepted, a heartbeat, and a pulse for a reject if wanted.

Energise to accept: an ejector is wired so that it rejects unless the accept pulse comes, and only while
the heartbeat toggles. Pins hold their last level when a process dies, so a level alone proves nothing.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

from edgead.errors import ConfigError, OutputError
from edgead.integrations.addresses import OutputAddress, count, number
from edgead.integrations.output import LineState, Output, Result, library
from edgead.integrations.parts import PartFifo

__all__ = ["GpioOutput", "output_from_address"]


class GpioOutput(Output):
    """Drives pins by Jetson.GPIO.

    Args:
        accept: Pin of the accept pulse, as numbered on the 40-pin header (BOARD).
        heartbeat: Pin that toggles while verdicts are fresh; None: none.
        reject: Pin of a reject pulse, for a counter or a lamp; None: none.
        delay_s: From the picture's capture to the ejector; None: a pulse as soon as the verdict is
            there. A verdict that comes later than the part is lost: the part was rejected.
        pulse_s: Length of a pulse; shorter than the time between two parts.
        name: As shown.

    Raises:
        ConfigError: OUTPUT_OPTION when a pin has two jobs.
    """

    queue = 256

    def __init__(
        self,
        *,
        accept: int,
        heartbeat: int | None = None,
        reject: int | None = None,
        delay_s: float | None = None,
        pulse_s: float = 0.02,
        name: str = "gpio",
    ) -> None:
        super().__init__(name)
        self._pins = [pin for pin in (accept, heartbeat, reject) if pin is not None]
        if len(set(self._pins)) < len(self._pins):
            text = f"{name}: one pin has two jobs: {self._pins}."
            raise ConfigError("OUTPUT_OPTION", text, "Give each its own.")
        self._accept, self._heartbeat, self._reject = accept, heartbeat, reject
        self._delay_s = delay_s
        self._pulse_s = pulse_s
        self._gpio: Any = None
        self._fifo = PartFifo(distance=delay_s or 1.0, capacity=self.queue)
        self._changed = threading.Condition()
        self._low_at: dict[int, float] = {}
        self._level = 0
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Set the pins up, low.

        Raises:
            OutputError: OUTPUT_EXTRA, GPIO.
        """
        self._gpio = library("Jetson.GPIO", "gpio")
        try:
            self._gpio.setmode(self._gpio.BOARD)
            self._gpio.setup(self._pins, self._gpio.OUT, initial=self._gpio.LOW)
        except Exception as error:  # ValueError, OSError, RuntimeError, by the board
            text = f"{self.name}: cannot set up the pins {self._pins}: {error}."
            hint = "Give output pins of the header by BOARD number; the user must be in group gpio."
            raise OutputError("GPIO", text, hint) from error
        self._thread = threading.Thread(target=self._drive, name="edgead gpio", daemon=True)
        self._thread.start()

    def send(self, result: Result, wait_s: float) -> bool:  # noqa: ARG002 - never waits
        """Give the part to the FIFO, or pulse at once without a delay."""
        outcome = replace(result.outcome, part_id=result.id)
        place = outcome.t_mono_ns / 1e9
        with self._changed:
            if self._delay_s is None:
                self._pulse(outcome.accept)
                self.delivered += 1
            elif time.monotonic() >= place + self._delay_s:
                raise OutputError("GPIO_LATE", f"{self.name}: a verdict came after its part.")
            else:
                self._fifo.enter(result.id, place)
                self._fifo.settle(outcome)
            self._changed.notify_all()
        return True

    def beat(self, state: LineState) -> None:
        """Toggle the heartbeat pin while ONLINE."""
        if self._heartbeat is not None and state is LineState.ONLINE:
            with self._changed:
                self._level = 1 - self._level
                self._set(self._heartbeat, self._level)

    def close(self) -> None:
        """Every pin low."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(2.0)
            self._thread = None
            self._gpio.cleanup(self._pins)

    def _drive(self) -> None:
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                for pin in [pin for pin, at in self._low_at.items() if at <= now]:
                    del self._low_at[pin]
                    self._set(pin, 0)
                for decision in self._fifo.due(now):
                    self._pulse(decision.accept)
                    self.delivered += 1
                places = [*self._low_at.values()]
                if self._fifo.next_place is not None:
                    places.append(self._fifo.next_place)
                self._changed.wait(max(0.0, min(places) - time.monotonic()) if places else None)
            for pin in self._pins:
                self._set(pin, 0)

    def _pulse(self, accept: bool) -> None:
        pin = self._accept if accept else self._reject
        if pin is not None:
            self._set(pin, 1)
            self._low_at[pin] = time.monotonic() + self._pulse_s

    def _set(self, pin: int, level: int) -> None:
        self._gpio.output(pin, self._gpio.HIGH if level else self._gpio.LOW)


def output_from_address(address: OutputAddress) -> GpioOutput:
    """``gpio://?accept=12[&heartbeat=16][&reject=18][&delay_s=0.8][&pulse_s=0.02]``.

    Raises:
        ConfigError: OUTPUT_OPTION.
    """
    options = address.options(
        {"accept": count, "heartbeat": count, "reject": count, "delay_s": number, "pulse_s": number}
    )
    if "accept" not in options:
        text = f"{address.shown} names no accept pin."
        raise ConfigError("OUTPUT_OPTION", text, "Give gpio://?accept=12, by BOARD number.")
    return GpioOutput(name=address.shown, **options)
