"""kill -9 while writing, a replayed power cut, and a soak; smoke sizes, each with its control."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from bundles import tiny_bundle

from edgead.bundle import read_bundle, write_bundle
from edgead.errors import ConfigError
from edgead.reliability.crash import crashtest, crashtest_command, powercut
from edgead.reliability.soak import memory_slope, soak

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_kills_tear_nothing_and_lose_nothing() -> None:
    figures = crashtest(kills=45)
    assert figures["problems"] == []
    assert figures["ok"]
    assert (figures["torn"], figures["lost"], figures["left"]) == (0, 0, 0)
    assert figures["swept"] > 0  # some kills did fall into a write
    assert figures["rows"] > 0


def test_writing_in_place_is_found_out() -> None:
    figures = crashtest(kills=24, plant=True)
    assert not figures["ok"]
    assert figures["torn"] > 0


def test_power_cut_loses_no_synced_row() -> None:
    figures = powercut(rows=40, cuts=40)
    assert figures["ok"]
    assert (figures["lost"], figures["broken"]) == (0, 0)
    assert figures["fewest"] < 20 < figures["most"]


_COMMAND = """
import sys, time
sys.path.insert(0, sys.argv[2])
from bundles import tiny_bundle
from edgead.bundle import write_bundle
for number in range(20):
    member = b"[" + b"0," * (50_000 + number) + b"0]"
    data = tiny_bundle(**{"calibration.json": member})
    if sys.argv[3] == "whole":
        write_bundle(sys.argv[1], data)
    else:
        with open(sys.argv[1], "wb") as stream:
            for byte in range(0, len(data.to_bytes()), 4000):
                stream.write(data.to_bytes()[byte : byte + 4000])
"""


@pytest.mark.parametrize("how", ["whole", "in place"])
def test_a_killed_command_leaves_a_whole_bundle(tmp_path: Path, how: str) -> None:
    path = tmp_path / "part.edgead"
    write_bundle(path, tiny_bundle())
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", _COMMAND, str(path), tests, how]
    figures = crashtest_command(command, path, kills=6)
    assert figures["kills"] > 0
    assert figures["ok"] == (figures["torn"] == 0)
    if how == "whole":
        assert figures["ok"]
    assert read_bundle(path) == tiny_bundle()  # as it was before


def test_a_command_that_fails_anyway_is_no_test(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with pytest.raises(ConfigError) as error:
        crashtest_command(command, tmp_path / "part.edgead")
    assert str(error.value) == (
        "[CRASH_COMMAND] the command ends with 1 when it is not disturbed: no such thing"
    )


def test_soak_is_flat_and_finds_a_leak() -> None:
    sound = soak(tiny_bundle(), minutes=0.05, backend="openvino", threads=1)
    assert (sound["handles"], sound["threads"]) == (0, 0)
    assert sound["golden_ok"]
    assert sound["frames"] > 100
    assert sound["sustained_fps"] > 0
    assert set(sound["throttle"]["after"]) == {"throttled", "by", "hottest_c"}
    leaking = soak(tiny_bundle(), minutes=0.05, backend="openvino", threads=1, leak_bytes=20_000)
    assert not leaking["is_flat"]
    assert not leaking["ok"]
    assert leaking["slope_interval"][0] > 0


def test_memory_slope_is_that_of_the_line() -> None:
    hours = np.linspace(0, 2, 2400)
    noise = np.random.default_rng(0).normal(0, 0.5, 2400)
    for true in (0.0, 5.0):
        slope, half = memory_slope(hours, 200 + true * hours + noise)
        assert abs(slope - true) < half < 1  # the half-width that a release needs
        assert (slope - half > 0) == (true > 0)
    assert memory_slope(hours, np.full(2400, 200.0)) == (0.0, 0.0)


@pytest.mark.parametrize("at", [150, 1200, 2200])
def test_one_step_is_no_growth(at: int) -> None:
    slope, half = memory_slope(np.linspace(0, 2, 2400), 200.0 + (np.arange(2400) > at))
    assert slope - half < 0 < slope + half


def test_the_interval_covers_no_growth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    hours = np.linspace(0, 2, 2400)
    covered = 0
    for _ in range(300):
        walk = np.where(draw.random(2400) < 0.02, draw.normal(0, 0.1, 2400), 0).cumsum()
        slope, half = memory_slope(hours, 200 + walk)
        covered += abs(slope) <= half
    assert 0.90 <= covered / 300 <= 0.99
