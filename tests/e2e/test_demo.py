"""`edgead demo`: pictures of their own, defects where their masks say, and the whole path to the page."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
from data.make_bundle import tiny_method

from edgead import demo
from edgead.errors import ConfigError
from edgead.evaluate import benchmark
from edgead.evaluate.data import file_hash, find_test, find_training
from edgead.images import read
from edgead.models import registry


@pytest.fixture
def small(monkeypatch):
    """Fewer pictures."""
    monkeypatch.setattr(demo, "TRAINING", 42)
    monkeypatch.setattr(demo, "TEST_GOOD", 6)
    monkeypatch.setattr(demo, "TEST_DEFECTS", 6)


@pytest.mark.usefixtures("small")
def test_no_picture_is_there_twice_and_every_class_is_there(tmp_path):
    demo.make_data(tmp_path)
    training, test = find_training(tmp_path), find_test(tmp_path)
    assert (len(training), len(test)) == (42, 12)
    assert {sample.defect for sample in test} == {"good", *demo.KINDS}
    assert all(sample.mask_path is not None for sample in test if sample.label)
    hashes = [file_hash(path) for path in [*training, *(sample.path for sample in test)]]
    assert len(set(hashes)) == len(hashes)


def test_a_camera_moves_and_sees_the_same_part():
    camera = demo.SimulatedCamera(0)
    first, second = camera().astype(float), camera().astype(float)
    assert (first != second).any(axis=2).mean() > 0.9
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.9


@pytest.mark.usefixtures("small")
def test_defects_lie_where_their_masks_say(tmp_path, monkeypatch):
    """The simulated camera stands still, so that what differs is the defect."""
    still = demo.SimulatedCamera(0)()
    monkeypatch.setattr(demo.SimulatedCamera, "__call__", lambda _: still.copy())
    demo.make_data(tmp_path)
    for sample in find_test(tmp_path):
        if sample.label:
            mask = read(sample.mask_path).pixels > 0
            changed = (read(sample.path).pixels != still).any(axis=2)
            assert 0 < mask.mean() < 0.5
            assert not changed[~mask].any()
            assert changed[mask].mean() > 0.3


@pytest.mark.usefixtures("small")
def test_the_seed_alone_decides(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        demo.make_data(tmp_path / name, seed=seed)
    a, b, c = (
        [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.png"))] for name in "abc"
    )
    assert a == b
    assert a != c


@pytest.mark.usefixtures("small")
def test_the_whole_path(tmp_path, monkeypatch):
    """On the tests' tiny network, so that it takes seconds; benchmarks/ has the real one's figures."""
    measure = functools.partial(benchmark.benchmark, threads=1)
    monkeypatch.setattr(registry, "make_method", lambda *_, **__: tiny_method())
    monkeypatch.setattr(
        benchmark, "benchmark", lambda *a, **k: measure(*a, **{**k, "seconds": 0.1})
    )
    said, told = [], []
    found = demo.run_demo(tmp_path / "out", minutes=0.05, report=told.append, say=said.append)
    assert set(found) == {"photograph", "bundle", "quantize", "evaluate", "benchmark", "report"}
    assert "CC0" in found["photograph"]
    assert (found["evaluate"]["frames"], found["evaluate"]["unknown_rate"]) == (12, 0.0)
    assert 0 <= found["evaluate"]["image_auroc"] <= 1
    assert found["benchmark"]["end_to_end"]["fps"] > 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "simulated" in page
    assert "simulated" in said[0]
    assert "held-out good images" in said[1]
    certified = found["quantize"]["certificates"]
    assert {one["precision"] for one in certified} >= {"fp16"}
    assert {one["defects"] for one in certified} == {"labelled"}
    for one in certified:  # each is told and shown, whether it holds or not
        name = f"{one['precision']} on {one['backend']}"
        assert any(line.startswith(name) for line in said)
        assert name in page
    assert any(moment.stage.startswith("certify") for moment in told)


def test_a_precision_that_fails_says_why():
    figures = {"flips": 0, "frames": 60, "speedup": 2.94, "size_ratio": 0.287}
    one = {"precision": "int8", "backend": "openvino", "figures": figures, "passed": True}
    assert demo._verdict(one) == (
        "int8 on openvino: 0 of 60 verdicts flip, 2.9x FP32's speed, 29 % of its size."
    )
    failed = {**one, "passed": False, "reasons": ["2 verdicts flip (limit 0)", "another"]}
    assert demo._verdict(failed) == (
        "int8 on openvino does not hold: 2 verdicts flip (limit 0); another."
    )


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ConfigError) as error:
        demo.SimulatedCamera()
    assert str(error.value) == (
        "[DEMO_IMAGES] the demo's photograph comes with scikit-image, which is not installed. "
        "pip install 'edgead[demo]'."
    )
