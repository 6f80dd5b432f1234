"""Tuning: which way is best for a latency, and that the choice stays with this user and machine."""

from __future__ import annotations

import msgspec
import pytest
from bundles import tiny_bundle
from gravel import PATH, gravel_bundle

from edgead.bundle import CERTIFICATES, read_bundle, write_bundle
from edgead.choice import Tuned, choose, tuned_path
from edgead.deploy import tune as tuning
from edgead.deploy.tune import Measured, best, tune
from edgead.detector import Detector
from edgead.errors import BundleError, ConfigError

WAYS = [
    Measured("openvino", "fp32", 1, 30.0, 33.0),
    Measured("openvino", "fp32", 2, 16.0, 18.0),
    Measured("openvino", "int8", 1, 8.0, 9.0),
    Measured("openvino", "int8", 2, 5.0, 6.0),
    Measured("onnxruntime", "int8", 2, 7.0, 8.0),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("latency_ms", "expected"),
    [
        (100, ("fp32", 1)),  # closest to FP32 on the fewest threads
        (20, ("fp32", 2)),
        (10, ("int8", 1)),
        (7, ("int8", 2)),
        (1, ("int8", 2)),  # nothing meets it: the fastest
    ],
)
def test_closest_to_fp32_that_meets_the_latency(latency_ms, expected):
    first = best(WAYS, latency_ms)[0]
    assert (first.precision, first.threads) == expected


def test_the_choice_is_kept_for_the_machine_and_honoured(monkeypatch):
    before = PATH.read_bytes()
    monkeypatch.setattr(tuning, "_ROUNDS", 2)
    told = tune(PATH, latency_ms=1e4, backends=("onnxruntime",), threads=(1, 2))
    assert PATH.read_bytes() == before
    assert told["met"]
    assert (told["choice"]["precision"], told["choice"]["threads"]) == ("fp32", 1)
    assert len(told["measured"]) == 2
    choice = choose(gravel_bundle())
    assert (choice.backend, choice.precision, choice.threads) == ("onnxruntime", "fp32", 1)
    assert choice.why.startswith("tuned on this machine for 10000 ms: ")
    with Detector(gravel_bundle()) as detector:
        assert detector.choice == choice
    assert choose(gravel_bundle(), "openvino").backend == "openvino"  # a name comes first


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cpu m68k"},
        {"precision": "int8"},  # not certified
        {"backend": "abacus"},
        {"threads": -1},
    ],
)
def test_a_choice_that_does_not_hold_here_is_passed_over(changes):
    from edgead.backends.kind import device_kind

    kept = Tuned(
        backend="onnxruntime", precision="fp32", threads=1, p90_ms=1.0, latency_ms=2.0,
        device=device_kind("onnxruntime"),
    )  # fmt: skip
    path = tuned_path(gravel_bundle())
    path.parent.mkdir(parents=True)
    path.write_bytes(msgspec.json.encode(kept))
    assert choose(gravel_bundle()).backend == "onnxruntime"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(kept, **changes)))
    assert choose(gravel_bundle()).backend == "openvino"


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"backend": 1}'])
def test_a_damaged_choice_is_passed_over(data):
    path = tuned_path(gravel_bundle())
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    assert choose(gravel_bundle()).precision == "fp32"


def test_bad_input(tmp_path):
    with pytest.raises(ConfigError) as config:
        tune(PATH, latency_ms=0)
    assert str(config.value) == "[LATENCY] latency_ms is 0; expected more than 0."
    write_bundle(tmp_path / "none.edgead", tiny_bundle().with_members({}, golden=[]))
    with pytest.raises(BundleError) as error:
        tune(tmp_path / "none.edgead", latency_ms=5)
    assert str(error.value) == (
        "[GOLDEN_NONE] the bundle has no golden images to time. "
        "Commission it: edgead commission BUNDLE GOOD."
    )
    assert CERTIFICATES not in read_bundle(PATH).members
