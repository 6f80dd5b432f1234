"""NF-BMR: the flow's inverse and Jacobian, the truly shared block, three stages that freeze each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import TOLERANCES
from torch.nn import functional as F

from edgead.errors import CalibrationError, ConfigError
from edgead.models.nf_bmr import NfBmr, NfBmrConfig, mapping_loss
from edgead.models.parts_flow import CouplingBlock, Flow, negative_log_likelihood
from edgead.models.parts_mapping import BidirectionalMapping, ResidualBlock
from edgead.models.parts_stage import StageBackbone
from edgead.train.loop import Loop

SMALL = NfBmrConfig(
    image_size=(64, 64),
    layer=None,
    stride=16,
    standardise=True,
    flow_hidden=16,
    flow_kernels=(3,),
    flow_learning_rate=2e-3,
    flow_epochs=4,
    width=32,
    inner=16,
    norm="none",
    map_learning_rate=2e-3,
    map_epochs=4,
    batch_images=4,
)


def close(a: torch.Tensor, b: torch.Tensor, what: str = "module_f32") -> None:
    bound = TOLERANCES[what]
    torch.testing.assert_close(a, b, rtol=bound.rtol, atol=bound.atol)


def textures(count: int, size: int = 64, seed: int = 0) -> list[np.ndarray]:
    """Good parts: a shaded disc with grain, no two alike."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] - size / 2
    disc = 120 * (np.hypot(rows, columns) < size / 3)
    images = []
    for _ in range(count):
        grain = rng.normal(60 + disc + rng.uniform(-10, 10), 8, (size, size))
        images.append(np.repeat(np.clip(grain, 0, 255).astype(np.uint8)[:, :, None], 3, 2))
    return images


def flow(
    channels: int, *, blocks: int = 4, gain: float = 1.0, kernels=(3, 3, 3, 5), seed=0
) -> Flow:
    made = Flow(channels, blocks=blocks, hidden=12, kernels=kernels, seed=seed)
    for block in made.blocks:
        for part in (block.from_first, block.from_second):
            part.gain.data.fill_(gain)
    return made


# --- the flow ----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    channels=st.integers(2, 24),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    gain=st.floats(0.1, 3),
    seed=st.integers(0, 1000),
)
def test_the_flow_is_invertible(channels, size, gain, seed):
    made = flow(channels, gain=gain, seed=seed)
    y = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        z, _ = made(y)
        close(made.inverse(z), y, "flow_inverse")
        assert z.shape == y.shape


@pytest.mark.parametrize("channels", [2, 3, 6])
@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_the_log_determinant_is_the_jacobians(channels, size):
    made = flow(channels, gain=1.5).double()
    y = torch.randn(
        1, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )

    jacobian = torch.autograd.functional.jacobian(lambda x: made(x)[0].flatten(), y)
    _, expected = torch.linalg.slogdet(jacobian.reshape(y.numel(), y.numel()))
    close(made(y)[1], expected[None], "flow_jacobian")
    assert abs(float(expected)) > 1e-3


def test_an_untrained_flow_only_permutes():
    made = flow(6, gain=0.0)
    y = torch.randn(2, 6, 3, 3)
    z, log_determinant = made(y)
    assert torch.equal(log_determinant, torch.zeros(2))
    close(z.sum(dim=1), y.sum(dim=1))
    assert not torch.equal(z, y)


def test_a_coupling_block_against_a_loop():
    block = CouplingBlock(
        5, hidden=7, kernel=3, clamp=3.0, generator=torch.Generator().manual_seed(0)
    )
    for part in (block.from_first, block.from_second):
        part.gain.data.fill_(2.0)

    def subnetwork(part, x):
        hidden = F.conv2d(x, part.first.weight, part.first.bias, padding=1)
        hidden = torch.where(hidden > 0, hidden, 0.1 * hidden)
        out = 2.0 * F.conv2d(hidden, part.second.weight, part.second.bias, padding=1)
        half = out.shape[1] // 2
        return 0.636 * 3 * torch.atan(out[:, :half] / 3), out[:, half:]

    x = torch.randn(2, 5, 4, 4)
    shuffled = torch.stack([x[:, int(c)] for c in block.order], dim=1)
    x1, x2 = shuffled[:, :2], shuffled[:, 2:]
    s2, t2 = subnetwork(block.from_second, x2)
    y1 = x1 * s2.exp() + t2
    s1, t1 = subnetwork(block.from_first, y1)
    y2 = x2 * s1.exp() + t1
    y, log_determinant = block(x)
    close(y, torch.cat([y1, y2], dim=1))
    close(log_determinant, s1.flatten(1).sum(1) + s2.flatten(1).sum(1))


