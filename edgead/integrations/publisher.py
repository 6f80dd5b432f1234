"""Outcomes out to the line: MQTT, Modbus TCP, OPC UA, webhooks, pins.

    with open_outputs(["mqtt://broker/line3/camera1", "modbus://0.0.0.0:5020"]) as publisher:
        for outcome in detector.stream("rtsp://cam/1", deadline_ms=40):
            publisher.publish(outcome)

No output slows the loop: each has a bounded queue and a thread, and counts what it could not deliver.
Every output carries a heartbeat that toggles only while verdicts are fresh; the line rejects when it
stops, and unless it reads GOOD.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from edgead.errors import ConfigError
from edgead.integrations.addresses import OutputAddress
from edgead.integrations.outlet import Outlet
from edgead.integrations.output import LineState, Output, OutputHealth, Result
from edgead.types import Outcome

__all__ = ["Publisher", "open_outputs"]

_log = logging.getLogger("edgead.integrations")
#: Seconds between two changes of the heartbeat.
BEAT_S = 0.2
#: Seconds that closing gives to what still waits.
DRAIN_S = 2.0
#: Scheme -> module of this package with `output_from_address`, name of its variables.
_SCHEMES = {
    "mqtt": ("mqtt", "MQTT"),
    "mqtts": ("mqtt", "MQTT"),
    "modbus": ("modbus", "MODBUS"),
    "opcua": ("opcua", "OPCUA"),
    "http": ("webhook", "HTTP"),
    "https": ("webhook", "HTTP"),
    "gpio": ("gpio", "GPIO"),
}


class Publisher:
    """Gives every outcome to every output. Safe from several threads.

    Args:
        outputs: Not opened yet; the publisher opens and closes them.
        fresh_s: The heartbeat stops when the newest outcome was settled longer ago than this; of
            several sources the stalest counts.
        is_ready: Says that the station is sound while there is nothing to judge, e.g. one that
            waits for triggers; the heartbeat then goes on. Called from a thread of the publisher.
        clock: Monotonic time, ns.

    Raises:
        OutputError: An output can never work, e.g. its port is in use.
        ConfigError: FRESH.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        *,
        fresh_s: float = 1.0,
        is_ready: Callable[[], bool] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if not 0 < fresh_s < 1e6:
            raise ConfigError("FRESH", f"fresh_s is {fresh_s}; want more than 0 seconds.")
        self._fresh_ns = int(fresh_s * 1e9)
        self._is_ready = is_ready
        self._clock = clock
        self._session = uuid.uuid4().hex[:12]
        self._lock = threading.Lock()
        self._count = 0
        self._newest_ns: dict[str, int] = {}
        self._closing = threading.Event()
        self._outlets: list[Outlet] = []
        try:
            for output in outputs:
                output.open()
                self._outlets.append(Outlet(output))
        except BaseException:
            self._close_outlets(0.0)
            raise
        self._heart = threading.Thread(target=self._beat_on, name="edgead heart", daemon=True)
        self._heart.start()

    def publish(self, outcome: Outcome) -> None:
        """Hand an outcome to every output; never waits, never raises for an output's sake."""
        with self._lock:
            result = Result.of(outcome, count=self._count, session=self._session)
            self._count += 1
            newest = self._newest_ns.get(outcome.source_id, outcome.settled_mono_ns)
            self._newest_ns[outcome.source_id] = max(newest, outcome.settled_mono_ns)
            for outlet in self._outlets:
                outlet.put(result)

    @property
    def state(self) -> LineState:
        """What the heartbeat says: ONLINE while verdicts are fresh."""
        if self._closing.is_set():
            return LineState.OFFLINE
        with self._lock:
            newest = min(self._newest_ns.values(), default=None)
        if newest is not None and self._clock() - newest <= self._fresh_ns:
            return LineState.ONLINE
        if self._is_ready is not None and self._is_ready():
            return LineState.ONLINE
        return LineState.OFFLINE if newest is None else LineState.STALLED

    @property
    def health(self) -> tuple[OutputHealth, ...]:
        """How each output does, in the order given."""
        return tuple(outlet.health for outlet in self._outlets)

    def close(self, drain_s: float | None = None) -> None:
        """Deliver what waits within ``drain_s``, by default 2, tell the line to reject; safe twice."""
        self._closing.set()
        self._heart.join(1.0)
        self._close_outlets(DRAIN_S if drain_s is None else drain_s)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _close_outlets(self, drain_s: float) -> None:
        for outlet in self._outlets:  # all drain at the same time
            outlet.stop(drain_s)
        for outlet in self._outlets:
            outlet.close(drain_s)
            health = outlet.health
            if health.lost:
                _log.warning(
                    "%s: %d of %d results lost", health.name, health.lost, health.published
                )

    def _beat_on(self) -> None:
        while not self._closing.wait(BEAT_S):
            try:
                state = self.state
            except Exception as error:  # the caller's is_ready: not sound, then
                _log.error("is_ready failed: %s", error)
                state = LineState.STALLED
            for outlet in self._outlets:
                try:
                    outlet.output.beat(state)
                except Exception as error:  # one output must not stop the others' heart
                    _log.error("%s: heartbeat: %s", outlet.output.name, error)


def open_outputs(
    uris: Iterable[str],
    *,
    fresh_s: float = 1.0,
    is_ready: Callable[[], bool] | None = None,
) -> Publisher:
    """Open outputs by address.

    Args:
        uris: For instance ``mqtt://broker:1883/line3/camera1``, ``modbus://0.0.0.0:5020``,
            ``opcua://127.0.0.1:4840``, ``https://host/path``, ``gpio://?accept=12``. None at all is
            fine: the publisher then does nothing.
        fresh_s: As of `Publisher`.
        is_ready: As of `Publisher`.

    Raises:
        ConfigError: OUTPUT_ADDRESS, OUTPUT_SCHEME, OUTPUT_OPTION.
        OutputError: OUTPUT_EXTRA, OUTPUT_PORT, or as the output says.
    """
    outputs = [output_of(uri) for uri in uris]
    return Publisher(outputs, fresh_s=fresh_s, is_ready=is_ready)


def output_of(uri: str) -> Output:
    """The output of an address, not opened yet."""
    names = {scheme: name for scheme, (_, name) in _SCHEMES.items()}
    address = OutputAddress.parse(uri, schemes=names)
    module = importlib.import_module(f"edgead.integrations.{_SCHEMES[address.scheme][0]}")
    made: Output = module.output_from_address(address)
    return made
