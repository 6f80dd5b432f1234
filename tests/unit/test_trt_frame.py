"""A whole frame on the GPU gives what the CPU's way gives; the kernels are the CPU's, on the fake GPU's memory."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from fake_cuda import ORIN, RTX3080
from fake_tensorrt import model
from trt_kernels import Kernels
from trt_machine import InProcess

from edgead import kernels
from edgead.backends.trt import frame as frame_module
from edgead.backends.trt.cuda import DeviceArray
from edgead.backends.trt.frame import FrameOnGpu
from edgead.errors import BackendError, FrameError
from edgead.kernels import cuda as real_gpu

SHAPE = (20, 30, 3)
FRAME = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
MAP_MODEL = {
    "inputs": [["image", [-1, 8, 12, 3], "UINT8"]],
    "outputs": [["anomaly_map", [-1, 2, 3], "FLOAT"]],
}
PATCH_MODEL = {
    "inputs": [["image", [-1, 8, 12, 3], "UINT8"]],
    "outputs": [["patches", [-1, 2, 3, 4], "FLOAT"]],
}
OPTIONS = {"sigma": 1.0, "pixel_threshold": 130.0}


@pytest.fixture(params=[RTX3080, ORIN], ids=["pc", "jetson"])
def machine(request, tmp_path, monkeypatch):
    machine = InProcess(monkeypatch, tmp_path, "10.3.0", request.param)
    machine.kernels = Kernels(machine.cuda)
    monkeypatch.setattr(frame_module, "gpu", machine.kernels)
    yield machine
    assert machine.cuda.depth == 0


def expected(frame: np.ndarray, *, centroids=None, crop=None, channels=(0, 1, 2)):
    """The CPU's way: resize, what the fake engine computes, nearest centroid, heat map."""
    small = kernels.resize(frame, (8, 12), crop=crop, channels=channels)
    cells = 6 if centroids is None else 24
    output = (np.float64(small.mean()) + np.arange(cells)).astype(np.float32)
    if centroids is None:
        native = output.reshape(1, 2, 3)
    else:
        native = kernels.kmeans_assign(output.reshape(6, 4), centroids)[1].reshape(1, 2, 3)
    return native[0], kernels.heatmap(native, (8, 12), sigma=1.0, threshold=130.0)


def judged(run: FrameOnGpu, frame, crop=None) -> np.ndarray:
    """The native map of a frame."""
    run.bring(frame, crop)
    run.start(heat=True)
    return run.native()


@pytest.mark.parametrize("crop", [None, (3, 2, 27, 18)])
@pytest.mark.parametrize("channels", [(0, 1, 2), (2, 1, 0)])
def test_frame_equals_the_cpu(machine, crop, channels):
    backend = machine.open(model(**MAP_MODEL))
    run = FrameOnGpu(backend, channels=channels, **OPTIONS)
    for shift in range(3):
        run.bring(FRAME + shift, crop)
        run.start(heat=True)
        np.testing.assert_array_equal(
            run.picture(), kernels.resize(FRAME + shift, (8, 12), crop=crop, channels=channels)
        )
        native = run.native()
        wanted, heat = expected(FRAME + shift, crop=crop, channels=channels)
        np.testing.assert_array_equal(native, wanted)
        for found, value in zip(run.heat(), heat, strict=True):
            np.testing.assert_array_equal(found, value)
    run.close()
    backend.close()
    assert machine.cuda.memory == {}


def test_nearest_centroid_on_the_gpu(machine):
    centroids = np.random.default_rng(1).normal(100, 30, (5, 4)).astype(np.float32)
    backend = machine.open(model(**PATCH_MODEL))
    run = FrameOnGpu(backend, centroids=centroids, **OPTIONS)
    native = judged(run, FRAME)
    wanted, heat = expected(FRAME, centroids=centroids)
    np.testing.assert_array_equal(native, wanted)
    np.testing.assert_array_equal(run.heat().peak, heat.peak)
    run.close()
    backend.close()
    assert machine.cuda.memory == {}
    assert machine.kernels.calls == ["resize", "kmeans_assign", "heatmap"]


def test_only_what_is_asked_for_comes_back(machine):
    """Picture and native map; with a heat map, its map and peak; the mask where the peak is in it."""
    backend = machine.open(model(**MAP_MODEL))
    run = FrameOnGpu(backend, sigma=1.0, pixel_threshold=1e9)
    judged(run, FRAME)
    judged(run, FRAME)

    enqueued = machine.trt._counts["enqueue"]
    assert copies(run, machine, heat=False) == 2
    assert copies(run, machine, heat=True) == 4
    run._pixel_threshold = -1.0
    assert copies(run, machine, heat=True) == 5
    assert machine.trt._counts["enqueue"] == enqueued, "the engine's graph was replayed"
    run.close()
    backend.close()


def copies(run: FrameOnGpu, machine, *, heat: bool) -> int:
    """Copies to the host that one frame takes."""
    before = machine.cuda.log.count("cuMemcpyDtoHAsync")
    run.bring(FRAME)
    run.start(heat=heat)
    run.picture()
    run.native()
    if heat:
        assert run.heat().mask.all() == (run._pixel_threshold < 0)
    return machine.cuda.log.count("cuMemcpyDtoHAsync") - before


