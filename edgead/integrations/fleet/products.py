"""`edgead train-many`: one bundle a product folder, on processes or on Ray; what fails fails alone.

A product is finished when its bundle and the record beside it are there and the record is of the same images
and settings; a product that failed, or whose images changed, is trained when the command is repeated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgead import files
from edgead.errors import ConfigError, SourceError
from edgead.integrations.fleet.claim import claim
from edgead.integrations.fleet.items import IMAGES
from edgead.integrations.fleet.on_ray import connected, refuse_what_never_fits
from edgead.integrations.fleet.trainer import failure, train_apart
from edgead.models.registry import METHODS
from edgead.stream.child import Child

__all__ = ["Recipe", "find_products", "train_many"]

RESULTS = "results.json"


@dataclass(frozen=True)
class Recipe:
    """How every product is trained; see `edgead train` for what the fields mean.

    Attributes:
        quantize: Add certified FP16 and INT8 where they hold; where none does, the bundle stays FP32.
        quantize_minutes: Budget of each INT8 search.
        trainer: ``module:function(request) -> record`` that trains one product.
    """

    method: str = "trisimplenet"
    recipe: str = "edge"
    backbone: str = "tf_efficientnet_lite0"
    weights: str | None = None
    epochs: int | None = None
    minutes: float | None = None
    image_size: int | None = None
    false_reject: float = 0.01
    confidence: float = 0.95
    seed: int = 0
    quantize: bool = True
    quantize_minutes: float = 5.0
    trainer: str = "edgead.integrations.fleet.trainer:train_product"

    @property
    def digest(self) -> str:
        """SHA-256 of all settings, hex."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def find_products(root: str | Path) -> list[Path]:
    """Folders below ``root`` that hold a product's images, sorted: good ones, or an MVTec layout.

    Raises:
        SourceError: SOURCE_NOT_FOUND, or PRODUCTS_NONE.
    """
    base = Path(root)
    if not base.is_dir():
        raise SourceError(
            "SOURCE_NOT_FOUND", f"{base} is not a folder.", "Give a folder of products."
        )
    found = [path for path in sorted(base.iterdir()) if path.is_dir() and _has_images(path)]
    if not found:
        raise SourceError(
            "PRODUCTS_NONE",
            f"no folder in {base} holds images or train/good.",
            "Want one folder a product: ROOT/PART-4711/*.png, or ROOT/PART-4711/train/good/*.png.",
        )
    return found


