"""A bundle's frames, whole on the GPU: the scores, maps and refusals of the CPU's way, on a fake GPU."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest
from bundles import tiny_bundle, tiny_frame, tiny_manifest, tiny_model
from fake_cuda import ORIN, RTX3080
from onnx import helper
from safetensors.numpy import save
from trt_kernels import Kernels
from trt_machine import InProcess

from edgead import kernels
from edgead.backends import whole_frame
from edgead.backends.trt import frame as frame_module
from edgead.backends.trt.cuda import DeviceArray
from edgead.bundle import HEAD, Bundle
from edgead.choice import choose
from edgead.errors import BackendError, FrameError
from edgead.frame import Frame, PixelFormat
from edgead.golden import check_golden
from edgead.manifest import FrameSpec, HeadSpec, InputRanges, Tiles, View
from edgead.postprocess import Postprocess
from edgead.scorer import Scorer
from edgead.scorer_gpu import GpuScorer, open_scorer
from edgead.view import make_view, with_view


@pytest.fixture(params=[RTX3080, ORIN], ids=["pc", "jetson"])
def machine(request, tmp_path, monkeypatch):
    machine = InProcess(monkeypatch, tmp_path, "10.3.0", request.param)
    machine.kernels = Kernels(machine.cuda)
    monkeypatch.setattr(frame_module, "gpu", machine.kernels)
    monkeypatch.setattr(whole_frame, "has_cuda", lambda: True)
    yield machine
    assert machine.cuda.depth == 0


def tiny(**changes) -> Bundle:
    """The tiny bundle with some fields of its manifest replaced."""
    made = tiny_bundle()
    manifest = msgspec.structs.replace(made.manifest, **changes)
    return Bundle.build(manifest, dict(made.members))


def kmeans_bundle() -> Bundle:
    """Patches of four numbers each; the map is the distance to the nearer of two centroids."""
    model = onnx.load_from_string(tiny_model())
    graph = model.graph
    graph.node[1].CopyFrom(helper.make_node("Identity", ["float"], ["mean"]))
    graph.node[2].CopyFrom(helper.make_node("Mul", ["mean", "scale"], ["patches"]))
    shape = [1, 8, 8, 3]
    graph.output[0].CopyFrom(
        helper.make_tensor_value_info("patches", onnx.TensorProto.FLOAT, shape)
    )
    del graph.initializer[1]
    centroids = np.array([[0.1, 0.2, 0.3], [0.6, 0.5, 0.4]], np.float32)
    members = {"model.onnx": model.SerializeToString(), HEAD: save({"centroids": centroids})}
    return Bundle.build(tiny_manifest(head=HeadSpec(kind="kmeans", sigma=0.7)), members)


SMOOTH = HeadSpec(kind="top_mean", sigma=0.8, top=3)
WHOLE = FrameSpec(format=PixelFormat.BGR8, size=(16, 16))
IGNORE = make_view(WHOLE, ignore=[[(2.0, 2.0), (6.0, 2.0), (6.0, 7.0), (2.0, 7.0)]])
BUNDLES = {
    "plain": lambda: tiny(),
    "smooth": lambda: tiny(head=SMOOTH),
    "region": lambda: tiny(head=SMOOTH, view=View(roi=(1, 2, 15, 14))),
    "ignored": lambda: with_view(tiny(head=SMOOTH), IGNORE),
    "rgb": lambda: tiny(frame=FrameSpec(format=PixelFormat.RGB8, size=(16, 16))),
    "mono": lambda: tiny(frame=FrameSpec(format=PixelFormat.MONO8, size=(16, 16))),
    "bgrx": lambda: tiny(frame=FrameSpec(format=PixelFormat.BGRX8, size=(16, 16))),
    "nearest centroid": kmeans_bundle,
}


def frames(bundle: Bundle) -> list[Frame]:
    """A good and a bad picture in the bundle's format, and one with a bright corner."""
    corner = tiny_frame(3, 90)
    corner[:3, 12:] = 250
    fmt = bundle.manifest.frame.format
    made = []
    for pixels in (tiny_frame(1, 100), tiny_frame(2, 200), corner):
        if fmt is PixelFormat.MONO8:
            pixels = np.ascontiguousarray(pixels[:, :, 1])
        elif fmt is PixelFormat.BGRX8:
            pixels = np.concatenate([pixels, pixels[:, :, :1]], axis=2)
        made.append(Frame(pixels, fmt))
    return made


