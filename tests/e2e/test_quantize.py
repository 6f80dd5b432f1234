"""`quantize` and `certify` on the bundle of gravel: the bundle is the old one or the complete new one."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from gravel import PATH, gravel_bundle, with_blot

from edgead.bundle import CALIBRATION, CERTIFICATES, MODEL, read_bundle
from edgead.deploy import quantize as module
from edgead.deploy.agreement import Limits
from edgead.deploy.certificate import certify, issue
from edgead.deploy.qdq import FORMS
from edgead.deploy.quantize import HALF, quantize
from edgead.detector import Detector
from edgead.errors import BundleError, CalibrationError, ConfigError
from edgead.images import read, save_image

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from make_bundle import write_pieces

needs_pictures = pytest.mark.skipif(
    importlib.util.find_spec("skimage") is None,
    reason="needs scikit-image: pip install 'edgead[demo]'",
)
pytestmark = needs_pictures


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_pieces(tmp_path_factory.mktemp("gravel") / "good")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bundle(tmp_path):
    return Path(shutil.copy(PATH, tmp_path / "gravel.edgead"))


#: A network of random weights is no measure of INT8; what is tested here is what is done with limits.
WIDE = Limits(flips=1000, auroc_loss=1, pixel_auroc_loss=1, rank_correlation=-1)


def test_quantize_adds_members_with_certificates_and_each_precision_runs(bundle, good):
    stages = []
    told = quantize(
        bundle,
        good,
        limits=WIDE,
        threads=1,
        report=lambda stage, share: stages.append((stage, share)),
    )
    made = read_bundle(bundle)
    assert set(told["members"]) == {HALF, *FORMS.values()}, "no sums: no coarser layout"
    assert made.members[MODEL] == gravel_bundle().members[MODEL]
    table = json.loads(made.members[CERTIFICATES])
    assert table == json.loads(json.dumps(told["certificates"]))
    assert {(c["precision"], c["backend"]) for c in table} == {
        ("bf16", "openvino"), ("fp16", "openvino"), ("fp16", "onnxruntime"),
        ("int8", "openvino"), ("int8", "onnxruntime"),
    }  # fmt: skip
    record = json.loads(made.members[CALIBRATION])
    assert len(record["images"]) >= 16
    assert record["fp16"]["largest"] < 16_000
    assert all(0 <= share <= 1 for _, share in stages)
    for precision in ("fp16", "int8"):
        for backend in ("openvino", "onnxruntime"):
            with Detector(made, backend=backend, precision=precision) as detector:
                assert detector.verify()["ok"]
    with pytest.raises(BundleError) as error:
        quantize(bundle, good)
    assert str(error.value) == (
        f"[ALREADY_QUANTIZED] {bundle} already holds fp16 and int8. "
        "Make it again with --replace, or certify what is there: edgead certify BUNDLE."
    )
    again = certify(bundle, good, backend="onnxruntime", precisions=["int8"], limits=WIDE)
    assert [c["precision"] for c in again["certificates"]] == ["int8"]
    after = json.loads(read_bundle(bundle).members[CERTIFICATES])
    assert len(after) == len(table)
    assert [c["search"] for c in again["certificates"]] == [told["certificates"][-1]["search"]]
    calibrated = {image["name"] for image in record["images"]}
    only = good.with_name("only")
    only.mkdir()
    for name in calibrated:
        shutil.copy(good / name, only)
    with pytest.raises(CalibrationError) as frames:
        certify(bundle, only, backend="onnxruntime")
    assert str(frames.value) == (
        f"[CERTIFY_FRAMES] {only} holds 0 images that did not calibrate this bundle; expected at "
        "least 2. Give other good images of this line."
    )


def test_when_nothing_holds_nothing_is_added_and_the_closest_is_named(bundle, good):
    impossible = Limits(rank_correlation=1.1)
    told = quantize(bundle, good, precisions=("int8",), limits=impossible, minutes=0.03)
    assert told["members"] == {}
    assert told["certificates"] == []
    (note,) = told["notes"]
    assert note.startswith("int8 was not added. ")
    assert "Closest: " in note
    assert "rank correlation" in note
    assert "(limit 1.1)" in note
    held = read_bundle(bundle).members
    assert not set(FORMS.values()) & set(held)


def test_plans_that_the_same_frames_refused_are_counted(bundle, good, monkeypatch):
    """A pass after refusals on the same frames is weaker evidence: the certificate says how many."""
    asked = []

    def strict(*args, **options):
        one = issue(*args, **options)
        asked.append(one["refused"])
        passed = one["passed"] and len(asked) > 2
        return {**one, "passed": passed, "reasons": [] if passed else ["refused by the test"]}

    monkeypatch.setattr(module, "issue", strict)
    told = quantize(bundle, good, precisions=("int8",), limits=WIDE, minutes=2, threads=1)
    assert asked == [0, 1, 2, 2], "two refused, then one proven on both back ends"
    assert [c["refused"] for c in told["certificates"]] == [2, 2]
    again = certify(bundle, good, backend="onnxruntime", limits=WIDE, threads=1)
    assert [c["refused"] for c in again["certificates"]] == [2]


def test_a_cut_leaves_the_old_bundle(bundle, good, monkeypatch):
    before = bundle.read_bytes()

    def cut(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "issue", cut)
    with pytest.raises(KeyboardInterrupt):
        quantize(bundle, good, precisions=("fp16",))
    assert bundle.read_bytes() == before
    assert [p.name for p in bundle.parent.glob(".*")] == []


def refusal(bundle, folder, kind=CalibrationError, **options) -> str:
    before = bundle.read_bytes()
    with pytest.raises(kind) as error:
        quantize(bundle, folder, precisions=("int8",), **options)
    assert bundle.read_bytes() == before
    return str(error.value)


def copied(good, tmp_path, count):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(good.iterdir())[:count]:
        shutil.copy(path, folder)
    return folder


def test_empty_folder(bundle, tmp_path):
    (tmp_path / "none").mkdir()
    assert refusal(bundle, tmp_path / "none") == (
        f"[DATA_EMPTY] {tmp_path / 'none'} has no images; expected PNG, JPEG, BMP or TIFF files, or "
        "train/good. Give the folder that holds the images."
    )


def test_five_images(bundle, good, tmp_path):
    folder = copied(good, tmp_path, 5)
    assert refusal(bundle, folder) == (
        f"[DATA_TOO_FEW] {folder} has 5 images; expected at least 8 good ones. Take more pictures of "
        "different good parts; 50 or more give a useful threshold."
    )


@pytest.mark.parametrize(("value", "code"), [(0, "FRAME_CONSTANT"), (255, "FRAME_CONSTANT")])
def test_one_black_or_saturated_image(bundle, good, tmp_path, value, code):
    folder = copied(good, tmp_path, 12)
    save_image(folder / "zz.png", np.full((96, 96), value, np.uint8))
    assert refusal(bundle, folder) == (
        f"[CALIBRATION_FRAME] {folder / 'zz.png'} is no usable picture of a good part: {code}: every "
        f"pixel is {value}. Remove it from the folder and repeat."
    )


def test_another_product(bundle, good, tmp_path):
    """Every picture shows what this line's good ones never do: the scores say so."""
    folder = copied(good, tmp_path, 12)
    for path in folder.iterdir():
        save_image(path, with_blot(read(path), 30, 40).pixels)
    text = refusal(bundle, folder)
    assert text.startswith("[CALIBRATION_FOREIGN] 12 of 12 images score above the threshold ")
    assert text.endswith(
        "They show another product, light or camera: give good images of this line, or run: "
        "edgead commission BUNDLE GOOD."
    )


def test_defects_among_the_images(bundle, good, tmp_path):
    folder = copied(good, tmp_path, 30)
    for path in sorted(folder.iterdir())[:12]:
        save_image(path, with_blot(read(path), 30, 40).pixels)
    text = refusal(bundle, folder)
    assert text.startswith("[CALIBRATION_DEFECTS] ")
    assert "Highest: 0" in text
    assert text.endswith("Take the defects out of the folder and repeat.")


def test_unknown_precision(bundle, good):
    with pytest.raises(ConfigError) as error:
        quantize(bundle, good, precisions=("fp8",))
    assert str(error.value) == (
        "[PRECISION_UNKNOWN] precision is 'fp8'; quantize adds bf16, fp16, int8."
    )
