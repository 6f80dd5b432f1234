"""Every command as a user types it: JSON alone on stdout, people on stderr, and the exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from unittest.mock import Mock

import msgspec
import numpy as np
import pytest
import timm
import torch
from data.make_bundle import pieces, write_pieces
from gravel import PATH, gravel_bundle, gravel_frame, with_blot

import edgead
import edgead.cli
from edgead.bundle import read_bundle, write_bundle
from edgead.errors import BackendError
from edgead.images import save_image

BACKBONE = "test_efficientnet"


@pytest.fixture
def command(capsys, monkeypatch):
    """Run ``edgead ARGUMENTS`` as the console script does: (exit code, stdout, stderr)."""
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgead", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            edgead.cli.main()
        text = capsys.readouterr()
        return ended.value.code, text.out, text.err

    return call


def only_json(result):
    """stdout of a command with --json: one line, one object."""
    code, out, _ = result
    assert code == 0
    (line,) = out.splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """An MVTec-layout set of gravel: 40 to train, 4 good and 4 blotted to test, with masks."""
    root = tmp_path_factory.mktemp("data") / "gravel"
    write_pieces(root / "train" / "good", 40)
    for name in ("test/good", "test/blot", "ground_truth/blot"):
        (root / name).mkdir(parents=True)
    for index in range(4):
        frame = gravel_frame()
        save_image(root / "test" / "good" / f"{index}.png", np.roll(frame.pixels, index, axis=1))
        blotted = with_blot(frame, 10 + 9 * index, 20)
        save_image(root / "test" / "blot" / f"{index}.png", blotted.pixels)
        mask = np.zeros(frame.size, np.uint8)
        mask[20:38, 10 + 9 * index : 28 + 9 * index] = 255
        save_image(root / "ground_truth" / "blot" / f"{index}_mask.png", mask)
    return root


def test_train_on_a_root_with_own_weights(command, root, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "own.pth"
    torch.save(timm.create_model(BACKBONE).state_dict(), weights)
    out = tmp_path / "part.edgead"
    words = ("train", root, "--out", out, "--backbone", BACKBONE, "--weights", weights)
    words = (*words, "--set", "hidden=48", "--set", "neighbourhood=1")
    result = command(*words, "--image-size", 64, "--epochs", 1, "--seed", 3, "--json")
    found = only_json(result)
    assert set(found) == {
        "bundle",
        "method",
        "seconds",
        "threshold",
        "bound",
        "bundle_hash",
        "parity",
    }
    bundle = read_bundle(out)
    assert (found["bundle"], found["method"]) == (str(out), "trisimplenet")
    assert found["bundle_hash"] == bundle.hash
    assert found["threshold"] == bundle.manifest.thresholds.threshold
    assert (bundle.manifest.training.weights, bundle.manifest.training.seed) == ("own.pth", 3)
    assert bundle.manifest.training.images == 40  # train/good, never test
    assert (bundle.manifest.config["hidden"], bundle.manifest.config["neighbourhood"]) == (48, 1)
    assert "8 held-out good images" in result[2]


def test_evaluate_writes_figures_and_a_page(command, root, tmp_path):
    result = command("evaluate", PATH, root, "--report", tmp_path / "out", "--json")
    found = only_json(result)
    assert {
        "image_auroc",
        "pixel_auroc",
        "pro",
        "spro",
        "pixel_ap",
        "f1",
        "precision_score",
        "recall",
        "threshold",
        "pixel_threshold",
        "false_reject_rate",
        "missed_defect_rate",
        "unknown_rate",
        "frames",
        "per_defect",
        "backend",
        "precision",
    } <= set(found)
    assert (found["frames"], found["unknown_rate"]) == (8, 0.0)
    assert found["image_auroc"] == 1.0
    assert found["pixel_auroc"] > 0.9
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_check_that_does_not_hold_is_exit_code_1(command, root):
    assert command("evaluate", PATH, root, "--min-auroc", 0.99)[0] == 0
    code, _, err = command("evaluate", PATH, root, "--min-auroc", 1.01)
    assert (code, err.strip()) == (1, "the check asked for did not hold")
    assert command("evaluate", PATH, root, "--max-false-reject", -0.1)[0] == 1


def test_commission_rewrites_the_bundle_in_place(command, tmp_path):
    path = shutil.copy(PATH, tmp_path / "part.edgead")
    folder = tmp_path / "line3"
    folder.mkdir()
    for index, piece in enumerate(pieces()[:10]):
        save_image(folder / f"{index}.png", piece[:80])
    found = only_json(command("commission", path, folder, "--false-reject", 0.3, "--json"))
    assert set(found) == {"threshold", "bound", "confidence", "images", "needed", "bundle_hash"}
    assert (found["images"], found["confidence"]) == (10, 0.95)
    bundle = read_bundle(path)
    assert bundle.hash == found["bundle_hash"] != gravel_bundle().hash
    assert bundle.manifest.frame.size == (80, 96)
    assert command("verify", path)[0] == 0


def test_run_prints_one_line_an_outcome(command, root):
    code, out, err = command("run", PATH, "--source", root / "test" / "blot")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line["verdict"] for line in lines] == ["DEFECT"] * 4
    assert [line["seq"] for line in lines] == [0, 1, 2, 3]
    assert all(line["is_simulated"] and not line["accept"] for line in lines)
    assert lines[-1]["counts"]["results"] == 4
    assert f"bundle {gravel_bundle().hash[:12]}" in err


def test_verify(command, tmp_path):
    found = only_json(command("verify", PATH, "--json"))
    assert set(found) == {"ok", "worst", "images"}
    assert found["ok"]
    assert len(found["images"]) == 4
    golden = [
        msgspec.structs.replace(one, score=one.score - 0.1)
        for one in gravel_bundle().manifest.golden[:1]
    ]
    wrong = gravel_bundle().with_members({}, golden=golden)
    write_bundle(tmp_path / "wrong.edgead", wrong)
    code, out, _ = command("verify", tmp_path / "wrong.edgead", "--json")
    assert code == 1
    assert not json.loads(out)["ok"]


def test_inspect(command):
    found = only_json(command("inspect", PATH, "--json"))
    assert {"bundle_hash", "manifest", "certificates"} <= set(found)
    assert found["bundle_hash"] == gravel_bundle().hash
    assert found["manifest"] == json.loads(
        json.dumps(msgspec.to_builtins(gravel_bundle().manifest))
    )
    code, out, _ = command("inspect", PATH)
    assert code == 0
    for text in (gravel_bundle().hash, "trisimplenet on test_efficientnet", "96x96", "model.onnx"):
        assert text in out


def test_benchmark(command, root):
    words = (
        "benchmark",
        PATH,
        "--source",
        root / "test" / "good",
        "--seconds",
        0.05,
        "--threads",
        1,
    )
    found = only_json(command(*words, "--json"))
    assert (found["frames"], found["frame_size"], found["line_rate"]) == (4, [96, 96], None)
    assert command(*words, "--line-rate", 1e9)[0] == 1
    code, out, _ = command(*words, "--line-rate", 1)
    assert code == 0
    assert "line rate" in out


def test_simulate(command, root, tmp_path):
    sheet = tmp_path / "sheet.png"
    found = only_json(
        command("simulate", root / "train" / "good", "--out", sheet, "--rows", 2, "--json")
    )
    assert found["images"] == 2
    assert sheet.stat().st_size > 1000


@pytest.mark.parametrize(
    "name",
    ["demo", "train", "evaluate", "commission", "run", "benchmark", "verify", "inspect", "doctor"],
)
def test_every_command_explains_itself(command, name):
    code, out, err = command(name, "--help")
    assert (code, err) == (0, "")
    assert "Usage:" in out


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "edgead", "inspect", str(PATH), "--json"],
        capture_output=True,
        cwd="/",  # the installed package, not a folder that happens to lie here
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["manifest"]["edgead"]
    assert edgead.__version__


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackendError("BACKEND_HUNG", "the judge hung."), 70),
        (BackendError("WORKER_LOST", "the worker died."), 70),
        (BackendError("PROVIDER", "not installed."), 2),
    ],
)
def test_exit_codes_of_a_watchdog_that_gave_up(command, monkeypatch, error, status):
    monkeypatch.setattr(edgead.cli, "app", Mock(side_effect=error))
    assert command("run")[0] == status
