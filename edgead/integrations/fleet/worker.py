"""A worker: a process of its own that judges what it is told to and answers image by image.

It answers each image before it takes the next one, so that whoever waits for it knows with which image
it died. All messages are JSON: numbers come back to the last bit.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

from edgead.bundle import bundle_from_bytes
from edgead.detector import Detector
from edgead.errors import EdgeadError
from edgead.images import ImageWarning, opencv
from edgead.integrations.fleet.items import ItemReader
from edgead.integrations.fleet.rows import row_of
from edgead.types import Detection, Frame

__all__ = ["Orders", "main", "open_detector"]


@dataclass(frozen=True)
class Orders:
    """How a worker judges.

    Attributes:
        backend: A back end's name; what ``auto`` means is settled before, once for all workers.
        precision: Likewise.
        threads: CPU threads of the engine: what a score's last bits may depend on.
        judge: ``module:function(bundle bytes, orders)`` that gives a `Detector` or its like.
    """

    backend: str
    precision: str
    threads: int = 1
    judge: str = "edgead.integrations.fleet.worker:open_detector"

    def to_json(self) -> bytes:
        """For `main`."""
        return json.dumps(asdict(self)).encode()


def open_detector(data: bytes, orders: Orders) -> Detector:
    """The detector of a bundle's bytes; its golden images are judged first."""
    opencv().setNumThreads(orders.threads)
    return Detector(
        bundle_from_bytes(data),
        backend=orders.backend,
        precision=orders.precision,
        threads=orders.threads,
    )


def main(control: Connection, memory_fd: int) -> None:  # noqa: ARG001 - a child's form
    """Child program: orders, the bundle, then lists of images; one JSON row comes back for each."""
    warnings.simplefilter("ignore", ImageWarning)  # per run, not per worker
    orders = Orders(**json.loads(control.recv_bytes()))
    data = control.recv_bytes()
    try:
        judge = _judge(data, orders)
    except EdgeadError as error:
        control.send_bytes(json.dumps([error.code, error.message, error.hint]).encode())
        return
    control.send_bytes(b"[]")
    _answer(control, judge, bundle_from_bytes(data).hash)


def _judge(data: bytes, orders: Orders) -> Callable[[Frame], Detection]:
    module, _, name = orders.judge.partition(":")
    made: Callable[[Frame], Detection] = getattr(importlib.import_module(module), name)(
        data, orders
    )
    return made


def _answer(control: Connection, judge: Callable[[Frame], Detection], bundle_hash: str) -> None:
    read, worker = ItemReader(), f"{socket.gethostname()}/{os.getpid()}"
    while True:
        try:
            items: list[dict[str, Any]] = json.loads(control.recv_bytes())
        except EOFError:
            return
        for item in items:
            row = row_of(item, read, judge, bundle_hash=bundle_hash, worker=worker)
            control.send_bytes(json.dumps(row).encode())