def on_gpu(machine, frame: Frame) -> Frame:
    """The same frame in the fake GPU's memory."""
    pixels = np.ascontiguousarray(frame.pixels)
    address = machine.cuda.allocate(pixels.nbytes)
    machine.cuda.at(address, pixels.nbytes)[:] = pixels.reshape(-1)
    return Frame(DeviceArray(address, pixels.shape, pixels.dtype), frame.format)


def postprocess_of(bundle: Bundle) -> Postprocess:
    manifest = bundle.manifest
    return Postprocess(manifest.head, manifest.input, manifest.thresholds, manifest.units)


@pytest.mark.parametrize("place", ["host", "gpu"])
@pytest.mark.parametrize("name", BUNDLES)
def test_scores_maps_and_regions_are_the_cpus(machine, name, place):
    bundle = BUNDLES[name]()
    backend = machine.open(bundle.members["model.onnx"])
    reference, scorer = Scorer(bundle, backend), open_scorer(bundle, backend)
    assert isinstance(scorer, GpuScorer)
    postprocess = postprocess_of(bundle)
    for frame in frames(bundle) * 2:
        wanted = reference(frame)
        found = scorer(frame if place == "host" else on_gpu(machine, frame))
        assert found.score == wanted.score
        np.testing.assert_array_equal(found.anomaly_map, wanted.anomaly_map)
        np.testing.assert_array_equal(found.tensor, wanted.tensor)
        told, right = (
            postprocess(one.anomaly_map, one.score, one.placement, one.heat)
            for one in (found, wanted)
        )
        assert (told.verdict, told.score, told.confidence) == (
            right.verdict, right.score, right.confidence
        )  # fmt: skip
        np.testing.assert_array_equal(told.anomaly_map, right.anomaly_map)
        np.testing.assert_array_equal(told.mask, right.mask)
        assert [one.to_json() for one in told.regions] == [one.to_json() for one in right.regions]
    reference.close()
    scorer.close()
    backend.close()
    if place == "host":
        assert machine.cuda.memory == {}


def test_frames_in_a_row(machine):
    bundle = tiny(head=SMOOTH)
    backend = machine.open(bundle.members["model.onnx"])
    reference, scorer = Scorer(bundle, backend), open_scorer(bundle, backend)
    given = frames(bundle) * 3
    assert [one.score for one in scorer.each(given)] == [reference(frame).score for frame in given]
    assert len(scorer._runs) == 2, "two in flight, used again"
    constant = Frame(np.full((16, 16, 3), 9, np.uint8))
    with pytest.raises(FrameError):
        list(scorer.each([given[0], constant, given[1]]))
    assert scorer(given[0]).score == reference(given[0]).score
    reference.close()
    scorer.close()
    backend.close()
    assert machine.cuda.memory == {}


def test_score_alone_brings_no_heat_map_back(machine):
    bundle = tiny(head=SMOOTH)
    backend = machine.open(bundle.members["model.onnx"])
    scorer = open_scorer(bundle, backend, score_only=True)
    assert scorer(frames(bundle)[0]).heat is None
    assert machine.kernels.calls == ["resize"]
    scorer.close()
    backend.close()


def test_refusals_are_the_cpus(machine):
    """Checked on the picture that the GPU resized; the next frame is judged as if nothing had been."""
    ranges = InputRanges(mean=(50.0, 150.0), std=(0.0, 99.0), sharpness=(0.0, 99.0))
    bundle = tiny(input_ranges=ranges)
    backend = machine.open(bundle.members["model.onnx"])
    reference, scorer = Scorer(bundle, backend), open_scorer(bundle, backend)
    bright, good = Frame(tiny_frame(5, 250)), Frame(tiny_frame(1, 100))
    for bad in (
        Frame(np.full((16, 16, 3), 80, np.uint8)),
        bright,
        Frame(np.zeros((16, 17, 3), np.uint8)),
        Frame(np.zeros((16, 16, 3), np.uint8), PixelFormat.RGB8),
    ):
        with pytest.raises(FrameError) as wanted:
            reference(bad)
        with pytest.raises(FrameError) as found:
            scorer(bad)
        assert str(found.value) == str(wanted.value)
        assert scorer(good).score == reference(good).score
    assert scorer(bright, check_ranges=False).score == reference(bright, check_ranges=False).score
    reference.close()
    scorer.close()
    backend.close()
    assert machine.cuda.memory == {}


