"""TrisimpleNet: its loss in closed form, its folding, its features, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data.make_bundle import CONFIG, tiny_method
from hypothesis import given
from hypothesis import strategies as st
from tolerances import TOLERANCES

from edgead.models.trisimplenet import TrisimpleConfig, TrisimpleNet, triplet_loss
from edgead.train.loop import Budget, Loop


def tensors(*values):
    return [torch.tensor([float(v)]) for v in values]


@pytest.mark.parametrize(
    ("d_q", "d_defect", "d_q2", "d_normal", "loss"),
    [
        (2.0, -2.0, 2.0, 2.0, 0.0),  # separated beyond both margins
        (0.5, -0.5, 1.0, 1.0, 0.0),  # exactly at them
        (0.0, 0.0, 0.0, 0.0, 0.5 + 0.5 + 1.0),
        (-1.0, 1.0, 0.0, 0.0, 1.5 + 1.5 + 3.0),  # the wrong way round
        (2.0, -2.0, 0.25, -0.5, 0.75),  # only the two normals differ
        (0.25, -2.0, 0.0, 0.0, 0.25),
        (2.0, 0.25, 0.0, 0.0, 0.75),
    ],
)
def test_the_loss_in_closed_form(d_q, d_defect, d_q2, d_normal, loss):
    assert triplet_loss(*tensors(d_q, d_defect, d_q2, d_normal)).item() == pytest.approx(loss)


_VALUES = st.lists(st.tuples(*[st.floats(-5, 5)] * 4), min_size=1, max_size=6)


@given(values=_VALUES, margin=st.floats(0, 2), alpha=st.floats(0, 2))
def test_the_loss_against_the_formulas_written_out(values, margin, alpha):
    expected = sum(
        max(0, margin - q) + max(0, margin + defect) + max(0, alpha - (q - defect)) + abs(q2 - n)
        for q, defect, q2, n in values
    ) / len(values)
    columns = torch.tensor(values, dtype=torch.float64).unbind(1)
    assert triplet_loss(*columns, margin=margin, alpha=alpha).item() == pytest.approx(expected)


def test_the_loss_pulls_the_right_way():
    values = [one.requires_grad_() for one in tensors(0.1, -0.1, 0.3, 0.2)]
    triplet_loss(*values).backward()
    signs = [float(one.grad.sign()) for one in values]
    assert signs == [-1.0, 1.0, 1.0, -1.0]  # raise D(q), lower D(q-), bring the two together


def noise_images(count=4):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *CONFIG.image_size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def fitted():
    method = tiny_method()
    loop = Loop(Budget(epochs=3), device="cpu")
    method.fit(noise_images(), loop)
    return method, loop


def test_folding_changes_nothing(fitted):
    """The exported map against D(G((F(x) - mean) / deviation)) written out."""
    method, _ = fitted
    image = torch.from_numpy(noise_images(2))
    with torch.no_grad():
        features = method.features(image)
        standard = (features - method._mean) / method._scale()
        plain = -method.discriminator(method.adaptor(standard).reshape(-1, standard.shape[-1]))
        plain = plain.reshape(features.shape[:3])
        folded = method.export_spec().module(image)
    tolerance = TOLERANCES["module_f32"]
    torch.testing.assert_close(folded, plain, rtol=tolerance.rtol, atol=tolerance.atol)


def test_what_it_exports(fitted):
    spec = fitted[0].export_spec()
    assert spec.outputs == ("anomaly_map",)
    assert (spec.head.kind, spec.head.sigma) == ("max", CONFIG.smoothing)
    assert spec.keep_high == ("scorer",)
    assert not spec.module.training
    assert spec.module(torch.from_numpy(noise_images(1))).shape == (1, 16, 16)


def test_it_learns_and_only_its_own_layers(fitted):
    method, loop = fitted
    losses = loop.log["discriminator/loss"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    untouched = tiny_method().features.state_dict()
    assert all(torch.equal(v, untouched[k]) for k, v in method.features.state_dict().items())


def test_the_same_seed_gives_the_same_bits():
    maps = []
    for _ in range(2):
        method = tiny_method()
        method.fit(noise_images(), Loop(Budget(epochs=1), device="cpu"))
        with torch.no_grad():
            maps.append(method.export_spec().module(torch.from_numpy(noise_images(1))))
    assert torch.equal(*maps)


def test_a_channel_that_never_moves_is_not_divided_by_zero():
    method = tiny_method()
    method.fit(np.full_like(noise_images(), 90), Loop(Budget(epochs=1), device="cpu"))
    with torch.no_grad():
        found = method.export_spec().module(torch.from_numpy(noise_images(1)))
    assert torch.isfinite(found).all()


def test_the_papers_way_takes_whole_images():
    config = TrisimpleConfig(image_size=(64, 64), strides=(4, 8), hidden=8, epochs=2)
    method = TrisimpleNet(config, backbone="test_efficientnet", weights="random")
    loop = Loop(device="cpu")
    method.fit(noise_images(5), loop)  # a step of four images, a step of one
    assert len(loop.log["discriminator/loss"]) == 2
    assert torch.equal(method._scale(), torch.ones_like(method._scale()))


def test_features_are_averaged_over_the_neighbourhood():
    method = tiny_method()
    image = torch.from_numpy(noise_images(1))
    with torch.no_grad():
        first = method.features.backbone(image)[0][0]  # (C, 16, 16)
        joined = method.features(image)[0]  # (16, 16, C + C')
    channels = first.shape[0]
    for y, x in ((0, 0), (5, 9), (15, 3)):
        window = first[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        torch.testing.assert_close(joined[y, x, :channels], window.mean(dim=(1, 2)))


def test_the_papers_numbers_are_the_defaults():
    paper = TrisimpleConfig()
    assert (paper.sigma_defect, paper.sigma_normal) == (0.015, 0.00015)
    assert (paper.margin, paper.learning_rate, paper.weight_decay) == (0.5, 1e-4, 1e-5)
    assert (paper.epochs, paper.batch_images) == (160, 4)
