"""A PLC triggers over Modbus TCP; edgead takes the picture and answers before the deadline.

    python examples/plc_trigger.py part.edgead --camera 0 --listen 0.0.0.0 --port 5020

The PLC writes the number of its trigger (1 to 65535, counting up) to register 101 and the part's to 102 and 103,
reads registers 0 to 34 until ``result valid``, writes the sequence to 100, and takes its trigger back. It accepts
the part only on ``accept``, and only while the heartbeat toggles: docs/plc.md has the program.
"""

from __future__ import annotations

import argparse
import logging

from edgead import Detector, Frame
from edgead.integrations.modbus import ModbusOutput
from edgead.integrations.publisher import Publisher
from edgead.stream import open_source
from edgead.stream.watchdog import State

SOUND = {State.INITIALISING, State.RUNNING, State.DEGRADED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--camera", default="0", help="whatever `edgead run --source` takes")
    parser.add_argument("--listen", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5020)
    parser.add_argument("--deadline-ms", type=float, default=200)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    plc = ModbusOutput(options.listen, options.port)
    camera = open_source(options.camera)
    with (
        Detector(options.bundle) as detector,
        detector.triggered(deadline_ms=options.deadline_ms) as station,
        # Between two triggers nothing is judged: the heartbeat goes on while the station is sound.
        Publisher([plc], is_ready=lambda: station.health.state in SOUND) as publisher,
    ):
        print(f"ready on port {plc.port}", flush=True)
        try:
            while (trigger := plc.next_trigger()) is not None:
                picture = camera.read(1.0)
                # What is no frame is answered too: FAILED, so UNKNOWN, so a reject.
                frame = picture if isinstance(picture, Frame) else None
                outcome = station.on_trigger(trigger.trigger_id, frame, part_id=trigger.part_id)
                publisher.publish(outcome)
                print(
                    f"part {trigger.part_id}: {outcome.verdict.name} {outcome.reason}", flush=True
                )
        except KeyboardInterrupt:
            pass
        finally:
            camera.close()


if __name__ == "__main__":
    main()
