"""Commands that make and change bundles: demo, train, import, commission, simulate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edgead.cli.common import (
    BundleArgument,
    JsonOption,
    emit,
    progress_bar,
    say,
    table,
)
from edgead.cli.view import IgnoreMaskOption, IgnoreOption, RoiOption, sketch_of
from edgead.errors import ConfigError

__all__ = ["register"]

DataArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="Folder of good images, or an MVTec-layout root (its train/good)."
    ),
]
RejectOption = Annotated[
    float, typer.Option("--false-reject", help="Share of good parts that may be rejected.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(demo)
    app.command()(train)
    app.command("import")(import_)
    app.command()(commission)
    app.command()(simulate)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for bundle and report.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="Bound on the training time.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """The whole path offline on a CPU: train, quantise and certify, evaluate, benchmark, report.

    A real photograph (CC0, from scikit-image), simulated camera and defects; no download.

    Example: edgead demo --out demo
    """
    from edgead.demo import run_demo

    with progress_bar() as bar:
        result = run_demo(
            out, minutes=minutes, report=lambda p: bar(p.stage, p.done, _losses(p.losses)), say=say
        )
    found, speed = result["evaluate"], result["benchmark"]
    emit(
        result,
        as_json,
        lambda: table(
            "demo",
            [
                ("photograph", result["photograph"]),
                ("image AUROC, simulated defects", found["image_auroc"]),
                ("pixel AUROC, simulated defects", found["pixel_auroc"]),
                ("false rejects", found["false_reject_rate"]),
                ("missed defects", found["missed_defect_rate"]),
                ("frames a second, end to end", speed["end_to_end"]["fps"]),
                ("precision, as certified", f"{speed['precision']} on {speed['backend']}"),
                ("report", result["report"]),
            ],
        ),
    )
    say(f"look at {result['report']}; as a line with a live page:")
    say(f"  edgead serve {result['bundle']} --source {out / 'data' / 'test'} --repeat")


def train(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="The bundle to write.")] = Path("part.edgead"),
    method: Annotated[
        str, typer.Option(help="dfda-ad, nf-bmr, mlff, trisimplenet or slsg.")
    ] = "trisimplenet",
    recipe: Annotated[
        str, typer.Option(help="edge: ours, minutes on a CPU; paper: the paper's settings.")
    ] = "edge",
    backbone: Annotated[str, typer.Option(help="Any timm network.")] = "tf_efficientnet_lite0",
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint of the backbone; the default needs none.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs; the recipe's by default.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for so many minutes.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the engine input, a multiple of 32.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images a training step; less where memory is short.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=JSON",
            help="A setting of the method, such as light=0.3; repeat for more.",
        ),
    ] = None,
    roi: RoiOption = None,
    ignore: IgnoreOption = None,
    ignore_mask: IgnoreMaskOption = None,
    tiles: Annotated[
        str | None,
        typer.Option(
            help="Judge large images in tiles so large, frame pixels: 512 or WIDTHxHEIGHT."
        ),
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="What tiles share, frame pixels; an eighth by default.")
    ] = None,
    false_reject: RejectOption = 0.01,
    confidence: Annotated[float, typer.Option(help="How surely.")] = 0.95,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Good images -> bundle.

    Example: edgead train photos/good --out part.edgead --minutes 5

    Example: edgead train photos/good --roi 100,50,1180,950 --tiles 512 --out part.edgead
    """
    from edgead.models.registry import make_method
    from edgead.train.loop import Budget
    from edgead.train.run import train as train_bundle

    sketch = sketch_of(roi, ignore, ignore_mask, tiles, overlap)
    chosen = dict(_setting(one) for one in settings or [])
    with progress_bar() as bar:
        trained = train_bundle(
            lambda: make_method(
                method,
                recipe=recipe,  # type: ignore[arg-type]  # checked by make_method
                backbone=backbone,
                weights=weights,
                image_size=image_size,
                batch=batch,
                seed=seed,
                settings=chosen,
            ),
            data,
            out,
            budget=Budget(epochs=epochs, minutes=minutes),
            false_reject_rate=false_reject,
            confidence=confidence,
            seed=seed,
            view=sketch,
            report=lambda p: bar(p.stage, p.done, _losses(p.losses)),
        )
    say(trained.promise.message)
    result = {
        "bundle": str(out),
        "method": trained.bundle.manifest.method,
        "seconds": round(trained.seconds, 1),
        "threshold": trained.promise.threshold,
        "bound": trained.promise.bound,
        "bundle_hash": trained.bundle.hash,
        "parity": trained.parity.worst,
    }
    emit(result, as_json, lambda: table("trained", list(result.items())))
    say(f"next: edgead evaluate {out} DATA; edgead serve {out} --source URI")


