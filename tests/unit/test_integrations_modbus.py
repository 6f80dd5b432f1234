"""Modbus TCP over real sockets: none lost, none out of order, and a PLC that rejects when it should."""

from __future__ import annotations

import logging
import math
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from line_outcomes import outcome_of, wait_until

pytest.importorskip("pymodbus.client", reason="pip install 'edgead[plc]'")

from modbus_plc import Plc

from edgead.errors import ConfigError, OutputError
from edgead.integrations import modbus_map as at
from edgead.integrations.modbus import ModbusOutput, PlcTrigger
from edgead.integrations.output import LineState, Result
from edgead.integrations.publisher import Publisher, open_outputs
from edgead.stream.handshake import Handshake, Mode
from edgead.testing import FakeClock
from edgead.types import Verdict


@pytest.fixture
def line() -> Iterator[Callable[..., tuple[Publisher, ModbusOutput, Plc]]]:
    """A publisher with one Modbus output, and a PLC that is connected to it."""
    opened: list[tuple[Publisher, Plc]] = []

    def start(
        *, clock: FakeClock | None = None, **options: object
    ) -> tuple[Publisher, ModbusOutput, Plc]:
        output = ModbusOutput(port=0, **options)  # type: ignore[arg-type]
        if clock is None:
            publisher = Publisher([output], is_ready=lambda: True)
        else:
            publisher = Publisher([output], clock=clock)
        plc = Plc(output.port)
        opened.append((publisher, plc))
        return publisher, output, plc

    yield start
    for publisher, plc in opened:
        plc.close()
        publisher.close(drain_s=0.0)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("pymodbus.logging").setLevel(logging.ERROR)


def test_a_thousand_with_acknowledge(line) -> None:
    publisher, _, plc = line(hold_s=1e6, queue=1000)
    sent = [outcome_of(seq) for seq in range(1000)]
    for outcome in sent:
        publisher.publish(outcome)
    found = []
    sequence = 0
    while len(found) < len(sent):
        block = plc.exchange(sequence)
        if block.result_valid and block.sequence != sequence:
            found.append(block)
            sequence = block.sequence
    wait_until(lambda: plc.exchange(sequence).ready, "the last is acknowledged")
    assert [block.number for block in found] == list(range(1, 1001))
    for block, outcome in zip(found, sent, strict=True):
        assert (block.verdict, block.accept) == (outcome.verdict, outcome.accept)
        assert block.status == (3 if outcome.detection is None else 1)
        assert block.part == outcome.part_id
        if outcome.detection is None:
            assert math.isnan(block.score)
        else:
            assert block.score == pytest.approx(outcome.detection.score)
            assert block.threshold == outcome.detection.threshold
    health = publisher.health[0]
    assert (health.delivered, health.waiting, health.lost) == (1000, 0, 0)
    good = sum(o.verdict is Verdict.GOOD for o in sent)
    defect = sum(o.verdict is Verdict.DEFECT for o in sent)
    assert plc.read().counters == (good, defect, 1000 - good - defect, 0)


def test_a_stall_makes_the_plc_reject(line) -> None:
    clock = FakeClock()
    publisher, _, plc = line(clock=clock, hold_s=1e6)
    assert not plc.would_accept()  # nothing was judged yet
    publisher.publish(outcome_of(0, score=0.1, at_ns=clock()))
    wait_until(plc.would_accept, "a good part is accepted")
    assert plc.read().state == LineState.ONLINE
    clock.advance(1.1)
    wait_until(lambda: not plc.would_accept(), "it rejects")
    wait_until(lambda: plc.read().state == LineState.STALLED, "the state says so")
    block = plc.read()
    assert (block.verdict, block.accept, block.ready) == (0, False, False)
    wait_until(lambda: not (plc.read() and plc.is_alive), "the heartbeat stopped")
    beat = block.heartbeat
    for _ in range(50):
        assert not plc.would_accept()
        assert plc.read().heartbeat == beat
    plc.acknowledge(plc.read())
    publisher.publish(outcome_of(1, score=0.1, at_ns=clock()))
    wait_until(plc.would_accept, "accepts again")
    assert publisher.health[0].delivered == 1


