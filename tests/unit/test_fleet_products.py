"""Training many products: what fails fails alone, what is done stays done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle
from fleet_judges import write_images

from edgead.bundle import read_bundle
from edgead.cli import main
from edgead.errors import ConfigError, SourceError
from edgead.integrations.fleet import products
from edgead.integrations.fleet.products import Recipe, find_products, train_many

BY_NAME = Recipe(trainer="fleet_trainers:by_name")


def make_products(root: Path, *names: str) -> Path:
    for name in names:
        write_images(root / name, 2)
    return root


def outcome(result: dict[str, Any]) -> dict[str, Any]:
    return {one["product"]: one["code"] or "ok" for one in result["products"]}


def test_products_are_folders_of_images(tmp_path: Path) -> None:
    make_products(tmp_path, "b", "a")
    write_images(tmp_path / "c" / "train" / "good", 1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.png").write_text("a file")
    assert [path.name for path in find_products(tmp_path)] == ["a", "b", "c"]


def test_failures_are_alone_and_done_is_done(tmp_path: Path) -> None:
    root = make_products(tmp_path / "products", "buggy", "dies", "good1", "good2", "refused")
    out = tmp_path / "bundles"
    result = train_many(root, out, BY_NAME, workers=2)
    assert outcome(result) == {
        "buggy": "TRAINER_FAILED", "dies": "TRAINER_LOST", "good1": "ok", "good2": "ok",
        "refused": "DATA_TOO_FEW",
    }  # fmt: skip
    messages = {one["product"]: one["message"] for one in result["products"]}
    assert messages["dies"] == "the training's process ended with code 9; it said: Killed."
    assert messages["buggy"] == "ZeroDivisionError: a bug"
    assert messages["refused"] == "3 images. Take more."
    assert (result["trained"], result["failed"]) == (5, 3)
    assert json.loads((out / "results.json").read_text()) == result
    assert read_bundle(out / "good1.edgead").hash == tiny_bundle().hash
    again = train_many(root, out, BY_NAME)
    assert (again["trained"], again["failed"]) == (3, 3)
    write_images(root / "good1" / "train" / "good", 1)  # new pictures of one product
    (out / "good2.edgead").unlink()
    names: list[str] = []
    train_many(root, out, BY_NAME, report=lambda name, done: names.append(name))
    assert sorted(names) == ["buggy", "dies", "good1", "good2", "refused"]
    other = Recipe(trainer="fleet_trainers:by_name", seed=1)
    assert train_many(root, out, other)["trained"] == 5


def test_stopped_run_goes_on(tmp_path: Path) -> None:
    root = make_products(tmp_path / "products", "p1", "p2", "p3")

    def stop(name: str, done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_many(root, tmp_path / "bundles", BY_NAME, report=stop)
    result = train_many(root, tmp_path / "bundles", BY_NAME)
    assert outcome(result) == {"p1": "ok", "p2": "ok", "p3": "ok"}
    assert result["trained"] < 3


def test_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's part by a stand-in: tasks, shares of a GPU, and a node that is lost for good."""
    from edgead.integrations.fleet import on_ray

    class Lost(Exception):
        pass

    class Ray:
        exceptions = type("exceptions", (), {"RayError": Lost})

        def is_initialized(self) -> bool:
            return True

        def remote(self, **options: Any) -> Any:
            self.asked = options

            def wrap(function: Any) -> Any:
                def submit(request: dict[str, Any]) -> str:
                    self.results[request["product"]] = (function, request)
                    return str(request["product"])

                return type("Task", (), {"remote": staticmethod(submit)})

            return wrap

        def __init__(self) -> None:
            self.results: dict[str, Any] = {}
            self.asked: dict[str, Any] = {}

        def wait(self, waiting: list[str], num_returns: int) -> Any:
            return waiting[:num_returns], waiting[num_returns:]

        def get(self, name: str) -> Any:
            if name == "far":
                raise Lost("The node is gone.\nmore")
            function, request = self.results[name]
            return function(request)

    stand_in = Ray()
    monkeypatch.setattr(on_ray, "ray", lambda: stand_in)
    root = make_products(tmp_path / "products", "far", "near")
    result = train_many(root, tmp_path / "b", BY_NAME, ray="auto", gpus=0.25, threads=3)
    assert outcome(result) == {"far": "TRAINER_LOST", "near": "ok"}
    assert result["products"][0]["message"] == "The node is gone."
    assert stand_in.asked == {"num_cpus": 3, "num_gpus": 0.25, "max_retries": 2}


