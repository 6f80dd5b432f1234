"""Trains one product in a process of its own: `edgead train`, then `edgead quantize` where it holds."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from edgead.errors import EdgeadError
from edgead.stream.child import Child

__all__ = ["failure", "main", "train_apart", "train_product"]

_PROGRAM = "edgead.integrations.fleet.trainer:main"


def train_apart(
    request: dict[str, Any], *, started: Callable[[Child], None] | None = None
) -> dict[str, Any]:
    """Train one product in a child process; its death is a record too.

    Args:
        request: See `train_product`.
        started: Told the process, so that it can be ended.
    """
    begun = time.monotonic()
    # Where the command was started from must not shadow a module.
    environment = {"OMP_NUM_THREADS": str(request["threads"]), "PYTHONSAFEPATH": "1"}
    child = Child(_PROGRAM, environment=environment, keep_log=True)
    if started is not None:
        started(child)
    try:
        child.control.send_bytes(json.dumps(request).encode())
        record: dict[str, Any] = json.loads(child.control.recv_bytes())
    except (EOFError, OSError):
        code = child.wait()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        words = child.last_words().strip().splitlines()
        said = f"; it said: {words[-1]}" if words else ""
        text = f"the training's process ended with {how}{said}."
        return failure(request, "TRAINER_LOST", text, time.monotonic() - begun)
    finally:
        child.close()
    return record


def failure(request: dict[str, Any], code: str, message: str, seconds: float) -> dict[str, Any]:
    """The record of a product that failed."""
    empty = dict.fromkeys(("bundle", "bundle_hash", "threshold", "bound"))
    return {
        "product": request["product"], "ok": False, **empty, "precisions": [],
        "seconds": round(seconds, 1), "code": code, "message": message, "notes": [],
        "key": request["key"],
    }  # fmt: skip


def main(control: Connection, memory_fd: int) -> None:  # noqa: ARG001 - a child's form
    """Child program: a request in, the product's record out."""
    request = json.loads(control.recv_bytes())
    started = time.monotonic()
    module, _, name = request["trainer"].partition(":")
    try:
        record = getattr(importlib.import_module(module), name)(request)
    except EdgeadError as error:
        text, seconds = f"{error.message} {error.hint}".strip(), time.monotonic() - started
        record = failure(request, error.code, text, seconds)
    except Exception as error:  # one product must not end the others
        text, seconds = f"{type(error).__name__}: {error}", time.monotonic() - started
        record = failure(request, "TRAINER_FAILED", text, seconds)
    control.send_bytes(json.dumps(record).encode())


def train_product(request: dict[str, Any]) -> dict[str, Any]:
    """Train, quantise and certify one product.

    Args:
        request: The fields of `edgead.integrations.fleet.products.Recipe`, and ``product``,
            ``images``, ``bundle``, ``threads`` and ``key``.

    Returns:
        Its record; see `edgead.integrations.fleet.products.train_many`.

    Raises:
        EdgeadError: As `edgead.train.run.train`. What quantising refuses is a note, no error.
    """
    import torch

    from edgead.models.registry import make_method
    from edgead.train.loop import Budget
    from edgead.train.run import train

    torch.set_num_threads(request["threads"])
    trained = train(
        lambda: make_method(
            request["method"],
            recipe=request["recipe"],
            backbone=request["backbone"],
            weights=request["weights"],
            image_size=request["image_size"],
            seed=request["seed"],
        ),
        request["images"],
        request["bundle"],
        budget=Budget(epochs=request["epochs"], minutes=request["minutes"]),
        false_reject_rate=request["false_reject"],
        confidence=request["confidence"],
        seed=request["seed"],
    )
    notes, precisions = _quantize(request) if request["quantize"] else ([], ["fp32"])
    return {
        "product": request["product"],
        "ok": True,
        "bundle": request["bundle"],
        "bundle_hash": _hash_of(request["bundle"]),
        "threshold": trained.promise.threshold,
        "bound": trained.promise.bound,
        "precisions": precisions,
        "seconds": round(trained.seconds, 1),
        "code": None,
        "message": trained.promise.message,
        "notes": notes,
        "key": request["key"],
    }


def _quantize(request: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Notes, and the precisions that hold a certificate; a bundle that none holds for stays FP32."""
    from edgead.deploy.quantize import quantize

    try:
        made = quantize(
            request["bundle"],
            request["images"],
            minutes=request["quantize_minutes"],
            threads=request["threads"],
            seed=request["seed"],
        )
    except EdgeadError as error:
        return [f"not quantised: {error}"], ["fp32"]
    passed = {one["precision"] for one in made["certificates"] if one["passed"]}
    return [str(note) for note in made["notes"]], ["fp32", *sorted(passed)]


def _hash_of(bundle: str) -> str:
    from edgead.bundle import read_bundle

    return read_bundle(Path(bundle), to_sign=True).hash
