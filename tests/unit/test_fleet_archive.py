"""Scoring an archive: one row an image whatever happens to workers, disk and run."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bundles import tiny_bundle
from fleet_judges import DIE, DIE_ONCE, HANG, MARK, RAISE, write_images

from edgead import Detector, images
from edgead.bundle import write_bundle
from edgead.cli import main
from edgead.errors import BackendError, ConfigError, EdgeadError, StateError, StorageError
from edgead.integrations.fleet.archive import score_archive
from edgead.integrations.fleet.rows import COLUMNS, TELLING

FRAIL = "fleet_judges:make_frail"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.edgead"
    write_bundle(path, tiny_bundle())
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def told(path: Path) -> list[dict[str, Any]]:
    """Rows without the columns that only tell who judged, and how fast."""
    return [{k: v for k, v in row.items() if k not in TELLING} for row in rows_of(path)]


def test_rows_are_what_the_detector_says(bundle: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "archive", 40)
    (folder / "0007.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("passed over")
    out = tmp_path / "results.parquet"
    result = score_archive(bundle, folder, out, workers=2, backend="onnxruntime")
    rows = rows_of(out)
    assert tuple(rows[0]) == COLUMNS
    assert [row["path"] for row in rows] == [str(folder / f"{i:04d}.png") for i in range(40)]
    with Detector(bundle, backend="onnxruntime", threads=1) as detector:
        for row in rows[:7] + rows[8:]:
            data = Path(row["path"]).read_bytes()
            found = detector(images.decode(data))
            assert row["sha256"] == hashlib.sha256(data).hexdigest()
            assert (row["verdict"], row["score"]) == (found.verdict.name, found.score)
            assert row["threshold"] == found.threshold
            assert json.loads(row["regions"]) == [region.to_json() for region in found.regions]
            assert row["bundle_hash"] == found.bundle_hash
            assert list(json.loads(row["stages"])) == [
                "read", "decode", "preprocess", "infer", "postprocess",
            ]  # fmt: skip
            assert (row["code"], row["message"]) == (None, None)
    bad = rows[7]
    assert (bad["verdict"], bad["score"], bad["code"]) == ("UNKNOWN", None, "IMAGE_FORMAT")
    assert bad["message"] == (
        f"{folder}/0007.png starts with 'no image'; not PNG, JPEG, BMP or TIFF. "
        "Convert it to one of these; the ending of the name does not matter."
    )
    assert (result["frames"], result["judged"], result["codes"]) == (40, 40, {"IMAGE_FORMAT": 1})
    assert sum(result["verdicts"].values()) == 40
    assert not (tmp_path / "results.parquet.parts").exists()


def test_images_that_change_under_the_run(bundle: Path, tmp_path: Path) -> None:
    """Gone, or cut off, after they were listed: a row with its code for each, the others as ever."""
    folder = write_images(tmp_path / "archive", 40)
    gone, cut = folder / "0039.png", folder / "0038.png"

    def change(done: float) -> None:
        if gone.exists():  # the first chunk is done, and the third not yet given out
            gone.unlink()
            cut.write_bytes(cut.read_bytes()[:-30])

    out = tmp_path / "results.parquet"
    result = score_archive(bundle, folder, out, workers=1, judge=FRAIL, report=change)
    assert result["codes"] == {"IMAGE_MISSING": 1, "IMAGE_TRUNCATED": 1}
    assert result["verdicts"]["UNKNOWN"] == 2
    rows = rows_of(out)
    assert [row["verdict"] for row in rows[-2:]] == ["UNKNOWN", "UNKNOWN"]
    assert rows[39]["message"] == f"{gone} does not exist. Check the path."
    assert rows[38]["message"] == (
        f"{cut} ends after {cut.stat().st_size} bytes, inside a 'IDAT' chunk. Copy or record it "
        "again; no pixel of it is used."
    )


def test_who_judges_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "archive", 30)
    for workers in (1, 2):
        score_archive(bundle, folder, tmp_path / f"{workers}.parquet", workers=workers)
    assert told(tmp_path / "1.parquet") == told(tmp_path / "2.parquet")


def test_dying_workers_cost_no_row(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_images(tmp_path / "archive", 40, {5: DIE_ONCE, 18: DIE, 19: DIE, 30: RAISE})
    monkeypatch.setenv(MARK, str(tmp_path / "mark"))
    out = tmp_path / "results.parquet"
    result = score_archive(bundle, folder, out, workers=2, judge=FRAIL)
    rows = rows_of(out)
    assert [row["path"] for row in rows] == [str(folder / f"{i:04d}.png") for i in range(40)]
    assert (tmp_path / "mark").exists()
    assert {i: row["code"] for i, row in enumerate(rows) if row["code"]} == {
        18: "WORKER_LOST", 19: "WORKER_LOST", 30: "BACKEND_ERROR",
    }  # fmt: skip
    assert rows[18]["message"] == (
        "2 workers in a row died with this image; the last one: ended with code 9."
    )
    assert rows[30]["message"] == "the judge raised ZeroDivisionError: a bug"
    assert rows[5]["verdict"] != "UNKNOWN"
    assert result["codes"] == {"BACKEND_ERROR": 1, "WORKER_LOST": 2}


def test_hanging_worker_is_killed(bundle: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "archive", 1, {0: HANG})
    out = tmp_path / "results.parquet"
    score_archive(bundle, folder, out, workers=1, judge=FRAIL, tries=1, timeout_s=0.5)
    (row,) = rows_of(out)
    assert (row["verdict"], row["code"]) == ("UNKNOWN", "WORKER_LOST")
    assert row["message"] == (
        "1 workers in a row died with this image; the last one: no answer in 0.5 s."
    )


def test_stopped_run_goes_on(bundle: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "archive", 60)
    out = tmp_path / "results.parquet"

    def stop(done: float) -> None:
        if done > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_archive(bundle, folder, out, workers=1, judge=FRAIL, report=stop)
    assert not out.exists()
    kept = len(list((tmp_path / "results.parquet.parts").glob("part-*.parquet")))
    assert kept == 2
    result = score_archive(bundle, folder, out, workers=2, judge=FRAIL)
    assert (result["frames"], result["judged"]) == (60, 60 - kept * 16)
    score_archive(bundle, folder, tmp_path / "straight.parquet", workers=1, judge=FRAIL)
    assert told(out) == told(tmp_path / "straight.parquet")


def test_second_run_does_nothing_or_refuses(bundle: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "archive", 3)
    out = tmp_path / "results.parquet"
    score_archive(bundle, folder, out, workers=1, judge=FRAIL)
    before = out.read_bytes()
    result = score_archive(bundle, folder, out, workers=1, judge=FRAIL)
    assert (result["frames"], result["judged"], out.read_bytes()) == (3, 0, before)
    (folder / "0001.png").unlink()
    with pytest.raises(StateError) as error:
        score_archive(bundle, folder, out, workers=1, judge=FRAIL)
    assert str(error.value) == (
        f"[RESULTS_DIFFER] {out} exists and holds the results of another archive; it is not "
        "overwritten. Name another --out, or delete the file."
    )
    out.write_bytes(b"notes of somebody")
    with pytest.raises(StateError) as error:
        score_archive(bundle, folder, out, workers=1, judge=FRAIL)
    assert str(error.value) == (
        f"[RESULTS_DIFFER] {out} exists and holds the results of no run of edgead score; it is "
        "not overwritten. Name another --out, or delete the file."
    )
    assert out.read_bytes() == b"notes of somebody"


def test_parts_of_another_run_are_refused(bundle: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "archive", 3)
    out = tmp_path / "results.parquet"
    parts = tmp_path / "results.parquet.parts"
    parts.mkdir()
    (parts / "run.json").write_text('{"bundle": "of another"}')
    with pytest.raises(StateError) as error:
        score_archive(bundle, folder, out, workers=1, judge=FRAIL)
    assert str(error.value) == (
        f"[RUN_DIFFERS] {parts} holds rows of another run: archive, bundle, id, images, judge, "
        "schema differs. Repeat the command that began it, name another --out, or delete that folder."
    )


def test_two_runs_at_once(bundle: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "archive", 3)
    out = tmp_path / "results.parquet"
    refused: list[str] = []

    def second(done: float) -> None:
        with pytest.raises(StateError) as error:
            score_archive(bundle, folder, out, workers=1, judge=FRAIL)
        refused.append(str(error.value))

    score_archive(bundle, folder, out, workers=1, judge=FRAIL, report=second)
    assert refused == [
        f"[RUN_BUSY] another run is writing {out} just now. Wait for its end, or name another --out."
    ]


def _full_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """The disk is full at the fsync after so many."""
    sync, done = os.fsync, iter(range(10_000))

    def full(handle: int) -> None:
        if next(done) >= writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.parametrize(
    ("writes", "where", "left"),
    [(2, "results.parquet.parts/part-0000000.parquet", 40), (8, "results.parquet", 0)],
)
def test_full_disk_keeps_what_is_done(
    writes: int,
    where: str,
    left: int,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_images(tmp_path / "archive", 40)
    out = tmp_path / "results.parquet"
    with monkeypatch.context() as patch:
        _full_after(patch, writes)  # each file is synced, then its folder; run.json is the first
        with pytest.raises(StorageError) as error:
            score_archive(bundle, folder, out, workers=1, judge=FRAIL)
    assert str(error.value) == (
        f"[DISK_FULL] cannot write {tmp_path / where}: no space left; nothing was written. "
        "Free some space and repeat the command."
    )
    assert not out.exists()
    assert score_archive(bundle, folder, out, workers=1, judge=FRAIL)["judged"] == left
    assert len(rows_of(out)) == 40


def test_size_limit_in_the_final_file(bundle: Path, tmp_path: Path) -> None:
    """The file system's own refusal, through Arrow's writer."""
    import resource

    folder = write_images(tmp_path / "archive", 40)
    out = tmp_path / "results.parquet"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    calls: list[float] = []

    def shrink(done: float) -> None:
        calls.append(done)
        if len(calls) == 3:  # every part is written: the final file is larger than each
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))

    try:
        with pytest.raises(StorageError) as error:
            score_archive(bundle, folder, out, workers=1, judge=FRAIL, report=shrink)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(error.value) == (
        f"[DISK_FULL] cannot write {out}: file size limit reached; nothing was written. "
        "Raise the limit and repeat the command."
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "archive", "results.parquet.parts", "tiny.edgead",
    ]  # fmt: skip
    assert score_archive(bundle, folder, out, workers=1, judge=FRAIL)["judged"] == 0
    assert len(rows_of(out)) == 40


def test_damaged_part(bundle: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "archive", 20)
    out = tmp_path / "results.parquet"
    part = tmp_path / "results.parquet.parts" / "part-0000001.parquet"

    def damage(done: float) -> None:
        if done == 1.0:
            part.write_bytes(b"PAR1 cut")

    with pytest.raises(StorageError) as error:
        score_archive(bundle, folder, out, workers=1, judge=FRAIL, report=damage)
    assert error.value.code == "PART_DAMAGED"
    assert error.value.message.startswith(f"{part} cannot be read: ")
    assert error.value.hint == "Delete it and run again: its images are then judged again."
    part.unlink()
    assert score_archive(bundle, folder, out, workers=1, judge=FRAIL)["judged"] == 4


def test_part_without_a_row_is_noticed(bundle: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "archive", 20)
    out = tmp_path / "results.parquet"
    part = tmp_path / "results.parquet.parts" / "part-0000001.parquet"

    def shorten(done: float) -> None:
        if done == 1.0:
            pq.write_table(pq.read_table(part).slice(1), part)

    with pytest.raises(StateError) as error:
        score_archive(bundle, folder, out, workers=1, judge=FRAIL, report=shorten)
    assert str(error.value) == (
        f"[ROWS_LOST] the parts of {out} hold 19 rows; 20 images were listed."
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("judge", "text"),
    [
        ("cannot_open", "[GOLDEN] good_0 scored 2, expected 1. Not started."),
        (
            "dies_at_start",
            "[WORKER_START] a worker could not open the bundle: ended with code 7; it said: "
            "out of memory. Check memory and run: edgead verify BUNDLE.",
        ),
    ],
)
def test_workers_that_never_start(judge: str, text: str, bundle: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "archive", 3)
    with pytest.raises(EdgeadError) as error:
        score_archive(
            bundle, folder, tmp_path / "r.parquet", workers=1, judge=f"fleet_judges:{judge}"
        )
    assert str(error.value) == text


@pytest.mark.parametrize(
    ("out", "options", "text"),
    [
        (
            "r.csv",
            {},
            "[SCORE_SUFFIX] --out is {out}; want a name ending in .parquet. Results are Parquet.",
        ),
        (
            "r.parquet",
            {"workers": -1},
            "[SCORE_WORKERS] workers is -1, threads 1 and gpus 0.0; want 0 or more workers, "
            "1 or more threads and 0 or more GPUs.",
        ),
        (
            "r.parquet",
            {"gpus": 0.5},
            "[SCORE_WORKERS] gpus are shared out by Ray. Add --ray local, or a cluster's address.",
        ),
    ],
)
def test_bad_options(
    out: str, options: dict[str, Any], text: str, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        score_archive(bundle, tmp_path, tmp_path / out, **options)
    assert str(error.value) == text.format(out=tmp_path / out)


def test_packages_that_are_missing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_images(tmp_path / "archive", 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError) as error:
        score_archive(bundle, folder, tmp_path / "r.parquet", ray="local")
    assert str(error.value) == (
        "[RAY_MISSING] --ray needs ray, which does not import (import of ray halted; None in "
        "sys.modules). pip install 'edgead[ray]'"
    )
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError) as error:
        score_archive(bundle, folder, tmp_path / "r.parquet", workers=1)
    assert str(error.value) == (
        "[PYARROW_MISSING] results are Parquet files, which need pyarrow, which does not import "
        "(import of pyarrow halted; None in sys.modules). pip install 'edgead[parquet]'"
    )


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["edgead", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_command_line(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = write_images(tmp_path / "archive", 5)
    out = tmp_path / "r.parquet"
    command = ("score", str(bundle), str(folder), "--out", str(out), "--workers", "1", "--json")
    assert _run(monkeypatch, *command) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["frames"], result["judged"]) == (5, 5)
    assert result["seconds"] > 0
    assert _run(monkeypatch, *command[:-1]) == 0
    text = capfd.readouterr()
    assert "nothing was judged" in text.err
    assert "verdicts" in text.out
    assert _run(monkeypatch, "score", str(bundle), str(tmp_path / "none"), "--out", str(out)) == 2
    assert "[SOURCE_NOT_FOUND]" in capfd.readouterr().err


def test_unreachable_and_lost_clusters(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own failures, shown by a stand-in: the sentences are ours."""
    from edgead.integrations.fleet import on_ray

    class Lost(Exception):
        pass

    class Ray:
        exceptions = type("exceptions", (), {"RayError": Lost})
        is_up = False

        def is_initialized(self) -> bool:
            return self.is_up

        def init(self, address: str, **options: Any) -> None:
            raise ConnectionError("Could not find a running Ray instance\nat all")

    class Dataset:
        def __init__(self, blocks: Any = None) -> None:
            self.DataContext = self

        def get_current(self) -> Dataset:
            return self

        def from_items(self, items: Any, override_num_blocks: int) -> Dataset:
            assert len(items) == override_num_blocks
            return self

        def ActorPoolStrategy(self, **options: Any) -> None:
            return None

        def map_batches(self, *positional: Any, **options: Any) -> Dataset:
            return self

        def iter_batches(self, **options: Any) -> Any:
            yield pa.table({"chunk": [0], "rows": ["[]"]})
            raise Lost("The node died.\n  more")

    stand_in = Ray()
    monkeypatch.setattr(on_ray, "ray", lambda: stand_in)
    monkeypatch.setattr(on_ray, "ray_data", Dataset)
    folder = write_images(tmp_path / "archive", 20)
    with pytest.raises(BackendError) as error:
        score_archive(bundle, folder, tmp_path / "r.parquet", ray="10.0.0.1:6379")
    assert str(error.value) == (
        "[RAY_UNREACHABLE] no Ray cluster answers at '10.0.0.1:6379': Could not find a running Ray "
        "instance Check the address, or start one: ray start --head."
    )
    stand_in.is_up = True
    with pytest.raises(BackendError) as error:
        score_archive(bundle, folder, tmp_path / "r.parquet", ray="auto", workers=1)
    assert str(error.value) == (
        "[RAY_FAILED] the Ray cluster failed after 1 of 2 chunks: The node died. "
        "Their rows are kept; repeat the command to go on."
    )


