"""Detectors on a Ray cluster: Ray Data's `map_batches` over a pool of actors.

Ray moves chunks, restarts actors and repeats what a lost node had; each actor judges in a worker process
of its own (`edgead.integrations.fleet.pool`), which may die with an image without taking the actor along.
The dataset has one block a chunk; it holds names, never pixels.

Source: Ray documentation, "Transforming data: stateful transforms" and "Fault tolerance: actors".
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from edgead.errors import BackendError, EdgeadError
from edgead.integrations.fleet.optional import pyarrow, ray, ray_data
from edgead.integrations.fleet.pool import Chunk, Pool
from edgead.integrations.fleet.rows import Row

__all__ = ["RayJudges", "connected", "refuse_what_never_fits"]

#: A local cluster's object store holds chunks of names and rows: little.
_STORE_BYTES = 200 << 20
#: Chunks that an actor has waiting, so that it need not wait for the next.
_IN_FLIGHT = 2
#: Of a cluster that lives as long as a command: nobody looks at its metrics and lists of tasks, which cost
#: CPU time; its workers do the command's own work, so at the command's own priority (Ray's is nice 15).
_OF_LOCAL = {
    "RAY_enable_metrics_collection": "false",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_worker_niceness": "0",
}


@contextlib.contextmanager
def connected(address: str, *, cpus: int | None = None) -> Iterator[Any]:
    """``ray``, connected for the time of the block; a connection that was there is used and kept.

    Args:
        address: ``local`` for a cluster in processes of this machine, else a cluster's address or
            ``auto``.
        cpus: CPUs of a local cluster; None takes those of this machine that this process may use.

    Raises:
        BackendError: RAY_UNREACHABLE.
        ConfigError: RAY_MISSING.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    module = ray()
    if module.is_initialized():
        yield module
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    switches: dict[str, str] = {}
    if address == "local":
        switches = _OF_LOCAL
        options |= {
            "num_cpus": cpus or len(os.sched_getaffinity(0)),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
        }
    try:
        with _environment(switches):
            module.init(address=address, **options)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, gRPC's own
        raise BackendError(
            "RAY_UNREACHABLE",
            f"no Ray cluster answers at {address!r}: {_first_line(error)}",
            "Check the address, or start one: ray start --head.",
        ) from error
    try:
        yield module
    finally:
        module.shutdown()


@contextlib.contextmanager
def _environment(switches: dict[str, str]) -> Iterator[None]:
    """Variables for what is started in the block; those that are set already win."""
    added = {name: value for name, value in switches.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def refuse_what_never_fits(module: Any, address: str, *, cpus: int, gpus: float) -> None:
    """Ray waits for what nobody has, since clusters grow; a local one does not.

    Args:
        module: ``ray``, connected.
        address: See `connected`.
        cpus: CPUs of one actor or task.
        gpus: Its GPUs.

    Raises:
        BackendError: RAY_RESOURCES.
    """
    if address != "local":
        return
    have = module.cluster_resources()
    if have.get("CPU", 0) < cpus or have.get("GPU", 0) < gpus:
        raise BackendError(
            "RAY_RESOURCES",
            f"each worker takes {cpus} CPUs and {gpus:g} GPUs; Ray on this machine has "
            f"{have.get('CPU', 0):g} and {have.get('GPU', 0):g}.",
            "Ask for less, or give a cluster's address.",
        )


class RayJudges:
    """Actors that judge chunks.

    Args:
        address: See `connected`.
        workers: Number of actors; 0 takes what the cluster's CPUs (or GPUs) allow.
        threads: CPUs that an actor takes.
        gpus: GPUs that an actor takes, fractions too.
    """

    def __init__(self, address: str, *, workers: int, threads: int, gpus: float) -> None:
        self._address, self._workers = address, workers
        self._threads, self._gpus = threads, gpus
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> RayJudges:
        cpus = self._workers * self._threads or None
        with contextlib.ExitStack() as stack:
            self._ray = stack.enter_context(connected(self._address, cpus=cpus))
            refuse_what_never_fits(self._ray, self._address, cpus=self._threads, gpus=self._gpus)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(
        self, make_pool: Callable[[int], Pool], chunks: Iterator[Chunk], count: int
    ) -> Iterator[tuple[int, list[Row]]]:
        """Rows of the chunks, as they are done; each chunk exactly once.

        Raises:
            BackendError: RAY_FAILED when the cluster is lost; the next run goes on.
            EdgeadError: What a worker could not open the bundle for.
        """
        data = ray_data()
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # Not from_arrow, which asks a task for the shape of each block: workers of their own would start.
        work = [{"chunk": number, "items": json.dumps(items)} for number, items in chunks]
        judged = data.from_items(work, override_num_blocks=len(work)).map_batches(
            _Judge,
            fn_constructor_args=(make_pool,),
            batch_size=None,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(
                size=min(self._size(), count), max_tasks_in_flight_per_actor=_IN_FLIGHT
            ),
            num_cpus=self._threads,
            num_gpus=self._gpus or None,
        )
        seen: set[int] = set()
        try:
            batches = judged.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=1
            )
            for batch in batches:
                for one in batch.to_pylist():
                    if one["chunk"] not in seen:
                        seen.add(one["chunk"])
                        yield one["chunk"], json.loads(one["rows"])
        except self._ray.exceptions.RayError as error:
            raise _typed(error, len(seen), count) from error

    def _size(self) -> int:
        if self._workers:
            return self._workers
        have = self._ray.cluster_resources()
        if self._gpus:
            return max(1, int(have.get("GPU", 0) / self._gpus))
        return max(1, int(have.get("CPU", 1)) // self._threads)


class _Judge:
    """The actor: one pool of one worker for its lifetime."""

    def __init__(self, make_pool: Callable[[int], Pool]) -> None:
        self._pool = make_pool(1)

    def __call__(self, batch: Any) -> Any:
        """Chunks -> their rows."""
        chunks = ((one["chunk"], json.loads(one["items"])) for one in batch.to_pylist())
        done = list(self._pool.run(chunks))
        return pyarrow().table(
            {"chunk": [n for n, _ in done], "rows": [json.dumps(rows) for _, rows in done]}
        )


def _typed(error: BaseException, done: int, count: int) -> EdgeadError:
    """An error of ours that came through Ray as itself; anything else is the cluster's."""
    cause: Any = error
    while cause is not None:
        if isinstance(cause, EdgeadError):
            return EdgeadError(cause.code, cause.message, cause.hint)
        cause = getattr(cause, "cause", None) or cause.__cause__
    return BackendError(
        "RAY_FAILED",
        f"the Ray cluster failed after {done} of {count} chunks: {_first_line(error)}",
        "Their rows are kept; repeat the command to go on.",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
