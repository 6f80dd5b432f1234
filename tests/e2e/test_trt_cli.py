"""``edgead build`` as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import tiny_bundle
from trt_graphs import graph

from edgead.backends.trt.cache import EngineStore
from edgead.bundle import write_bundle


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "tiny.edgead"
    write_bundle(
        path, tiny_bundle(**{"model.int8.onnx": graph("int8"), "model.fp16.onnx": graph("fp16")})
    )
    return path


def build(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgead", "build", str(bundle), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


@pytest.mark.rtx
def test_engine_for_a_named_gpu(bundle):
    done = build(
        bundle, "--backend", "tensorrt-rtx", "--target", "sm86", "--precision", "int8", "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"engine", "seconds", "bytes", "key", "sha256", "precision"} <= set(told)
    assert told["precision"] == "int8"
    assert Path(told["engine"]).stat().st_size == told["bytes"]
    assert "GB of memory" in done.stderr


@pytest.mark.rtx
def test_refused_int8_becomes_fp16_and_says_so(bundle):
    write_bundle(
        bundle,
        tiny_bundle(
            **{"model.int8.onnx": graph(transpose_first=True), "model.fp16.onnx": graph("fp16")}
        ),
    )
    done = build(
        bundle, "--backend", "tensorrt-rtx", "--target", "sm86", "--precision", "int8", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["precision"] == "fp16"
    assert "int8 was refused (the parser of tensorrt-rtx" in done.stderr
    assert "built fp16 instead." in done.stderr


@pytest.mark.rtx
def test_refused_int8_takes_the_coarser_layout_first(bundle):
    """What one library refuses is the finer Q/DQ layout: the coarser one is still INT8."""
    refused, coarser = graph(transpose_first=True), graph("int8")
    write_bundle(
        bundle, tiny_bundle(**{"model.int8.onnx": refused, "model.int8-conv.onnx": coarser})
    )
    done = build(
        bundle, "--backend", "tensorrt-rtx", "--target", "sm86", "--precision", "int8", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["precision"] == "int8"
    assert "built the bundle's next int8 model instead." in done.stderr


@pytest.mark.rtx
def test_camera_loop_holds_builds_off(bundle, tmp_path):
    options = ("--backend", "tensorrt-rtx", "--target", "sm86", "--json")
    with EngineStore().camera_loop():
        refused = build(bundle, *options)
        forced = build(bundle, *options, "--force")
    assert refused.returncode != 0
    assert "CAMERA_RUNNING" in refused.stderr
    assert forced.returncode == 0, forced.stderr


def test_target_for_full_tensorrt_is_refused(bundle):
    done = build(bundle, "--backend", "tensorrt", "--target", "sm87")
    assert done.returncode == 2
    assert "builds for the GPU it runs on only" in done.stderr
    assert "Traceback" not in done.stderr
