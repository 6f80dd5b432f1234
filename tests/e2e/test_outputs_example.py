"""examples/plc_trigger.py with a PLC that triggers, reads, acknowledges, and rejects when it is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gravel import PATH, gravel_frame, with_blot
from line_outcomes import wait_until

pytest.importorskip("pymodbus.client", reason="pip install 'edgead[plc]'")

from modbus_plc import Plc
from pymodbus.exceptions import ModbusException

from edgead.images import save_image
from edgead.integrations import modbus_map as at

EXAMPLE = Path(__file__).parents[2] / "examples" / "plc_trigger.py"


@pytest.fixture
def line(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The example on a folder: good, with a blot, too small."""
    good = gravel_frame()
    save_image(tmp_path / "0.png", good.pixels)
    save_image(tmp_path / "1.png", with_blot(good, 30, 40).pixels)
    save_image(tmp_path / "2.png", good.pixels[:40, :40])
    command = [sys.executable, "-u", str(EXAMPLE), str(PATH), "--camera", str(tmp_path)]
    command += ["--port", "0", "--deadline-ms", "50000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_three_parts_and_a_crash(line: subprocess.Popen[str]) -> None:
    assert line.stdout is not None
    ready = line.stdout.readline()
    assert ready.startswith("ready on port ")
    plc = Plc(int(ready.split()[-1]))
    found = []
    for trigger in (1, 2, 3):
        wait_until(lambda: plc.read().ready and plc.is_alive, "ready")
        plc.write(at.TRIGGER_COMMAND, trigger, 0, 100 + trigger)
        wait_until(lambda: plc.read().result_valid, "answered")
        block = plc.read()
        assert (block.trigger, block.part_number) == (trigger, 100 + trigger)
        found.append((block.verdict, block.accept, block.status))
        plc.acknowledge(block)
        plc.write(at.TRIGGER_COMMAND, 0)
    assert found == [(1, True, 1), (2, False, 1), (0, False, 4)]
    assert plc.is_alive
    line.kill()
    line.wait()
    plc._client.retries = 0
    with pytest.raises(ModbusException):
        plc.read()
    plc.close()