@pytest.mark.parametrize(
    ("recipe", "options", "text"),
    [
        (
            Recipe(method="x"),
            {},
            "[METHOD_UNKNOWN] method is 'x'; want one of dfda-ad, nf-bmr, mlff, trisimplenet, slsg.",
        ),
        (
            Recipe(),
            {"workers": 0},
            "[TRAIN_MANY] workers is 0, threads 0 and gpus 0.0; want 1 or more workers, 0 or more "
            "threads, and a share of a GPU only with --ray.",
        ),
        (
            Recipe(),
            {"gpus": 0.5},
            "[TRAIN_MANY] workers is 1, threads 0 and gpus 0.5; want 1 or more workers, 0 or more "
            "threads, and a share of a GPU only with --ray.",
        ),
    ],
)
def test_bad_options(recipe: Recipe, options: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        train_many(tmp_path, tmp_path / "b", recipe, **options)
    assert str(error.value) == text


def test_no_products(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        find_products(tmp_path)
    assert str(error.value) == (
        f"[PRODUCTS_NONE] no folder in {tmp_path} holds images or train/good. Want one folder a "
        "product: ROOT/PART-4711/*.png, or ROOT/PART-4711/train/good/*.png."
    )
    with pytest.raises(SourceError) as error:
        find_products(tmp_path / "none")
    assert str(error.value) == (
        f"[SOURCE_NOT_FOUND] {tmp_path}/none is not a folder. Give a folder of products."
    )


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = make_products(tmp_path / "products", "good1", "refused")
    monkeypatch.setattr(products, "Recipe", lambda **options: BY_NAME)
    command = ["edgead", "train-many", str(root), "--out", str(tmp_path / "bundles")]
    for extra in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", [*command, *extra])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 1
        out = capfd.readouterr().out
        if extra:
            assert outcome(json.loads(out)) == {"good1": "ok", "refused": "DATA_TOO_FEW"}
        else:
            assert "FAILED [DATA_TOO_FEW] 3 images." in out


_TRAINING = """
import json, sys
from edgead.integrations.fleet.products import Recipe, train_many

recipe = Recipe(
    backbone="test_efficientnet", weights="random", epochs=1, image_size=64, quantize_minutes=0.05
)
print(json.dumps(train_many(sys.argv[1], sys.argv[2], recipe)["products"]))
"""


@pytest.mark.timeout(900)  # a training: seconds, but on a busy machine minutes
def test_a_real_training(tmp_path: Path) -> None:
    """The product's own path, small, in a process of its own: trained, quantising tried, recorded."""
    from data.make_bundle import write_pieces

    write_pieces(tmp_path / "products" / "gravel", 40)
    folders = [str(tmp_path / name) for name in ("products", "bundles")]
    words = [sys.executable, "-c", _TRAINING, *folders]
    # Libraries that other tests loaded leave variables behind: a customer's shell has none of them.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd="/", env=kept | {"LANG": "C.UTF-8"}
    )
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout.splitlines()[-1])
    assert record["ok"], done.stdout
    bundle = read_bundle(tmp_path / "bundles" / "gravel.edgead")
    assert record["bundle_hash"] == bundle.hash
    assert record["threshold"] == bundle.manifest.thresholds.threshold
    assert record["precisions"][0] == "fp32"
    assert record["notes"] or len(record["precisions"]) > 1