def _setting(text: str) -> tuple[str, Any]:
    """``field=JSON`` -> field, value."""
    name, equals, value = text.partition("=")
    try:
        if equals:
            return name, json.loads(value)
    except ValueError:
        pass
    raise ConfigError(
        "SETTING_TEXT",
        f"--set got {text!r}; want FIELD=JSON, such as light=0.3 or window='\"paper\"'.",
    )


def import_(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", help="anomalib's export: anomaly_map out.")
    ],
    good: Annotated[
        Path, typer.Option(help="Folder of good images that the model was not trained on.")
    ],
    out: Annotated[Path, typer.Option(help="The bundle to write.")] = Path("part.edgead"),
    image_size: Annotated[
        int | None, typer.Option(help="Side of the engine input, where the graph leaves it open.")
    ] = None,
    false_reject: RejectOption = 0.01,
    confidence: Annotated[float, typer.Option(help="How surely.")] = 0.95,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Another program's anomaly model -> bundle: threshold and golden images are made here.

    Example: edgead import padim.onnx --good line3/good --out part.edgead
    """
    from edgead.deploy.imported import import_model

    imported = import_model(
        model,
        good,
        out,
        image_size=image_size,
        false_reject_rate=false_reject,
        confidence=confidence,
        seed=seed,
    )
    say(imported.promise.message)
    result = {
        "bundle": str(out),
        "threshold": imported.promise.threshold,
        "bound": imported.promise.bound,
        "bundle_hash": imported.bundle.hash,
        "parity": imported.parity,
    }
    emit(result, as_json, lambda: table("imported", list(result.items())))


def commission(
    bundle: BundleArgument,
    good: Annotated[Path, typer.Argument(metavar="GOOD", help="Folder of good images.")],
    false_reject: RejectOption = 0.01,
    confidence: Annotated[float, typer.Option(help="How surely.")] = 0.95,
    as_json: JsonOption = False,
) -> None:
    """Learn thresholds and input ranges from this line's good images; the model stays.

    Example: edgead commission part.edgead line3/good --false-reject 0.01
    """
    from edgead.backends import open_backend
    from edgead.bundle import read_bundle, write_bundle
    from edgead.choice import certificates, choose
    from edgead.evaluate import data
    from edgead.evaluate.commission import commission as learn

    old = read_bundle(bundle)
    engine = open_backend(choose(old, precision="fp32").backend, old.members)
    frames = data.load_images(data.find_images(good))
    ready = learn(old, engine, frames, false_reject_rate=false_reject, confidence=confidence)
    write_bundle(bundle, ready.bundle)
    say(ready.promise.message)
    if certificates(old):
        say("the precision certificates held the old threshold: run edgead certify again")
    result = {
        "threshold": ready.promise.threshold,
        "bound": ready.promise.bound,
        "confidence": ready.promise.confidence,
        "images": ready.promise.images,
        "needed": ready.promise.needed,
        "bundle_hash": ready.bundle.hash,
    }
    emit(result, as_json, lambda: table("commissioned", list(result.items())))


def simulate(
    good: Annotated[Path, typer.Argument(metavar="GOOD", help="Folder of good images.")],
    out: Annotated[Path, typer.Option(help="The sheet, a PNG file.")] = Path("simulated.png"),
    rows: Annotated[int, typer.Option(help="Good images on the sheet.")] = 6,
    textures: Annotated[
        Path | None, typer.Option(help="Folder of textures; procedural ones by default.")
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Show the simulated defects that models are taught with.

    Example: edgead simulate photos/good --out simulated.png
    """
    import numpy as np

    from edgead.evaluate import data
    from edgead.evaluate.anomalies import KINDS, contact_sheet
    from edgead.evaluate.textures import procedural_texture, texture_folder
    from edgead.images import save_image
    from edgead.preprocess import as_bgr

    frames = data.load_images(data.find_images(good)[: max(2, rows)])
    source = procedural_texture if textures is None else texture_folder(textures)
    pictures = [as_bgr(frame) for frame in frames]
    sheet = contact_sheet(pictures, np.random.default_rng(seed), textures=source)
    save_image(out, sheet)
    result: dict[str, Any] = {"sheet": str(out), "images": len(pictures), "kinds": list(KINDS)}
    emit(result, as_json, lambda: table("simulated", [("sheet", str(out))]))


def _losses(losses: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
