"""DFDA-AD: shapes of the paper's tables, attention and k-means against plain loops, collapse, bad input."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from tolerances import TOLERANCES

from edgead.errors import CalibrationError, ConfigError
from edgead.kernels import kmeans_assign
from edgead.models.dfda_ad import PAPER_BACKBONES, DfdaAd, DfdaConfig, DualAttention
from edgead.models.parts_attention import ChannelAttention, QueryKeyAttention, SpatialAttention
from edgead.models.parts_extractors import Extractors
from edgead.models.parts_kmeans import compactness, kmeans, kmeans_plus_plus, retained_deviation
from edgead.models.parts_simulated import KINDS, separation, simulated_defects
from edgead.train.loop import Loop

SMALL = DfdaConfig(image_size=(64, 64), epochs=3, batch_images=4, learning_rate=1e-3)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    bound = TOLERANCES["module_f32"]
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


# --- structure ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper() -> DfdaAd:
    return DfdaAd(DfdaConfig(), backbone=PAPER_BACKBONES, weights="random")


def test_the_papers_shapes(paper):
    image = torch.zeros(1, 224, 224, 3, dtype=torch.uint8)
    with torch.no_grad():
        feature_a, feature_b = paper.extractors(image)
        patches = paper.attention(feature_a, feature_b)
    assert feature_a.shape == (1, 512, 28, 28)  # table 1, dense block 2
    assert feature_b.shape == (1, 1024, 14, 14)  # table 2, block 3
    assert patches.shape == (1, 28, 28, 1536)
    linear = [m for m in paper.attention.spatial.modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(784, 49), (49, 49), (49, 784)]


def test_branch_a_ends_before_the_transition(paper):
    names = [name for name, _ in paper.extractors.first.net.named_children()]
    assert names[-1] == "features_denseblock2"


def test_the_papers_settings():
    config = DfdaConfig()
    assert (config.learning_rate, config.batch_images, config.iterations) == (2e-4, 10, 100)
    assert (config.image_size, config.held_out) == ((224, 224), 0.2)


def test_only_the_attention_is_trained(paper):
    assert not any(p.requires_grad for p in paper.extractors.parameters())
    assert all(p.requires_grad for p in paper.attention.parameters())


@pytest.mark.parametrize("names", ["resnet18", "densenet121,resnet18"])
def test_packing_loses_nothing(names):
    extractors = Extractors(names, "random", seed=0)
    image = torch.randint(0, 255, (2, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = extractors(image)
        packed = extractors.packed(image)
    assert packed.shape[:3] == (2, 8, 12)
    for got, want in zip(extractors.unpacked(packed), expected, strict=True):
        assert torch.equal(got, want)


def test_packing_an_odd_number_of_channels():
    extractors = Extractors("resnet18", "random", seed=0)
    extractors.channels = (128, 254)
    extractors.forward = lambda image: (torch.rand(1, 128, 8, 8), torch.rand(1, 254, 4, 4))
    torch.manual_seed(0)
    packed = extractors.packed(torch.zeros(1))
    torch.manual_seed(0)
    for got, want in zip(extractors.unpacked(packed), extractors(None), strict=True):
        assert torch.equal(got, want)


def test_untrained_attention_leaves_the_features_as_they_are():
    attention = DualAttention(6, 4, SMALL).eval()
    a, b = torch.rand(2, 6, 8, 8), torch.rand(2, 4, 4, 4)
    with torch.no_grad():
        patches = attention(a, b)
    up = torch.nn.functional.interpolate(b, (8, 8), mode="bilinear")
    unit = [one / one.norm(dim=1, keepdim=True) for one in (a, up)]
    close(patches, torch.cat(unit, dim=1).permute(0, 2, 3, 1))


def test_spatial_weights_are_not_lost_in_the_join():
    attention = DualAttention(6, 4, SMALL).eval()
    torch.nn.init.normal_(attention.spatial.fully_connected[-1].weight)
    torch.nn.init.normal_(attention.spatial.fully_connected[-1].bias)
    with torch.no_grad():
        patches = attention(torch.rand(1, 6, 8, 8), torch.rand(1, 4, 4, 4))
    lengths = patches[..., :6].norm(dim=-1)
    assert lengths.std() > 0.1
    assert 0 <= lengths.min() <= lengths.max() <= 2


# --- attention against plain loops -------------------------------------------------------------------


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return module


def test_channel_attention():
    module = randomised(ChannelAttention(8, 4))
    x = torch.rand(2, 8, 3, 5)
    expected = torch.empty_like(x)
    for n in range(2):
        logits = 0
        for pooled in (x[n].flatten(1).mean(1), x[n].flatten(1).amax(1)):
            hidden = (module.squeeze.weight @ pooled + module.squeeze.bias).clamp(min=0)
            logits = logits + module.excite.weight @ hidden + module.excite.bias
        for c in range(8):
            expected[n, c] = x[n, c] / (1 + torch.exp(-logits[c]))
    close(module(x), expected.detach())


@pytest.mark.parametrize("aggregate", ["sum", "concatenate"])
@pytest.mark.parametrize("layers", ["flatten", "position"])
def test_spatial_attention(aggregate, layers):
    module = randomised(SpatialAttention((3, 4), hidden=5, aggregate=aggregate, layers=layers))
    x = torch.rand(2, 6, 3, 4)
    first, second, third = (m for m in module.fully_connected if isinstance(m, torch.nn.Linear))

    def connected(vector: torch.Tensor) -> torch.Tensor:
        vector = (first.weight @ vector + first.bias).clamp(min=0)
        vector = (second.weight @ vector + second.bias).clamp(min=0)
        return 1 / (1 + torch.exp(-(third.weight @ vector + third.bias)))

    weights = module(x)
    assert weights.shape == (2, 1, 3, 4)
    for n in range(2):
        maps = [x[n].mean(0), x[n].amax(0)]
        maps = [maps[0] + maps[1]] if aggregate == "sum" else maps
        if layers == "flatten":
            expected = connected(torch.cat([one.flatten() for one in maps])).reshape(3, 4)
        else:
            expected = torch.stack(
                [
                    connected(torch.stack([m[i, j] for m in maps]))
                    for i in range(3)
                    for j in range(4)
                ]
            ).reshape(3, 4)
        close(weights[n, 0], expected)


def pools(feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """3x3, stride 1, over what lies inside: (C, N) each, by loops."""
    channels, h, w = feature.shape
    peak, average = torch.empty_like(feature), torch.empty_like(feature)
    for i in range(h):
        for j in range(w):
            window = feature[:, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].flatten(1)
            peak[:, i, j], average[:, i, j] = window.amax(1), window.mean(1)
    return peak.reshape(channels, -1), average.reshape(channels, -1)


@pytest.mark.parametrize("form", ["centred", "paper"])
def test_query_key_attention(form):
    module = QueryKeyAttention(4, form)
    if form == "centred":
        module.gate.data.fill_(0.7)
        module.scale.data.fill_(1.3)
    feature = torch.rand(1, 4, 3, 3) * 0.3
    x, y = pools(feature[0])
    if form == "centred":
        x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    values, expected = feature[0].flatten(1), torch.zeros(4, 9)
    for i in range(9):
        factor = 1.3 / 2 if form == "centred" else 1.0
        row = torch.sigmoid(torch.stack([(x[:, i] * y[:, k]).sum() * factor for k in range(9)]))
        if form == "centred":
            row = row / row.sum()
        total = sum(row[k] * values[:, k] for k in range(9))
        expected[:, i] = values[:, i] + 0.7 * total if form == "centred" else total
    close(module(feature)[0].flatten(1), expected)


def test_the_papers_literal_attention_forgets_where():
    feature = 3 + 5 * torch.rand(1, 64, 6, 6)  # as behind a ReLU: large and positive
    out = QueryKeyAttention(64, "paper")(feature)
    everywhere = feature.sum(dim=(2, 3), keepdim=True).expand_as(feature)
    close(out, everywhere)
    assert sum(p.numel() for p in QueryKeyAttention(64, "paper").parameters()) == 0


# --- k-means -----------------------------------------------------------------------------------------


def blobs(clusters: int, each: int, dimensions: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 20, (clusters, dimensions))
    points = centres[:, None] + rng.normal(0, 0.1, (clusters, each, dimensions))
    return points.reshape(-1, dimensions).astype(np.float32)


def test_k_means_agrees_with_scikit_learn_from_the_same_start():
    patches = np.random.default_rng(0).random((500, 6), dtype=np.float32)
    start = patches[:12].copy()
    ours = kmeans(patches, 12, np.random.default_rng(0), start=start, tolerance=0)
    theirs = KMeans(12, init=start, n_init=1, max_iter=100, tol=0).fit(patches)
    np.testing.assert_allclose(ours, theirs.cluster_centers_, rtol=1e-4, atol=1e-5)


def test_k_means_plus_plus_finds_every_far_blob():
    patches = blobs(20, 15)
    for seed in range(5):
        start = kmeans_plus_plus(patches, 20, np.random.default_rng(seed))
        index, distance = kmeans_assign(start, patches)
        assert distance.max() == 0  # patches of the set
        assert len({int(i) // 15 for i in index}) == 20


def test_k_means_plus_plus_draws_by_squared_distance():
    # From 0, the squared distances are 1 and 9: the second centroid is the far one in 9 of 10 draws.
    patches = np.array([[0.0], [1.0], [-3.0]], np.float32)
    far = total = 0
    for seed in range(600):
        first, second = kmeans_plus_plus(patches, 2, np.random.default_rng(seed))[:, 0]
        if first == 0:
            total += 1
            far += second == -3
    assert 0.83 < far / total < 0.96


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), clusters=st.integers(1, 12), count=st.integers(12, 80))
def test_more_iterations_are_never_farther(seed, clusters, count):
    patches = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)

    def error(iterations: int) -> float:
        rng = np.random.default_rng(seed)
        centroids = kmeans(patches, clusters, rng, iterations=iterations, tolerance=0)
        return float(np.square(kmeans_assign(patches, centroids)[1]).mean())

    errors = [error(n) for n in (0, 1, 3, 20)]
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(errors))


def test_empty_clusters_move_to_the_farthest_patches():
    patches = blobs(4, 10)
    start = np.repeat(patches[:1], 4, axis=0)  # three of four begin empty: ties go to the lowest
    centroids = kmeans(patches, 4, np.random.default_rng(0), start=start)
    index, distance = kmeans_assign(patches, centroids)
    assert len(centroids) == 4
    assert (np.bincount(index, minlength=4) > 0).all()
    assert distance.mean() < 0.7 * kmeans_assign(patches, patches.mean(axis=0)[None])[1].mean()


def test_fewer_different_patches_than_clusters():
    patches = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    for start in (None, np.repeat(patches[:1], 8, axis=0)):
        centroids = kmeans(patches, 8, np.random.default_rng(0), start=start)
        assert 3 <= len(centroids) <= 8
        assert kmeans_assign(patches, centroids)[1].max() == 0


def test_one_repeated_patch():
    patches = np.ones((50, 4), np.float32)
    centroids = kmeans(patches, 5, np.random.default_rng(0))
    assert np.array_equal(centroids, np.ones((1, 4), np.float32))


@pytest.mark.parametrize("clusters", [0, 11])
def test_too_many_clusters(clusters):
    with pytest.raises(CalibrationError) as caught:
        kmeans(np.zeros((10, 2), np.float32), clusters, np.random.default_rng(0))
    assert str(caught.value) == (
        f"[CLUSTERS] {clusters} clusters of 10 patches; expected 1 to 10 clusters. "
        "Ask for fewer clusters, or give more good images."
    )


def test_patches_that_are_not_finite():
    patches = np.zeros((10, 2), np.float32)
    patches[3, 1] = np.nan
    with pytest.raises(CalibrationError) as caught:
        kmeans(patches, 2, np.random.default_rng(0))
    assert str(caught.value) == (
        "[PATCHES_NOT_FINITE] 1 of 10 patches hold NaN or infinity. "
        "The backbone's weights or the images are damaged."
    )


def test_compactness_against_a_loop():
    torch.manual_seed(0)
    patches, centroids = torch.randn(20, 4), torch.randn(5, 4)
    squared = torch.cdist(patches, centroids).square()
    nearest = squared.argmin(1)
    expected = 0.0
    for n in range(20):
        others = [float(squared[n, k]) for k in range(5) if k != nearest[n]]
        expected += float(squared[n, nearest[n]]) / (sum(others) / 4) / 20
    assert float(compactness(patches, centroids, nearest)) == pytest.approx(expected, rel=1e-4)


def test_compactness_does_not_reward_shrinking():
    patches, centroids = torch.randn(30, 4), torch.randn(6, 4)
    nearest = torch.cdist(patches, centroids).argmin(1)
    whole = compactness(patches, centroids, nearest)
    close(compactness(0.1 * patches, 0.1 * centroids, nearest), whole)


def test_retained_deviation():
    patches = torch.randn(500, 3)
    deviation = patches.std(dim=0)
    assert retained_deviation(patches, deviation) == pytest.approx(1)
    assert retained_deviation(patches * torch.tensor([0.5, 1, 9]), deviation) == pytest.approx(
        2.5 / 3
    )
    assert retained_deviation(patches * 0, deviation) == 0
    assert retained_deviation(patches, torch.zeros(3)) == 1


# --- training ----------------------------------------------------------------------------------------


def fitted(config: DfdaConfig, images=None, loop: Loop | None = None) -> tuple[DfdaAd, Loop]:
    loop = loop or Loop(seed=1, device="cpu")
    method = DfdaAd(config)
    method.fit(textures(12) if images is None else images, loop)
    return method, loop


def scores(method: DfdaAd, images: list[np.ndarray]) -> list[float]:
    spec = method.export_spec()
    with torch.no_grad():
        patches = spec.module(torch.from_numpy(np.stack(images))).numpy()
    flat = np.ascontiguousarray(patches.reshape(-1, patches.shape[-1]))
    distance = kmeans_assign(flat, spec.head_tensors["centroids"])[1]
    return list(distance.reshape(len(images), -1).max(axis=1))


def test_training_tells_defects_from_good():
    method, loop = fitted(SMALL)
    assert method.centroids.shape == (int(12 * 0.8 + 0.5) * 64 // 50, 152)
    good = textures(8, seed=7)
    bad = [image.copy() for image in good]
    for image in bad:
        image[28:40, 28:40] = (0, 0, 255)
    assert min(scores(method, bad)) > max(scores(method, good))
    assert {"attention/separation", "attention/retained", "attention/loss"} <= set(loop.log)


def test_adam_is_kept_only_where_it_wins():
    method, loop = fitted(SMALL)
    found = loop.log["attention/separation"]
    untrained = DfdaAd(SMALL).attention.state_dict()
    same = all(torch.equal(a, untrained[k]) for k, a in method.attention.state_dict().items())
    assert same == (max(found) <= found[0])


def test_frozen_attention_is_the_untrained_one():
    method, loop = fitted(dataclasses.replace(SMALL, train_attention=False))
    untrained = DfdaAd(SMALL).attention.state_dict()
    assert all(torch.equal(a, untrained[k]) for k, a in method.attention.state_dict().items())
    assert loop.log == {}


def test_a_collapse_ends_training_and_keeps_what_was_good():
    config = dataclasses.replace(
        SMALL, learning_rate=3.0, retention=0.0, collapse=0.9, epochs=10, patience=100
    )
    method, loop = fitted(config)
    assert loop.epochs_run < 10
    assert loop.log["attention/retained"][-1] < 0.9
    assert min(loop.log["attention/retained"][:-1]) >= 0.9
    assert len(loop.log["attention/separation"]) == loop.epochs_run - 1
    patches = torch.from_numpy(method.centroids)
    assert patches.std(dim=0).mean() > 0.01


def test_same_seed_same_bits_and_resume(tmp_path):
    first, _ = fitted(SMALL)
    second, _ = fitted(SMALL)
    assert np.array_equal(first.centroids, second.centroids)

    class Stop(Exception):
        pass

    class Stopped(Loop):
        def record(self, **losses):
            super().record(**losses)
            if self.epochs_run == 2 and "loss" in losses:
                raise Stop

    where = {"checkpoint": tmp_path, "checkpoint_every_s": 0.0}
    with pytest.raises(Stop):
        fitted(SMALL, loop=Stopped(seed=1, device="cpu", **where))
    resumed, loop = fitted(SMALL, loop=Loop(seed=1, device="cpu", **where))
    assert np.array_equal(resumed.centroids, first.centroids)
    for key, value in first.attention.state_dict().items():
        assert torch.equal(value, resumed.attention.state_dict()[key])
    assert len(loop.log["attention/loss"]) == 3


def test_every_open_point_can_be_chosen():
    config = dataclasses.replace(
        SMALL,
        attention="paper",
        aggregate="concatenate",
        spatial_layers="position",
        clusters=7,
        final_images="all",
        epochs=1,
    )
    method, _ = fitted(config)
    assert method.centroids.shape == (7, 152)


# --- bad input ---------------------------------------------------------------------------------------


def test_one_image_is_too_few():
    with pytest.raises(CalibrationError) as caught:
        fitted(SMALL, textures(1))
    assert str(caught.value) == (
        "[TOO_FEW_IMAGES] 1 good image to train on; DFDA-AD wants 2 or more. "
        "Take more pictures of good parts."
    )


def test_more_clusters_than_patches():
    with pytest.raises(CalibrationError, match=r"\[CLUSTERS\] 5000 clusters of 640 patches"):
        fitted(dataclasses.replace(SMALL, clusters=5000, train_attention=False))


def test_constant_images_take_no_defect_of_some_kinds_but_train():
    images = [np.full((64, 64, 3), 90, np.uint8)] * 6
    method, _ = fitted(SMALL, images)
    assert np.isfinite(scores(method, images)).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"image_size": (60, 64)},
            "[IMAGE_SIZE] image size is (60, 64); want multiples of 32 from 64.",
        ),
        ({"clusters": 0}, "[CLUSTERS] clusters is 0; want 1 or more."),
        ({"held_out": 1.0}, "[HELD_OUT] held_out is 1.0; want 0 < share < 1."),
    ],
)
def test_bad_settings(change, text):
    with pytest.raises(ConfigError) as caught:
        DfdaAd(dataclasses.replace(SMALL, **change))
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("backbone", "weights"), [("a,b,c", None), ("densenet121,resnet50", "one.pth")]
)
def test_bad_branches(backbone, weights):
    with pytest.raises(ConfigError) as caught:
        DfdaAd(backbone=backbone, weights=weights)
    assert str(caught.value) == (
        f"[BACKBONE_BRANCHES] backbone is {backbone!r} and weights {str(weights)!r}; want one network "
        "for both branches, or two joined by a comma, and a weights file each. "
        "For example --backbone densenet121,resnet50."
    )


def test_a_backbone_without_the_strides():
    with pytest.raises(ConfigError) as caught:
        DfdaAd(SMALL, backbone="vit_tiny_patch16_224", weights="random")
    assert str(caught.value) == (
        "[BACKBONE_STRIDES] vit_tiny_patch16_224 has strides [16, 16, 16]; "
        "this method needs [8, 16]. Choose a backbone with these strides, e.g. resnet18."
    )


# --- simulated defects -------------------------------------------------------------------------------


def test_separation_of_perfect_and_blind_maps():
    mask = np.zeros((32, 32), bool)
    mask[:16] = True
    good = [np.zeros((4, 4), np.float32)] * 3
    perfect = np.zeros((4, 4), np.float32)
    perfect[:2] = 1
    assert separation(good, [perfect], [mask]) == 1
    assert separation(good, [np.zeros((4, 4), np.float32)], [mask]) == 0.5
    assert separation([1 - perfect], [1 - perfect], [mask]) < 0.5


def test_a_defect_smaller_than_a_position_counts_by_image_only():
    mask = np.zeros((32, 32), bool)
    mask[0, 0] = True
    good, bad = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)
    assert separation([good], [bad], [mask]) == 1


def test_each_kind_in_turn():
    images = textures(len(KINDS))
    defects, masks = simulated_defects(images, np.arange(len(images)), np.random.default_rng(0))
    assert len(defects) == len(masks) == len(KINDS)
    for image, defect, mask in zip(images, defects, masks, strict=True):
        assert mask.any()
        assert not np.array_equal(image[mask], defect[mask])
        assert np.array_equal(image[~mask], defect[~mask])
