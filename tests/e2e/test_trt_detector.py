"""A real bundle through Detector on the TensorRT back end, with stand-ins for GPU and library.

The stand-in engine computes with ONNX Runtime, so scores must be the CPU's: what is held here is everything around
the library: build, cache, buffers, shapes, types and the way of a frame.
"""

from __future__ import annotations

import numpy as np
import pytest
from bundles import tiny_bundle, tiny_frame
from fake_cuda import ORIN, RTX3080
from fake_tensorrt import VERSIONS
from trt_kernels import Kernels
from trt_machine import InProcess

from edgead import Detector
from edgead.backends import whole_frame
from edgead.backends.trt import build_engine
from edgead.backends.trt import frame as frame_module
from edgead.backends.trt.cuda import DeviceArray
from edgead.bundle import read_bundle, write_bundle
from edgead.errors import BackendError
from edgead.stream.sources.arrays import ArraySource


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Also where the kernels were built with CUDA: the fake GPU's memory is none of theirs.
    monkeypatch.setattr(whole_frame, "has_cuda", lambda: False)
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


@pytest.mark.parametrize("gpu", [RTX3080, ORIN], ids=["pc", "jetson"])
def test_whole_frame_on_the_gpu_gives_the_verdicts_of_the_cpu(bundle, tmp_path, monkeypatch, gpu):
    """Frames from the host and from the GPU's own memory, one by one, in a batch, in a stream."""
    machine = InProcess(monkeypatch, tmp_path, "10.3.0", gpu)
    build_engine(read_bundle(bundle).members["model.onnx"], name="tensorrt", precision="fp32")
    machine.kernels = Kernels(machine.cuda)
    monkeypatch.setattr(frame_module, "gpu", machine.kernels)
    monkeypatch.setattr(whole_frame, "has_cuda", lambda: True)
    pictures = [tiny_frame(seed, peak) for seed, peak in ((1, 100), (2, 200), (3, 120))]
    with Detector(bundle, backend="onnxruntime", precision="fp32") as reference:
        wanted = [reference(picture) for picture in pictures]
    with Detector(bundle, backend="tensorrt", precision="fp32") as detector:
        assert detector.choice.why.startswith("tensorrt: asked for (the whole frame on the GPU)")
        assert machine.kernels.calls == ["resize", "heatmap"] * 2, "the golden images"
        there = [on_the_gpu(machine, picture) for picture in pictures]
        for found in (
            [detector(picture) for picture in pictures],
            [detector(picture) for picture in there],
            detector.batch(there),
            [outcome.detection for outcome in detector.stream(ArraySource(there, copy=False))],
        ):
            for one, right in zip(found, wanted, strict=True):
                assert (one.verdict, one.score) == (right.verdict, right.score)
                np.testing.assert_array_equal(one.anomaly_map, right.anomaly_map)
                np.testing.assert_array_equal(one.mask, right.mask)
                assert [r.to_json() for r in one.regions] == [r.to_json() for r in right.regions]
    with Detector(bundle, backend="tensorrt", precision="fp32", score_only=True) as detector:
        machine.kernels.calls.clear()
        found = detector(there[1])
        assert (found.verdict, found.anomaly_map) == (wanted[1].verdict, None)
        assert machine.kernels.calls == ["resize"]
    assert machine.cuda.depth == 0
    assert len(machine.cuda.memory) == len(there), "only the frames themselves are left"


def on_the_gpu(machine, picture):
    """An image as jetson-utils hands it over: the interface and nothing else."""
    address = machine.cuda.allocate(picture.nbytes)
    machine.cuda.at(address, picture.nbytes)[:] = picture.reshape(-1)
    return DeviceArray(address, picture.shape, picture.dtype)
