"""On a machine with a GPU: engines built, loaded, run and compared with ONNX Runtime. Not run anywhere yet.

    EDGEAD_REQUIRE_GPU=1 EDGEAD_REQUIRE_TRT=1 pytest tests/gpu/test_trt_device.py

Needs pycuda and TensorRT or TensorRT-RTX; CuPy and torch are used beside the engine where they are installed.
"""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import onnxruntime
import pytest
from gravel import gravel_bundle
from trt_graphs import SIDE, graph

from edgead import Detector, Frame, kernels
from edgead.backends.trt import TrtOptions, build_engine, open_backend
from edgead.errors import BackendError
from edgead.golden import golden_frame

pytestmark = pytest.mark.gpu

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 1, SIDE, SIDE, 3), np.uint8)
#: Share of the output's range: FP32 differs in summation order, FP16 in ten bits of mantissa.
BOUNDS = {"fp32": 1e-4, "fp16": 1e-2}


def need(module: str) -> None:
    if importlib.util.find_spec(module.partition(".")[0]) is not None:
        return
    if os.environ.get("EDGEAD_REQUIRE_TRT") == "1" and module == "pycuda":
        pytest.fail(f"EDGEAD_REQUIRE_TRT=1, but {module} is not installed", pytrace=False)
    pytest.skip(f"{module} is not installed")


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def name(request) -> str:
    need("pycuda")
    need(request.param.replace("-", "_"))
    return request.param


@pytest.fixture
def opened(name, tmp_path):
    backends = []

    def make(precision: str = "fp32", **options):
        backend = open_backend(
            graph(precision, batch="n"), name=name, precision=precision, cache_dir=tmp_path / "cache",
            allow_build=True, options=TrtOptions(batch=(1, 1, 3), **options),
        )  # fmt: skip
        backends.append(backend)
        return backend

    yield make
    for backend in backends:
        backend.close()


def expected(frames: np.ndarray, precision: str = "fp32") -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        graph(precision, batch="n"), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": frames}), strict=True))


def check(outputs, frames: np.ndarray, precision: str = "fp32") -> None:
    for output, wanted in expected(frames, precision).items():
        worst = np.abs(np.asarray(outputs[output], np.float64) - wanted).max()
        assert worst <= BOUNDS[precision] * max(np.ptp(wanted), 1.0), output


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("memory", ["pinned", "mapped"])
@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "launches"])
def test_engine_agrees_with_the_cpu(opened, precision, memory, cuda_graph):
    request = opened(precision, memory=memory, cuda_graph=cuda_graph).open_request()
    for frames in (*FRAMES, *FRAMES):
        check(request.infer({"image": frames}), frames, precision)
    check(request.infer({"image": FRAMES[:, 0]}), FRAMES[:, 0], precision)


def test_int8_engine_agrees_with_its_own_graph(opened):
    """INT8 is compared by its scores' order and a loose bound: eight bits round at every layer."""
    request = opened("int8").open_request()
    for frames in FRAMES:
        found = request.infer({"image": frames})
        wanted = expected(frames, "int8")
        assert (
            np.abs(found["score"] - wanted["score"]).max()
            <= 0.05 * np.ptp(wanted["anomaly_map"]) + 0.05
        )


def test_timings_add_up(opened):
    request = opened(timing=True).open_request()
    request.infer({"image": FRAMES[0]})
    assert set(request.timings_ms) == {"copy_in", "compute", "copy_out"}
    assert all(value >= 0 for value in request.timings_ms.values())
    assert request.timings_ms["compute"] > 0


def test_cupy_frames_are_read_where_they_are(opened):
    need("cupy")
    import cupy

    request = opened().open_request()
    for frames in FRAMES:
        with cupy.cuda.Stream(non_blocking=True):
            on_gpu = cupy.asarray(frames)  # enqueued on that stream: the engine must wait for it
            outputs = request.infer({"image": on_gpu})
        check(outputs, frames)
    request = opened().open_request(device_io=True)
    request.start({"image": cupy.asarray(FRAMES[0])})
    outputs = {
        output: cupy.asnumpy(cupy.asarray(array)) for output, array in request.wait().items()
    }
    check(outputs, FRAMES[0])