def train_many(
    root: str | Path,
    out: str | Path,
    recipe: Recipe,
    *,
    ray: str | None = None,
    workers: int = 1,
    threads: int = 0,
    gpus: float = 0.0,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Train every product.

    Args:
        root: Folder of product folders.
        out: Folder of bundles and records; made when missing. With Ray every node must see it and
            ``root`` under the same path.
        recipe: How.
        ray: None trains in processes of this machine; ``local``, ``auto`` or an address uses Ray.
        workers: Products at a time, without Ray.
        threads: CPUs of each product's training; 0 shares this machine's out.
        gpus: Share of a GPU for each product; on Ray only.
        report: Called with a product's name and the share of all done.

    Returns:
        ``products``, one record each (``product``, ``ok``, ``bundle``, ``bundle_hash``, ``threshold``,
        ``bound``, ``precisions``, ``seconds``, ``code``, ``message``, ``notes``), ``trained`` (now),
        ``failed``, ``seconds``.

    Raises:
        ConfigError: TRAIN_MANY, METHOD_UNKNOWN, RAY_MISSING.
        SourceError: SOURCE_NOT_FOUND, PRODUCTS_NONE.
        StateError: RUN_BUSY.
        StorageError: The folder cannot be written: DISK_FULL and its like end the run; what is finished
            is kept, the next run goes on.
        BackendError: RAY_UNREACHABLE, RAY_RESOURCES.
    """
    started, folder = time.monotonic(), Path(out)
    _check(recipe, workers, threads, gpus, ray)
    products = find_products(root)
    threads = threads or max(1, len(os.sched_getaffinity(0)) // max(1, workers))
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, claim(folder, folder))
        files.check_target(folder / RESULTS)
        requests = [_request(path, folder, recipe, threads) for path in products]
        records = {one["product"]: _kept(one) for one in requests}
        todo = [one for one in requests if records[one["product"]] is None]
        run = _on_processes(todo, workers) if ray is None else _on_ray(todo, ray, threads, gpus)
        stack.enter_context(contextlib.closing(run))
        for done, record in enumerate(run, len(products) - len(todo) + 1):
            records[record["product"]] = record
            files.write_text(_record_path(folder, record["product"]), json.dumps(record, indent=1))
            if report is not None:
                report(record["product"], done / len(products))
        table = [record for record in records.values() if record is not None]
        result = {
            "products": table,
            "trained": len(todo),
            "failed": sum(not record["ok"] for record in table),
            "seconds": round(time.monotonic() - started, 1),
        }
        files.write_text(folder / RESULTS, json.dumps(result, indent=1) + "\n")
    return result


def _has_images(path: Path) -> bool:
    if (path / "train" / "good").is_dir():
        return True
    return any(one.suffix.lower() in IMAGES for one in path.iterdir())


def _check(recipe: Recipe, workers: int, threads: int, gpus: float, ray: str | None) -> None:
    if recipe.method not in METHODS:
        raise ConfigError(
            "METHOD_UNKNOWN", f"method is {recipe.method!r}; want one of {', '.join(METHODS)}."
        )
    if workers < 1 or threads < 0 or gpus < 0 or (gpus and ray is None):
        raise ConfigError(
            "TRAIN_MANY",
            f"workers is {workers}, threads {threads} and gpus {gpus}; want 1 or more workers, 0 or "
            "more threads, and a share of a GPU only with --ray.",
        )


def _request(product: Path, folder: Path, recipe: Recipe, threads: int) -> dict[str, Any]:
    """What a trainer is told, plain values."""
    return {
        "product": product.name,
        "images": str(product.resolve()),
        "bundle": str((folder / f"{product.name}.edgead").resolve()),
        "threads": threads,
        "key": f"{recipe.digest[:16]}-{_listing(product)[:16]}",
        **asdict(recipe),
    }


def _listing(product: Path) -> str:
    """SHA-256 of the names, sizes and times of a product's images."""
    digest = hashlib.sha256()
    for path in sorted(product.rglob("*")):
        if path.suffix.lower() in IMAGES and path.is_file():
            status = path.stat()
            line = f"{path.relative_to(product)}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode())
    return digest.hexdigest()


def _record_path(folder: Path, product: str) -> Path:
    return folder / f"{product}.json"


def _kept(request: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a product that is finished; None when it is to be trained."""
    bundle = Path(request["bundle"])
    try:
        record = json.loads(_record_path(bundle.parent, request["product"]).read_bytes())
    except (OSError, ValueError):
        return None
    same = isinstance(record, dict) and record.get("key") == request["key"]
    return record if same and record.get("ok") and bundle.exists() else None


def _on_processes(
    todo: Sequence[dict[str, Any]], workers: int
) -> Generator[dict[str, Any], None, None]:
    """Each product in a process of its own, which may die without the others."""
    children: list[Child] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="edgead-product") as pool:
        waiting = [pool.submit(train_apart, one, started=children.append) for one in todo]
        try:
            for one in as_completed(waiting):
                yield one.result()
        except BaseException:  # a stop too: the next run goes on from the checkpoints
            for one in waiting:
                one.cancel()
            for child in children:
                child.kill()
            raise


def _on_ray(
    todo: Sequence[dict[str, Any]], address: str, threads: int, gpus: float
) -> Generator[dict[str, Any], None, None]:
    """Each product in a Ray task that starts that process on its node; lost nodes are made up for."""
    if not todo:
        return
    with connected(address) as ray:
        refuse_what_never_fits(ray, address, cpus=threads, gpus=gpus)
        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=2)(train_apart)
        running = {task.remote(request): request for request in todo}
        while running:
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            request = running.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:
                lines = str(error).strip().splitlines()
                yield failure(request, "TRAINER_LOST", lines[0] if lines else "lost", 0.0)
