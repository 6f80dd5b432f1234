"""Commands beyond one machine: score, train-many, export-triton, push, pull."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from edgead.cli.common import (
    BackendOption,
    BundleArgument,
    JsonOption,
    PrecisionOption,
    emit,
    progress_bar,
    say,
    table,
)

__all__ = ["register"]

RayOption = Annotated[
    str | None, typer.Option(help="local, auto, or a Ray cluster's address; processes without it.")
]
WorkersOption = Annotated[int, typer.Option(help="How many; 0: as many as there are CPUs.")]
GpusOption = Annotated[float, typer.Option(help="Share of a GPU for each worker; with --ray.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(score)
    app.command()(train_many)
    app.command()(export_triton)
    app.command()(push)
    app.command()(pull)


def score(
    bundle: BundleArgument,
    root: Annotated[
        str, typer.Argument(metavar="ROOT", help="Folder, glob, .tar (WebDataset) or .parquet.")
    ],
    out: Annotated[Path, typer.Option(help="The .parquet file of results: one row an image.")],
    ray: RayOption = None,
    workers: WorkersOption = 0,
    threads: Annotated[int, typer.Option(help="CPU threads of each worker's engine.")] = 1,
    gpus: GpusOption = 0.0,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Judge a whole archive: exactly one row an image; a stopped run goes on when repeated.

    Example: edgead score part.edgead /archive/2026 --out results.parquet --ray auto
    """
    from edgead.integrations.fleet.archive import score_archive

    with progress_bar() as bar, redirect_stdout(sys.stderr):  # Ray reports lost workers on stdout
        result = score_archive(
            bundle,
            root,
            out,
            ray=ray,
            workers=workers,
            threads=threads,
            gpus=gpus,
            backend=backend,
            precision=precision,
            report=lambda done: bar("images", done),
        )
    if result["judged"] == 0:
        say(f"{out} holds these results already: nothing was judged")
    emit(result, as_json, lambda: table("scored", _shown(result)))


def train_many(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="One folder of images a product.")],
    out: Annotated[Path, typer.Option(help="Folder of bundles, records and results.json.")],
    method: Annotated[
        str, typer.Option(help="dfda-ad, nf-bmr, mlff, trisimplenet or slsg.")
    ] = "trisimplenet",
    backbone: Annotated[str, typer.Option(help="Any timm network.")] = "tf_efficientnet_lite0",
    weights: Annotated[Path | None, typer.Option(help="Checkpoint of the backbone.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs; the recipe's by default.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Training time of each product.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the engine input.")] = None,
    quantize: Annotated[
        bool, typer.Option(help="Add certified precisions where they hold.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    ray: RayOption = None,
    workers: Annotated[int, typer.Option(help="Products at a time, without Ray.")] = 1,
    threads: Annotated[int, typer.Option(help="CPUs of each training; 0: shared out.")] = 0,
    gpus: GpusOption = 0.0,
    as_json: JsonOption = False,
) -> None:
    """One bundle a product folder, quantised and certified; exit 1 when a product failed.

    Example: edgead train-many products --out bundles --minutes 5 --ray auto --gpus 0.25
    """
    from edgead.integrations.fleet.products import Recipe
    from edgead.integrations.fleet.products import train_many as train_all

    recipe = Recipe(
        method=method,
        backbone=backbone,
        weights=None if weights is None else str(weights.resolve()),
        epochs=epochs,
        minutes=minutes,
        image_size=image_size,
        quantize=quantize,
        seed=seed,
    )
    with progress_bar() as bar, redirect_stdout(sys.stderr):  # Ray reports lost workers on stdout
        result = train_all(
            root,
            out,
            recipe,
            ray=ray,
            workers=workers,
            threads=threads,
            gpus=gpus,
            report=lambda name, done: bar("products", done, name),
        )
    emit(result, as_json, lambda: table("products", _product_rows(result)))
    if result["failed"]:
        raise typer.Exit(1)


def _product_rows(result: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for one in result["products"]:
        if one["ok"]:
            found = f"{', '.join(one['precisions'])}; threshold {one['threshold']:.4g}; "
            rows.append((one["product"], f"{found}{one['seconds']:.0f} s; {one['bundle']}"))
        else:
            rows.append((one["product"], f"FAILED [{one['code']}] {one['message']}"))
    counts = f"{len(result['products'])}, {result['trained']} now, {result['failed']} failed"
    return [*rows, ("products", counts)]


def export_triton(
    bundle: BundleArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The model repository.")],
    name: Annotated[str, typer.Option(help="The model that clients ask.")] = "edgead",
    backend: Annotated[
        str, typer.Option(help="Triton's onnxruntime, openvino or tensorrt.")
    ] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    engine: Annotated[
        Path | None, typer.Option(help="For tensorrt: an engine file of edgead build, or a plan.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu: where the graph runs.")] = "auto",
    max_batch: Annotated[int, typer.Option(help="Frames that one inference takes at most.")] = 8,
    instances: Annotated[int, typer.Option(help="Frames that are judged at a time.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """A model repository for Triton: the graph, and a step that gives verdict, score and map.

    Example: edgead export-triton part.edgead models; tritonserver --model-repository models
    """
    from edgead.integrations.fleet.triton import export_triton as export

    result = export(
        bundle,
        folder,
        name=name,
        backend=backend,  # type: ignore[arg-type]  # checked there
        precision=precision,
        engine=engine,
        device=device,  # type: ignore[arg-type]  # checked there
        max_batch=max_batch,
        instances=instances,
    )
    emit(result, as_json, lambda: table("exported", [(k, str(v)) for k, v in result.items()]))


def push(
    bundle: BundleArgument,
    url: Annotated[
        str, typer.Argument(help="Folder of a store: file://, s3://, oci://host/name …")
    ],
    as_json: JsonOption = False,
) -> None:
    """Store a bundle, and its signature, under its digest; prints the reference to roll out.

    Example: edgead push part.edgead s3://models/line3
    """
    from edgead.integrations.fleet.store import push as store

    result = store(bundle, url)
    emit(result, as_json, lambda: table("stored", _shown(result)))


def pull(
    reference: Annotated[str, typer.Argument(metavar="URL@sha256:DIGEST", help="As push prints.")],
    out: Annotated[Path | None, typer.Option(help="The file; DIGEST's start by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a bundle by digest; checked whole, and its signature, before the file appears.

    Example: edgead pull s3://models/line3@sha256:… --out part.edgead; edgead run part.edgead …
    """
    from edgead.integrations.fleet.store import pull as fetch

    result = fetch(reference, out)
    emit(result, as_json, lambda: table("fetched", _shown(result)))


def _shown(result: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, _plain(value)) for key, value in result.items()]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
    return value
