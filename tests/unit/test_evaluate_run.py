"""A bundle with known answers on a small labelled set: the figures and the page that follow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgead import Detector
from edgead.evaluate.report import write_report
from edgead.evaluate.run import Evaluation, evaluate, report_of
from edgead.images import save_image
from edgead.testing.tiny import tiny_bundle, tiny_frame

THRESHOLD = 0.5  # of the tiny bundle; its score is the highest pixel's mean over 255


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three good images, one of them too bright, two defects, one of them too faint, one cut file."""
    peaks = {"good": (90, 100, 140), "bent": (120, 200, 210)}
    for name, values in peaks.items():
        folder = tmp_path / "part" / "test" / name
        folder.mkdir(parents=True)
        for seed, peak in enumerate(values):
            save_image(folder / f"{seed}.png", tiny_frame(seed, peak))
    cut = tmp_path / "part" / "test" / "bent" / "2.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[2:14, 2:14] = 255
    for seed in range(3):
        folder = tmp_path / "part" / "ground_truth" / "bent" / str(seed)
        folder.mkdir(parents=True)
        save_image(folder / "000.png", mask)
    return tmp_path / "part"


def judged(root: Path) -> Evaluation:
    with Detector(tiny_bundle(), backend="openvino", threads=1) as detector:
        return evaluate(detector, root)


def test_figures_of_a_set_with_known_answers(root):
    found = judged(root)
    figures = found.figures
    assert figures["frames"] == 6
    assert figures["unknown_rate"] == 1 / 6
    assert found.reasons == {5: "IMAGE_TRUNCATED"}
    assert figures["false_reject_rate"] == 1 / 3  # 140 / 255 = 0.549
    assert figures["missed_defect_rate"] == 1 / 2  # 120 / 255 = 0.471
    assert figures["image_auroc"] == pytest.approx(5 / 6)  # only 140 beats 120
    assert figures["per_defect"]["bent"]["unknown"] == 1
    assert (figures["backend"], figures["precision"]) == ("openvino", "fp32")
    assert figures["pixel_auroc"] is not None
    assert figures["spro"] is None
    assert json.loads(json.dumps(figures)) == figures


def test_a_loco_root_gets_its_saturated_overlap(root):
    entry = {"pixel_value": 255, "saturation_threshold": 0.5, "relative_saturation": True}
    (root / "defects_config.json").write_text(json.dumps([{**entry, "defect_name": "bent"}]))
    assert 0 <= judged(root).figures["spro"] <= 1


def test_the_report_shows_the_wrong_verdicts(root, tmp_path):
    found = judged(root)
    report = report_of(found, tiny_bundle(), note="Made up.")
    assert report.title == "part"
    assert report.promise == (
        "3 held-out good images prove at most 2 % false rejects at 95 % confidence; the 1 % asked "
        "for needs 299. They were held out: training never saw them."
    )
    assert [case.score > THRESHOLD for case in report.false_rejects] == [True, False, False]
    assert [case.score > THRESHOLD for case in report.missed] == [False, True]
    assert report.unknown == [(str(root / "test" / "bent" / "2.png"), "IMAGE_TRUNCATED")]
    page = write_report(tmp_path / "out", report).read_text()
    assert "Made up." in page
    assert page.count("data:image/jpeg") == 4
    assert tiny_bundle().hash in page
