"""Damaged files are refused by type, in a child whose death is a finding. Smoke sizes; see SECURITY.md."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from edgead.errors import ConfigError, EdgeadError
from edgead.reliability.fuzz import every_byte, fuzz, fuzz_input
from edgead.reliability.mutate import mutate_json
from edgead.reliability.targets import TARGETS, target_named

_CORPUS = Path(__file__).parent / "corpus"
_RUNS = {"onnx-engine": 200, "calibration": 1000}


@pytest.mark.parametrize("target", TARGETS)
def test_smoke(target: str) -> None:
    runs = _RUNS.get(target, 4000)
    figures = fuzz(target, runs=runs, seed=1)
    assert figures["findings"] == []
    assert figures["ok"]
    assert figures["runs"] == runs
    assert sum(figures["refused"].values()) + figures["accepted"] + figures["unchanged"] == runs
    assert len(figures["refused"]) >= 2  # several kinds of refusal were reached
    assert figures["peak_rss_mb"] < 300


@pytest.mark.parametrize("target", TARGETS)
def test_sound_files_are_read(target: str) -> None:
    made = target_named(target)
    for seed in made.seeds:
        made.read(seed)


def test_inputs_are_repeated_by_their_number() -> None:
    assert fuzz_input("bundle", 3, 17) == fuzz_input("bundle", 3, 17)
    assert len({fuzz_input("bundle", 3, index) for index in range(50)}) > 45


@pytest.mark.parametrize("plant", ["crash", "untyped", "accept", "hang"])
def test_a_planted_fault_is_found(
    plant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgead.reliability.fuzz._HANG_S", 1.0)
    figures = fuzz("engine-header", runs=50, plant=plant, keep=tmp_path)
    assert not figures["ok"]
    kinds = {"crash": "crash", "untyped": "untyped", "accept": "accepted", "hang": "hang"}
    assert [(f["index"], f["kind"]) for f in figures["findings"]] == [(0, kinds[plant])]
    assert figures["runs"] == 50  # and it went on behind it
    kept = tmp_path / "engine-header-0-0.bin"
    assert kept.read_bytes() == fuzz_input("engine-header", 0, 0)


@pytest.mark.parametrize("target", ["bundle", "engine-header"])
def test_every_single_byte_counts(target: str) -> None:
    figures = every_byte(target, values=2)
    assert figures["accepted"] == []
    assert figures["ok"]
    assert figures["changes"] == 2 * figures["bytes"] > 2000


def test_every_byte_finds_one_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    made = target_named("engine-header")
    whole = made.seeds[0]

    def forgiving(data: bytes) -> None:
        type(made).read(made, data[:5] + whole[5:6] + data[6:])

    monkeypatch.setattr(made, "read", forgiving)
    monkeypatch.setattr("edgead.reliability.fuzz.target_named", lambda _: made)
    assert every_byte("engine-header", values=1)["accepted"] == [5]


def test_unknown_target() -> None:
    with pytest.raises(ConfigError) as error:
        fuzz("socks")
    assert str(error.value) == (
        f"[FUZZ_TARGET] target is 'socks'; want one of {', '.join(TARGETS)}."
    )


def _corpus() -> list[Any]:
    return [
        pytest.param(path, id=f"{path.parent.name}/{path.name}") for path in _CORPUS.glob("*/*.bin")
    ]


@pytest.mark.parametrize("path", _corpus())
def test_past_findings_stay_fixed(path: Path) -> None:
    """Each file once came out untyped; its folder is its target."""
    with pytest.raises(EdgeadError):
        target_named(path.parent.name).read(path.read_bytes())


def test_a_number_that_no_float_holds_is_changed_too() -> None:
    """Found by a full run: the second change of a file met an integer that the first had made."""
    data = b'{"speedup": %d}' % 10**400
    changed = {mutate_json(data, random.Random(seed)) for seed in range(200)}
    assert len(changed) > 10
