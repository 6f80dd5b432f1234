"""A real Ray cluster of this machine: the same rows as processes', also where workers die."""

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
from fleet_judges import DIE, DIE_ONCE, MARK, write_images

from edgead.bundle import write_bundle
from edgead.integrations.fleet.archive import score_archive
from edgead.integrations.fleet.rows import TELLING

#: Failures of the cluster, not of ours.
_RAYS_OWN = frozenset({"RAY_UNREACHABLE", "RAY_FAILED", "RAY_MISSING"})
_RUN = """
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


def told(path: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(path).to_pylist()
    return [{k: v for k, v in row.items() if k not in TELLING} for row in rows]


def on_ray(arguments: list[str], folder: Path) -> dict[str, Any]:
    """A run in a process of its own; skips where Ray itself does not run, which a busy machine does."""
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RUN, *arguments],
            env={**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
            cwd=folder,  # what lies in the current folder must not shadow the package
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
    except subprocess.TimeoutExpired:
        return cannot_run("it did not answer in 240 s")
    if done.returncode < 0:  # its native code ended it
        return cannot_run(f"signal {-done.returncode}: {done.stderr[-500:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return cannot_run(result["text"]) if result.get("code") in _RAYS_OWN else result


def cannot_run(why: str) -> Any:
    if os.environ.get("EDGEAD_REQUIRE_RAY") == "1":
        pytest.fail(f"EDGEAD_REQUIRE_RAY=1, but Ray does not run here: {why}")
    pytest.skip(f"Ray does not run here: {why}")


@pytest.mark.timeout(600)
def test_rows_are_those_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "tiny.edgead"
    write_bundle(bundle, tiny_bundle())
    folder = write_images(tmp_path / "archive", 80, {17: DIE_ONCE, 50: DIE})
    (folder / "0003.png").write_bytes(b"no image")
    monkeypatch.setenv(MARK, str(tmp_path / "mark"))
    out = tmp_path / "ray.parquet"
    result = on_ray([str(bundle), str(folder), str(out)], tmp_path)
    assert (result["frames"], result["judged"]) == (80, 80)
    assert result["codes"] == {"IMAGE_FORMAT": 1, "WORKER_LOST": 1}
    assert (tmp_path / "mark").exists()
    straight = tmp_path / "straight.parquet"
    score_archive(bundle, folder, straight, workers=1, judge="fleet_judges:make_frail")
    assert told(out) == told(straight)
    assert [row["path"] for row in told(out)] == [str(folder / f"{i:04d}.png") for i in range(80)]
