"""Properties of the engine file and its cache; the full campaigns are in ``tests/trt_campaign.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trt_campaign
from hypothesis import given, settings
from hypothesis import strategies as st

from edgead.backends.trt import header
from edgead.errors import BackendError

HEADER_BITS = 8 * (len(trt_campaign.sample()) - len(trt_campaign.PLAN))


def test_every_bit_of_the_header_counts():
    data = trt_campaign.sample()
    for bit in range(HEADER_BITS):
        data[bit // 8] ^= 1 << bit % 8
        assert trt_campaign.is_refused(data), f"bit {bit} of the header is not checked"
        data[bit // 8] ^= 1 << bit % 8


def test_bits_of_the_plan_count():
    told = trt_campaign.flips(stride=509, start=HEADER_BITS)
    assert told["refused"] == told["tried"] > 1000


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_rubbish_is_refused_with_a_code(data):
    """Whatever is cut, inserted or overwritten: BackendError, never another exception."""
    good = bytes(trt_campaign.sample()[:1200])
    at = data.draw(st.integers(0, len(good)))
    cut = data.draw(st.integers(0, 64))
    put = data.draw(st.binary(max_size=64))
    changed = good[:at] + put + good[at + cut :]
    with pytest.raises(BackendError) as caught:
        header.unpack(changed, trt_campaign.SECRET, source="x")
    assert caught.value.code.startswith("ENGINE_")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.dictionaries(st.text(max_size=9), st.integers(), max_size=4))
def test_round_trip(plan, info):
    data = header.pack(trt_campaign.KEY, plan, info, b"k" * 32)
    assert header.unpack(data, b"k" * 32, source="") == (trt_campaign.KEY, plan, info)


def race(*arguments: str) -> dict[str, int]:
    """The campaign in a process of its own: it forks, and this one may have threads."""
    script = Path(trt_campaign.__file__)
    command = [sys.executable, str(script), "race", "--rounds", "4", "--seed", "3", *arguments]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.stdout, found.stderr
    return {"exit": found.returncode, **json.loads(found.stdout)}


def test_one_build_however_many_ask():
    told = race()
    assert told["exit"] == 0
    assert told["wrong_rounds"] == told["torn"] == told["left_over"] == 0
    assert told["builds"] == 4 + told["killed"]
    assert told["served"] == 64 - told["killed"]


def test_race_finds_a_missing_lock():
    told = race("--no-lock")
    assert told["exit"] == 1
    assert told["wrong_rounds"] > 0


def test_file_that_is_exchanged_while_it_is_read():
    told = trt_campaign.swap(rounds=1000, seed=5)
    assert told["foreign"] == 0
    assert told["served"] > 0
    assert told["refused"] > 0
    assert told["swaps"] > 0