def test_the_log_scale_is_clamped():
    block = CouplingBlock(
        4, hidden=4, kernel=1, clamp=3.0, generator=torch.Generator().manual_seed(0)
    )
    for part in (block.from_first, block.from_second):
        part.gain.data.fill_(1e6)
    _, log_determinant = block(torch.randn(1, 4, 1, 1))
    assert abs(float(log_determinant.detach())) <= 4 * 3.0


def test_the_likelihood():
    z, log_determinant = torch.randn(3, 2, 4, 5), torch.randn(3)
    expected = 0.0
    for n in range(3):
        expected += (0.5 * float((z[n] ** 2).sum()) - float(log_determinant[n])) / 40 / 3
    assert float(negative_log_likelihood(z, log_determinant)) == pytest.approx(expected, rel=1e-5)


def test_the_flow_has_the_papers_form():
    made = NfBmrConfig()
    blocks = Flow(
        304, blocks=made.flow_blocks, hidden=made.flow_hidden, kernels=made.flow_kernels
    ).blocks
    assert len(blocks) == 4
    assert [b.from_first.first.kernel_size[0] for b in blocks] == [3, 3, 3, 5]
    for block in blocks:
        assert block.from_first.first.out_channels == 1024
        assert block.from_first.second.out_channels == 304  # s and t of one half