def test_rays_actors_give_the_same_rows(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very actor, driven by a stand-in that repeats a task, as Ray does when a node is lost."""
    from edgead.integrations.fleet import on_ray

    options: dict[str, Any] = {}

    class Ray:
        exceptions = type("exceptions", (), {"RayError": RuntimeError})

        def is_initialized(self) -> bool:
            return True

        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 8.0, "GPU": 2.0}

    class Data:
        class DataContext:
            @staticmethod
            def get_current() -> Any:
                return type("Context", (), {})()

        def from_items(self, items: list[Any], override_num_blocks: int) -> Data:
            self.blocks = [pa.Table.from_pylist([item]) for item in items]
            return self

        def ActorPoolStrategy(self, **asked: Any) -> dict[str, Any]:
            return asked

        def map_batches(self, actor: Any, **asked: Any) -> Data:
            options.update(asked)
            self.actor = actor(*asked["fn_constructor_args"])
            return self

        def iter_batches(self, **_: Any) -> Any:
            for block in [*self.blocks[::-1], self.blocks[0]]:
                yield self.actor(block)
            self.actor._pool.close()

    monkeypatch.setattr(on_ray, "ray", Ray)
    monkeypatch.setattr(on_ray, "ray_data", Data)
    folder = write_images(tmp_path / "archive", 40, {11: DIE})
    score_archive(bundle, folder, tmp_path / "a.parquet", workers=1, judge=FRAIL)
    result = score_archive(
        bundle, folder, tmp_path / "b.parquet", ray="auto", gpus=0.5, judge=FRAIL
    )
    assert told(tmp_path / "a.parquet") == told(tmp_path / "b.parquet")
    assert (result["judged"], result["codes"]) == (40, {"WORKER_LOST": 1})
    assert (options["num_cpus"], options["num_gpus"]) == (1, 0.5)
    assert options["compute"] == {"size": 3, "max_tasks_in_flight_per_actor": 2}


def test_a_cluster_of_ones_own_is_lean_and_a_users_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edgead.integrations.fleet import on_ray

    class Ray:
        def __init__(self) -> None:
            self.started: list[tuple[dict[str, str | None], dict[str, Any]]] = []

        def is_initialized(self) -> bool:
            return False

        def init(self, **options: Any) -> None:
            self.started.append(({name: os.environ.get(name) for name in switches}, options))

        def shutdown(self) -> None:
            pass

    switches = {
        "RAY_enable_metrics_collection": "false",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_worker_niceness": "0",
    }
    for name in switches:
        monkeypatch.delenv(name, raising=False)
    stand_in = Ray()
    monkeypatch.setattr(on_ray, "ray", lambda: stand_in)
    for address in ("local", "10.0.0.1:6379"):
        with on_ray.connected(address, cpus=2):
            assert not switches.keys() & os.environ.keys()
    monkeypatch.setenv("RAY_worker_niceness", "7")
    with on_ray.connected("local"):
        assert os.environ.keys() & switches.keys() == {"RAY_worker_niceness"}
    (lean, local), (plain, remote), (chosen, _) = stand_in.started
    assert lean == switches
    assert (local["num_cpus"], local["include_dashboard"]) == (2, False)
    assert plain == dict.fromkeys(switches)
    assert remote.keys() == {"address", "log_to_driver", "logging_level"}
    assert chosen == switches | {"RAY_worker_niceness": "7"}


def test_errors_of_ours_come_through_ray_as_themselves() -> None:
    from edgead.integrations.fleet.on_ray import _typed

    class RayTaskError(Exception):
        cause = StateError("GOLDEN", "scored otherwise.", "Not started.")

    assert str(_typed(RayTaskError("ray::MapBatches"), 0, 3)) == (
        "[GOLDEN] scored otherwise. Not started."
    )
