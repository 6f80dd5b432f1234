"""What ``tune``, ``benchmark`` and ``doctor`` say of a GPU: the keys, the choice of memory, what is passed over."""

from __future__ import annotations

import json

import pytest
from bundles import tiny_bundle
from fake_cuda import ORIN, RTX3080
from trt_kernels import Kernels
from trt_machine import InProcess
from typer.testing import CliRunner

from edgead import Detector
from edgead.backends import whole_frame
from edgead.backends.trt import build_engine
from edgead.backends.trt import frame as frame_module
from edgead.bundle import read_bundle, write_bundle
from edgead.choice import choose
from edgead.cli import app
from edgead.deploy import tune as tuning
from edgead.deploy.tune import tune
from edgead.evaluate.benchmark import benchmark


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "tiny.edgead"
    write_bundle(path, tiny_bundle())
    return path


def machine_with_an_engine(monkeypatch, tmp_path, bundle, gpu=RTX3080, *, whole=True):
    machine = InProcess(monkeypatch, tmp_path, "10.3.0", gpu)
    machine.kernels = Kernels(machine.cuda)
    monkeypatch.setattr(frame_module, "gpu", machine.kernels)
    monkeypatch.setattr(whole_frame, "has_cuda", lambda: whole)
    build_engine(read_bundle(bundle).members["model.onnx"], name="tensorrt", precision="fp32")
    return machine


def test_tune_measures_mapped_against_pinned_and_keeps_the_better(bundle, tmp_path, monkeypatch):
    machine = machine_with_an_engine(monkeypatch, tmp_path, bundle, ORIN)
    monkeypatch.setattr(tuning, "_ROUNDS", 2)
    told = tune(bundle, latency_ms=1e4, backends=("tensorrt", "tensorrt-rtx"))
    assert {(one["backend"], one["memory"]) for one in told["measured"]} == {
        ("tensorrt", "pinned"),
        ("tensorrt", "mapped"),
    }
    chosen = told["choice"]["memory"]
    assert choose(read_bundle(bundle)).memory == chosen
    assert [one["backend"] for one in told["passed_over"]] == ["tensorrt-rtx"]
    with Detector(bundle) as detector:
        assert detector.choice.backend == "tensorrt"
        assert detector.choice.why.startswith("tuned on this machine for 10000 ms: ")
        assert detector.choice.why.endswith("(p90) (the whole frame on the GPU)")
        engine = detector._models.live._scorer._engine
        assert engine.maps_memory == (chosen == "mapped")
    assert machine.cuda.memory == {}


def test_tune_passes_over_an_engine_that_is_not_built_and_names_the_command(
    bundle, tmp_path, monkeypatch
):
    InProcess(monkeypatch, tmp_path, "10.3.0")
    monkeypatch.setattr(tuning, "_ROUNDS", 1)
    told = tune(bundle, latency_ms=1e4, backends=("tensorrt", "onnxruntime"), threads=(1,))
    (missing,) = told["passed_over"]
    assert (missing["backend"], missing["precision"]) == ("tensorrt", "fp32")
    assert missing["why"].startswith("[ENGINE_MISSING]")
    assert f"edgead build {bundle} --backend tensorrt --precision fp32" in missing["why"]
    assert {one["backend"] for one in told["measured"]} == {"onnxruntime"}


@pytest.mark.parametrize("whole", [True, False])
def test_benchmark_tells_what_the_gpu_does(bundle, tmp_path, monkeypatch, whole):
    machine = machine_with_an_engine(monkeypatch, tmp_path, bundle, whole=whole)
    result = benchmark(bundle, seconds=0.05, backend="tensorrt", precision="fp32")
    told = result["gpu"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert told["device"]["name"] == "NVIDIA GeForce RTX 3080"
    assert told["whole_frame"] is whole
    assert told["why_on_cpu"] == ("" if whole else "the kernels were built without CUDA")
    assert told["split_ms"] == {
        "copy_in": 0.25,
        "compute": 0.25,
        "copy_out": 0.25,
        "cuda_graph": True,
    }
    assert told["memory"]["best"] in ("pinned", "mapped")
    assert told["golden"]["ok"]
    assert told["parity"] == {
        "backend": "openvino", "frames": 2, "score_change": pytest.approx(0, abs=1e-5),
        "map_change": pytest.approx(0, abs=1e-5), "flips": 0,
    }  # fmt: skip
    assert set(result["throttle"]["before"]) == {"throttled", "by", "hottest_c"}
    assert machine.cuda.memory == {}


def test_benchmark_on_a_cpu_has_no_gpu_figures(bundle):
    assert benchmark(bundle, seconds=0.02, backend="onnxruntime")["gpu"] is None


def test_doctor_says_what_will_judge_a_bundle(bundle):
    done = CliRunner().invoke(app, ["doctor", str(bundle), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["choice"]["backend"] in ("openvino", "onnxruntime")
    assert told["choice"]["precision"] == "fp32"
    assert [one["name"] for one in told["checks"]].count("choice") == 1