def test_dead_map_is_refused(machine, monkeypatch):
    bundle = tiny()
    backend = machine.open(bundle.members["model.onnx"])
    scorer = open_scorer(bundle, backend)
    monkeypatch.setattr(frame_module.FrameOnGpu, "native", lambda _: np.zeros((8, 8), np.float32))
    with pytest.raises(BackendError) as caught:
        scorer(frames(bundle)[0])
    assert caught.value.code == "BACKEND_DEGENERATE"
    assert not scorer._runs, "a run that failed is not used again"
    scorer.close()
    backend.close()
    assert machine.cuda.memory == {}


def test_golden_images_are_judged_whole_on_the_gpu(machine):
    bundle = tiny()
    backend = machine.open(bundle.members["model.onnx"])
    scorer = open_scorer(bundle, backend)
    assert check_golden(bundle, scorer, "fp32")["ok"]
    assert machine.kernels.calls == ["resize", "heatmap"] * 2
    scorer.close()
    backend.close()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"view": View(tiles=Tiles(size=(16, 16), overlap=4))}, "the view has tiles"),
        ({"frame": FrameSpec(format=PixelFormat.NV12, size=(16, 16))}, "frames are NV12"),
    ],
)
def test_what_the_gpu_does_not_do_is_said(machine, changes, why):
    manifest = tiny_manifest(**changes)
    bundle = Bundle.build(manifest, {"model.onnx": tiny_model()})
    chosen = choose(bundle, "tensorrt", "fp32")
    assert (
        chosen.why
        == f"tensorrt: asked for (resize and heat map on the CPU: {why}); fp32: asked for"
    )
    backend = machine.open(bundle.members["model.onnx"])
    scorer = open_scorer(bundle, backend)
    assert type(scorer) is Scorer
    scorer.close()
    backend.close()


def test_the_choice_says_where_frames_are_prepared(machine, monkeypatch):
    bundle = tiny()
    assert choose(bundle, "tensorrt", "fp32").why == (
        "tensorrt: asked for (the whole frame on the GPU); fp32: asked for"
    )
    monkeypatch.setattr(whole_frame, "has_cuda", lambda: False)
    assert choose(bundle, "tensorrt", "fp32").why == (
        "tensorrt: asked for (resize and heat map on the CPU: the kernels were built without CUDA); "
        "fp32: asked for"
    )
    assert whole_frame.why_on_cpu("openvino", View(), PixelFormat.BGR8) == "openvino computes there"


def test_gpu_frame_on_the_cpus_way_is_a_sentence(machine):
    bundle = tiny()
    backend = machine.open(bundle.members["model.onnx"])
    scorer = Scorer(bundle, backend)
    with pytest.raises(FrameError) as caught:
        scorer(on_gpu(machine, frames(bundle)[0]))
    assert str(caught.value) == (
        "[FRAME_ON_GPU] the frame is on a GPU; this detector prepares its frames on the CPU. "
        "Hand over a NumPy array; detector.choice.why says why it is so."
    )
    scorer.close()
    backend.close()


def test_closed_while_a_frame_is_judged(machine):
    bundle = tiny()
    backend = machine.open(bundle.members["model.onnx"])
    scorer = open_scorer(bundle, backend)
    pending = scorer._begin(frames(bundle)[0])
    scorer.close()
    assert scorer._end(pending).score == pytest.approx(100 / 255)
    assert not scorer._runs
    backend.close()
    assert machine.cuda.memory == {}


def test_kernels_that_are_there_are_asked_of_the_build():
    assert kernels.has_cuda() in (True, False)
