"""What goes out to the line: how fast, how soon it fails safe, and what it costs the loop.

    python benchmarks/outputs.py --json

Real sockets on loopback: MQTT to mosquitto (its folder may be /usr/sbin), which is also ended and started again
half-way, under a subscriber; Modbus TCP polled by a pymodbus client that acknowledges with the next read; OPC UA to
an asyncua client's subscription. A stall is the last outcome that is published; the figures after it run from the
moment that outcome was settled. The PLC is `tests/modbus_plc.py`: it rejects when the heartbeat has not changed for
0.6 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from line_outcomes import outcome_of, wait_until
from modbus_plc import Plc
from mosquitto import MOSQUITTO, Mosquitto, Subscriber

from edgead.integrations.modbus import ModbusOutput
from edgead.integrations.opcua import OpcUaOutput
from edgead.integrations.output import Output
from edgead.integrations.publisher import Publisher, output_of


def over_a_restart(broker: Mosquitto, count: int) -> dict[str, Any]:
    """Half of the results, the broker ended under them, the other half, the broker again."""
    subscriber = Subscriber(broker.port)
    with Publisher(
        [output_of(f"mqtt://127.0.0.1:{broker.port}/t")], is_ready=lambda: True
    ) as publisher:
        for seq in range(count // 2):
            publisher.publish(outcome_of(seq))
        wait_until(lambda: publisher.health[0].delivered >= count // 10, "under way")
        broker.stop()
        for seq in range(count // 2, count):
            publisher.publish(outcome_of(seq))
        wait_until(lambda: publisher.health[0].problem, "noticed")
        start = time.perf_counter()
        broker.start()
        wait_until(lambda: len(subscriber.seqs()) >= count, "all received")
        seconds = time.perf_counter() - start
        lost = publisher.health[0].lost
    seqs = subscriber.seqs()
    subscriber.close()
    return {
        "results": count,
        "received": len(seqs),
        "lost": lost,
        "in_order": seqs == list(range(count)),
        "all_received_after_restart_s": seconds,
    }


def delivered(
    output: Output, count: int, *, follow: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Publish ``count`` outcomes at once; how long until the last was acknowledged."""
    with Publisher([output], is_ready=lambda: True) as publisher:
        publisher.publish(outcome_of(0))
        while publisher.health[0].delivered < 1:
            (follow or time.sleep)(*(() if follow else (0.001,)))
        start = time.perf_counter()
        for seq in range(1, count + 1):
            publisher.publish(outcome_of(seq))
        while publisher.health[0].waiting:
            (follow or time.sleep)(*(() if follow else (0.001,)))
        seconds = time.perf_counter() - start
        health = publisher.health[0]
    return {"results": count, "lost": health.lost, "per_second": count / seconds}


def modbus(count: int) -> dict[str, Any]:
    """One request a result: read, and acknowledge the one before."""
    output = ModbusOutput(port=0, hold_s=1e6, queue=count + 1)
    plc: list[Plc] = []
    last = [0]
    numbers: list[int] = []

    def follow() -> None:
        if not plc:
            plc.append(Plc(output.port))
        block = plc[0].exchange(last[0])
        if block.result_valid and block.sequence != last[0]:
            last[0] = block.sequence
            numbers.append(block.number)

    found = delivered(output, count, follow=follow)
    in_order = len(numbers) == count + 1 and numbers == sorted(set(numbers))
    return {**found, "received": len(numbers) - 1, "in_order": in_order}


def opcua(count: int) -> dict[str, Any]:
    """Until a subscribed client has every event."""
    import asyncua

    output = OpcUaOutput(port=0, queue=count + 1)
    seen: list[int] = []

    class Seen:
        def event_notification(self, event: Any) -> None:
            seen.append(event.Number)

    async def run(publisher: Publisher) -> float:
        async with asyncua.Client(
            f"opc.tcp://127.0.0.1:{output.port}/edgead", timeout=60
        ) as client:
            subscription = await client.create_subscription(50, Seen(), queue_maxsize=100_000)
            index = await client.get_namespace_index("urn:edgead:machine-vision")
            kind = await client.nodes.base_event_type.get_child([f"{index}:ResultReadyEventType"])
            await subscription.subscribe_events(client.nodes.server, kind, queuesize=100_000)
            start = time.perf_counter()
            for seq in range(count):
                publisher.publish(outcome_of(seq))
            while len(seen) < count:
                await asyncio.sleep(0.001)
            return time.perf_counter() - start

    with Publisher([output], is_ready=lambda: True) as publisher:
        seconds = asyncio.run(run(publisher))
        lost = publisher.health[0].lost
    is_ordered = seen == sorted(set(seen))
    return {
        "results": count,
        "received": len(seen),
        "lost": lost,
        "in_order": is_ordered,
        "per_second": count / seconds,
    }


def fail_safe(turns: int) -> dict[str, Any]:
    """From the last outcome to the PLC's reject, which polls as fast as it can."""
    state, reject = [], []
    for _ in range(turns):
        output = ModbusOutput(port=0, acknowledge=False)
        with Publisher([output]) as publisher:
            plc = Plc(output.port)
            until = time.monotonic() + 1.5
            settled = 0
            while time.monotonic() < until or not plc.is_alive:
                outcome = outcome_of(0, score=0.1)
                settled = outcome.settled_mono_ns
                publisher.publish(outcome)
                plc.would_accept()
                time.sleep(0.02)
            shown = None
            while plc.is_alive:
                if not plc.read().accept and shown is None:
                    shown = (time.monotonic_ns() - settled) / 1e9
            state.append(shown or 0.0)
            reject.append((time.monotonic_ns() - settled) / 1e9)
            plc.close()
    return {
        "turns": turns,
        "verdict_taken_back_s": {"median": statistics.median(state), "max": max(state)},
        "plc_rejects_by_heartbeat_s": {"median": statistics.median(reject), "max": max(reject)},
    }


def cost(port: int, calls: int) -> dict[str, float]:
    """Microseconds of one `publish` in the loop: no output, and MQTT with Modbus."""
    outcome = outcome_of(1)
    none = Publisher([])
    both = Publisher(
        [output_of(f"mqtt://127.0.0.1:{port}/cost"), ModbusOutput(port=0, acknowledge=False)]
    )

    def publish(publisher: Publisher) -> Callable[[], None]:
        return lambda: publisher.publish(outcome)

    found = harness.interleave(
        {"none": publish(none), "both": publish(both)}, burst=20, least=calls // 20, pause_s=0.02
    )
    none.close()
    both.close()
    return {name: value * 1e3 for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print the figures on stdout")
    parser.add_argument("--save", action="store_true", help="keep them in benchmarks/results")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if MOSQUITTO is None:
        raise SystemExit("mosquitto is not installed")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder))
        body = {
            "load_at_start": load,
            "mqtt": delivered(output_of(f"mqtt://127.0.0.1:{broker.port}/bench"), options.results),
            "mqtt_over_a_restart": over_a_restart(broker, options.results),
            "modbus": modbus(options.results),
            "opcua": opcua(options.results),
            "fail_safe": fail_safe(options.turns),
            "publish_us": cost(broker.port, 400),
        }
        broker.stop()
    if options.save:
        harness.save("outputs", "python benchmarks/outputs.py --save", body)
    if options.json:
        print(json.dumps(body))


if __name__ == "__main__":
    main()
