"""The publisher: order, bounds, books that balance, and a heartbeat that means something."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest
from line_outcomes import outcome_of, wait_until

from edgead.errors import ConfigError, OutputError
from edgead.integrations.output import LineState, Output, Result, check_port, library
from edgead.integrations.publisher import Publisher, open_outputs
from edgead.testing import FakeClock
from edgead.types import Outcome


class Probe(Output):
    """An output that does as it is told."""

    def __init__(self, *, queue: int = 10_000) -> None:
        super().__init__("probe://")
        self.queue = queue
        self.gate = threading.Event()
        self.gate.set()
        self.taken: list[Result] = []
        self.states: list[LineState] = []
        self.raises: dict[int, Exception] = {}
        self.is_open = False
        self.opening: Exception | None = None
        self.beating: Exception | None = None

    def open(self) -> None:
        if self.opening is not None:
            raise self.opening
        self.is_open = True

    def send(self, result: Result, wait_s: float) -> bool:
        if not self.gate.wait(wait_s):
            return False
        error = self.raises.get(result.number)
        if error is not None:
            raise error
        self.taken.append(result)
        self.delivered += 1
        return True

    def beat(self, state: LineState) -> None:
        self.states.append(state)
        if self.beating is not None:
            raise self.beating

    def close(self) -> None:
        self.is_open = False


def test_in_order_to_every_output_and_without_maps() -> None:
    probes = [Probe(), Probe()]
    with Publisher(probes) as publisher:
        for seq in range(300):
            publisher.publish(outcome_of(seq))
    for probe in probes:
        assert [r.number for r in probe.taken] == list(range(1, 301))
        assert [r.outcome.seq for r in probe.taken] == list(range(300))
        assert len({r.id for r in probe.taken}) == 300
        assert all(
            r.outcome.detection is None or r.outcome.detection.anomaly_map is None
            for r in probe.taken
        )
        assert not probe.is_open
    for health in publisher.health:
        assert (health.published, health.delivered, health.waiting, health.lost) == (300, 300, 0, 0)


def test_the_json_is_that_of_the_outcome() -> None:
    outcome = outcome_of(1)
    assert outcome.detection is not None
    assert outcome.detection.anomaly_map is not None
    assert Result.of(outcome, count=0, session="s").outcome.to_json() == outcome.to_json()


def test_numbers_are_never_zero() -> None:
    outcome = outcome_of(0)
    last = 0xFFFF_FFFF
    assert [Result.of(outcome, count=c, session="s").number for c in (0, last - 1, last)] == [
        1,
        last,
        1,
    ]


def test_a_full_queue_loses_the_oldest_and_counts() -> None:
    probe = Probe(queue=10)
    probe.gate.clear()
    publisher = Publisher([probe])
    publisher.publish(outcome_of(0))
    wait_until(
        lambda: publisher.health[0].waiting == 1 and not publisher._outlets[0]._queue, "taken"
    )
    for seq in range(1, 31):
        publisher.publish(outcome_of(seq))
    health = publisher.health[0]
    assert (health.published, health.waiting, health.lost) == (31, 11, 20)
    probe.gate.set()
    publisher.close()
    assert [r.outcome.seq for r in probe.taken] == [0, *range(21, 31)]
    assert publisher.health[0].delivered == 11


def test_publish_does_not_wait_for_a_stuck_output() -> None:
    probe = Probe()
    probe.gate.clear()
    publisher = Publisher([probe])
    for seq in range(1000):  # would hang
        publisher.publish(outcome_of(seq))
    publisher.close(drain_s=0.0)
    health = publisher.health[0]
    assert (health.published, health.delivered, health.waiting, health.lost) == (1000, 0, 0, 1000)
    publisher.publish(outcome_of(1))  # after close: counted, nothing else
    assert publisher.health[0].lost == 1001


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OutputError("WEBHOOK_LOST", "gone."), "[WEBHOOK_LOST] gone."),
        (ValueError("odd"), "[OUTPUT_FAILED] ValueError: odd."),
    ],
)
def test_an_error_loses_one_result_and_not_the_thread(error: Exception, problem: str) -> None:
    probe = Probe()
    probe.raises = {3: error}
    publisher = Publisher([probe])
    for seq in range(5):
        publisher.publish(outcome_of(seq))
    wait_until(lambda: publisher.health[0].waiting == 0, "all settled")
    assert publisher.health[0].problem == problem
    publisher.close()
    assert [r.number for r in probe.taken] == [1, 2, 4, 5]
    assert (publisher.health[0].delivered, publisher.health[0].lost) == (4, 1)


def test_opening_fails_whole() -> None:
    first, second = Probe(), Probe()
    second.opening = OutputError("OUTPUT_PORT", "in use.")
    with pytest.raises(OutputError, match="in use"):
        Publisher([first, second])
    assert not first.is_open


def settled_at(clock: FakeClock) -> Outcome:
    return outcome_of(0, at_ns=clock())


def test_the_heartbeat_goes_by_fresh_outcomes() -> None:
    clock = FakeClock()
    with Publisher([], fresh_s=1.0, clock=clock) as publisher:
        assert publisher.state is LineState.OFFLINE
        publisher.publish(settled_at(clock))
        assert publisher.state is LineState.ONLINE
        clock.advance(1.0)
        assert publisher.state is LineState.ONLINE
        clock.advance(0.001)
        assert publisher.state is LineState.STALLED
        old = settled_at(FakeClock(clock() - 5_000_000_000))
        publisher.publish(old)  # a late one from a backlog proves nothing
        assert publisher.state is LineState.STALLED
        publisher.publish(settled_at(clock))
        assert publisher.state is LineState.ONLINE
    assert publisher.state is LineState.OFFLINE


def test_one_stalled_camera_of_several_stops_the_heartbeat() -> None:
    clock = FakeClock()
    with Publisher([], clock=clock) as publisher:
        for source in ("left", "right"):
            publisher.publish(outcome_of(0, at_ns=clock(), source=source))
        clock.advance(0.9)
        publisher.publish(outcome_of(1, at_ns=clock(), source="left"))
        assert publisher.state is LineState.ONLINE
        clock.advance(0.2)
        assert publisher.state is LineState.STALLED
        publisher.publish(outcome_of(1, at_ns=clock(), source="right"))
        assert publisher.state is LineState.ONLINE


def test_a_station_that_waits_for_triggers_says_that_it_is_ready() -> None:
    clock = FakeClock()
    is_ready = True
    with Publisher([], clock=clock, is_ready=lambda: is_ready) as publisher:
        assert publisher.state is LineState.ONLINE
        publisher.publish(settled_at(clock))
        clock.advance(60)
        assert publisher.state is LineState.ONLINE
        is_ready = False
        assert publisher.state is LineState.STALLED


def test_an_is_ready_that_fails_or_a_beat_that_fails_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> bool:
        raise ZeroDivisionError("broken")

    clock = FakeClock()
    bad, good = Probe(), Probe()
    bad.beating = ValueError("no")
    with caplog.at_level(logging.ERROR), Publisher([bad, good], clock=clock, is_ready=broken):
        wait_until(lambda: len(good.states) >= 2, "beats")
    assert set(good.states) == {LineState.STALLED}
    assert "is_ready failed: broken" in caplog.text
    assert "probe://: heartbeat: no" in caplog.text


def test_problems_are_logged_once_and_so_is_their_end(caplog: pytest.LogCaptureFixture) -> None:
    probe = Probe()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            probe.note(OutputError("MQTT_UNREACHABLE", "gone."))
        probe.note(None)
        probe.note(None)
    assert [r.getMessage() for r in caplog.records] == [
        "probe://: [MQTT_UNREACHABLE] gone.",
        "probe://: works again",
    ]


def test_fresh_s_is_checked() -> None:
    with pytest.raises(ConfigError) as error:
        open_outputs([], fresh_s=0.0)
    assert str(error.value) == "[FRESH] fresh_s is 0.0; want more than 0 seconds."


def test_no_outputs_at_all() -> None:
    with open_outputs([]) as publisher:
        publisher.publish(outcome_of(0))
        assert publisher.health == ()
    publisher.close()


def test_close_lets_receipts_arrive() -> None:
    class Slow(Probe):
        def send(self, result: Result, wait_s: float) -> bool:
            def receipt() -> None:
                self.gate.wait()
                self.delivered += 1

            threading.Thread(target=receipt).start()
            return True

    probe = Slow()
    probe.gate.clear()
    publisher = Publisher([probe])
    publisher.publish(outcome_of(0))
    assert publisher.health[0].waiting == 1
    threading.Timer(0.05, probe.gate.set).start()
    publisher.close(drain_s=60)
    assert (publisher.health[0].delivered, publisher.health[0].lost) == (1, 0)


def test_a_missing_library_is_named_with_its_extra() -> None:
    with pytest.raises(OutputError) as error:
        library("edgead_no_such_library.client", "plc")
    assert str(error.value) == (
        "[OUTPUT_EXTRA] this output needs edgead_no_such_library, which does not import "
        "(No module named 'edgead_no_such_library'). pip install 'edgead[plc]'."
    )


def test_a_port_in_use_is_a_sentence() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OutputError) as error:
            check_port("127.0.0.1", port)
    assert str(error.value) == (
        f"[OUTPUT_PORT] cannot listen on 127.0.0.1:{port}: Address already in use. "
        f"Stop the other program (ss -ltnp 'sport = {port}' names it), or give another port."
    )


def test_an_address_of_another_machine_is_a_sentence() -> None:
    with pytest.raises(OutputError) as error:
        check_port("192.0.2.1", 5020)
    assert str(error.value) == (
        "[OUTPUT_PORT] cannot listen on 192.0.2.1:5020: Cannot assign requested address. "
        "Give an address of this machine and a free port."
    )


def test_memory_of_what_waits_is_small() -> None:
    outcome = outcome_of(1)
    assert outcome.detection is not None
    result = Result.of(outcome, count=0, session="s")
    assert result.outcome.detection is not None
    kept = [v for v in vars(result.outcome.detection).values() if isinstance(v, np.ndarray)]
    assert kept == []
    assert time.monotonic_ns() >= result.outcome.settled_mono_ns