def test_heat_that_was_not_started(machine):
    backend = machine.open(model(**MAP_MODEL))
    run = FrameOnGpu(backend, **OPTIONS)
    run.bring(FRAME)
    run.start(heat=False)
    run.native()
    with pytest.raises(BackendError) as caught:
        run.heat()
    assert str(caught.value) == "[NOT_STARTED] heat() without start(heat=True). Start with it."
    run.close()
    backend.close()


def test_painted_picture_and_another_map(machine):
    """What a view needs: the engine sees the painted picture, the heat map comes from the judged map."""
    backend = machine.open(model(**MAP_MODEL))
    run = FrameOnGpu(backend, **OPTIONS)
    run.bring(FRAME)
    picture = run.picture()
    picture[:4] = 7
    run.repaint(picture)
    run.start(heat=False)
    np.testing.assert_array_equal(run.picture(), picture)
    native = run.native()
    np.testing.assert_array_equal(
        native.ravel(), (np.float64(picture.mean()) + np.arange(6)).astype(np.float32)
    )
    native[0, 0] = 500.0
    wanted = kernels.heatmap(native[None], (8, 12), sigma=1.0, threshold=130.0)
    for found, value in zip(run.heat(native), wanted, strict=True):
        np.testing.assert_array_equal(found, value)
    run.close()
    backend.close()


def test_frame_that_is_on_the_gpu_is_not_uploaded(machine):
    backend = machine.open(model(**MAP_MODEL))
    run = FrameOnGpu(backend, **OPTIONS)
    address = machine.cuda.allocate(FRAME.nbytes)
    machine.cuda.at(address, FRAME.nbytes)[:] = FRAME.reshape(-1)
    uploads = machine.cuda.log.count("cuMemcpyHtoDAsync")
    native = judged(run, DeviceArray(address, SHAPE, np.dtype("uint8")))
    np.testing.assert_array_equal(native, expected(FRAME)[0])
    assert machine.cuda.log.count("cuMemcpyHtoDAsync") == uploads
    run.close()
    backend.close()


def test_frames_of_several_sizes(machine):
    backend = machine.open(model(**MAP_MODEL))
    run = FrameOnGpu(backend, **OPTIONS)
    large = np.random.default_rng(2).integers(0, 256, (50, 41, 3), np.uint8)
    for frame in (FRAME, large, FRAME[:9], large):
        np.testing.assert_array_equal(judged(run, frame), expected(frame)[0])
    run.close()
    backend.close()
    assert machine.cuda.memory == {}


def test_gaps_between_the_pixels_of_a_gpu_frame_are_a_sentence(machine, monkeypatch):
    backend = machine.open(model(**MAP_MODEL))
    run = FrameOnGpu(backend, **OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(frame_module, "gpu", real_gpu)
        gaps = DeviceArray(0x1000, SHAPE, np.dtype("uint8"))
        told = {**gaps.__cuda_array_interface__, "strides": (90, 4, 1)}
        with pytest.raises(FrameError) as caught:
            run.bring(type("Foreign", (), {"__cuda_array_interface__": told})())
    assert str(caught.value) == (
        "[FRAME_GPU_LAYOUT] the frame on the GPU: frame of shape (20, 30, 3) has strides (90, 4, 1); expected "
        "contiguous pixels in each row. Hand over a packed copy."
    )
    np.testing.assert_array_equal(judged(run, FRAME), expected(FRAME)[0])
    run.close()
    backend.close()


def test_kernel_that_fails_leaves_the_next_frame_its_chance(machine, monkeypatch):
    backend = machine.open(model(**MAP_MODEL))
    run = FrameOnGpu(backend, **OPTIONS)

    def fail(*_, **__):
        raise BackendError("KERNELS_CUDA", "CUDA refused heatmap_on: too many resources.")

    with monkeypatch.context() as patch:
        patch.setattr(machine.kernels, "heatmap", fail, raising=False)
        run.bring(FRAME)
        with pytest.raises(BackendError) as caught:
            run.start(heat=True)
    assert caught.value.code == "KERNELS_CUDA"
    run.settle()
    np.testing.assert_array_equal(judged(run, FRAME), expected(FRAME)[0])
    run.close()
    backend.close()


def test_kernel_that_loses_the_device_is_remembered(machine, monkeypatch):
    backend = machine.open(model(**MAP_MODEL))
    run = FrameOnGpu(backend, **OPTIONS)

    def fail(*_, **__):
        raise BackendError(
            "KERNELS_CUDA", "CUDA refused resize_on: an illegal memory access was encountered."
        )

    monkeypatch.setattr(machine.kernels, "resize", fail, raising=False)
    with pytest.raises(BackendError):
        run.bring(FRAME)
    assert backend.is_lost
    with pytest.raises(BackendError) as caught:
        backend.open_request()
    assert caught.value.code == "DEVICE_LOST"
    run.close()
    backend.close()


def test_stand_in_has_the_signatures_of_the_real_kernels():
    for name in ("resize", "kmeans_assign", "heatmap"):
        real = list(inspect.signature(getattr(real_gpu, name)).parameters.values())
        mine = list(inspect.signature(getattr(Kernels, name)).parameters.values())[1:]
        assert [p.kind for p in real] == [p.kind for p in mine], name
        assert [p.name for p in real if p.kind is p.KEYWORD_ONLY] == ["out", "stream"]
