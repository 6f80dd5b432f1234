"""One ONNX file that scores as torch does, names its parts, and depends on the network alone."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from bundles import tiny_manifest
from data.make_bundle import CONFIG, tiny_method
from tolerances import TOLERANCES

from edgead.backends import open_backend
from edgead.deploy.export import OPSET, check_parity, onnx_from_spec
from edgead.errors import BundleError
from edgead.heads import Head
from edgead.manifest import HeadSpec
from edgead.models.base import ExportSpec
from edgead.scorer import Scored
from edgead.types import Placement

_LIMITS = tiny_manifest().thresholds


def images(count):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *CONFIG.image_size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def spec():
    """A network with running statistics of its own, as after a training."""
    method = tiny_method()
    norm = method.discriminator[1]
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    method.discriminator.eval()
    return method.export_spec()


@pytest.fixture(scope="module")
def model(spec):
    return onnx_from_spec(spec, CONFIG.image_size)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_file_computes_what_torch_computes(spec, model, engine):
    request = open_backend(engine, {"model.onnx": model}, threads=1).open_request()
    for image in images(3):
        with torch.no_grad():
            expected = spec.module(torch.from_numpy(image[None])).numpy()
        found = request.infer({"image": image[None]})["anomaly_map"]
        tolerance = TOLERANCES["export_map"].atol * np.ptp(expected)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_the_batch_is_free(spec, model):
    engine = open_backend("onnxruntime", {"model.onnx": model}, threads=1)
    assert engine.inputs["image"].shape == (-1, *CONFIG.image_size, 3)
    assert engine.inputs["image"].dtype == "uint8"
    request = engine.open_request()
    several = images(3)
    together = request.infer({"image": several})["anomaly_map"]
    alone = [request.infer({"image": one[None]})["anomaly_map"][0] for one in several]
    np.testing.assert_allclose(together, alone, atol=1e-4 * np.ptp(together))


def test_one_valid_file_of_the_opset_without_traces_of_this_machine(model):
    graph = onnx.load_from_string(model)
    onnx.checker.check_model(graph, full_check=True)
    assert [one.version for one in graph.opset_import if one.domain == ""] == [OPSET]
    assert not any(one.external_data for one in graph.graph.initializer)
    for trace in (b".py", b"site-packages", b"/home", b"/usr", b"Traceback", b"pkg.torch"):
        assert trace not in model


def test_the_same_network_gives_the_same_bytes(spec, model):
    assert onnx_from_spec(spec, CONFIG.image_size) == model


def test_nodes_are_named_by_their_module_once(model, spec):
    names = [node.name for node in onnx.load_from_string(model).graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    for prefix in spec.keep_high:
        assert any(name.startswith(f"{prefix}.0/") for name in names)
    assert any(re.match(r"features\.backbone", name) for name in names)


class _Unwritable(torch.nn.Module):
    def forward(self, image):
        if image.sum() > 3:  # control flow on data
            return image.float().mean(dim=3)
        return image.float().amax(dim=3)


def test_a_network_that_cannot_be_written():
    spec = ExportSpec(_Unwritable(), ("anomaly_map",), HeadSpec(kind="max", sigma=0.0), (), ())
    with pytest.raises(BundleError) as error:
        onnx_from_spec(spec, (8, 8))
    assert error.value.code == "EXPORT_FAILED"
    assert str(error.value).startswith(
        "[EXPORT_FAILED] the network cannot be written as ONNX opset 18: "
    )
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("Choose another backbone.")
    assert error.value.__cause__ is not None


class _Mean(torch.nn.Module):
    def forward(self, image):
        return image.float().mean(dim=3) / 255


_MEAN = ExportSpec(_Mean(), ("anomaly_map",), HeadSpec(kind="max", sigma=0.0), (), ())


def scored(*offsets):
    """Frames whose exported score differs from torch's by so much (score_scale is 0.2)."""
    found = []
    for index, offset in enumerate(offsets):
        tensor = np.full((4, 4, 3), 60 + index, np.uint8)
        tensor[0, 0] = 100 + index
        score = float(np.float32(tensor.max()) / 255) + offset
        place = Placement((0.0, 0.0), (1.0, 1.0), (4, 4))
        found.append(Scored(np.zeros((4, 4), np.float32), score, place, tensor, {}))
    return found


def parity(frames, **options):
    limits = replace_limits(**options)
    return check_parity(_MEAN, Head(_MEAN.head, {}), frames, limits, ["a.png", "b.png", "c.png"])


def replace_limits(**options):
    import msgspec

    return msgspec.structs.replace(_LIMITS, **options)


def test_parity_holds_and_names_the_worst_frame():
    found = parity(scored(0.0, 1.5e-4, -1e-5))
    assert found.frame == "b.png"
    assert found.frames == 3
    assert found.worst == pytest.approx(1.5e-4 / 0.2, rel=1e-3)


def test_a_score_too_far_off_fails_and_the_worst_frame_is_named_not_the_first():
    with pytest.raises(BundleError) as error:
        parity(scored(3e-4, -1e-3, 2.1e-4))
    assert str(error.value) == (
        "[EXPORT_PARITY] frame b.png scores 0.396078 in torch and 0.395078 exported: 0.005 of "
        "score_scale; at most 0.001 is allowed. The bundle was not written."
    )


def test_a_flipped_verdict_fails_however_close():
    with pytest.raises(BundleError) as error:
        parity(scored(3e-5, 0.0, 1e-4), threshold=100 / 255 + 1e-5)
    assert str(error.value) == (
        "[EXPORT_PARITY] frame a.png scores 0.392157 in torch and 0.392187 exported: 0.00015 of "
        "score_scale, and its verdict flips; at most 0.001 is allowed. The bundle was not written."
    )


def test_a_score_that_is_nan_fails():
    frames = scored(0.0, 0.0, 0.0)
    frames[1] = replace(frames[1], score=float("nan"))
    with pytest.raises(BundleError) as error:
        parity(frames)
    assert error.value.code == "EXPORT_PARITY"
