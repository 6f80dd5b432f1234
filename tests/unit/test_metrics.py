"""Every metric against an independent implementation: scikit-learn, a plain loop or a closed form."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from skimage.measure import label as label_regions
from sklearn import metrics as sklearn_metrics
from tolerances import TOLERANCES

from edgead.errors import CalibrationError
from edgead.evaluate.data import Sample
from edgead.evaluate.loco import load_regions, load_saturations
from edgead.evaluate.metrics import (
    classification,
    evaluate_scores,
    image_ap,
    image_auroc,
    per_defect,
    roc_curve,
    worst_and_mean,
)
from edgead.evaluate.regions import PRO_LIMIT, Region, pixel_metrics, pro_curve, spro_curve
from edgead.images import save_image

KEYS = (  # what `edgead evaluate --json` promises to other programs
    *("image_auroc", "pixel_auroc", "pro", "spro", "pixel_ap", "f1", "precision_score", "recall"),
    *("threshold", "pixel_threshold", "false_reject_rate", "missed_defect_rate", "unknown_rate"),
    *("frames", "per_defect", "backend", "precision"),
)
EXACT = TOLERANCES["metric_exact"].atol


def exactly(value):
    return pytest.approx(value, rel=0, abs=EXACT)


def image_set(seed: int, *, levels: int | None) -> tuple[list, list]:
    """Noisy maps with blobs; ``levels`` rounds the scores so that many are equal."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(6):
        height, width = (24, 30) if index % 2 else (20, 20)
        mask = np.zeros((height, width), dtype=bool)
        for _ in range(index // 2):  # the first two images are good
            y, x = rng.integers(0, height - 6), rng.integers(0, width - 6)
            mask[y : y + rng.integers(1, 7), x : x + rng.integers(1, 7)] = True
        scores = rng.normal(size=mask.shape) + 1.5 * mask
        if levels is not None:
            scores = np.round(scores * levels) / levels
        maps.append(scores.astype(np.float32))
        masks.append(mask)
    return maps, masks


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pixel_metrics_equal_scikit_learn_and_a_plain_loop(seed, levels):
    maps, masks = image_set(seed, levels=levels)
    scores = np.concatenate([one.ravel() for one in maps])
    truth = np.concatenate([one.ravel() for one in masks])
    found = pixel_metrics(maps, masks)
    assert found["pixel_auroc"] == exactly(sklearn_metrics.roc_auc_score(truth, scores))
    assert found["pixel_ap"] == exactly(sklearn_metrics.average_precision_score(truth, scores))
    regions = [
        [(one, blobs == k) for k in range(1, blobs.max() + 1)]
        for one, mask in zip(maps, masks, strict=True)
        for blobs in [label_regions(mask, connectivity=2)]
    ]
    parts = [(one[blob], blob.sum()) for found in regions for one, blob in found]
    assert found["pro"] == exactly(plain_overlap(parts, scores[~truth], scores, PRO_LIMIT))


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("saturation", [0.3, 1.0, 4.5, 9, 1e6])
def test_spro_equals_a_plain_loop(saturation, levels):
    maps, masks = image_set(5, levels=levels)
    regions = [[Region(mask, saturation)] if mask.any() else [] for mask in masks]
    # A second region that overlaps the first: its pixels count for both.
    other = np.zeros_like(masks[-1])
    other[:5, :9] = True
    regions[-1].append(Region(other, saturation))
    outside = np.concatenate(
        [
            one[~np.any([r.mask for r in found], axis=0)] if found else one.ravel()
            for one, found in zip(maps, regions, strict=True)
        ]
    )
    everything = np.concatenate([one.ravel() for one in maps])
    parts = [
        (one[r.mask], min(max(saturation, 1), r.mask.sum()))
        for one, found in zip(maps, regions, strict=True)
        for r in found
    ]
    curve = spro_curve(maps, regions)
    for limit in (0.05, 0.3, 1.0):
        assert curve.area(limit=limit) == exactly(plain_overlap(parts, outside, everything, limit))


def plain_overlap(parts, outside, everything, limit):
    """Area under mean min(found / enough, 1) over the false-positive rate, threshold by threshold."""
    thresholds = np.append(np.inf, np.unique(everything)[::-1])
    fpr = np.array([(outside >= t).mean() for t in thresholds])
    overlap = np.array(
        [
            np.mean([min((scores >= t).sum() / enough, 1) for scores, enough in parts])
            for t in thresholds
        ]
    )
    return clipped_area(fpr, overlap, limit)


def clipped_area(x, y, limit):
    area = 0.0
    for (x0, x1), (y0, y1) in zip(pairwise(x), pairwise(y), strict=True):
        if x1 > limit:
            if x0 < limit:
                y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
                area += (limit - x0) * (y0 + y1) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def test_perfect_and_inverted_maps():
    mask = np.zeros((10, 10), dtype=bool)
    mask[2:5, 2:5] = True
    good = np.zeros((10, 10), dtype=bool)
    perfect = pixel_metrics([mask.astype(float), good.astype(float)], [mask, good])
    assert perfect == {"pixel_auroc": 1.0, "pixel_ap": 1.0, "pro": 1.0}
    inverted = pixel_metrics([-mask.astype(float), good.astype(float)], [mask, good])
    assert inverted["pixel_auroc"] == inverted["pro"] == 0.0
    constant = pixel_metrics([good.astype(float)], [mask])
    # One tie of all pixels: the diagonal, which reaches 0.3 at 0.3.
    assert constant == {
        "pixel_auroc": exactly(0.5),
        "pixel_ap": exactly(0.09),
        "pro": exactly(PRO_LIMIT / 2),
    }


def test_without_defect_pixels_there_are_no_pixel_metrics():
    good = np.zeros((4, 4), dtype=bool)
    assert set(pixel_metrics([good.astype(float)], [good]).values()) == {None}
    assert pro_curve([good.astype(float)], [~good]) is None
    assert spro_curve([good.astype(float)], [[]]) is None


@pytest.mark.parametrize("seed", range(4))
def test_image_metrics_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.random(80) < 0.4
    scores = np.round(rng.normal(size=80) + labels, seed)  # ties at seed 0
    assert image_auroc(scores, labels) == exactly(sklearn_metrics.roc_auc_score(labels, scores))
    assert image_ap(scores, labels) == exactly(
        sklearn_metrics.average_precision_score(labels, scores)
    )
    curve = roc_curve(scores, labels)
    fpr, tpr, _ = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    corners = set(zip(curve.fpr.round(12), curve.tpr.round(12), strict=True))
    assert corners <= set(zip(fpr.round(12), tpr.round(12), strict=True))
    verdicts = scores > 0.5
    p, r, f, _ = sklearn_metrics.precision_recall_fscore_support(labels, verdicts, average="binary")
    found = classification(scores, labels, 0.5)
    assert (found["precision_score"], found["recall"], found["f1"]) == (
        exactly(p),
        exactly(r),
        exactly(f),
    )
    false_rejects, missed = (verdicts & ~labels).sum(), (~verdicts & labels).sum()
    for name, events, trials in (
        ("false_reject", false_rejects, (~labels).sum()),
        ("missed_defect", missed, labels.sum()),
    ):
        exact = stats.binomtest(int(events), int(trials)).proportion_ci(0.95, method="exact")
        assert found[f"{name}_rate"] == events / trials
        # SciPy solves by a bracketing search to 1e-6 of the share.
        assert found[f"{name}_interval"] == pytest.approx([exact.low, exact.high], abs=1e-6)


def test_a_score_at_the_threshold_is_good():
    found = classification([1.0, 1.0], [False, True], 1.0)
    assert (found["false_reject_rate"], found["missed_defect_rate"]) == (0.0, 1.0)


def test_figures_that_the_images_do_not_define_are_none():
    only_good = classification([0.0, 2.0], [False, False], 1.0)
    assert only_good["recall"] is only_good["f1"] is only_good["missed_defect_interval"] is None
    only_defects = classification([0.0, 0.0], [True, True], 1.0)
    assert only_defects["precision_score"] is only_defects["false_reject_rate"] is None
    assert only_defects["f1"] == 0.0
    assert image_auroc([1.0, 2.0], [True, True]) is None


def test_table_of_defects():
    scores = [0.1, 0.2, 0.6, 0.3, 0.9, 0.8]
    names = ["good", "good", "good", "crack", "crack", "bent"]
    table = per_defect(scores, names, 0.5)
    assert list(table) == ["good", "bent", "crack"]
    assert table["good"]["false_rejects"] == 1
    assert table["crack"]["missed"] == 1
    assert table["crack"]["image_auroc"] == exactly(5 / 6)
    assert table["bent"]["image_auroc"] == 1.0
    assert worst_and_mean(table) == (exactly(5 / 6), exactly(11 / 12))
    assert worst_and_mean({"good": table["good"]}) == (None, None)


def test_a_class_without_any_verdict_stays_in_the_table():
    row = per_defect([0.1, np.nan], ["good", "bent"], 0.5)["bent"]
    assert (row["frames"], row["unknown"], row["missed"]) == (1, 1, 0)
    assert row["image_auroc"] is row["missed_defect_rate"] is None


def test_evaluate_gives_every_key_as_plain_values():
    maps, masks = image_set(0, levels=None)
    names = ["good", "good", "a", "a", "b", "b"]
    scores = np.array([one.max() for one in maps])
    scores[3] = np.nan
    without = [None if index == 5 else mask for index, mask in enumerate(masks)]
    found = evaluate_scores(
        scores,
        names,
        threshold=3.0,
        pixel_threshold=2.0,
        backend="openvino",
        precision="fp32",
        maps=maps,
        masks=without,
    )
    assert {*KEYS, "image_ap", "false_reject_interval", "missed_defect_interval"} == set(found)
    assert json.loads(json.dumps(found)) == found
    assert (found["frames"], found["unknown_rate"], found["spro"]) == (6, 1 / 6, None)
    known = [0, 1, 2, 4]
    assert (
        found["pixel_auroc"]
        == pixel_metrics([maps[i] for i in known], [masks[i] for i in known])["pixel_auroc"]
    )
    assert found["per_defect"]["a"]["frames"] == 2
    assert found["per_defect"]["a"]["unknown"] == 1


def test_without_masks_pixel_metrics_are_null():
    maps, _ = image_set(0, levels=None)
    found = evaluate_scores(
        [1.0] * 6,
        ["good", "good", "a", "a", "b", "b"],
        threshold=3.0,
        pixel_threshold=2.0,
        backend="openvino",
        precision="fp32",
        maps=maps,
        masks=[np.zeros((20, 20), bool), np.zeros((24, 30), bool), None, None, None, None],
    )
    assert found["pixel_auroc"] is found["pro"] is found["pixel_ap"] is None


@pytest.mark.parametrize(
    ("maps", "masks", "text"),
    [
        (
            [np.zeros((2, 2))],
            [],
            "[MAPS_COUNT] 1 anomaly maps and 0 masks; expected one mask a map.",
        ),
        (
            [np.full((2, 2), np.nan)],
            [np.ones((2, 2), bool)],
            "[MAPS_NOT_FINITE] anomaly map 0 holds NaN or infinity; expected finite values (h, w).",
        ),
        (
            [np.zeros((1, 2, 2))],
            [np.ones((2, 2), bool)],
            "[MAPS_NOT_FINITE] anomaly map 0 has shape (1, 2, 2); expected finite values (h, w).",
        ),
        (
            [np.zeros((2, 2))],
            [np.ones((2, 3), bool)],
            "[MASK_SIZE] mask 0 is (2, 3), its anomaly map (2, 2); expected one size. "
            "Load masks at the map's size: load_mask(sample, anomaly_map.shape).",
        ),
    ],
)
def test_maps_that_cannot_be_measured(maps, masks, text):
    for call in (pixel_metrics, pro_curve):
        with pytest.raises(CalibrationError) as caught:
            call(maps, masks)
        assert str(caught.value) == text


def test_scores_that_cannot_be_measured():
    with pytest.raises(CalibrationError) as caught:
        image_auroc([1.0, 2.0], [True])
    assert str(caught.value) == (
        "[SCORES_COUNT] scores have shape (2,), labels (1,); expected one label a score."
    )
    with pytest.raises(CalibrationError) as caught:
        classification([1.0, np.inf], [True, False], 0.0)
    assert str(caught.value) == (
        "[SCORES_NOT_FINITE] 1 of 2 scores are NaN or infinite. "
        "Their verdicts are UNKNOWN: leave them out and count them."
    )


def loco_root(tmp_path, values):
    folder = tmp_path / "ground_truth" / "logical_anomalies" / "000"
    folder.mkdir(parents=True)
    for index, value in enumerate(values):
        mask = np.zeros((20, 40), dtype=np.uint8)
        mask[:10, :20] = value
        save_image(folder / f"{index:03}.png", mask)
    config = [
        {
            "defect_name": "missing",
            "pixel_value": 255,
            "saturation_threshold": 50,
            "relative_saturation": False,
        },
        {
            "defect_name": "wrong",
            "pixel_value": 254,
            "saturation_threshold": 0.5,
            "relative_saturation": True,
        },
    ]
    (tmp_path / "defects_config.json").write_text(json.dumps(config))
    return Sample(tmp_path / "test" / "000.png", True, "logical_anomalies", folder)


def test_loco_regions_with_saturation_at_the_size_of_the_map(tmp_path):
    sample = loco_root(tmp_path, [255, 254])
    saturations = load_saturations(tmp_path)
    assert saturations == {255: (50.0, False), 254: (0.5, True)}
    regions = load_regions(sample, (10, 20), saturations)  # a quarter of the pixels
    assert [int(r.mask.sum()) for r in regions] == [50, 50]
    assert [r.saturation_px for r in regions] == [12.5, 25.0]
    assert load_regions(Sample(sample.path, False, "good"), (10, 20), saturations) == []
    assert load_saturations(tmp_path / "ground_truth") is None


def test_loco_grey_value_without_config(tmp_path):
    sample = loco_root(tmp_path, [7])
    with pytest.raises(CalibrationError) as caught:
        load_regions(sample, (10, 20), load_saturations(tmp_path))
    assert str(caught.value) == (
        f"[LOCO_VALUE] {sample.mask_path / '000.png'} has grey value 7; defects_config.json has "
        "[254, 255]. Copy both again from the data set."
    )


def test_loco_config_that_is_damaged(tmp_path):
    (tmp_path / "defects_config.json").write_text('[{"pixel_value": 3}]')
    with pytest.raises(CalibrationError) as caught:
        load_saturations(tmp_path)
    assert str(caught.value) == (
        f"[LOCO_CONFIG] cannot understand {tmp_path / 'defects_config.json'}: "
        "KeyError('saturation_threshold'); expected a list of objects with pixel_value, "
        "saturation_threshold and relative_saturation. Copy it again from the data set."
    )
