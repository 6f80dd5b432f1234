"""Training many products: what fails fails alone, what is done stays done."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle
from fleet_judges import write_images

from edgead.bundle import read_bundle, write_bundle
from edgead.cli import main
from edgead.errors import BackendError, ConfigError, SourceError, StateError, StorageError
from edgead.integrations.fleet import products
from edgead.integrations.fleet.archive import score_archive
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


def test_full_disk_ends_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while another product is in training, which is ended: it goes on from its checkpoint."""
    root = make_products(tmp_path / "products", "good1", "slow")
    out = tmp_path / "bundles"

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError) as error:
            train_many(root, out, BY_NAME, workers=2)
    assert str(error.value) == (
        f"[DISK_FULL] cannot write {out}/good1.json: no space left; nothing was written. "
        "Free some space and repeat the command."
    )
    (root / "slow").rename(root / "good2")
    again = train_many(root, out, BY_NAME)
    assert (outcome(again), again["trained"]) == ({"good1": "ok", "good2": "ok"}, 2)


def test_two_runs_at_once(tmp_path: Path) -> None:
    root = make_products(tmp_path / "products", "good1")
    out, refused = tmp_path / "bundles", []

    def second(name: str, done: float) -> None:
        with pytest.raises(StateError) as error:
            train_many(root, out, BY_NAME)
        refused.append(str(error.value))

    train_many(root, out, BY_NAME, report=second)
    assert refused == [
        f"[RUN_BUSY] another run is writing {out} just now. Wait for its end, or name another --out."
    ]
    assert train_many(root, out, BY_NAME)["trained"] == 0


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    root = make_products(tmp_path / "products", "good1")
    out = root / "good1" / "0000.png" / "bundles"
    with pytest.raises(StorageError) as error:
        train_many(root, out, BY_NAME)
    assert str(error.value) == (
        f"[NO_FOLDER] cannot make the folder {out}: Not a directory. Name another --out."
    )


def test_a_local_cluster_never_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgead.integrations.fleet import on_ray

    class Ray:
        def is_initialized(self) -> bool:
            return True

        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 2.0}

    monkeypatch.setattr(on_ray, "ray", Ray)
    root = make_products(tmp_path / "products", "good1")
    for options, asked in (({"threads": 3}, "3 CPUs and 0"), ({"gpus": 0.25}, "2 CPUs and 0.25")):
        with pytest.raises(BackendError) as error:
            train_many(root, tmp_path / "b", BY_NAME, ray="local", **{"threads": 2, **options})
        assert str(error.value) == (
            f"[RAY_RESOURCES] each worker takes {asked} GPUs; Ray on this machine has 2 and 0. "
            "Ask for less, or give a cluster's address."
        )
    write_bundle(tmp_path / "tiny.edgead", tiny_bundle())
    with pytest.raises(BackendError) as error:
        score_archive(
            tmp_path / "tiny.edgead", root, tmp_path / "r.parquet", ray="local", threads=3
        )
    assert error.value.code == "RAY_RESOURCES"


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