def test_same_seed_same_flow():
    states = [flow(6, seed=seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


# --- the mapping -------------------------------------------------------------------------------------


def mapping(norm: str = "none", *, last_relu: bool = True) -> BidirectionalMapping:
    return BidirectionalMapping(6, width=10, inner=4, blocks=2, norm=norm, last_relu=last_relu)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_middle_block_is_truly_shared(norm):
    made = mapping(norm)
    first, second = made.smnn.middle, made.tmnn.middle
    assert first.convolutions is second.convolutions
    own = sum(p.numel() for net in (made.smnn, made.tmnn) for p in net.parameters())
    shared = sum(p.numel() for p in first.convolutions.parameters())
    assert sum(p.numel() for p in made.parameters()) == own - shared
    for a, b in [("before", "before"), ("after", "after"), ("rise", "rise"), ("fall", "fall")]:
        assert getattr(made.smnn, a) is not getattr(made.tmnn, b)
    if norm == "batch":
        assert first.norms[0] is not second.norms[0]


def test_both_directions_teach_the_shared_block():
    made = mapping()
    y, z = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    weight = made.smnn.middle.convolutions[1].weight
    mapped_y, mapped_z = made(y, z)
    to_source, to_target = mapping_loss(y, z, mapped_y, z), mapping_loss(y, z, y, mapped_z)
    first = torch.autograd.grad(to_source, weight, retain_graph=True)[0]
    second = torch.autograd.grad(to_target, weight, retain_graph=True)[0]
    both = torch.autograd.grad(to_source + to_target, weight)[0]
    assert first.abs().sum() > 0
    assert second.abs().sum() > 0
    close(both, first + second)


@pytest.mark.parametrize("last_relu", [True, False])
def test_a_residual_block_against_a_loop(last_relu):
    torch.manual_seed(0)
    block = ResidualBlock(5, 3, norm="none", last_relu=last_relu)
    x = torch.randn(2, 5, 4, 4)
    first, second, third = block.convolutions
    assert [c.kernel_size for c in block.convolutions] == [(1, 1), (3, 3), (1, 1)]
    out = torch.einsum("oi,nihw->nohw", first.weight[:, :, 0, 0], x) + first.bias.view(1, -1, 1, 1)
    out = F.conv2d(out.clamp(min=0), second.weight, second.bias, padding=1).clamp(min=0)
    out = torch.einsum("oi,nihw->nohw", third.weight[:, :, 0, 0], out) + third.bias.view(
        1, -1, 1, 1
    )
    out = out.clamp(min=0) if last_relu else out
    close(block(x), x + out)
    assert bool(((block(x) - x) >= -1e-6).all()) == last_relu


def test_the_papers_mapping():
    config = NfBmrConfig()
    made = BidirectionalMapping(
        304,
        width=config.width,
        inner=config.inner,
        blocks=config.blocks,
        norm=config.norm,
        last_relu=config.last_relu,
    )
    assert config.width > 304  # the first convolution raises the channels
    assert (made.smnn.rise.in_channels, made.smnn.rise.out_channels) == (304, 512)
    assert (made.tmnn.fall.in_channels, made.tmnn.fall.out_channels) == (512, 304)
    assert len(made.smnn.before) == len(made.smnn.after) == 2


def test_the_mapping_loss():
    y, z, a, b = torch.randn(4, 2, 3, 4, 5)
    close(mapping_loss(y, z, a, b), ((a - y) ** 2).mean() + ((b - z) ** 2).mean())


# --- structure ---------------------------------------------------------------------------------------


def test_the_papers_source_domain():
    """304 channels, 24 x 24 at 768: the stage that timm's list of levels does not have."""
    net = StageBackbone("tf_efficientnet_b5", layer="blocks.5", weights="random")
    with torch.no_grad():
        (y,) = net(torch.zeros(1, 768, 768, 3, dtype=torch.uint8))
    assert y.shape == (1, 304, 24, 24)
    assert net.channels == (304,)
    names = [name for name, _ in net.net.stages.blocks.named_children()]
    assert names == ["0", "1", "2", "3", "4", "5"]  # the 512-channel stage, blocks[6], is not there


def test_a_cut_network_is_the_network():
    import timm

    net = StageBackbone("resnet18", layer="layer2", weights="random", seed=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        whole = timm.create_model("resnet18").eval()
    image = torch.randint(0, 255, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        x = net.input(image)
        x = whole.maxpool(whole.act1(whole.bn1(whole.conv1(x))))
        close(net(image)[0], whole.layer2(whole.layer1(x)))
    net.train()
    assert not any(m.training for m in net.modules())


def test_a_layer_that_is_not_there():
    with pytest.raises(ConfigError) as caught:
        NfBmr(NfBmrConfig(), backbone="resnet18", weights="random")
    assert str(caught.value) == (
        "[BACKBONE_LAYER] resnet18 has no module 'blocks.5'; its outermost are conv1, bn1, act1, maxpool, "
        "layer1, layer2, layer3, layer4, global_pool, fc. "
        "Name one of its modules, or give a stride instead."
    )


def test_a_network_that_is_not_there():
    with pytest.raises(ConfigError, match=r"\[BACKBONE_UNKNOWN\] timm has no network named 'no'\."):
        StageBackbone("no", layer="x")


# --- map ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("join", ["calibrated", "bpfm"])
def test_the_map_against_a_loop(join):
    method = NfBmr(dataclasses.replace(SMALL, join=join))
    network = method.network.eval()
    for block in network.flow.blocks:
        block.from_first.gain.data.fill_(1.0)
    network.level.copy_(torch.tensor([2.0, 5.0]) if join == "calibrated" else torch.ones(2))
    image = torch.from_numpy(np.stack(textures(2)))
    with torch.no_grad():
        got = network(image)
        (y,) = network.source(image)
        z, _ = network.flow(y)
        y2, z2 = network.mapping.smnn(z), network.mapping.tmnn(y)
    assert got.shape == (2, 4, 4)
    for n in range(2):
        for i in range(4):
            for j in range(4):
                vectors = [one[n, :, i, j] for one in (y, y2, z, z2)]
                if join == "bpfm":
                    vectors = [one / one.norm() for one in vectors]
                to_source = ((vectors[0] - vectors[1]) ** 2).sum() / network.level[0]
                to_target = ((vectors[2] - vectors[3]) ** 2).sum() / network.level[1]
                close(got[n, i, j], (to_source + to_target) / 2)


# --- training ----------------------------------------------------------------------------------------


def fitted(
    config: NfBmrConfig = SMALL, images=None, loop: Loop | None = None
) -> tuple[NfBmr, Loop]:
    loop = loop or Loop(seed=1, device="cpu")
    method = NfBmr(config)
    method.fit(textures(12) if images is None else images, loop)
    return method, loop


def test_training_tells_defects_from_good():
    method, loop = fitted(dataclasses.replace(SMALL, flow_epochs=15, map_epochs=15))
    good = textures(6, seed=7)
    bad = [image.copy() for image in good]
    for image in bad:
        image[24:44, 24:44] = (0, 0, 255)
    spec = method.export_spec()
    with torch.no_grad():
        maps = spec.module(torch.from_numpy(np.stack(good + bad))).flatten(1).amax(1)
    assert maps[6:].min() > maps[:6].max()
    for name in ("flow/nll", "mapping/mse"):
        assert loop.log[name][-1] < loop.log[name][0]


def test_each_stage_freezes_the_one_before():
    method = NfBmr(SMALL)
    source = {k: v.clone() for k, v in method.network.source.state_dict().items()}
    after_flow = {}

    class Watching(Loop):
        def stage(self, name, **options):
            if name == "mapping":
                after_flow.update(
                    {k: v.clone() for k, v in method.network.flow.state_dict().items()}
                )
            return super().stage(name, **options)

    method.fit(textures(12), Watching(seed=1, device="cpu"))
    assert any("gain" in k and v.abs().sum() > 0 for k, v in after_flow.items())
    for key, value in method.network.flow.state_dict().items():
        assert torch.equal(value, after_flow[key])
    for key, value in method.network.source.state_dict().items():
        assert torch.equal(value, source[key])


def test_good_images_score_about_one():
    """Each direction is divided by its mean over held-out good images."""
    method, _ = fitted()
    assert (method.network.level > 0).all()
    assert not torch.equal(method.network.level, torch.ones(2))
    with torch.no_grad():
        maps = method.network(torch.from_numpy(np.stack(textures(12, seed=3))))
    assert 0.5 < float(maps.mean()) < 2


def test_patience_ends_a_stage_with_its_best_weights():
    config = dataclasses.replace(
        SMALL,
        flow_learning_rate=5e-3,
        map_learning_rate=5e-3,
        flow_epochs=80,
        map_epochs=80,
        patience=2,
    )
    method, loop = fitted(config)
    for name in ("flow/held_out", "mapping/held_out"):
        losses = loop.log[name]
        assert len(losses) < 80
        assert len(losses) == losses.index(min(losses)) + 3
    assert torch.isfinite(method.network.level).all()


@pytest.mark.parametrize("patience", [None, 2])
@pytest.mark.parametrize("when", ["flow", "mapping"])
def test_resumes_in_the_same_bits(tmp_path, when, patience):
    config = dataclasses.replace(SMALL, patience=patience)
    first, first_loop = fitted(config)

    class Stop(Exception):
        pass

    class Stopped(Loop):
        def record(self, **losses):
            super().record(**losses)
            if self._stage == when and self.epochs_run % 4 == 2:
                raise Stop

    where = {"checkpoint": tmp_path, "checkpoint_every_s": 0.0}
    with pytest.raises(Stop):
        fitted(config, loop=Stopped(seed=1, device="cpu", **where))
    resumed, loop = fitted(config, loop=Loop(seed=1, device="cpu", **where))
    for key, value in first.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key
    assert loop.log == first_loop.log


@pytest.mark.parametrize("change", [{"norm": "batch"}, {"precision": "bfloat16"}, {"join": "bpfm"}])
def test_every_open_point_can_be_chosen(change):
    method, loop = fitted(dataclasses.replace(SMALL, **change))
    with torch.no_grad():
        maps = method.network(torch.from_numpy(np.stack(textures(2))))
    assert torch.isfinite(maps).all()
    assert loop.log["mapping/mse"][-1] < loop.log["mapping/mse"][0]


def test_two_images_are_too_few():
    with pytest.raises(CalibrationError) as caught:
        fitted(images=textures(2))
    assert str(caught.value) == (
        "[TOO_FEW_IMAGES] 1 good images to train on beside 1 held out; NF-BMR wants 2 or more. "
        "Take more pictures of good parts."
    )


def test_a_bad_share():
    with pytest.raises(ConfigError) as caught:
        NfBmr(dataclasses.replace(SMALL, held_out=0.0))
    assert str(caught.value) == "[HELD_OUT] held_out is 0.0; want 0 < share < 1."
