"""`edgead view` and the view's options of `edgead train`: from the command to the verdict."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from data.make_bundle import SIDE, pieces, tiny_method, write_pieces
from gravel import PATH, gravel_frame, with_blot
from typer.testing import CliRunner

from edgead import Detector, Verdict
from edgead.bundle import read_bundle
from edgead.cli import app
from edgead.errors import BundleError, ConfigError
from edgead.frame import Frame, PixelFormat
from edgead.images import save_image
from edgead.manifest import Tiles, View
from edgead.train.loop import Budget
from edgead.train.run import train
from edgead.view import Sketch, view_key


@pytest.fixture
def bundle(tmp_path):
    return shutil.copy(PATH, tmp_path / "part.edgead")


def run(*arguments):
    done = CliRunner().invoke(app, ["view", *map(str, arguments), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.stdout.splitlines()[0])


def test_what_is_not_given_stays(bundle, tmp_path):
    before = read_bundle(bundle)
    assert run(bundle)["bundle_hash"] == before.hash
    assert run(bundle)["commissioned"] is True
    mask = np.zeros((96, 96), np.uint8)
    mask[:10] = 255
    save_image(tmp_path / "mask.bmp", mask)
    run(bundle, "--roi", "8,8,90,80", "--ignore", "10,10 20,10 20,20")
    found = run(bundle, "--ignore-mask", tmp_path / "mask.bmp")
    assert found["view"] == {
        "roi": [8, 8, 90, 80],
        "ignore": [[[10.0, 10.0], [20.0, 10.0], [20.0, 20.0]]],
        "tiles": None,
        "mask": "ignore.png",
    }
    assert found["commissioned"] is False
    found = run(bundle, "--roi", "0,0 96,0 48,96")
    assert found["view"]["polygons"] == [[[0.0, 0.0], [96.0, 0.0], [48.0, 96.0]]]
    assert found["view"]["mask"] == "ignore.png"
    assert "ignore.png" in read_bundle(bundle).members
    assert run(bundle, "--clear")["bundle_hash"] == before.hash
    assert "ignore.png" not in read_bundle(bundle).members


def test_units_leave_the_threshold_alone(bundle):
    found = run(bundle, "--mm-per-px", 0.1, "--min-area", "0.5mm2")
    assert found["units"] == {"mm_per_px": 0.1, "min_area_px": 50.0}
    assert found["commissioned"] is True
    with Detector(bundle, threads=1) as detector:
        seen = detector(with_blot(gravel_frame(), 40, 40))
        assert seen.verdict is Verdict.DEFECT
        for region in seen.regions:
            assert region.area_mm2 == pytest.approx(region.area_px / 100)
    assert run(bundle, "--min-area", "12")["units"]["min_area_px"] == 12
    assert run(bundle, "--mm-per-px", 0)["units"]["mm_per_px"] is None


def test_a_smallest_area_takes_no_defect_back(bundle):
    with Detector(bundle, threads=1) as detector:
        before = detector(with_blot(gravel_frame(), 40, 40))
    run(bundle, "--min-area", "9000px")
    with Detector(bundle, threads=1) as detector:
        after = detector(with_blot(gravel_frame(), 40, 40))
    assert (after.verdict, after.score) == (before.verdict, before.score)
    assert len(after.regions) == 1  # its peak


def test_commissioned_again(bundle, tmp_path):
    run(bundle, "--roi", "10,10 90,10 50,90")
    with pytest.raises(BundleError) as error:
        Detector(bundle)
    assert error.value.code == "VIEW_CHANGED"
    good = write_pieces(tmp_path / "good", 8)
    done = CliRunner().invoke(app, ["commission", str(bundle), str(good), "--json"])
    assert done.exit_code == 0, done.output
    assert run(bundle)["commissioned"] is True
    Detector(bundle, threads=1).close()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("--roi", "1,2 3,4"),
            "--roi is '1,2 3,4'; want x0,y0,x1,y1 with x0 < x1 and y0 < y1, or three points "
            "'x,y x,y x,y' or more, in frame pixels.",
        ),
        (
            ("--ignore", "9,2,3,4"),
            "--ignore is '9,2,3,4'; want x0,y0,x1,y1 with x0 < x1 and y0 < y1, or three points "
            "'x,y x,y x,y' or more, in frame pixels.",
        ),
        (("--min-area", "5cm"), "--min-area is '5cm'; want e.g. 40, 40px or 0.5mm2."),
        (
            ("--min-area", "5mm2"),
            "--min-area is in mm2, and the bundle has no scale. Give --mm-per-px too, or the area "
            "in pixels.",
        ),
        (("--mm-per-px", "-1"), "--mm-per-px is -1.0; want more than 0."),
    ],
)
def test_options_that_say_nothing(bundle, arguments, text):
    before = bundle.read_bytes()
    with pytest.raises(ConfigError) as error:
        run(bundle, *arguments)
    assert str(error.value) == f"[OPTION] {text}"
    assert bundle.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--tiles", "x9"), "--tiles is 'x9'; want a side or WIDTHxHEIGHT of 8 pixels and more."),
        (("--tiles", "64", "--overlap", "40"), "--overlap is 40; want 0 to half a tile."),
        (("--overlap", "4"), "--overlap is of tiles: give --tiles too."),
    ],
)
def test_tiles_that_say_nothing(tmp_path, arguments, text):
    done = CliRunner().invoke(app, ["train", str(tmp_path), *arguments])
    assert str(done.exception) == f"[OPTION] {text}"


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """Trained on larger pieces of the photograph, in tiles, a corner ignored."""
    folder = tmp_path_factory.mktemp("tiled")
    wide = [np.hstack(pieces()[i : i + 2]) for i in range(40)]  # 96 x 192; a fifth is held out
    (folder / "good").mkdir()
    for index, piece in enumerate(wide):
        save_image(folder / "good" / f"{index}.png", piece)
    sketch = Sketch(
        ignore=[[(160.0, 0.0), (192.0, 0.0), (192.0, 40.0), (160.0, 40.0)]],
        tiles=Tiles(size=(64, 64), overlap=8),
    )
    trained = train(
        tiny_method, folder / "good", folder / "wide.edgead", budget=Budget(epochs=2), view=sketch
    )
    return trained, folder / "wide.edgead", wide


def test_training_in_tiles_ends_in_a_bundle_that_judges_in_tiles(tiled):
    trained, path, wide = tiled
    manifest = read_bundle(path).manifest
    assert manifest.view.tiles == Tiles(size=(64, 64), overlap=8)
    assert manifest.thresholds.view == view_key(manifest)
    assert manifest.frame.size == (SIDE, 2 * SIDE)
    assert trained.parity.worst < 1e-3  # torch and the exported file, stitched
    with Detector(path, threads=1) as detector:
        good = Frame(wide[0], PixelFormat.MONO8)
        plain = detector(good)
        assert plain.anomaly_map.shape == (96, 192)
        blotted = detector(with_blot(good, 100, 30))
        assert blotted.score > plain.score
        x, y = blotted.regions[0].centroid
        assert 90 < x < 128
        assert 20 < y < 58
        assert detector(with_blot(good, 168, 8)).score == plain.score


def test_tiles_stay_when_the_view_changes(tiled, tmp_path):
    _, path, _ = tiled
    copy = shutil.copy(path, tmp_path / "copy.edgead")
    found = run(copy, "--roi", "0,0,128,96")
    assert found["view"]["tiles"] == {"size": [64, 64], "overlap": 8}
    assert read_bundle(copy).manifest.view != View()
