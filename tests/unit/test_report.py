"""The report: self-contained, well-formed, escaped, and saying what the figures say."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest

from edgead.errors import StorageError
from edgead.evaluate.curves import Curve
from edgead.evaluate.metrics import evaluate_scores
from edgead.evaluate.pictures import Case, camera_picture, heat_scale, overlay_picture
from edgead.evaluate.regions import pro_curve
from edgead.evaluate.report import Report, nearest_cases, write_report
from edgead.evaluate.svg import curve_plot, histogram, score_range, strip

HOSTILE = '"><script>alert(1)</script><img src=http://x/y onerror=z>&'


def case(name: str, defect: str, score: float) -> Case:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    anomaly_map = rng.normal(0, 1, (15, 20)).astype(np.float32)
    truth = np.zeros((60, 80), dtype=bool)
    truth[10:30, 20:50] = defect != "good"
    return Case(name, defect, score, image, anomaly_map, truth)


def report(*, scores=(1.0, 2.0, 3.5, 2.5, 4.0, 9.0), defect="crack", **changes) -> Report:
    values = np.asarray(scores)
    names = ["good", "good", "good", defect, defect, "bent"]
    rng = np.random.default_rng(1)
    masks = [np.zeros((12, 12), bool) for _ in names]
    for mask in masks[3:]:
        mask[2:6, 3:8] = True
    maps = [rng.normal(size=(12, 12)) + mask for mask in masks]
    metrics = evaluate_scores(
        values,
        names,
        threshold=3.0,
        pixel_threshold=1.0,
        backend="openvino",
        precision="fp32",
        maps=maps,
        masks=masks,
    )
    good, bad = nearest_cases(values, names)
    parts = {
        "title": "bottle",
        "metrics": metrics,
        "scores": values,
        "defects": names,
        "promise": "42 held-out good images prove at most 6.9 % false rejects.",
        "false_rejects": [case(f"good/{i}.png", names[i], values[i]) for i in good],
        "missed": [case(f"{names[i]}/{i}.png", names[i], values[i]) for i in bad],
        "pro": pro_curve(maps, masks),
        "facts": {"Bundle": "9f2c" * 16},
    }
    return Report(**{**parts, **changes})


def page(tmp_path: Path, **changes) -> str:
    return write_report(tmp_path / "page.html", report(**changes)).read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Checks nesting, and gathers attributes, headings and text."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] != "style":
            self.words.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def test_the_page_needs_nothing_from_outside(tmp_path):
    text = page(tmp_path)
    outline = Outline(text)
    tags = {tag for tag, _, _ in outline.attributes}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, name, value in outline.attributes:
        assert not name.startswith("on")
        if name == "src":
            assert value.startswith("data:image/jpeg;base64,")
        if name == "href":
            assert value.startswith("#")
        assert tag == "meta" or "http" not in (value or "")[:200]
    assert "url(" not in text
    assert "@import" not in text
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("meta", "content", policy) in outline.attributes


def test_every_picture_decodes_and_has_its_words(tmp_path):
    text = page(tmp_path)
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)"', text)
    assert len(found) == 2 * 2  # one false reject and one missed defect, two pictures each
    for data, alt in found:
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert max(picture.shape) == 220
        assert alt.startswith(("Camera image", "Anomaly map over"))


def test_every_plot_is_well_formed_and_named(tmp_path):
    plots = re.findall(r"<svg.*?</svg>", page(tmp_path), flags=re.DOTALL)
    assert len(plots) == 3 + 3  # histogram, ROC, PRO and a strip for each class
    for plot in plots:
        root = ET.fromstring(plot)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"]
        for element in root.iter():
            for value in element.attrib.values():
                assert "nan" not in value


def test_the_page_says_what_the_figures_say(tmp_path):
    text = Outline(page(tmp_path, note="The defects are simulated.")).text
    assert "Inspection report: bottle" in text
    assert (
        "6 test images, 3 good and 3 with defects; openvino, fp32. The defects are simulated."
        in text
    )
    assert "False rejects 1 of 3 33.3 % (0.8 to 90.6 %)" in text
    assert "Missed defects 1 of 3 33.3 % (0.8 to 90.6 %)" in text
    assert "What the threshold promises. 42 held-out good images prove at most 6.9 %" in text
    assert "1 of 3, the worst first." in text
    assert "crack , score 2.5, threshold 3 crack/3.png" in text
    assert "Bundle " + "9f2c" * 16 in text
    assert "Image threshold 3 Pixel threshold 1" in text


def test_text_from_outside_is_escaped(tmp_path):
    text = page(
        tmp_path,
        defect=HOSTILE,
        title=HOSTILE,
        promise=HOSTILE,
        note=HOSTILE,
        facts={HOSTILE: HOSTILE},
        unknown=[(HOSTILE, HOSTILE)],
        missed=[case(HOSTILE, HOSTILE, 2.5)],
    )
    assert "<script" not in text
    assert "<img src=http" not in text
    outline = Outline(text)
    assert not [name for _, name, _ in outline.attributes if name == "onerror"]
    assert outline.text.count(HOSTILE) >= 8


def test_without_errors_the_nearest_are_shown(tmp_path):
    text = Outline(page(tmp_path, scores=(1.0, 2.0, 2.9, 3.1, 4.0, 9.0))).text
    assert "None of the 3 good images was rejected. These came nearest to the threshold." in text
    assert "None of the 3 defects was missed. These came nearest to the threshold." in text
    assert "good , score 2.9, threshold 3 good/2.png" in text


def test_frames_without_a_verdict_are_counted_and_named(tmp_path):
    text = Outline(
        page(
            tmp_path,
            scores=(1.0, 2.0, 3.5, 2.5, np.nan, 9.0),
            unknown=[("crack/4.png", "IMAGE_TRUNCATED")],
        )
    ).text
    assert "No verdict 1 of 6 never accepted" in text
    assert "Frames without a verdict" in text
    assert "IMAGE_TRUNCATED crack/4.png" in text
    assert "6 test images, 3 good and 2 with defects" in text


def test_without_masks_or_defects_their_parts_are_left_out(tmp_path):
    values, names = np.array([1.0, 2.0]), ["good", "good"]
    metrics = evaluate_scores(
        values, names, threshold=3.0, pixel_threshold=1.0, backend="ort", precision="int8"
    )
    path = write_report(tmp_path / "p.html", Report("t", metrics, values, names, "p"))
    text = Outline(path.read_text()).text
    for word in ("PRO", "Curves", "Missed defects 1", "sPRO"):
        assert word not in text
    assert "Missed defects 0 of 0" in text


def test_a_folder_is_created_and_gets_the_page(tmp_path):
    path = write_report(tmp_path / "a" / "b", report())
    assert path == tmp_path / "a" / "b" / "report.html"
    assert path.read_text().startswith("<!doctype html>")


def test_a_file_in_the_way_is_kept_and_named(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(StorageError) as caught:
        write_report(tmp_path / "out", report())
    assert str(caught.value) == (
        f"[WRITE_FAILED] cannot create the folder {tmp_path / 'out'}: File exists. "
        "Choose another one."
    )
    assert (tmp_path / "out").read_text() == "mine"


def test_nearest_cases_are_the_worst_first_without_unknown():
    scores = [1.0, 5.0, np.nan, 3.0, 0.5, 7.0, np.nan]
    names = ["good", "good", "good", "good", "a", "b", "a"]
    assert nearest_cases(scores, names) == ([1, 3, 0], [4, 5])
    assert nearest_cases(scores, names, count=1) == ([1], [4])


def bars(plot: str, colour: str) -> list[tuple[float, float]]:
    """(x, height) of the bars of one colour."""
    return [
        (float(e.attrib["x"]), float(e.attrib["height"]))
        for e in ET.fromstring(plot).iter()
        if e.tag.endswith("rect")
        and e.attrib.get("fill") == f"var(--{colour})"
        and "rx" in e.attrib
    ]


def test_histogram_puts_each_score_on_its_side_of_the_threshold():
    """A score at the threshold is good: its bar ends at the line, and the next one begins there."""
    good, defects = np.array([0.0, 1.0, 1.0]), np.array([1.0 + 1e-9, 3.0])
    plot = histogram(good, defects, 1.0)
    line = next(
        float(e.attrib["x1"]) for e in ET.fromstring(plot).iter() if "stroke-dasharray" in e.attrib
    )
    assert all(x < line - 1 for x, _ in bars(plot, "good"))
    assert all(x >= line for x, _ in bars(plot, "defect"))
    low, tall = sorted(height for _, height in bars(plot, "good"))
    assert tall == pytest.approx(2 * low, rel=0.01)


def test_far_defects_share_the_last_bar_and_it_is_said():
    good, defects = np.linspace(0, 1, 20), np.array([1.5, 300.0, 400.0])
    assert score_range(good, defects, 1.0)[1] < 12
    assert "last bar: 2 beyond the axis" in histogram(good, defects, 1.0)


@pytest.mark.parametrize(
    ("good", "defects", "threshold"),
    [([1.0], [], 1.0), ([0.0, 0.0], [0.0], 0.0), ([], [2.0], 1.0), ([-5.0], [1e-9], -4.0)],
)
def test_histogram_of_few_or_equal_scores(good, defects, threshold):
    plot = histogram(np.array(good), np.array(defects), threshold)
    for element in ET.fromstring(plot).iter():
        assert not {"nan", "inf"} & set(element.attrib.values())
    assert len(bars(plot, "good")) == len(set(good))


def test_strip_says_how_many_are_on_the_wrong_side():
    label = ET.fromstring(strip(np.array([1.0, 3.0, 5.0]), 3.0, (0.0, 6.0), is_defect=True)).attrib[
        "aria-label"
    ]
    assert label == "Scores: 3 scores, 2 on the wrong side of the threshold."


def test_long_curves_are_drawn_with_few_points_at_the_same_place():
    x = np.linspace(0, 1, 200_000)
    plot = curve_plot(Curve(x, np.sqrt(x)), name="ROC", y_label="y", limit=0.3, area=0.5)
    line = next(e for e in ET.fromstring(plot).iter() if e.tag.endswith("polyline"))
    points = np.array([p.split(",") for p in line.attrib["points"].split()], dtype=float)
    assert len(points) <= 402
    share = (points[:, 0] - 58) / (420 - 58 - 16) * 0.3
    height = 1 - (points[:, 1] - 14) / (420 - 14 - 46)
    np.testing.assert_allclose(height, np.sqrt(share), atol=0.02)  # a tenth of a pixel in x


def test_colours_of_all_pictures_share_one_scale_with_the_threshold_in_the_middle():
    cases = [case("a", "good", 1.0), case("b", "good", 1.0)]
    scale = heat_scale(cases, 2.0)
    assert scale.low == pytest.approx(np.median(cases[0].anomaly_map))
    assert (scale.low + scale.high) / 2 == pytest.approx(2.0)
    assert heat_scale([], 2.0).low < 2.0 < heat_scale(cases, -9.0).high + 20


def test_the_map_lies_in_its_box_and_the_outline_around_what_exceeds():
    image = np.full((100, 200, 3), 120, np.uint8)
    anomaly_map = np.zeros((10, 10), np.float32)
    anomaly_map[4:6, 4:6] = 10
    one = Case("a", "good", 1.0, image, anomaly_map, box_xyxy=(100, 0, 200, 100))
    picture = overlay_picture(one, heat_scale([one], 2.0)).astype(int)
    height, width = picture.shape[:2]
    left = picture[:, : width // 2 - 2]
    assert (left == left[0, 0]).all()  # outside the box nothing is drawn
    white = np.argwhere((picture > 235).all(axis=2))
    centre = white.mean(axis=0) / (height, width)
    assert centre == pytest.approx((0.5, 0.75), abs=0.03)


def test_truth_is_outlined_on_the_camera_image():
    one = case("a", "crack", 1.0)
    plain = case("a", "good", 1.0)
    assert not np.array_equal(camera_picture(one), camera_picture(plain))
    grey = Case("g", "good", 1.0, np.zeros((300, 900), np.uint8))
    assert camera_picture(grey).shape == (147, 440, 3)
    assert overlay_picture(grey, heat_scale([grey], 1.0)).shape == (147, 440, 3)


def certificate(**changes):
    figures = {
        "frames": 60, "flips": 0, "score_change_max": 0.1234, "rank_correlation": 0.99412,
        "auroc_loss": 0.0, "pixel_auroc_loss": None, "speedup": 2.94, "size_ratio": 0.287,
    }  # fmt: skip
    one = {
        "precision": "int8", "backend": "openvino", "device": "cpu", "machine": "A CPU",
        "arithmetic": "native", "defects": "simulated", "passed": True, "reasons": [],
        "figures": figures,
    }  # fmt: skip
    return {**one, **changes}


def test_certificates_are_drawn(tmp_path):
    refused = {"speedup": 0.0, "size_ratio": 0.5}
    shown = page(
        tmp_path,
        certificates=[
            certificate(),
            certificate(precision="fp16", arithmetic="emulated"),
            certificate(
                precision="bf16", passed=False, reasons=["1 <verdict> flips"], figures=refused
            ),
        ],
    )
    rows = re.findall(r'<tr><th scope="row">(\w+ on openvino)</th>(.*?)</tr>', shown)
    cells = {name: re.findall("<td>(.*?)</td>", row) for name, row in rows}
    assert cells == {
        "int8 on openvino": ["A CPU", "yes", "0 of 60", "0.123", "0.9941", "0.0000", "–", "2.94x", "29 %"],
        "fp16 on openvino": [
            "A CPU, emulated", "yes", "0 of 60", "0.123", "0.9941", "0.0000", "–", "2.94x", "29 %",
        ],
        "bf16 on openvino": ["A CPU", "no", "–", "–", "–", "–", "–", "–", "50 %"],
    }  # fmt: skip
    assert "1 &lt;verdict&gt; flips" in shown
    assert "refused on these frames" not in shown


def test_a_certificate_after_refusals_says_so(tmp_path):
    shown = page(tmp_path, certificates=[certificate(refused=3)])
    assert (
        "<dt>int8 on openvino</dt><dd>before it, 3 other ways to int8 were refused on these frames</dd>"
        in shown
    )


def test_a_bundle_without_certificates_has_no_such_section(tmp_path):
    assert 'id="precisions"' not in page(tmp_path)