def test_torch_beside_the_engine(opened):
    need("torch")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch was built without CUDA")
    before = torch.arange(1000, device="cuda", dtype=torch.float32)
    request = opened().open_request()
    frames = torch.from_numpy(FRAMES[0]).cuda()
    check(request.infer({"image": frames}), FRAMES[0])
    assert float((before * 2).sum()) == 999_000.0, "torch's context still works"


def test_whole_frame_equals_the_cpu(opened):
    from edgead.backends.trt.frame import FrameOnGpu

    if not kernels_have_cuda():
        pytest.skip("edgead._C was built without CUDA")
    backend = opened()
    frame = np.random.default_rng(1).integers(0, 256, (97, 131, 3), np.uint8)
    small = kernels.resize(frame, (SIDE, SIDE), channels=(2, 1, 0))
    wanted = expected(small[None])["anomaly_map"]
    threshold = float(wanted.mean())
    run = FrameOnGpu(backend, sigma=2.0, pixel_threshold=threshold, channels=(2, 1, 0))
    heat = kernels.heatmap(wanted, (SIDE, SIDE), sigma=2.0, threshold=threshold)
    bound = BOUNDS["fp32"] * max(float(np.ptp(wanted)), 1.0)
    for _ in range(3):
        run.bring(frame)
        run.start(heat=True)
        np.testing.assert_array_equal(run.picture(), small)
        assert np.abs(run.native() - wanted[0]).max() <= bound
        found = run.heat()
        assert abs(float(found.peak[0]) - float(heat.peak[0])) <= bound
        assert np.abs(found.map - heat.map).max() <= bound
        assert (found.mask != heat.mask).mean() <= 0.01
    run.close()


@pytest.mark.parametrize("place", ["host", "cupy", "torch"])
def test_detector_judges_as_on_the_cpu(name, tmp_path, monkeypatch, place):
    """A real bundle, its own golden images: verdict, score, map and regions of ONNX Runtime's."""
    if place != "host":
        need(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = gravel_bundle()
    build_engine(bundle.members["model.onnx"], name=name, precision="fp32")
    scale = bundle.manifest.thresholds.score_scale
    frames = [golden_frame(bundle, one.name) for one in bundle.manifest.golden]
    with (
        Detector(bundle, backend="onnxruntime", precision="fp32", check_ranges=False) as reference,
        Detector(bundle, backend=name, precision="fp32", check_ranges=False) as detector,
    ):
        for frame in frames * 2:
            wanted, found = reference(frame), detector(_brought(frame, place))
            assert found.verdict is wanted.verdict
            assert abs(found.score - wanted.score) <= 0.01 * scale
            bound = BOUNDS["fp32"] * max(float(np.ptp(wanted.anomaly_map)), 1.0)
            assert np.abs(found.anomaly_map - wanted.anomaly_map).max() <= bound
            assert len(found.regions) == len(wanted.regions)


def _brought(frame: Frame, place: str) -> Frame:
    if place == "cupy":
        import cupy

        return Frame(cupy.asarray(frame.pixels), frame.format)
    if place == "torch":
        import torch

        return Frame(torch.from_numpy(np.ascontiguousarray(frame.pixels)).cuda(), frame.format)
    return frame


def test_opening_and_closing_leaks_nothing(opened, name, tmp_path):
    first = opened()
    first.open_request().infer({"image": FRAMES[0]})
    with first.context.active() as driver:
        free_before = driver.mem_get_info()[0]
    for _ in range(20):
        backend = open_backend(
            graph("fp32", batch="n"), name=name, precision="fp32", cache_dir=tmp_path / "cache",
            options=TrtOptions(batch=(1, 1, 3)),
        )  # fmt: skip
        backend.open_request().infer({"image": FRAMES[0]})
        backend.close()
    with first.context.active() as driver:
        free_after = driver.mem_get_info()[0]
    assert free_before - free_after < 64 * 2**20


def test_altered_engine_never_reaches_the_library(opened, name, tmp_path):
    opened()
    path = next((tmp_path / "cache").glob("*.engine"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BackendError) as caught:
        open_backend(
            graph("fp32", batch="n"), name=name, precision="fp32", cache_dir=tmp_path / "cache",
            options=TrtOptions(batch=(1, 1, 3)),
        )  # fmt: skip
    assert caught.value.code == "ENGINE_DAMAGED"


def kernels_have_cuda() -> bool:
    from edgead.kernels._native import native

    module = native()
    return module is not None and module.built_with_cuda()
