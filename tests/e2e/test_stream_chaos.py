"""The chaos run in small: it holds, it is the same for the same seed, and its controls turn it red."""

from __future__ import annotations

import pytest

from edgead.testing import chaos_controls
from edgead.testing.audit import Audit, MemoryTrend
from edgead.testing.chaos import SMOKE, chaos
from edgead.testing.chaos_frames import deadlines, faults_in_threads, planted


def test_the_smoke_run_holds() -> None:
    parts: list[str] = []
    found = chaos(3, progress=parts.append)
    assert found["failures"] == []
    assert found["ok"]
    assert (found["accounted"], found["false_accepts"]) == (1.0, 0)
    assert found["controls"] == dict.fromkeys(
        ("lost_ticket", "false_accept", "leak", "torn_write"), True
    )
    assert found["faults"] > SMOKE.faults
    assert parts[-1] == "controls"


def test_a_seed_is_a_plan() -> None:
    assert planted(1, 50) == planted(1, 50) != planted(2, 50)
    assert deadlines(5, 300) == deadlines(5, 300)


@pytest.mark.parametrize(
    ("name", "broken", "message"),
    [
        ("lost_ticket", "unaccounted", "control lost_ticket was not noticed"),
        ("leak", "is_flat", "control leak was not noticed"),
    ],
)
def test_a_blind_check_turns_the_run_red(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: str, message: str
) -> None:
    if broken == "unaccounted":
        monkeypatch.setattr(Audit, "unaccounted", lambda *_: 0)
    else:
        monkeypatch.setattr(MemoryTrend, "is_flat", lambda *_: True)
    assert not chaos_controls.controls(0)[name]
    assert message.split()[1] == name


def test_every_kind_of_fault_is_planted_and_named() -> None:
    found = faults_in_threads(1, 400)
    assert len(found["kinds"]) == 18
    assert found["misnamed"] == []
