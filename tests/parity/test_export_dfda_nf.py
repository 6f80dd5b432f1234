"""DFDA-AD and NF-BMR: the exported file gives what torch gives, in both CPU engines at float32."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from tolerances import TOLERANCES

from edgead.deploy.export import onnx_from_spec
from edgead.heads import Head
from edgead.models.dfda_ad import DfdaAd, DfdaConfig
from edgead.models.nf_bmr import NfBmr, NfBmrConfig
from edgead.train.loop import Loop

DFDA = DfdaConfig(image_size=(64, 96), epochs=2, batch_images=4, learning_rate=1e-2, retention=0.0)
NF = NfBmrConfig(
    image_size=(64, 96),
    layer=None,
    stride=16,
    flow_hidden=16,
    flow_kernels=(3, 5),
    flow_epochs=2,
    width=32,
    inner=16,
    map_epochs=2,
    batch_images=4,
)


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        np.clip(rng.normal(rng.uniform(60, 180), 25, (64, 96, 3)), 0, 255).astype(np.uint8)
        for _ in range(count)
    ]


def trained(method):
    method.fit(images(10), Loop(seed=0, device="cpu"))
    if isinstance(method, DfdaAd):
        # Weights that matter, whether or not Adam's were kept.
        torch.manual_seed(0)
        for weight in method.attention.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return method


SMALL = {"backbone": "resnet18", "weights": "random"}
METHODS = {
    "dfda-ad": lambda: DfdaAd(DFDA, **SMALL),
    "dfda-ad, two backbones and the paper's attention": lambda: DfdaAd(
        dataclasses.replace(DFDA, attention="paper", aggregate="concatenate"),
        backbone="resnet18,resnet18",
        weights="random",
    ),
    "nf-bmr": lambda: NfBmr(NF, **SMALL),
    "nf-bmr, one stage": lambda: NfBmr(
        dataclasses.replace(NF, layer="layer3", image_size=(128, 64), norm="none", join="bpfm"),
        **SMALL,
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_exported_equals_torch(name):
    method = trained(METHODS[name]())
    spec = method.export_spec()
    height, width = method.image_size
    batch = np.random.default_rng(1).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = spec.module(torch.from_numpy(batch)).numpy()
    model = onnx_from_spec(spec, method.image_size)

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    got = {
        "onnxruntime": session.run(None, {"image": batch})[0],
        "openvino": compiled({"image": batch})[0],
        "one by one": np.concatenate([session.run(None, {"image": one[None]})[0] for one in batch]),
    }
    bound = TOLERANCES["export_output"].atol * float(np.ptp(expected))
    for engine, output in got.items():
        assert output.shape == expected.shape, engine
        assert np.abs(output - expected).max() <= bound, engine

    head = Head(spec.head, spec.head_tensors)
    maps, scores = head({spec.outputs[0]: got["openvino"]})
    wanted_maps, wanted_scores = head({spec.outputs[0]: expected})
    assert np.abs(maps - wanted_maps).max() <= 10 * bound
    np.testing.assert_allclose(scores, wanted_scores, rtol=1e-4)
