"""Worker processes that may die: an image is judged again by the next one, then given up by name."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait

from edgead.errors import BackendError, EdgeadError
from edgead.integrations.fleet.items import Item
from edgead.integrations.fleet.rows import Row, lost_row
from edgead.integrations.fleet.worker import Orders
from edgead.stream.child import Child

__all__ = ["Chunk", "Pool"]

#: (number, images): what is handed to a worker at a time.
Chunk = tuple[int, list[Item]]
_START_S = 300.0
_PROGRAM = "edgead.integrations.fleet.worker:main"


@dataclass
class _Task:
    """A chunk on its way."""

    number: int
    items: list[Item]
    rows: list[Row] = field(default_factory=list)
    deaths: int = 0  # of workers, with the image that is next


@dataclass
class _Worker:
    child: Child
    task: _Task | None = None
    heard: float = 0.0


class Pool:
    """Judges images in worker processes.

    Args:
        bundle: The bundle's bytes; its signature was checked when it was read.
        bundle_hash: Its hash.
        orders: How to judge.
        workers: Number of processes.
        tries: Workers that may die with an image before it gets a row with the code WORKER_LOST.
        timeout_s: A worker that needs longer for one image is killed, which counts as dying.

    Raises:
        EdgeadError: What a worker could not open the bundle for.
        BackendError: WORKER_START when a worker dies, or takes minutes, before its first image.
    """

    def __init__(
        self,
        bundle: bytes,
        bundle_hash: str,
        orders: Orders,
        *,
        workers: int = 1,
        tries: int = 2,
        timeout_s: float = 120.0,
    ) -> None:
        self._bundle, self._hash, self._orders = bundle, bundle_hash, orders
        self._tries, self._timeout_s = tries, timeout_s
        self._workers: list[_Worker] = []
        try:
            children = [self._launch() for _ in range(workers)]
            for child in children:
                self._await_ready(child.child)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; safe to call twice."""
        for worker in self._workers:
            worker.child.close()
        self._workers.clear()

    def run(self, chunks: Iterable[Chunk]) -> Iterator[tuple[int, list[Row]]]:
        """Judge chunks: their rows come in the images' order, the chunks as they are done.

        A chunk is taken from ``chunks`` when a worker is free, so memory holds one chunk a worker.
        """
        waiting = iter(chunks)
        done: deque[tuple[int, list[Row]]] = deque()
        for worker in self._workers:
            self._give(worker, waiting)
        while any(worker.task for worker in self._workers):
            busy = {w.child.control: w for w in self._workers if w.task is not None}
            for ready in wait(list(busy), self._patience(busy.values())):
                self._hear(busy[ready], waiting, done)  # type: ignore[index]  # wait() names them
            self._kill_silent(list(busy.values()), waiting, done)
            while done:
                yield done.popleft()

    def _give(self, worker: _Worker, waiting: Iterator[Chunk]) -> None:
        """The next chunk, if there is one."""
        found = next(waiting, None)
        worker.task = None if found is None else _Task(*found)
        self._send(worker)

    def _send(self, worker: _Worker) -> None:
        """What is left of the worker's chunk."""
        worker.heard = time.monotonic()
        if worker.task is not None:
            left = worker.task.items[len(worker.task.rows) :]
            try:
                worker.child.control.send_bytes(json.dumps(left).encode())
            except OSError:
                return  # it is dead: reading from it says so

    def _hear(
        self,
        worker: _Worker,
        waiting: Iterator[Chunk],
        done: deque[tuple[int, list[Row]]],
    ) -> None:
        task = worker.task
        assert task is not None  # only busy workers are waited for
        try:
            row = json.loads(worker.child.control.recv_bytes())
        except (EOFError, OSError):
            self._replace(worker, _end_of(worker.child))
        else:
            task.rows.append(row)
            task.deaths = 0
        worker.heard = time.monotonic()
        self._finish(worker, waiting, done)

    def _finish(
        self,
        worker: _Worker,
        waiting: Iterator[Chunk],
        done: deque[tuple[int, list[Row]]],
    ) -> None:
        task = worker.task
        assert task is not None
        if len(task.rows) == len(task.items):
            worker.child.trim_log()
            done.append((task.number, task.rows))
            self._give(worker, waiting)  # before the rows are written: it need not wait for that

    def _patience(self, busy: Iterable[_Worker]) -> float:
        """Seconds until the first of them has been silent for too long."""
        first = min(worker.heard for worker in busy)
        return max(0.0, first + self._timeout_s - time.monotonic())

    def _kill_silent(
        self,
        busy: list[_Worker],
        waiting: Iterator[Chunk],
        done: deque[tuple[int, list[Row]]],
    ) -> None:
        for worker in busy:
            silent = worker.task is not None and not worker.child.control.poll(0)
            if silent and time.monotonic() - worker.heard > self._timeout_s:
                worker.child.kill()
                self._replace(worker, f"no answer in {self._timeout_s:g} s")
                self._finish(worker, waiting, done)

    def _replace(self, worker: _Worker, how: str) -> None:
        """A new process for one that died, and the image it died with counted or given up."""
        task = worker.task
        assert task is not None
        task.deaths += 1
        name = f"{worker.child.pid}"
        worker.child.close()
        if task.deaths >= self._tries:
            item = task.items[len(task.rows)]
            task.rows.append(
                lost_row(item, bundle_hash=self._hash, worker=name, deaths=task.deaths, last=how)
            )
            task.deaths = 0
        worker.child = self._start()
        self._await_ready(worker.child)
        if len(task.rows) < len(task.items):
            self._send(worker)

    def _launch(self) -> _Worker:
        worker = _Worker(self._start())
        self._workers.append(worker)
        return worker

    def _start(self) -> Child:
        # Where the command was started from must not shadow a module.
        environment = {"OMP_NUM_THREADS": str(self._orders.threads), "PYTHONSAFEPATH": "1"}
        child = Child(_PROGRAM, environment=environment, keep_log=True)
        try:
            child.control.send_bytes(self._orders.to_json())
            child.control.send_bytes(self._bundle)
        except OSError:
            return child  # it is dead: waiting for it says so
        return child

    def _await_ready(self, child: Child) -> None:
        if not child.control.poll(_START_S):
            child.kill()
            raise _not_started(f"it was not ready in {_START_S:g} s", child)
        try:
            answer = json.loads(child.control.recv_bytes())
        except (EOFError, OSError) as error:
            raise _not_started(_end_of(child), child) from error
        if answer:
            raise EdgeadError(*answer)


def _end_of(child: Child) -> str:
    code = child.wait()
    return f"ended by signal {-code}" if code < 0 else f"ended with code {code}"


def _not_started(how: str, child: Child) -> BackendError:
    words = child.last_words().strip().splitlines()
    said = f"; it said: {words[-1]}" if words else ""
    return BackendError(
        "WORKER_START",
        f"a worker could not open the bundle: {how}{said}.",
        "Check memory and run: edgead verify BUNDLE.",
    )
