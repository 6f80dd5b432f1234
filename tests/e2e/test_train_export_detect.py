"""The main job on a tiny network: good photographs in, a bundle out, verdicts from every engine."""

from __future__ import annotations

import logging
from dataclasses import replace

import msgspec
import pytest
import torch
from data.make_bundle import CONFIG, make, pieces, tiny_method, write_pieces
from gravel import with_blot
from tolerances import TOLERANCES

from edgead import Detector, Verdict
from edgead.bundle import read_bundle
from edgead.errors import BundleError
from edgead.evaluate.threshold import upper_bound
from edgead.frame import Frame, PixelFormat
from edgead.images import save_image
from edgead.preprocess import Preprocess
from edgead.train import run
from edgead.train.loop import Budget


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, bundle's path, what was trained, the method itself, progress)."""
    root, methods, told = tmp_path_factory.mktemp("train"), [], []

    def method():
        methods.append(tiny_method())
        return methods[-1]

    folder = write_pieces(root / "good", 45)
    out = root / "part.edgead"
    trained = run.train(method, folder, out, budget=Budget(epochs=6), report=told.append)
    (only,) = methods
    return folder, out, trained, only, told


def test_the_file_is_the_bundle_and_says_where_it_came_from(made):
    _, out, trained, _, _ = made
    bundle = read_bundle(out)
    assert bundle.hash == trained.bundle.hash
    manifest = bundle.manifest
    assert (manifest.method, manifest.backbone) == ("trisimplenet", "test_efficientnet")
    assert manifest.frame.size == (96, 96)
    assert manifest.frame.format is PixelFormat.MONO8
    assert manifest.input.size == CONFIG.image_size
    assert (manifest.training.images, manifest.training.epochs) == (45, 6)
    assert len(manifest.training.losses["discriminator/loss"]) == 6
    assert set(manifest.training.versions) == {"torch", "timm", "onnx", "numpy"}
    assert manifest.program is None
    assert manifest.config["hidden"] == CONFIG.hidden


def test_the_threshold_comes_from_images_that_training_never_saw(made):
    _, _, trained, _, _ = made
    limits = trained.bundle.manifest.thresholds
    assert (limits.how, limits.images, limits.needed) == ("held_out", 9, 299)
    assert limits.bound == upper_bound(0, 9, confidence=0.95)
    assert trained.promise.message.startswith("9 held-out good images")
    assert "299" in trained.promise.message


def test_torch_and_both_engines_agree_on_photographs(made):
    _, out, trained, method, _ = made
    manifest = trained.bundle.manifest
    assert trained.parity.frames == 9
    assert trained.parity.worst <= TOLERANCES["export_score"].atol
    prepare = Preprocess(manifest.frame, manifest.input)
    module = method.export_spec().module
    good = [Frame(piece, PixelFormat.MONO8) for piece in pieces()[45:57]]
    frames = [with_blot(f, 8 * (i % 9), 60 - 5 * i) if i % 2 else f for i, f in enumerate(good)]
    detectors = [Detector(out, backend=name, threads=1) for name in ("openvino", "onnxruntime")]
    verdicts = set()
    for frame in frames:
        with torch.no_grad():
            score = float(module(torch.from_numpy(prepare(frame)[0])).max())
        for detector in detectors:
            found = detector(frame)
            share = abs(found.score - score) / manifest.thresholds.score_scale
            assert share <= TOLERANCES["export_score"].atol
            assert (found.verdict is Verdict.DEFECT) == (score > manifest.thresholds.threshold)
            verdicts.add(found.verdict)
    for detector in detectors:
        detector.close()
    assert verdicts == {Verdict.GOOD, Verdict.DEFECT}


def test_progress_ran_to_its_end(made):
    _, _, _, _, told = made
    assert {one.stage for one in told} == {"discriminator"}
    assert told[-1].done == 1.0
    assert [one.done for one in told] == sorted(one.done for one in told)


def test_few_images_of_mixed_sizes_are_cross_fitted_and_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(run, "FOLDS", 2)
    folder = tmp_path / "good"
    folder.mkdir()
    for index, piece in enumerate(pieces()[:8]):
        save_image(folder / f"{index}.png", piece[: 96 - 8 * (index % 2)])
    with caplog.at_level(logging.WARNING, "edgead"):
        trained = run.train(tiny_method, folder, tmp_path / "part.edgead", budget=Budget(epochs=1))
    assert caplog.messages == [
        "8 images of 2 different sizes, 96 x 88 to 96 x 96 pixels; all are resized to the model's "
        "input."
    ]
    manifest = trained.bundle.manifest
    assert manifest.frame.size is None
    assert (manifest.thresholds.how, manifest.thresholds.images) == ("cross_fitted", 8)
    assert manifest.training.images == 8
    with Detector(tmp_path / "part.edgead", threads=1) as detector:
        assert detector(Frame(pieces()[0][:70], PixelFormat.MONO8)).verdict is not Verdict.UNKNOWN


def test_an_export_that_scores_otherwise_is_not_written(tmp_path, monkeypatch):
    honest = run.commission

    def off(*arguments, **options):
        """As if the exported file scored its fourth frame higher than torch does."""
        ready = honest(*arguments, **options)
        scored = list(ready.scored)
        scored[3] = replace(scored[3], score=scored[3].score - 0.05)
        return msgspec.structs.replace(ready, scored=scored)

    monkeypatch.setattr(run, "commission", off)
    out = tmp_path / "part.edgead"
    with pytest.raises(BundleError) as error:
        make(tmp_path / "good", out, count=40, epochs=1)
    assert error.value.code == "EXPORT_PARITY"
    assert f"frame {tmp_path}/good/0" in error.value.message  # the worst frame, by its file
    assert error.value.hint == "The bundle was not written."
    assert not out.exists()
