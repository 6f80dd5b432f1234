"""Fakes for testing without camera, engine or waiting: ours use them, and so may an integrator's.

`FakeClock` moves when told, `ScriptedSource` hands over what it is told, `FakeBackend` and
`FakeJudge` fail as told, `Simulation` runs a stream's decisions on the fake clock, `chaos` runs
all of it at once and adds up.
"""

from __future__ import annotations

from edgead.testing.clock import FakeClock
from edgead.testing.fakes import FakeBackend, FakeJudge, detection_of
from edgead.testing.faults import Fault
from edgead.testing.simulation import Simulation
from edgead.testing.sources import ScriptedSource, textured

__all__ = [
    "FakeBackend",
    "FakeClock",
    "FakeJudge",
    "Fault",
    "ScriptedSource",
    "Simulation",
    "detection_of",
    "textured",
]
