"""A real bundle through Detector on the TensorRT back end, with stand-ins for GPU and library.

The stand-in engine computes with ONNX Runtime, so scores must be the CPU's: what is held here is everything around
the library: build, cache, buffers, shapes, types and the way of a frame.
"""

from __future__ import annotations

import pytest
from bundles import tiny_bundle, tiny_frame
from fake_cuda import ORIN, RTX3080
from fake_tensorrt import VERSIONS
from trt_machine import InProcess

from edgead import Detector
from edgead.backends.trt import build_engine
from edgead.bundle import read_bundle, write_bundle
from edgead.errors import BackendError


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "tiny.edgead"
    write_bundle(path, tiny_bundle())
    return path


@pytest.mark.parametrize(
    ("version", "gpu"),
    [
        *((version, RTX3080) for version in VERSIONS),
        *((version, ORIN) for version in VERSIONS if not version.startswith("rtx")),
    ],
)
def test_detector_gives_the_scores_of_the_cpu(bundle, tmp_path, monkeypatch, version, gpu):
    machine = InProcess(monkeypatch, tmp_path, version, gpu)
    with pytest.raises(BackendError) as caught:
        Detector(bundle, backend=machine.name, precision="fp32")
    assert caught.value.code == "ENGINE_MISSING"
    build_engine(read_bundle(bundle).members["model.onnx"], name=machine.name, precision="fp32")
    with Detector(bundle, backend="onnxruntime", precision="fp32") as reference:
        wanted = reference(tiny_frame())
    with Detector(bundle, backend=machine.name, precision="fp32") as detector:
        for _ in range(3):
            found = detector(tiny_frame())
            assert (found.verdict, found.score) == (wanted.verdict, wanted.score)
            assert found.backend == machine.name
            assert (found.anomaly_map == wanted.anomaly_map).all()
        assert detector.verify()["ok"]
    assert machine.cuda.depth == 0
    assert machine.cuda.memory == {}


def test_stream_holds_builds_off_until_the_detector_closes(bundle, tmp_path, monkeypatch):
    machine = InProcess(monkeypatch, tmp_path, "10.3.0")
    model = read_bundle(bundle).members["model.onnx"]
    build_engine(model, name="tensorrt", precision="fp32")
    with Detector(bundle, backend="tensorrt", precision="fp32") as detector:
        build_engine(model, name="tensorrt", precision="fp32")
        with detector.stream([tiny_frame()] * 3) as outcomes:
            assert [outcome.status.value for outcome in outcomes] == ["RESULT"] * 3
            with pytest.raises(BackendError) as caught:
                build_engine(model, name="tensorrt", precision="fp32")
        assert caught.value.code == "CAMERA_RUNNING"
    build_engine(model, name="tensorrt", precision="fp32")
    assert machine.cuda.depth == 0
