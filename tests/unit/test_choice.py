"""Which back end and precision, and why: names are taken or raise, ``auto`` needs a certificate."""

from __future__ import annotations

import importlib.util

import msgspec
import pytest
from bundles import tiny_bundle, tiny_model

from edgead.backends.kind import device_kind
from edgead.choice import certificates, choose
from edgead.errors import BackendError, BundleError, ConfigError


def certificate(precision, speedup, **changes):
    entry = {
        "backend": "openvino",
        "precision": precision,
        "passed": True,
        "arithmetic": "native",
        "device": device_kind("openvino"),
        "figures": {"speedup": speedup, "flips": 0},
        "limits": {},
    }
    return {**entry, **changes}


def certified(*entries):
    table = msgspec.json.encode(list(entries))
    return tiny_bundle(**{"certificates.json": table, "model.int8.onnx": tiny_model()})


def test_auto_without_certificates_is_fp32_on_the_first_installed():
    choice = choose(tiny_bundle())
    assert (choice.backend, choice.precision) == ("openvino", "fp32")
    assert choice.why == ("openvino: first installed; fp32: no other precision is certified here")


def test_a_name_is_taken_with_its_reason():
    choice = choose(tiny_bundle(), "onnxruntime", "fp32")
    assert (choice.backend, choice.precision) == ("onnxruntime", "fp32")
    assert choice.why == "onnxruntime: asked for; fp32: asked for"


def test_the_fastest_certified_precision_wins():
    choice = choose(certified(certificate("bf16", 1.8), certificate("int8", 3.25)))
    assert choice.precision == "int8"
    assert choice.why.endswith("int8: certified, 3.25x fp32 when measured")


@pytest.mark.parametrize(
    "changes",
    [
        {"passed": False},
        {"arithmetic": "emulated"},
        {"backend": "tensorrt"},
        {"device": "cpu m68k"},
    ],
)
def test_what_failed_was_emulated_or_is_of_another_engine_decides_nothing(changes):
    assert choose(certified(certificate("int8", 3.0, **changes))).precision == "fp32"


def test_a_certified_precision_that_is_slower_is_not_taken():
    choice = choose(certified(certificate("int8", 0.8)))
    assert choice.precision == "fp32"
    assert choice.why.endswith("fp32: no certified precision is faster")


def test_asking_by_name_needs_no_certificate_but_the_model():
    with pytest.raises(BundleError) as error:
        choose(tiny_bundle(), precision="fp16")
    assert str(error.value) == (
        "[PRECISION_MISSING] the bundle holds no fp16 model for openvino. "
        "Add it: edgead quantize BUNDLE --images DIR."
    )
    with pytest.raises(ConfigError) as config:
        choose(tiny_bundle(), precision="fp8")
    assert config.value.code == "PRECISION_UNKNOWN"


def test_nothing_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(BackendError) as error:
        choose(tiny_bundle())
    assert str(error.value) == (
        "[PROVIDER] no inference back end is installed. "
        "pip install 'edgead[cpu]', or name one: backend=\"tensorrt\"."
    )


def test_certificates_are_given_whole():
    entry = certificate("int8", 3.0)
    assert certificates(certified(entry)) == [entry]
    assert certificates(tiny_bundle()) == []
