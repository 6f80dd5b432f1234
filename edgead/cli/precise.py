"""Commands of precision and engines: quantize, certify, tune, build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgead.cli.common import BundleArgument, JsonOption, emit, number, progress_bar, say, table

__all__ = ["register"]

ImagesOption = Annotated[
    Path, typer.Option(help="Good images of this line, or an MVTec-layout root.")
]
ThreadsOption = Annotated[int, typer.Option(help="CPU threads; 0: the back end's choice.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(quantize)
    app.command()(certify)
    app.command()(tune)
    app.command()(build)


def quantize(
    bundle: BundleArgument,
    images: ImagesOption,
    precision: Annotated[
        list[str] | None, typer.Option(help="bf16, fp16 or int8; several times for several.")
    ] = None,
    qdq: Annotated[str, typer.Option(help="all, or conv-only for a coarser layout.")] = "all",
    minutes: Annotated[float, typer.Option(help="Budget of the INT8 search.")] = 10.0,
    replace: Annotated[bool, typer.Option(help="Make again what the bundle holds.")] = False,
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Add precisions to a bundle, each with a certificate; what does not hold is not added.

    Example: edgead quantize part.edgead --images photos/good
    """
    from edgead.deploy.quantize import PRECISIONS
    from edgead.deploy.quantize import quantize as add

    with progress_bar() as bar:
        result = add(
            bundle,
            images,
            precisions=tuple(precision or PRECISIONS),
            layout=qdq,  # type: ignore[arg-type]  # checked by quantize
            minutes=minutes,
            threads=threads,
            replace=replace,
            report=bar,
        )
    for note in result["notes"]:
        say(str(note))
    emit(result, as_json, lambda: table("certificates", _certificates(result)))


def certify(
    bundle: BundleArgument,
    images: ImagesOption,
    backend: Annotated[str, typer.Option(help="Which back end.")] = "openvino",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Certify what a bundle holds on this machine's device; exit 1 when one does not pass.

    Example: edgead certify part.edgead --images photos/good --backend onnxruntime
    """
    from edgead.deploy.certificate import certify as prove

    with progress_bar() as bar:
        result = prove(bundle, images, backend=backend, threads=threads, report=bar)
    emit(result, as_json, lambda: table("certificates", _certificates(result)))
    if not all(one["passed"] for one in result["certificates"]):
        raise typer.Exit(1)


def tune(
    bundle: BundleArgument,
    latency_ms: Annotated[float, typer.Option(help="Frame to verdict, 90th percentile.")],
    backend: Annotated[
        list[str] | None, typer.Option(help="Which to try, several times for several: all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every certified way to run a bundle here and keep the best for this machine.

    Exit 1 when none meets the latency. Example: edgead tune part.edgead --latency-ms 20
    """
    from edgead.backends import BACKENDS
    from edgead.deploy.tune import tune as measure

    with progress_bar() as bar:
        result = measure(bundle, latency_ms=latency_ms, backends=backend or BACKENDS, report=bar)
    for one in result["passed_over"]:
        say(f"{one['backend']} {one['precision']} was passed over: {one['why']}")
    emit(result, as_json, lambda: table("tuned", list(result["choice"].items())))
    if not result["met"]:
        raise typer.Exit(1)


def build(
    bundle: BundleArgument,
    backend: Annotated[str, typer.Option(help="tensorrt or tensorrt-rtx.")],
    target: Annotated[
        str | None, typer.Option(help="TensorRT-RTX without a GPU: e.g. sm86.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    out: Annotated[
        Path | None, typer.Option(help="Engine file; the user's cache by default.")
    ] = None,
    optimization_level: Annotated[int, typer.Option(help="Builder effort, 0 to 5.")] = 3,
    force: Annotated[
        bool, typer.Option("--force", help="Also while a camera loop runs on this machine.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build an engine ahead of time.

    Example: edgead build part.edgead --backend tensorrt-rtx --target sm86 --precision int8
    """
    from edgead.backends import members_for
    from edgead.backends.trt import TrtOptions, build_engine
    from edgead.bundle import read_bundle

    members = read_bundle(bundle).members
    first, *others = members_for(backend, precision, members)
    # An INT8 engine that is refused falls back to the other form of Q/DQ, then to FP16, and says so.
    fallbacks = [(precision, members[name]) for name in others]
    if precision == "int8" and "model.fp16.onnx" in members:
        fallbacks.append(("fp16", members["model.fp16.onnx"]))
    with progress_bar() as bar:
        result = build_engine(
            members[first],
            name=backend,
            precision=precision,
            target=target,
            out=out,
            optimization_level=optimization_level,
            fallbacks=fallbacks,
            options=TrtOptions(
                force=force, bundle=str(bundle), on_progress=lambda event: _built(event, bar)
            ),
        )
    for note in result["notes"]:
        say(note)
    shown = ("engine", "seconds", "bytes", "key", "sha256", "precision")
    emit(result, as_json, lambda: table("engine", [(key, result[key]) for key in shown]))


def _built(event: dict[str, Any], bar: Any) -> None:
    """Show one event of a build."""
    if "estimate" in event:
        told = event["estimate"]
        last = f"; {told['seconds']:.0f} s the last time" if told["seconds"] else ""
        say(f"about {told['needs'] / 1e9:.1f} GB of memory, without workspace{last}")
    if "progress" in event:
        at = event["progress"]
        bar(at["phase"], at["step"] / max(at["steps"], 1))


def _certificates(result: dict[str, Any]) -> list[tuple[str, Any]]:
    rows = []
    for one in result["certificates"]:
        figures = ", ".join(f"{key} {number(value)}" for key, value in one["figures"].items())
        state = "passed" if one["passed"] else "NOT passed"
        if one.get("refused"):
            state += f" after {one['refused']} other plans were refused on the same frames"
        rows.append((f"{one['precision']} on {one['backend']}", f"{state}: {figures}"))
    return rows
