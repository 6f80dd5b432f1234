"""`edgead score`: one row an image of a whole archive, on processes or on Ray, resumable.

Who judges an image changes nothing about its row: workers get the back end, precision and number of
threads that were settled here, and judge frame by frame. This process alone writes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgead import files
from edgead.bundle import Bundle, read_bundle
from edgead.choice import choose
from edgead.errors import ConfigError, StateError
from edgead.integrations.fleet.items import fingerprint, list_items
from edgead.integrations.fleet.on_ray import RayJudges
from edgead.integrations.fleet.optional import pyarrow_parquet
from edgead.integrations.fleet.parts import Parts
from edgead.integrations.fleet.pool import Chunk, Pool
from edgead.integrations.fleet.rows import Row, assemble, key_of
from edgead.integrations.fleet.worker import Orders

__all__ = ["score_archive"]

#: An archive is cut into about so many chunks of 16 to 512 images, whatever the number of workers:
#: a run goes on with other workers than it began with.
_CHUNKS = 64
_LEAST, _MOST = 16, 512


def score_archive(
    bundle: str | Path,
    root: str | Path,
    out: str | Path,
    *,
    ray: str | None = None,
    workers: int = 0,
    threads: int = 1,
    gpus: float = 0.0,
    backend: str = "auto",
    precision: str = "auto",
    tries: int = 2,
    timeout_s: float = 120.0,
    judge: str = Orders.judge,
    report: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Judge every image of an archive; exactly one row an image, in the archive's order.

    An image that cannot be read or judged has the verdict UNKNOWN and its code. A run that was stopped
    goes on when it is repeated; repeated after its end, it does nothing.

    Args:
        bundle: The bundle; its signature is checked here, workers get its bytes.
        root: Folder, glob pattern, image, ``.tar`` (WebDataset) or ``.parquet`` file.
        out: The ``.parquet`` file of results; see `edgead.integrations.fleet.rows.COLUMNS`.
        ray: None judges on processes of this machine; ``local`` starts Ray here; else the address of
            a cluster, whose nodes see the archive under the same path.
        workers: Number of detectors; 0 takes the CPUs of this machine over ``threads`` (a cluster's
            CPUs, or GPUs over ``gpus``, on Ray).
        threads: CPU threads of each detector's engine.
        gpus: Share of a GPU that each detector takes; on Ray only.
        backend: A back end, or ``auto``, which is settled on this machine for all workers.
        precision: Likewise.
        tries: Workers that may die with an image before it is given up with the code WORKER_LOST.
        timeout_s: A worker that takes longer for an image is killed, which counts as dying.
        judge: What stands in for `Detector`: see `edgead.integrations.fleet.worker.Orders`.
        report: Called with the share done.

    Returns:
        ``frames``; ``seconds``; ``judged``, how many of them now; ``verdicts`` and ``codes`` with
        their counts; ``workers``; ``bundle_hash``; ``out``.

    Raises:
        ConfigError: SCORE_SUFFIX, SCORE_WORKERS, PYARROW_MISSING, RAY_MISSING.
        SourceError: SOURCE_NOT_FOUND, SOURCE_EMPTY.
        StateError: RESULTS_DIFFER, RUN_DIFFERS, RUN_BUSY.
        StorageError: DISK_FULL and its like; finished parts are kept, the next run goes on.
        BackendError: RAY_UNREACHABLE, RAY_RESOURCES, RAY_FAILED, WORKER_START.
    """
    started, out = time.monotonic(), Path(out)
    _check(out, workers, threads, gpus, ray)
    loaded = read_bundle(bundle)
    choice = choose(loaded, backend, precision)
    orders = Orders(choice.backend, choice.precision, threads, judge)
    items = list_items(root, without=out)
    key = _key(loaded, orders, fingerprint(items), items.num_rows)
    files.check_target(out)
    judged = 0
    if not _is_done(out, key):
        with Parts(out, key) as parts:
            size = _chunk_size(items.num_rows)
            chunks = -(-items.num_rows // size)
            missing = parts.missing(chunks)
            waiting = ((i, items.slice(i * size, size).to_pylist()) for i in missing)
            crew = _Crew(loaded, orders, workers, gpus, ray, tries, timeout_s)
            for number, rows in crew.run(waiting, len(missing)):
                parts.write(number, rows)
                judged += len(rows)
                if report is not None:
                    report(judged / items.num_rows)
            ordered = (parts.path(i) for i in range(chunks))
            assemble(out, ordered, key, expected=items.num_rows)
            parts.discard()
    return {
        "frames": items.num_rows,
        "seconds": round(time.monotonic() - started, 3),
        "judged": judged,
        **_counts(out),
        "bundle_hash": loaded.hash,
        "out": str(out),
    }


class _Crew:
    """Workers here or on Ray: started only when something is left to judge."""

    def __init__(
        self,
        bundle: Bundle,
        orders: Orders,
        workers: int,
        gpus: float,
        ray: str | None,
        tries: int,
        timeout_s: float,
    ) -> None:
        self._make_pool = _PoolFactory(bundle.to_bytes(), bundle.hash, orders, tries, timeout_s)
        self._orders, self._workers = orders, workers
        self._gpus, self._ray = gpus, ray

    def run(self, chunks: Iterator[Chunk], count: int) -> Iterator[tuple[int, list[Row]]]:
        """Rows of the chunks, as they are done."""
        if count == 0:
            return
        if self._ray is None:
            usable = max(1, len(os.sched_getaffinity(0)) // self._orders.threads)
            with self._make_pool(min(self._workers or usable, count)) as pool:
                yield from pool.run(chunks)
            return
        judges = RayJudges(
            self._ray, workers=self._workers, threads=self._orders.threads, gpus=self._gpus
        )
        with judges:
            yield from judges.run(self._make_pool, chunks, count)


class _PoolFactory:
    """Makes a pool of so many workers; goes to Ray's actors as it is."""

    def __init__(
        self, data: bytes, bundle_hash: str, orders: Orders, tries: int, timeout_s: float
    ) -> None:
        self._data, self._hash, self._orders = data, bundle_hash, orders
        self._tries, self._timeout_s = tries, timeout_s

    def __call__(self, workers: int) -> Pool:
        return Pool(
            self._data,
            self._hash,
            self._orders,
            workers=workers,
            tries=self._tries,
            timeout_s=self._timeout_s,
        )


def _check(out: Path, workers: int, threads: int, gpus: float, ray: str | None) -> None:
    if out.suffix.lower() != ".parquet":
        raise ConfigError(
            "SCORE_SUFFIX",
            f"--out is {out}; want a name ending in .parquet.",
            "Results are Parquet.",
        )
    if workers < 0 or threads < 1 or gpus < 0:
        raise ConfigError(
            "SCORE_WORKERS",
            f"workers is {workers}, threads {threads} and gpus {gpus}; want 0 or more workers, "
            "1 or more threads and 0 or more GPUs.",
        )
    if gpus and ray is None:
        raise ConfigError(
            "SCORE_WORKERS",
            "gpus are shared out by Ray.",
            "Add --ray local, or a cluster's address.",
        )


def _key(bundle: Bundle, orders: Orders, archive: str, count: int) -> dict[str, Any]:
    """What the rows depend on."""
    ways = f"{orders.backend} {orders.precision} {orders.threads} {orders.judge}"
    return {
        "schema": 1,
        "bundle": bundle.hash,
        "archive": archive,
        "images": count,
        "judge": ways,
        "id": hashlib.sha256(f"{bundle.hash} {archive} {ways}".encode()).hexdigest()[:16],
    }


def _is_done(out: Path, key: dict[str, Any]) -> bool:
    """Whether the results are there already; another run's are never overwritten."""
    if not out.exists():
        return False
    found = key_of(out)
    if found == key:
        return True
    names = ("bundle", "archive", "judge")
    differs = [name for name in names if found is not None and found.get(name) != key[name]]
    what = f"another {' and '.join(differs)}" if differs else "no run of edgead score"
    raise StateError(
        "RESULTS_DIFFER",
        f"{out} exists and holds the results of {what}; it is not overwritten.",
        "Name another --out, or delete the file.",
    )


def _chunk_size(count: int) -> int:
    return min(_MOST, max(_LEAST, -(-count // _CHUNKS)))


def _counts(out: Path) -> dict[str, Any]:
    """Verdicts, codes and workers of a file of results; one row group in memory at a time."""
    found: dict[str, dict[str, int]] = {"verdict": {}, "code": {}, "worker": {}}
    with pyarrow_parquet().ParquetFile(out) as file:
        for batch in file.iter_batches(columns=list(found)):
            for name, counts in found.items():
                for one in batch.column(name).value_counts().to_pylist():
                    if one["values"] is not None:
                        counts[one["values"]] = counts.get(one["values"], 0) + one["counts"]
    return {
        "verdicts": dict(sorted(found["verdict"].items())),
        "codes": dict(sorted(found["code"].items())),
        "workers": len(found["worker"]),
    }
