"""MLFF: texture operators against plain loops, losses against closed forms, training and export."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from tolerances import TOLERANCES
from torch import nn
from unit_pictures import Pictures, Stop, StoppedLoop, openvino_run

from edgead.deploy.export import onnx_from_spec
from edgead.errors import CalibrationError, ConfigError
from edgead.models.mlff import (
    FusionNet,
    Mlff,
    MlffConfig,
    consistency_loss,
    feature_loss,
    score_loss,
)
from edgead.models.parts_conv import SelfCalibratedConv
from edgead.models.parts_texture import (
    PyramidTexture,
    TextureEnhancement,
    count_1d,
    count_2d,
    quantise,
)
from edgead.train.loop import Budget, Loop

F32 = TOLERANCES["kernel_f32"]
SMALL = MlffConfig(
    image_size=(64, 64),
    stem=8,
    texture=8,
    statistics=8,
    levels=8,
    pair_levels=4,
    repeats=4,
    batch=4,
    learning_rate=1e-2,
)


@pytest.mark.parametrize("window", ["stlnet", "paper"])
@pytest.mark.parametrize("spread", [0.3, 1.7])
def test_quantise_against_a_plain_loop(window, spread):
    rng = np.random.default_rng(1)
    similarity = (rng.random((2, 40)) * spread - 0.6).astype(np.float32)
    n_levels = 7
    code, level = quantise(torch.from_numpy(similarity), n_levels, window)
    for b in range(2):
        low, high = float(similarity[b].min()), float(similarity[b].max())
        for n in range(n_levels):
            share = (2 * n + 1) / (2 * n_levels) if window == "stlnet" else (n + 1) / n_levels
            centre = (high - low) * share + low
            assert level[b, n].item() == pytest.approx(centre, abs=1e-6)
            for i in range(40):
                gap = centre - float(similarity[b, i])
                if window == "stlnet":
                    edge, is_inside = (high - low) / n_levels, abs(gap) < (high - low) / n_levels
                else:
                    edge, is_inside = 0.5 / n_levels, -0.5 / n_levels <= gap < 0.5 / n_levels
                if abs(abs(gap) - edge) < 1e-5:
                    continue  # on the window's edge rounding decides
                want = 1 - abs(gap) if is_inside else 0.0
                assert code[b, i, n].item() == pytest.approx(want, abs=1e-5)


def test_stlnet_window_gives_every_pixel_a_level_whatever_the_range():
    for spread in (1e-3, 0.1, 1.9):
        similarity = torch.linspace(-0.95, -0.95 + spread, 101)[None]
        code, _ = quantise(similarity, 16, "stlnet")
        hits = (code > 0).sum(2)
        assert hits.min() >= 1
        assert hits.max() <= 2


def test_counts_against_plain_loops():
    rng = np.random.default_rng(2)
    h, w, n_levels = 5, 4, 3
    code = rng.random((2, h, w, n_levels)).astype(np.float32)
    level = rng.random((2, n_levels)).astype(np.float32)
    one = count_1d(torch.from_numpy(code).flatten(1, 2), torch.from_numpy(level)).numpy()
    two = count_2d(torch.from_numpy(code), torch.from_numpy(level)).numpy()
    for b in range(2):
        single, pairs = np.zeros(n_levels), np.zeros((n_levels, n_levels))
        for y in range(h):
            for x in range(w):
                single += code[b, y, x]
                if y + 1 < h and x + 1 < w:  # the (+1, +1) neighbour
                    pairs += np.outer(code[b, y, x], code[b, y + 1, x + 1])
        np.testing.assert_allclose(one[b, 0], level[b])
        np.testing.assert_allclose(one[b, 1], single / single.sum(), F32.rtol, F32.atol)
        np.testing.assert_allclose(two[b, 2], pairs / pairs.sum(), F32.rtol, F32.atol)
        for m in range(n_levels):
            for n in range(n_levels):
                assert two[b, 0, m, n] == level[b, m]
                assert two[b, 1, m, n] == level[b, n]


@pytest.mark.parametrize("window", ["stlnet", "paper"])
def test_texture_of_an_even_surface_is_finite_and_has_finite_gradients(window):
    x = torch.ones(2, 6, 16, 16, requires_grad=True)
    one = TextureEnhancement(6, 5, statistics=4, levels=8, window=window)
    two = PyramidTexture(6, 5, statistics=4, levels=4, scales=(1, 2, 4, 8), window=window)
    total = one(x).sum() + two(x).sum()
    total.backward()
    assert one(x).shape == two(x).shape == (2, 5, 16, 16)
    assert torch.isfinite(total)
    assert torch.isfinite(x.grad).all()


def test_pyramid_sees_a_texture_only_in_its_own_region():
    torch.manual_seed(0)
    net = PyramidTexture(3, 4, statistics=4, levels=4, scales=(2,), window="stlnet").eval()
    regions = net.scales[0]
    x = torch.rand(1, 4, 8, 8)
    changed = x.clone()
    changed[:, :, :4, :4] = torch.rand(1, 4, 4, 4)
    with torch.no_grad():
        moved = (regions(x) - regions(changed)).abs().amax((0, 1))
    assert moved[0, 0] > 0
    assert moved[0, 1] == moved[1, 0] == moved[1, 1] == 0


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_regions_against_a_loop_over_cut_out_maps(scale):
    """The statistics of each region by itself, its mean joined to them channel by channel."""
    torch.manual_seed(1)
    net = PyramidTexture(3, 4, statistics=6, levels=4, scales=(scale,), window="stlnet").eval()
    regions = net.scales[0]
    x = torch.randn(2, 6, 8, 16)
    h, w = 8 // scale, 16 // scale
    with torch.no_grad():
        found = regions(x)
        for y in range(scale):
            for z in range(scale):
                cut = x[:, :, y * h : (y + 1) * h, z * w : (z + 1) * w]
                mean = cut.mean((2, 3), keepdim=True)
                cosine = torch.cosine_similarity(cut, mean, dim=1)
                code, level = quantise(cosine.flatten(1), 4, "stlnet")
                counts = regions.encode(count_2d(code.unflatten(1, (h, w)), level))
                joined = regions.join(torch.cat((counts, mean.expand_as(counts)), 1))
                wanted = joined.mean((2, 3))
                np.testing.assert_allclose(found[:, :, y, z], wanted, F32.rtol, F32.atol)


def test_the_map_is_never_cut_or_turned():
    """Engines hold maps channels last and would copy the whole of it there and back for each scale."""
    net = PyramidTexture(3, 4, statistics=6, levels=4, scales=(1, 2, 4), window="stlnet").eval()
    exported = torch.export.export(net, (torch.randn(1, 3, 16, 16),))
    pixels = 16 * 16
    for node in exported.graph.nodes:
        shape = node.meta["val"].shape if isinstance(node.meta.get("val"), torch.Tensor) else ()
        if "permute" in str(node.target) or "transpose" in str(node.target):
            whole = math.prod(shape) >= 6 * pixels
            assert not whole, f"{node.target} turns a map of {tuple(shape)}"


def test_self_calibration_in_closed_form():
    net = SelfCalibratedConv(2, rate=2)
    net.full = net.coarse = net.out = nn.Identity()
    x = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).expand(1, 2, 2, 2)
    want = x * torch.sigmoid(x + 4.0)  # the 2 x 2 mean is 4 everywhere
    torch.testing.assert_close(net(x), want)


def test_feature_loss_in_closed_form():
    psi = torch.zeros(1, 2, 1, 3)
    psi[0, :, 0, 1] = torch.tensor([3.0, 0.0])  # A = sqrt(10) - 1
    psi[0, :, 0, 2] = torch.tensor([0.0, 4.0])  # A = sqrt(17) - 1
    defect = torch.tensor([[[False, False, True]]])
    a, b = math.sqrt(10) - 1, math.sqrt(17) - 1
    want = 0.5 * (0 + a) / 2 - 0.5 * math.log(1 - math.exp(-b))
    assert feature_loss(psi, defect).item() == pytest.approx(want, rel=1e-5)
    assert feature_loss(psi, defect & False).item() == pytest.approx(0.5 * (0 + a + b) / 3)
    at_origin = torch.zeros(1, 2, 1, 1, requires_grad=True)
    loss = feature_loss(at_origin, torch.ones(1, 1, 1, dtype=torch.bool))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(at_origin.grad).all()


def test_score_loss_in_closed_form():
    score = torch.tensor([[[3.0, 3.0, 6.0]], [[1.0, 1.0, 9.0]]])
    defect = torch.tensor([[[False, False, True]], [[False, False, True]]])
    # Normal scores of an image are equal, so the drawn partner does not matter.
    want = (0.5 + 0.5 + 0 + 0) / 4 + (max(0, 5 - 3) + max(0, 5 - 8)) / 2
    got = score_loss(score, defect, torch.Generator().manual_seed(0))
    assert got.item() == pytest.approx(want)
    no_defect = score_loss(score, defect & False, torch.Generator())
    assert no_defect.item() == pytest.approx((0.5 + 0.5 + 3.5 + 0 + 0 + 6.5) / 6)


def test_consistency_loss_against_a_plain_loop_and_ignores_defects():
    rng = np.random.default_rng(3)
    psi = torch.from_numpy(rng.normal(size=(2, 3, 4, 4)).astype(np.float32))
    score = torch.from_numpy(rng.normal(size=(2, 4, 4)).astype(np.float32))
    defect = torch.zeros(2, 4, 4, dtype=torch.bool)
    defect[0, 1, 1] = True  # takes the whole upper left 2 x 2 patch with it
    total = 0.0
    for b, skip in ((0, {0}), (1, set())):
        patches = [(y, x) for y in (0, 2) for x in (0, 2)]
        kept = [p for i, p in enumerate(patches) if i not in skip]
        f = [psi[b, :, y : y + 2, x : x + 2].mean((1, 2)).numpy() for y, x in kept]
        s = [float(score[b, y : y + 2, x : x + 2].mean()) for y, x in kept]
        rows = []
        for i in range(len(kept)):
            p = np.exp([np.linalg.norm(f[i] - f[j]) for j in range(len(kept))])
            q = np.exp([abs(s[i] - s[j]) for j in range(len(kept))])
            p, q = p / p.sum(), q / q.sum()
            rows.append(float((q * np.log(q / p)).sum()))
        total += sum(rows) / len(rows)
    assert consistency_loss(psi, score, defect, 2).item() == pytest.approx(total / 2, abs=1e-5)
    assert consistency_loss(score[:, None], score, defect, 2).item() == pytest.approx(0, abs=1e-6)
    everywhere = torch.ones_like(defect)
    assert consistency_loss(psi, score, everywhere, 2).item() == 0


def test_shapes_of_the_paper():
    config = MlffConfig()
    net = FusionNet(config, "resnet50", weights="random", seed=0).eval()
    with torch.no_grad():
        first, second, third = net.levels(torch.zeros(1, 3, 256, 256))
        psi, score = net(torch.zeros(1, 3, 256, 256))
    assert [tuple(x.shape[1:]) for x in (first, second, third)] == [
        (256, 64, 64),
        (512, 32, 32),
        (1024, 16, 16),
    ]
    assert tuple(psi.shape) == (1, 1792, 64, 64)
    assert tuple(score.shape) == (1, 64, 64)


@pytest.fixture(scope="module")
def trained() -> tuple[Mlff, Loop]:
    method = Mlff(SMALL, backbone="resnet18", weights="random", seed=3)
    loop = Loop(Budget(epochs=5), seed=3, device="cpu")
    method.fit(Pictures(12), loop)
    return method, loop


def test_training_lowers_the_losses_and_moves_the_backbone(trained):
    method, loop = trained
    log = loop.log
    assert set(log) == {"fusion/feature", "fusion/score", "fusion/consistency"}
    total = [sum(values) for values in zip(*log.values(), strict=True)]
    assert total[-1] < total[0]
    fresh = Mlff(SMALL, backbone="resnet18", weights="random", seed=3)
    before, after = (m.net.levels.state_dict()["conv1.weight"] for m in (fresh, method))
    assert not torch.equal(before, after)


def test_same_seed_same_model(trained):
    method, _ = trained
    again = Mlff(SMALL, backbone="resnet18", weights="random", seed=3)
    again.fit(Pictures(12), Loop(Budget(epochs=5), seed=3, device="cpu"))
    for a, b in zip(method.net.parameters(), again.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_killed_training_goes_on_in_the_same_bits(tmp_path):
    def fit(loop: Loop) -> Mlff:
        method = Mlff(replace(SMALL, schedule="cosine"), backbone="resnet18", weights="random")
        method.fit(Pictures(8), loop)
        return method

    plain = fit(Loop(Budget(epochs=3), seed=5, device="cpu"))
    with pytest.raises(Stop):
        fit(StoppedLoop(2, 3, tmp_path))
    loop = Loop(Budget(epochs=3), seed=5, device="cpu", checkpoint=tmp_path)
    resumed = fit(loop)
    for a, b in zip(plain.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_exported_graph_scores_as_torch(trained):
    spec = trained[0].export_spec()
    model = onnx_from_spec(spec, (64, 64))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(4)
    for batch in (1, 3):
        image = rng.integers(0, 256, (batch, 64, 64, 3), dtype=np.uint8)
        with torch.no_grad():
            want = spec.module(torch.from_numpy(image)).numpy()
        assert want.shape == (batch, 16, 16)
        atol = TOLERANCES["export_map"].atol * np.ptp(want)
        np.testing.assert_allclose(session.run(None, {"image": image})[0], want, 0, atol)
        np.testing.assert_allclose(openvino_run(model, image), want, 0, atol)


def test_bad_input_is_named():
    with pytest.raises(ConfigError) as caught:
        Mlff(MlffConfig(image_size=(72, 64)), backbone="resnet18", weights="random")
    assert str(caught.value) == (
        "[IMAGE_SIZE] MLFF got an image size of (72, 64); want multiples of 32. "
        "Its sub-regions must divide the feature map."
    )
    method = Mlff(SMALL, backbone="resnet18", weights="random")
    with pytest.raises(CalibrationError) as few:
        method.fit(Pictures(1), Loop(Budget(epochs=1), device="cpu"))
    assert str(few.value) == (
        "[TOO_FEW_IMAGES] got 1 good images; simulated defects need at least 2. "
        "Take more pictures of different good parts."
    )


def test_a_loss_that_is_not_finite_stops_the_training_with_its_step():
    wild = replace(SMALL, learning_rate=1e30)
    method = Mlff(wild, backbone="resnet18", weights="random")
    with pytest.raises(CalibrationError) as caught:
        method.fit(Pictures(12), Loop(Budget(epochs=3), device="cpu"))
    assert str(caught.value) == (
        "[LOSS_NOT_FINITE] fusion: loss 'feature' is nan at step 2. "
        "Lower the learning rate, or train in float32."
    )
