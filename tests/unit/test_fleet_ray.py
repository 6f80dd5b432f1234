"""A real Ray cluster of this machine: the same rows and bundles as processes', also where workers die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from bundles import tiny_bundle
from data.make_bundle import write_pieces
from fleet_judges import DIE, DIE_ONCE, DIE_WITH_ACTOR_ONCE, MARK, write_images

import edgead
from edgead.bundle import read_bundle, write_bundle
from edgead.choice import certificates
from edgead.integrations.fleet.archive import score_archive
from edgead.integrations.fleet.rows import TELLING

#: Failures of the cluster, not of ours.
_RAYS_OWN = frozenset({"RAY_UNREACHABLE", "RAY_FAILED", "RAY_MISSING"})
_SCORE = """
import json, sys
from edgead.errors import EdgeadError
from edgead.integrations.fleet.archive import score_archive
bundle, folder, out = sys.argv[1:]
try:
    result = score_archive(bundle, folder, out, ray="local", workers=2, judge="fleet_judges:make_frail")
except EdgeadError as error:
    result = {"code": error.code, "text": str(error)}
print(json.dumps(result))
"""


_TRAIN = """
import contextlib, io, json, sys
from edgead.cli import main
from edgead.errors import EdgeadError
from edgead.integrations.fleet import products
from edgead.integrations.fleet.on_ray import connected

Recipe, (real, feigned) = products.Recipe, sys.argv[1:]
SMALL = Recipe(
    backbone="test_efficientnet", weights="random", epochs=1, image_size=64, quantize_minutes=0.05
)

def train_many(folder, recipe):
    products.Recipe = lambda **options: recipe
    command = f"edgead train-many {folder} --out {folder}-bundles --ray local --threads 1 --json"
    sys.argv, shown = command.split(), io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            main()
    except SystemExit as end:
        return {**json.loads(shown.getvalue()), "exit": end.code or 0}

try:
    with connected("local", cpus=2):
        runs = [train_many(real, SMALL), train_many(real, SMALL)]
    # From its start: what Ray says about the lost worker must not stand between the JSON.
    runs.append(train_many(feigned, Recipe(trainer="fleet_trainers:by_name")))
except EdgeadError as error:
    runs = {"code": error.code, "text": str(error)}
print(json.dumps(runs))
"""


def told(path: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(path).to_pylist()
    return [{k: v for k, v in row.items() if k not in TELLING} for row in rows]


def on_ray(code: str, arguments: list[str], folder: Path) -> Any:
    """A run in a process of its own; skips where Ray itself does not run, which a busy machine does."""
    # A customer's shell has none of the variables that other tests' libraries leave behind.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", MARK) if name in os.environ}
    # Not all of sys.path: what other tests put there, the checkout too, would hide the installed package.
    places = (Path(__file__).parents[1], Path(edgead.__file__).parents[1])
    paths = os.pathsep.join(map(str, places))
    own = {"LANG": "C.UTF-8", "XDG_CACHE_HOME": str(folder / "cache")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=kept | own | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
            cwd=folder,  # what lies in the current folder must not shadow the package
            capture_output=True,
            text=True,
            check=False,
            timeout=840,
        )
    except subprocess.TimeoutExpired:
        return cannot_run("it did not answer in 840 s")
    if done.returncode < 0:  # its native code ended it
        return cannot_run(f"signal {-done.returncode}: {done.stderr[-500:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    failed = isinstance(result, dict) and result.get("code") in _RAYS_OWN
    return cannot_run(result["text"]) if failed else result


def cannot_run(why: str) -> Any:
    if os.environ.get("EDGEAD_REQUIRE_RAY") == "1":
        pytest.fail(f"EDGEAD_REQUIRE_RAY=1, but Ray does not run here: {why}")
    pytest.skip(f"Ray does not run here: {why}")


@pytest.mark.timeout(900)
def test_rows_are_those_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "tiny.edgead"
    write_bundle(bundle, tiny_bundle())
    folder = write_images(
        tmp_path / "archive", 80, {17: DIE_ONCE, 40: DIE_WITH_ACTOR_ONCE, 50: DIE}
    )
    (folder / "0003.png").write_bytes(b"no image")
    monkeypatch.setenv(MARK, str(tmp_path / "mark"))
    out = tmp_path / "ray.parquet"
    result = on_ray(_SCORE, [str(bundle), str(folder), str(out)], tmp_path)
    assert (result["frames"], result["judged"]) == (80, 80)
    assert result["codes"] == {"IMAGE_FORMAT": 1, "WORKER_LOST": 1}
    assert (tmp_path / "mark").exists()
    assert (tmp_path / "mark-actor").exists()
    straight = tmp_path / "straight.parquet"
    score_archive(bundle, folder, straight, workers=1, judge="fleet_judges:make_frail")
    assert told(out) == told(straight)
    assert [row["path"] for row in told(out)] == [str(folder / f"{i:04d}.png") for i in range(80)]


def outcome(result: dict[str, Any]) -> dict[str, Any]:
    return {one["product"]: one["code"] or "ok" for one in result["products"]}


@pytest.mark.timeout(900)  # a training: seconds, but on a busy machine minutes
def test_products_are_trained_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command: one product trained and quantised, one that fails, a repetition, and a lost worker."""
    write_pieces(tmp_path / "real" / "gravel", 40)
    write_pieces(tmp_path / "real" / "torn", 10)
    torn = next(iter(sorted((tmp_path / "real" / "torn").iterdir())))
    torn.write_bytes(b"no image")
    for name in ("good", "loses_worker"):
        write_images(tmp_path / "feigned" / name, 1)
    monkeypatch.setenv(MARK, str(tmp_path / "mark"))
    folders = [str(tmp_path / name) for name in ("real", "feigned")]
    first, second, feigned = on_ray(_TRAIN, folders, tmp_path)
    assert outcome(first) == {"gravel": "ok", "torn": "IMAGE_FORMAT"}
    assert [first[key] for key in ("trained", "failed", "exit")] == [2, 1, 1]
    record = first["products"][0]
    bundle = read_bundle(tmp_path / "real-bundles" / "gravel.edgead")
    assert record["bundle_hash"] == bundle.hash
    assert record["threshold"] == bundle.manifest.thresholds.threshold
    proven = {one["precision"] for one in certificates(bundle) if one["passed"]}
    assert record["precisions"] == ["fp32", *sorted(proven)]
    assert proven or record["notes"]
    assert second["products"][0] == record
    assert [second[key] for key in ("trained", "failed", "exit")] == [1, 1, 1]
    assert outcome(feigned) == {"good": "ok", "loses_worker": "ok"}
    assert (tmp_path / "mark").exists()