def test_a_closed_output_leaves_the_plc_without_an_answer(line) -> None:
    from pymodbus.exceptions import ModbusException

    publisher, _, plc = line()
    plc.read()
    publisher.close(drain_s=0.0)
    plc._client.comm_params.timeout_connect = 1.0
    plc._client.retries = 0
    with pytest.raises(ModbusException):  # no link: no accept
        plc.read()


def test_a_result_that_nobody_acknowledges_is_lost_and_the_next_one_comes(line) -> None:
    publisher, _, plc = line(hold_s=0.05)
    for seq in range(3):
        publisher.publish(outcome_of(seq, score=0.1))
    wait_until(lambda: publisher.health[0].lost == 3, "all given up")
    block = plc.read()
    assert (block.number, block.result_valid, block.accept, block.verdict) == (3, False, False, 0)
    assert block.counters == (3, 0, 0, 3)
    assert publisher.health[0].problem == (
        "[MODBUS_UNREAD] modbus: no PLC acknowledges. "
        "Write the sequence (register 4) to register 100."
    )


def test_without_acknowledge_the_newest_stands(line) -> None:
    publisher, _, plc = line(acknowledge=False)
    for seq in range(20):
        publisher.publish(outcome_of(seq, score=0.1))
    wait_until(lambda: plc.read().number == 20, "the newest")
    block = plc.read()
    assert (block.result_valid, block.accept, block.part) == (True, True, "part-19")
    assert publisher.health[0].delivered == 20


def test_the_plc_triggers(line) -> None:
    publisher, output, plc = line(hold_s=1e6)
    wait_until(lambda: plc.read().ready, "ready")
    for trigger, score in ((17, 0.1), (18, 0.9), (17, 0.2)):
        plc.write(at.TRIGGER_COMMAND, trigger, 0x0001, 0x0002)
        taken = output.next_trigger(60)
        assert taken == PlcTrigger(str(trigger), str(0x00010002))
        block = plc.read()
        assert (block.ready, block.busy, block.result_valid) == (False, True, False)
        plc.write(at.TRIGGER_COMMAND, trigger)  # written in every cycle: still one trigger
        publisher.publish(outcome_of(0, score=score, trigger=str(trigger), part=taken.part_id))
        wait_until(lambda: plc.read().result_valid, "answered")
        block = plc.read()
        assert (block.trigger, block.part_number) == (trigger, 0x00010002)
        assert block.verdict == (1 if score < 0.5 else 2)
        plc.acknowledge(block)
        assert not plc.read().ready  # until the trigger falls
        plc.write(at.TRIGGER_COMMAND, 0)
        assert plc.read().ready
    assert output.next_trigger(0.0) is None
    assert publisher.health[0].delivered == 3


def test_another_triggers_result_is_never_shown(line) -> None:
    publisher, output, plc = line(hold_s=1e6)
    wait_until(lambda: plc.read().ready, "ready")
    plc.write(at.TRIGGER_COMMAND, 5)
    publisher.publish(outcome_of(0, score=0.1, trigger="4"))
    wait_until(lambda: publisher.health[0].lost == 1, "refused")
    assert publisher.health[0].problem == (
        "[MODBUS_STALE] modbus: a result came that answers no trigger of the PLC."
    )
    assert plc.read().busy
    plc.write(at.RESET, 1)
    assert plc.read().ready
    assert output.next_trigger(60) == PlcTrigger("5", None)


def test_a_stall_answers_an_open_trigger_with_unknown(line) -> None:
    clock = FakeClock()
    publisher, _, plc = line(clock=clock, hold_s=1e6)
    publisher.publish(outcome_of(0, score=0.1, at_ns=clock()))
    wait_until(lambda: plc.read().result_valid, "shown")
    plc.acknowledge(plc.read())
    wait_until(lambda: plc.read().state == LineState.ONLINE, "online")
    plc.write(at.TRIGGER_COMMAND, 9)
    assert plc.read().busy
    clock.advance(1.1)
    wait_until(lambda: plc.read().result_valid, "answered")
    block = plc.read()
    assert (block.verdict, block.accept, block.trigger, block.part) == (0, False, 9, "")
    plc.acknowledge(block)
    plc.write(at.TRIGGER_COMMAND, 0)
    assert publisher.health[0].delivered == 1  # that was no result


