"""SLSG: structure, SG block against plain loops, losses in closed form, training and export."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tolerances import TOLERANCES
from torch.utils.flop_counter import FlopCounterMode
from unit_pictures import Pictures, Stop, StoppedLoop, openvino_run

from edgead import kernels
from edgead.deploy.export import onnx_from_spec
from edgead.errors import CalibrationError, ConfigError
from edgead.models.parts_graph import SGBlock, max_relative, position_code
from edgead.models.parts_inpainting import inpainting_mask
from edgead.models.parts_unet import Discriminator, Encoder, Generator, SegNet
from edgead.models.slsg import (
    Slsg,
    SlsgConfig,
    focal_loss,
    segmentation_losses,
)
from edgead.train.loop import Budget, Loop

F32 = TOLERANCES["kernel_f32"]
SMALL = SlsgConfig(
    image_size=(64, 64), widths=(16, 8, 8), discriminator_width=4, inpaint_epochs=1, neighbours=5
)


@pytest.fixture(scope="module")
def paper_net() -> SegNet:
    encoder = Encoder("resnet18", weights="random", seed=0)
    config = SlsgConfig()
    return SegNet(
        encoder,
        config.image_size,
        widths=config.widths,
        reduction=config.reduction,
        neighbours=config.neighbours,
        dilation=config.dilation,
    ).eval()


def test_size_and_work_of_the_paper(paper_net):
    parameters = sum(p.numel() for p in paper_net.parameters())
    assert abs(parameters / 20.46e6 - 1) < 0.03
    image = torch.zeros(1, 3, 256, 256)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = paper_net(image)
    assert 22e9 <= counter.get_total_flops() / 2 <= 24e9  # a multiply-add counts as two
    assert tuple(logits.shape) == (1, 2, 256, 256)


def test_levels_of_the_paper_have_no_max_pool(paper_net):
    with torch.no_grad():
        levels, context = paper_net.encode(torch.zeros(1, 3, 256, 256))
    assert [tuple(x.shape[1:]) for x in levels] == [
        (64, 128, 128),
        (64, 128, 128),
        (128, 64, 64),
        (256, 32, 32),
        (512, 16, 16),
    ]
    assert tuple(context.shape) == (1, 512, 16, 16)


def test_any_network_with_the_strides_can_be_the_encoder():
    encoder = Encoder("tf_efficientnet_lite0", weights="random", seed=0).eval()
    with torch.no_grad():
        sides = [x.shape[-1] for x in encoder(torch.zeros(1, 3, 64, 64))]
    assert sides == [32, 32, 16, 8, 4]
    with pytest.raises(ConfigError) as caught:
        Encoder("convnext_atto", weights="random", seed=0)
    assert str(caught.value) == (
        "[BACKBONE_STRIDES] convnext_atto has strides [4, 8, 16, 32]; this method needs "
        "[2, 4, 8, 16]. Choose a backbone with these strides, e.g. resnet18."
    )


def test_position_similarity_is_one_at_home_and_falls_with_distance():
    code = torch.nn.functional.normalize(position_code((4, 6), 32), dim=1)
    similarity = code @ code.T
    assert tuple(code.shape) == (24, 32)
    torch.testing.assert_close(similarity.diagonal(), torch.ones(24))
    # Row and column have codes of their own: one step right and one step down are alike.
    assert similarity[0, 1].item() == pytest.approx(similarity[0, 6].item(), abs=1e-6)
    assert similarity[0, 0] > similarity[0, 1] > similarity[0, 2]


def test_max_relative_against_a_plain_loop():
    rng = np.random.default_rng(1)
    v = rng.normal(size=(2, 7, 3)).astype(np.float32)
    index = np.stack([[rng.permutation(7)[:4] for _ in range(7)] for _ in range(2)])
    got = max_relative(torch.from_numpy(v), torch.from_numpy(index)).numpy()
    for b in range(2):
        for i in range(7):
            want = np.max([v[b, j] - v[b, i] for j in index[b, i]], axis=0)
            np.testing.assert_allclose(got[b, i], want, F32.rtol, F32.atol)


@pytest.mark.parametrize(("dilation", "without_position"), [(1, True), (1, False), (2, True)])
def test_neighbours_against_the_kernel_and_a_plain_loop(dilation, without_position):
    torch.manual_seed(2)
    block = SGBlock(
        8, (4, 5), neighbours=3, dilation=dilation, without_position=without_position
    ).eval()
    with torch.no_grad():
        f, g, _, _ = block.relate(torch.randn(2, 8, 4, 5))
        index = block.nearest(f, g).numpy()
    position = None
    if without_position:
        position = (block.position @ block.position.T).numpy()
    kernel = kernels.topk_neighbours(
        np.ascontiguousarray(f.numpy()), np.ascontiguousarray(g.numpy()), position, 3 * dilation
    )
    np.testing.assert_array_equal(index, kernel[:, :, ::dilation])
    np.testing.assert_array_equal(block.train().nearest(f, g).numpy(), index)  # the kernel itself
    for b in range(2):
        for i in range(20):
            similarity = []
            for j in range(20):
                a, c = f[b, i].numpy(), g[b, j].numpy()
                cosine = float(a @ c / np.linalg.norm(a) / np.linalg.norm(c))
                similarity.append(cosine - (position[i, j] if without_position else 0.0))
            best = np.argsort(similarity)[::-1][: 3 * dilation : dilation]
            np.testing.assert_array_equal(index[b, i], best)


def test_sg_block_against_plain_loops():
    torch.manual_seed(3)
    block = SGBlock(8, (3, 4), neighbours=4).eval()
    x = torch.randn(1, 8, 3, 4)
    with torch.no_grad():
        got = block(x)[0].flatten(1).T.numpy()
        index = block.nearest(*block.relate(x)[:2])[0].numpy()
    nodes = x[0].flatten(1).T.numpy().astype(np.float64)

    def linear(layer: torch.nn.Conv2d, v: np.ndarray) -> np.ndarray:
        weight = layer.weight.detach().numpy()[:, :, 0, 0].astype(np.float64)
        return v @ weight.T + layer.bias.detach().numpy()

    f, g, h = (linear(layer, nodes) for layer in (block.f, block.g, block.h))
    for i in range(12):
        exponent = np.exp([f[i] @ g[j] / math.sqrt(4) for j in range(12)])
        dense = sum(exponent[j] / exponent.sum() * h[j] for j in range(12))
        sparse = np.max([nodes[j] - nodes[i] for j in index[i]], axis=0)
        want = linear(block.u, np.concatenate((dense, sparse)))
        np.testing.assert_allclose(got[i], want, rtol=1e-4, atol=1e-5)


def test_focal_loss_in_closed_form():
    logits = torch.tensor([[[[0.0, 2.0]], [[math.log(3), 0.0]]]])  # p(defect) = 3/4, 1/(1+e^2)
    mask = torch.tensor([[[True, False]]])
    p = [0.75, 1 / (1 + math.exp(-2))]
    for gamma in (0.0, 4.0):
        want = sum(-((1 - q) ** gamma) * math.log(q) for q in p) / 2
        assert focal_loss(logits, mask, gamma).item() == pytest.approx(want, rel=1e-5)


def test_segmentation_losses_in_closed_form():
    logits = torch.zeros(1, 2, 4, 4)  # one half everywhere
    small = torch.zeros(1, 2, 2, 2)
    small[0, 1] = 100.0  # defect everywhere
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :2, :2] = True
    losses = segmentation_losses(logits, small, mask, gamma=4.0)
    assert losses["focal"].item() == pytest.approx(0.5**4 * math.log(2), rel=1e-5)
    assert losses["l1"].item() == pytest.approx(0.5)
    assert losses["bottleneck"].item() == pytest.approx(0.75)


def test_inpainting_mask_hides_the_share_asked_for_on_its_grid():
    mask = inpainting_mask((256, 256), np.random.default_rng(0), rectangles=0)
    cells = mask.reshape(32, 8, 32, 8)
    assert mask.shape == (256, 256)
    assert np.ptp(cells, axis=(1, 3)).max() == 0
    assert mask.mean() == pytest.approx(1 - round(0.8 * 1024) / 1024)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        hidden_px = 1 - inpainting_mask((256, 256), rng, hidden=0.0, rectangles=1)
        rows, columns = hidden_px.any(1).sum(), hidden_px.any(0).sum()
        assert hidden_px.sum() == rows * columns
        assert 40 <= rows <= 150
        assert 40 <= columns <= 150


def test_generator_and_discriminator_shapes():
    encoder = Encoder("resnet18", weights="random", seed=0)
    image = torch.zeros(2, 3, 64, 64)
    with torch.no_grad():
        painted, small = Generator(encoder, (16, 8, 8))(image)
        judged = Discriminator(4)(image)
    assert tuple(painted.shape) == (2, 3, 64, 64)
    assert tuple(small.shape) == (2, 3, 4, 4)
    assert tuple(judged.shape) == (2, 1, 4, 4)


def fitted(config: SlsgConfig, epochs: int = 3) -> tuple[Slsg, Loop]:
    method = Slsg(config, backbone="resnet18", weights="random", seed=5)
    loop = Loop(Budget(epochs=epochs), seed=5, device="cpu")
    method.fit(Pictures(8), loop)
    return method, loop


@pytest.fixture(scope="module")
def trained() -> tuple[Slsg, Loop]:
    return fitted(SMALL)


def test_training_logs_both_stages_and_learns(trained):
    _, loop = trained
    assert set(loop.log) == {
        "inpainting/adversarial",
        "inpainting/l1",
        "inpainting/bottleneck",
        "inpainting/discriminator",
        "segmentation/focal",
        "segmentation/l1",
        "segmentation/bottleneck",
    }
    assert loop.log["inpainting/l1"][-1] < loop.log["inpainting/l1"][0]
    assert loop.log["segmentation/l1"][-1] < loop.log["segmentation/l1"][0]


def test_the_encoder_is_what_gpt_net_made_it_unless_freed(trained, monkeypatch):
    kept = []
    original = Slsg._segment

    def spy(self, source, loop):
        kept.append({k: v.clone() for k, v in self.net.encoder.state_dict().items()})
        original(self, source, loop)

    monkeypatch.setattr(Slsg, "_segment", spy)
    fresh = Slsg(SMALL, backbone="resnet18", weights="random", seed=5)
    start = fresh.net.encoder.state_dict()["net.conv1.weight"].clone()
    for config, is_frozen in ((SMALL, True), (replace(SMALL, freeze_encoder=False), False)):
        method, _ = fitted(config, epochs=1)
        before, after = kept.pop(), method.net.encoder.state_dict()
        assert not torch.equal(start, before["net.conv1.weight"])
        assert all(torch.equal(before[k], after[k]) for k in before) == is_frozen


def test_statistics_are_those_of_whole_images(trained):
    method, _ = trained
    bn = method.net.encoder.net.bn1
    pictures = Pictures(8)
    batch = torch.from_numpy(np.stack([pictures[i] for i in range(8)]))
    with torch.no_grad():
        seen = method.net.encoder.net.conv1(method.input(batch))
    torch.testing.assert_close(bn.running_mean, seen.mean((0, 2, 3)), rtol=0.05, atol=0.02)


def test_same_seed_same_model(trained):
    again, _ = fitted(SMALL)
    for a, b in zip(trained[0].net.parameters(), again.net.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("killed_after", [1, 3])  # in the middle of the first stage, of the second
def test_a_killed_training_goes_on_in_the_same_bits(tmp_path, killed_after):
    def fit(loop: Loop) -> Slsg:
        method = Slsg(SMALL, backbone="resnet18", weights="random", seed=5)
        method.fit(Pictures(8), loop)
        return method

    plain = fit(Loop(Budget(epochs=2), seed=5, device="cpu"))
    with pytest.raises(Stop):
        fit(StoppedLoop(killed_after, 2, tmp_path))
    resumed = fit(Loop(Budget(epochs=2), seed=5, device="cpu", checkpoint=tmp_path))
    for a, b in zip(plain.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_exported_graph_uses_standard_operators_and_scores_as_torch(trained):
    spec = trained[0].export_spec()
    model = onnx_from_spec(spec, (64, 64))
    graph = onnx.load_from_string(model).graph
    assert {"TopK", "Gather", "ReduceMax"} <= {node.op_type for node in graph.node}
    assert {node.domain for node in graph.node} == {""}
    assert (spec.head.kind, spec.head.top) == ("top_mean", 100)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(6)
    for batch in (1, 3):
        image = rng.integers(0, 256, (batch, 64, 64, 3), dtype=np.uint8)
        with torch.no_grad():
            want = spec.module(torch.from_numpy(image)).numpy()
        assert want.shape == (batch, 64, 64)
        atol = TOLERANCES["export_map"].atol
        np.testing.assert_allclose(session.run(None, {"image": image})[0], want, 0, atol)
        np.testing.assert_allclose(openvino_run(model, image), want, 0, atol)


def test_bad_input_is_named():
    with pytest.raises(ConfigError) as size:
        Slsg(replace(SMALL, image_size=(80, 64)), backbone="resnet18", weights="random")
    assert str(size.value) == (
        "[IMAGE_SIZE] SLSG got an image size of (80, 64); want multiples of 32. "
        "Its decoder doubles what the encoder halves."
    )
    with pytest.raises(ConfigError) as many:
        Slsg(replace(SMALL, neighbours=17), backbone="resnet18", weights="random")
    assert str(many.value) == (
        "[NEIGHBOURS] SLSG got 17 x 1 neighbours of 16 nodes. "
        "Take fewer neighbours or a larger image."
    )
    method = Slsg(SMALL, backbone="resnet18", weights="random")
    with pytest.raises(CalibrationError) as few:
        method.fit(Pictures(1), Loop(Budget(epochs=1), device="cpu"))
    assert str(few.value) == (
        "[TOO_FEW_IMAGES] got 1 good images; simulated defects need at least 2. "
        "Take more pictures of different good parts."
    )
