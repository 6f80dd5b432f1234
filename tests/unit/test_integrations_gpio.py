"""Pins, by a stand-in for Jetson.GPIO that keeps what was written."""

from __future__ import annotations

import sys
import time
from types import ModuleType

import pytest
from line_outcomes import outcome_of, wait_until

from edgead.errors import ConfigError, OutputError
from edgead.integrations.publisher import open_outputs


class Pins(ModuleType):
    """The part of Jetson.GPIO that is used."""

    BOARD, OUT, HIGH, LOW = "BOARD", "OUT", 1, 0

    def __init__(self) -> None:
        super().__init__("Jetson.GPIO")
        self.levels: dict[int, int] = {}
        self.written: list[tuple[float, int, int]] = []
        self.cleaned: list[int] = []
        self.refuses = False

    def setmode(self, mode: str) -> None:
        assert mode == self.BOARD

    def setup(self, pins: list[int], direction: str, *, initial: int) -> None:
        if self.refuses:
            raise ValueError("Channel 1 is invalid")
        assert direction == self.OUT
        self.levels = dict.fromkeys(pins, initial)

    def output(self, pin: int, level: int) -> None:
        assert pin in self.levels
        self.levels[pin] = level
        self.written.append((time.monotonic(), pin, level))

    def cleanup(self, pins: list[int]) -> None:
        self.cleaned = pins

    def rises(self, pin: int) -> list[float]:
        return [at for at, one, level in self.written if one == pin and level]


@pytest.fixture
def pins(monkeypatch: pytest.MonkeyPatch) -> Pins:
    made = Pins()
    monkeypatch.setitem(sys.modules, "Jetson", ModuleType("Jetson"))
    monkeypatch.setitem(sys.modules, "Jetson.GPIO", made)
    return made


def test_only_good_parts_get_the_accept_pulse(pins: Pins) -> None:
    with open_outputs(["gpio://?accept=12&reject=18&pulse_s=0.001"]) as publisher:
        for seq in range(7):  # 0 1 3 4 good, 2 5 defects, 6 dropped
            publisher.publish(outcome_of(seq))
            wait_until(lambda n=seq: publisher.health[0].delivered == n + 1, "decided")  # type: ignore[misc]
            wait_until(lambda: not any(pins.levels.values()), "the pulse ended")
    assert (len(pins.rises(12)), len(pins.rises(18))) == (4, 3)
    assert pins.cleaned == [12, 18]


def test_the_pulse_comes_with_the_part_and_not_before(pins: Pins) -> None:
    with open_outputs(["gpio://?accept=12&delay_s=0.5&pulse_s=0.001"]) as publisher:
        late = -1
        while publisher.health[0].delivered == 0:  # a busy machine may bring it too late
            late += 1
            outcome = outcome_of(0, score=0.1)
            publisher.publish(outcome)
            wait_until(lambda: publisher.health[0].waiting == 0, "decided")
        assert publisher.health[0].lost == late
        wait_until(lambda: pins.rises(12), "pulse")
        wait_until(lambda: pins.levels[12] == 0, "the pulse ended")
    assert pins.rises(12)[0] >= outcome.t_mono_ns / 1e9 + 0.5


def test_a_verdict_after_its_part_is_no_accept(pins: Pins) -> None:
    long_ago = time.monotonic_ns() - 2_000_000_000
    with open_outputs(["gpio://?accept=12&delay_s=1"]) as publisher:
        publisher.publish(outcome_of(0, score=0.1, at_ns=long_ago))
        wait_until(lambda: publisher.health[0].lost == 1, "lost")
        assert publisher.health[0].problem == (
            "[GPIO_LATE] gpio://***/…: a verdict came after its part."
        )
    assert pins.rises(12) == []


def test_the_heartbeat_pin(pins: Pins) -> None:
    with open_outputs(["gpio://?accept=12&heartbeat=16"], is_ready=lambda: True):
        wait_until(lambda: len(pins.rises(16)) >= 2, "beats")
    levels = [level for _, pin, level in pins.written if pin == 16]
    assert levels[:3] == [1, 0, 1]
    assert pins.levels == {12: 0, 16: 0}


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "gpio://?heartbeat=12",
            "[OUTPUT_OPTION] gpio://***/… names no accept pin. "
            "Give gpio://?accept=12, by BOARD number.",
        ),
        (
            "gpio://?accept=12&reject=12",
            "[OUTPUT_OPTION] gpio://***/…: one pin has two jobs: [12, 12]. Give each its own.",
        ),
        (
            "gpio://?acept=12",
            "[OUTPUT_OPTION] gpio://***/… has no option 'acept' (did you mean 'accept'?). "
            "There are: accept, heartbeat, reject, delay_s, pulse_s.",
        ),
    ],
)
def test_bad_addresses(uri: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        open_outputs([uri])
    assert str(error.value) == message


def test_pins_that_cannot_be_set_up(pins: Pins) -> None:
    pins.refuses = True
    with pytest.raises(OutputError) as error:
        open_outputs(["gpio://?accept=1"])
    assert str(error.value) == (
        "[GPIO] gpio://***/…: cannot set up the pins [1]: Channel 1 is invalid. "
        "Give output pins of the header by BOARD number; the user must be in group gpio."
    )


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Jetson", ModuleType("Jetson"))
    monkeypatch.setitem(sys.modules, "Jetson.GPIO", None)
    with pytest.raises(OutputError) as error:
        open_outputs(["gpio://?accept=12"])
    assert error.value.code == "OUTPUT_EXTRA"
    assert str(error.value).endswith("pip install 'edgead[gpio]'.")