def test_a_reset_gives_up_what_is_shown(line) -> None:
    publisher, _, plc = line(hold_s=1e6)
    publisher.publish(outcome_of(0, score=0.1))
    wait_until(lambda: plc.read().accept, "shown")
    plc.write(at.RESET, 1)
    block = plc.read()
    assert (block.accept, block.result_valid, block.ready) == (False, False, True)
    assert publisher.health[0].lost == 1


def test_only_commands_can_be_written(line) -> None:
    publisher, _, plc = line(hold_s=1e6)
    publisher.publish(outcome_of(0, score=0.9))
    wait_until(lambda: plc.read().result_valid, "shown")
    assert plc.refused(at.VERDICT, 1)
    assert plc.refused(at.SIGNALS, 15)
    assert plc.read().verdict == Verdict.DEFECT
    plc.write(at.ACKNOWLEDGE, plc.read().sequence + 1)  # another's: nothing happens
    assert plc.read().result_valid


def test_reading_while_results_change_never_tears(line) -> None:
    publisher, _, plc = line(acknowledge=False, queue=100_000)
    stop = threading.Event()

    def produce() -> None:
        seq = 0
        while not stop.is_set():
            publisher.publish(outcome_of(seq, score=seq / 10, part=str(seq)))
            seq += 1
            stop.wait(0.0005)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        wait_until(lambda: plc.read().result_valid, "shown")
        for _ in range(300):
            block = plc.read()
            assert block.number == block.part_number + 1
            assert block.score == pytest.approx(block.part_number / 10, rel=1e-6)
            assert block.verdict == (2 if block.score > 0.5 else 1)
    finally:
        stop.set()
        producer.join()


def test_values_at_their_limits() -> None:
    outcome = outcome_of(0, score=1e300, part="4294967295", trigger="65536", at_ns=0)
    result = Result(0xFFFF_FFFF, "s", outcome)
    shown = Handshake(mode=Mode.RESULT_VALID, verdict=Verdict.DEFECT).signals
    from modbus_plc import Block

    counters = at.Counters(good=0x1_0000_0001)
    words = at.registers_of(
        result,
        shown,
        is_open=True,
        heartbeat=1,
        state=LineState.ONLINE,
        counters=counters,
        now_ns=10**12,
    )
    assert len(words) == at.SIZE
    assert all(0 <= word <= 0xFFFF for word in words)
    block = Block(words)
    assert block.score == math.inf
    assert (block.number, block.part_number, block.trigger) == (0xFFFF_FFFF, 0xFFFF_FFFF, 0)
    assert block.age_ms == 0xFFFF
    assert block.counters[0] == 1
    sequences = {at.sequence_of(Result(n, "s", outcome)) for n in (1, 65535, 65536, 0xFFFF_FFFF)}
    assert sequences == {1, 65535}


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OutputError) as error:
            open_outputs([f"modbus://127.0.0.1:{port}"])
    assert error.value.code == "OUTPUT_PORT"
    assert str(error.value).startswith(
        f"[OUTPUT_PORT] cannot listen on 127.0.0.1:{port}: Address already in use. Stop the other"
    )


def test_address_and_options() -> None:
    with open_outputs(["modbus://127.0.0.1:0?acknowledge=no&hold_s=0.5&queue=7"]) as publisher:
        assert publisher._outlets[0].output.queue == 7
    with pytest.raises(ConfigError) as error:
        open_outputs(["modbus://127.0.0.1:0?acknowlege=no"])
    assert str(error.value) == (
        "[OUTPUT_OPTION] modbus://127.0.0.1:0/… has no option 'acknowlege' (did you mean "
        "'acknowledge'?). There are: acknowledge, hold_s, queue."
    )


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymodbus.server", None)
    with pytest.raises(OutputError) as error:
        open_outputs(["modbus://127.0.0.1:0"])
    assert error.value.code == "OUTPUT_EXTRA"
    assert str(error.value).endswith("pip install 'edgead[plc]'.")
