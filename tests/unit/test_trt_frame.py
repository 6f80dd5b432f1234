"""A whole frame on the GPU gives what the CPU's way gives; the kernels are the CPU's, on the fake GPU's memory."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cuda import ORIN, RTX3080
from fake_tensorrt import model
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


class Kernels:
    """The signatures of `edgead.kernels.cuda`, enqueued on the fake stream and computed on the CPU."""

    def __init__(self, cuda) -> None:
        self.cuda, self.calls = cuda, []

    def host(self, array) -> np.ndarray:
        told = array.__cuda_array_interface__
        dtype = np.dtype(told["typestr"])
        nbytes = int(np.prod(told["shape"])) * dtype.itemsize
        return self.cuda.at(told["data"][0], nbytes).view(dtype).reshape(told["shape"])

    def resize(self, frame, size, crop, channels, *, out, stream) -> None:
        self.calls.append("resize")
        self.cuda.enqueue(
            stream,
            lambda: self.put(
                out, kernels.resize(self.host(frame), size, crop=crop, channels=channels)
            ),
        )

    def kmeans_assign(self, patches, centroids, *, out, stream) -> None:
        self.calls.append("kmeans_assign")

        def work() -> None:
            for target, value in zip(
                out, kernels.kmeans_assign(self.host(patches), self.host(centroids)), strict=True
            ):
                self.put(target, value)

        self.cuda.enqueue(stream, work)

    def heatmap(self, maps, size, sigma, threshold, *, out, stream) -> None:
        self.calls.append("heatmap")

        def work() -> None:
            found = kernels.heatmap(self.host(maps), size, sigma=sigma, threshold=threshold)
            for target, value in zip(out, found, strict=True):
                self.put(target, value)

        self.cuda.enqueue(stream, work)

    def put(self, target, value) -> None:
        self.host(target)[...] = value


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


OPTIONS = {"frame_shape": SHAPE, "sigma": 1.0, "pixel_threshold": 130.0}


@pytest.mark.parametrize("crop", [None, (3, 2, 27, 18)])
@pytest.mark.parametrize("channels", [(0, 1, 2), (2, 1, 0)])
def test_frame_equals_the_cpu(machine, crop, channels):
    backend = machine.open(model(**MAP_MODEL))
    with FrameOnGpu(backend, crop=crop, channels=channels, **OPTIONS) as run:
        for shift in range(3):
            native, peak = run(FRAME + shift)
            wanted, heat = expected(FRAME + shift, crop=crop, channels=channels)
            np.testing.assert_array_equal(native, wanted)
            assert peak == heat.peak[0]
            smoothed, mask = run.heat()
            np.testing.assert_array_equal(smoothed, heat.map[0])
            np.testing.assert_array_equal(mask, heat.mask[0].astype(bool))
    backend.close()
    assert machine.cuda.memory == {}


def test_nearest_centroid_on_the_gpu(machine):
    centroids = np.random.default_rng(1).normal(100, 30, (5, 4)).astype(np.float32)
    backend = machine.open(model(**PATCH_MODEL))
    with FrameOnGpu(backend, centroids=centroids, **OPTIONS) as run:
        native, peak = run(FRAME)
        wanted, heat = expected(FRAME, centroids=centroids)
        np.testing.assert_array_equal(native, wanted)
        assert peak == heat.peak[0]
    backend.close()
    assert machine.cuda.memory == {}
    assert machine.kernels.calls == ["resize", "kmeans_assign", "heatmap"]


def test_good_frame_brings_back_the_native_map_and_the_peak_alone(machine):
    backend = machine.open(model(**MAP_MODEL))
    with FrameOnGpu(backend, **OPTIONS) as run:
        run(FRAME)
        copies = machine.cuda.log.count("cuMemcpyDtoHAsync")
        enqueued = machine.trt._counts["enqueue"]
        run(FRAME)
        assert machine.cuda.log.count("cuMemcpyDtoHAsync") == copies + 2
        assert machine.trt._counts["enqueue"] == enqueued, "the engine's graph was replayed"
    backend.close()


def test_frame_that_is_on_the_gpu_is_not_uploaded(machine):
    backend = machine.open(model(**MAP_MODEL))
    with FrameOnGpu(backend, **OPTIONS) as run:
        address = machine.cuda.allocate(FRAME.nbytes)
        machine.cuda.at(address, FRAME.nbytes)[:] = FRAME.reshape(-1)
        uploads = machine.cuda.log.count("cuMemcpyHtoDAsync")
        native, _ = run(DeviceArray(address, SHAPE, np.dtype("uint8")))
        np.testing.assert_array_equal(native, expected(FRAME)[0])
        assert machine.cuda.log.count("cuMemcpyHtoDAsync") == uploads
    backend.close()


@pytest.mark.parametrize("frame", [FRAME[:19], FRAME.astype(np.float32)])
def test_other_frames_are_refused(machine, frame):
    backend = machine.open(model(**MAP_MODEL))
    with FrameOnGpu(backend, **OPTIONS) as run:
        with pytest.raises(FrameError) as caught:
            run(frame)
        assert str(caught.value) == (
            f"[FRAME_SIZE] the frame is {frame.dtype} {frame.shape}; this run began with uint8 (20, 30, 3)."
        )
        np.testing.assert_array_equal(run(FRAME)[0], expected(FRAME)[0])
    backend.close()


def test_kernel_that_fails_leaves_the_next_frame_its_chance(machine, monkeypatch):
    backend = machine.open(model(**MAP_MODEL))
    with FrameOnGpu(backend, **OPTIONS) as run:

        def fail(*_, **__):
            raise BackendError("KERNELS_CUDA", "CUDA refused heatmap_on: too many resources.")

        with monkeypatch.context() as patch:
            patch.setattr(machine.kernels, "heatmap", fail, raising=False)
            with pytest.raises(BackendError) as caught:
                run(FRAME)
        assert caught.value.code == "KERNELS_CUDA"
        np.testing.assert_array_equal(run(FRAME)[0], expected(FRAME)[0])
    backend.close()


def test_kernel_that_loses_the_device_is_remembered(machine, monkeypatch):
    backend = machine.open(model(**MAP_MODEL))
    with FrameOnGpu(backend, **OPTIONS) as run:

        def fail(*_, **__):
            raise BackendError(
                "KERNELS_CUDA", "CUDA refused resize_on: an illegal memory access was encountered."
            )

        monkeypatch.setattr(machine.kernels, "resize", fail, raising=False)
        with pytest.raises(BackendError):
            run(FRAME)
        assert backend.is_lost
        with pytest.raises(BackendError) as caught:
            backend.open_request()
        assert caught.value.code == "DEVICE_LOST"
    backend.close()


def test_stand_in_has_the_signatures_of_the_real_kernels():
    import inspect

    for name in ("resize", "kmeans_assign", "heatmap"):
        real = list(inspect.signature(getattr(real_gpu, name)).parameters.values())
        mine = list(inspect.signature(getattr(Kernels, name)).parameters.values())[1:]
        assert [p.kind for p in real] == [p.kind for p in mine], name
        assert [p.name for p in real if p.kind is p.KEYWORD_ONLY] == ["out", "stream"]
