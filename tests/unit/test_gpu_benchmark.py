"""``benchmarks/gpu.py`` on machines without a GPU: what it says, and that one part never loses another's results."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import gpu
import gpu_engine
import gpu_interop
import pytest


def run(runners, monkeypatch, *, seconds=1e4):
    saved = []
    everything = {name: (lambda _: {"passed": True}) for name in gpu.PARTS} | runners
    report = gpu.run_parts(
        everything, time.monotonic() + seconds, lambda told: saved.append(json.dumps(told))
    )
    return report, saved


def broken(_):
    raise RuntimeError("the driver went away")


def test_a_part_that_fails_is_told_and_the_others_run(monkeypatch):
    report, saved = run({"parity": broken, "engine": lambda _: {"passed": False}}, monkeypatch)
    assert report["parity"] == {"passed": False, "why": "RuntimeError: the driver went away"}
    assert all(report[name]["passed"] for name in ("build", "interop", "races", "timings"))
    assert len(saved) == len(gpu.PARTS), "written after every part"
    assert list(json.loads(saved[1])) == ["build", "parity"]


def test_without_kernels_nothing_is_run_and_that_is_said(monkeypatch):
    report, _ = run({"build": lambda _: {"passed": False, "output": "no nvcc"}}, monkeypatch)
    assert report["build"]["output"] == "no nvcc"
    assert {report[name]["why"] for name in gpu.PARTS if name != "build"} == {
        "not run: the kernels were not built"
    }


def test_parts_stop_when_the_time_is_over(monkeypatch):
    report, _ = run({}, monkeypatch, seconds=0.0)
    assert report["build"] == {"passed": False, "why": "not run: no time was left"}


def test_a_child_that_ends_its_process_leaves_what_it_had_told(monkeypatch, tmp_path):
    """A segmentation fault in a library, say: the results until then are there, and it did not pass."""
    script = tmp_path / "benchmarks" / "gpu.py"
    script.parent.mkdir()
    script.write_text(
        "import os, sys, json, signal\n"
        "out = sys.argv[sys.argv.index('--out') + 1]\n"
        "open(out, 'w').write(json.dumps({'passed': True, 'results': [1]}))\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    told = gpu.own_process("timings")(60.0)
    assert told["results"] == [1]
    assert not told["passed"]
    assert told["output"].endswith("ended by signal 11")


def test_a_child_that_hangs_is_ended(monkeypatch, tmp_path):
    told = gpu.step([sys.executable, "-c", "input()"], 1.0)
    assert not told["passed"]
    hung = gpu.step([sys.executable, "-c", "import time; time.sleep(600)"], 1.0)
    assert hung["output"].startswith("no end after 1 s")


def test_the_engine_part_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_engine, "MODULES", {"tensorrt": "no_such_tensorrt"})
    told = {}
    gpu_engine.run(60.0, told.update)
    assert told["engines"] == {"tensorrt": {"ran": False, "why": "not run: no no_such_tensorrt"}}
    assert not told["passed"]
    assert told["why"] == "tensorrt: not run: no no_such_tensorrt"


def test_an_engine_that_is_refused_is_an_answer(monkeypatch):
    """No GPU here: each precision says so, and the part ends by itself."""
    monkeypatch.setattr(gpu_engine, "MODULES", {"tensorrt-rtx": "json"})
    monkeypatch.setattr(gpu_engine, "why_not", lambda _: "")
    monkeypatch.setattr(gpu_engine, "complete", lambda path: ("fp32",))
    monkeypatch.setattr(
        gpu_engine, "measured", lambda *_: {"ran": False, "why": "BackendError: [NO_DRIVER] none"}
    )
    told = {}
    gpu_engine.run(60.0, told.update)
    precisions = told["engines"]["tensorrt-rtx"]["precisions"]
    assert precisions["fp32"]["why"] == "BackendError: [NO_DRIVER] none"
    assert precisions["int8"]["why"] == "not run: no onnx package to make the model"
    assert not told["passed"]


def test_the_engines_bundle_is_there_and_holds_all_precisions(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "part.edgead"
    assert gpu_engine.complete(path) == gpu_engine.PRECISIONS
    told = gpu_engine.measured("tensorrt", "fp32", path)
    assert not told["ran"]
    assert "[NO_DRIVER]" in told["why"] or "[NO_GPU]" in told["why"] or "[PROVIDER]" in told["why"]


def test_interop_says_what_is_missing_and_what_failed(monkeypatch):
    monkeypatch.setattr(
        gpu_interop,
        "CHECKS",
        {
            "cupy on one stream": (("no_such_cupy",), broken),
            "torch beside": ((), lambda: broken(0)),
            "pycuda memory": ((), lambda: {"max_error": 0.0}),
        },
    )
    told = {}
    gpu_interop.run(told.update)
    assert told["checks"] == {
        "cupy on one stream": {"ran": False, "why": "not run: no no_such_cupy"},
        "torch beside": {"ran": True, "passed": False, "why": "RuntimeError: the driver went away"},
        "pycuda memory": {"ran": True, "passed": True, "max_error": 0.0},
    }
    assert not told["passed"]


def test_no_gpu_no_figures(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "device", lambda: None)
    assert gpu.main([]) == 1
    assert "nothing was built, run or measured" in capsys.readouterr().err
    assert Path(gpu.__file__).is_file()
