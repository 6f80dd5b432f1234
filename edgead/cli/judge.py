"""Commands that judge images: evaluate, run, benchmark."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgead.cli.common import (
    RECHECK_MINUTES,
    BackendOption,
    BundleArgument,
    DeadlineOption,
    FreshOption,
    HintOption,
    JournalOption,
    JsonOption,
    OutOption,
    PolicyOption,
    PrecisionOption,
    RejectsOption,
    emit,
    say,
    table,
)
from edgead.cli.config import ConfigOption, settings_of

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(evaluate)
    app.command()(run)
    app.command()(benchmark)


def evaluate(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="MVTec-layout root with test/.")],
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    report: Annotated[Path | None, typer.Option(help="Folder for report.html.")] = None,
    min_auroc: Annotated[
        float | None, typer.Option(help="Exit 1 when image AUROC is lower.")
    ] = None,
    max_false_reject: Annotated[
        float | None, typer.Option(help="Exit 1 when more good images are rejected.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Metrics on a labelled test set, through the very detector that runs the line.

    Example: edgead evaluate part.edgead DATA --report out --min-auroc 0.98
    """
    from edgead.detector import Detector
    from edgead.evaluate.report import write_report
    from edgead.evaluate.run import evaluate as judge
    from edgead.evaluate.run import report_of

    with Detector(bundle, backend=backend, precision=precision) as detector:
        found = judge(detector, data)
        figures = dict(found.figures)
        if report is not None:
            report.mkdir(parents=True, exist_ok=True)
            path = report / "report.html"
            write_report(path, report_of(found, detector.bundle))
            say(f"report: {path}")
    emit(figures, as_json, lambda: table("evaluated", _rows(figures)))
    auroc, rejects = figures["image_auroc"], figures["false_reject_rate"]
    failed = min_auroc is not None and (auroc is None or auroc < min_auroc)
    failed |= max_false_reject is not None and (rejects is None or rejects > max_false_reject)
    if failed:
        say("the check asked for did not hold")
        raise typer.Exit(1)


def run(
    bundle: BundleArgument,
    source: Annotated[
        str, typer.Option(help="Folder, file, glob, camera index, rtsp:// address, csi://0 …")
    ],
    policy: PolicyOption = "auto",
    deadline_ms: DeadlineOption = None,
    journal: JournalOption = None,
    save_rejects: RejectsOption = None,
    out: OutOption = None,
    fresh_s: FreshOption = 1.0,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    hint: HintOption = "latency",
    config: ConfigOption = None,
) -> None:
    """Camera loop: one JSON line an outcome on stdout.

    Example: edgead run part.edgead --source rtsp://cam/1 --deadline-ms 40 --out mqtt://broker/line3
    """
    from edgead.detector import Detector
    from edgead.integrations.publisher import open_outputs

    with (
        open_outputs(out or (), fresh_s=fresh_s) as publisher,
        Detector(
            bundle,
            backend=backend,
            precision=precision,
            hint=hint,
            recheck_minutes=RECHECK_MINUTES,
        ) as detector,
    ):
        say(f"{detector.choice.why}; bundle {detector.bundle.hash[:12]}; {settings_of(config)}")
        with detector.stream(
            source,
            policy=policy,
            deadline_ms=deadline_ms,
            journal=journal,
            save_rejects=save_rejects,
        ) as outcomes:
            say(f"policy: {outcomes.policy}")
            for outcome in outcomes:
                publisher.publish(outcome)
                sys.stdout.write(json.dumps(outcome.to_json()) + "\n")
                sys.stdout.flush()


def benchmark(
    bundle: BundleArgument,
    source: Annotated[
        Path | None, typer.Option(help="Folder of images; the golden images by default.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Measuring time of each part.")] = 5.0,
    period_ms: Annotated[
        float | None, typer.Option(help="Also paced: one frame every so many milliseconds.")
    ] = None,
    line_rate: Annotated[
        float | None, typer.Option(help="Parts a minute that must be judged, at p99.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of the engine; 0: its choice.")] = 0,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Speed on this machine, from decoded frames to verdicts, beside the raw engine.

    Example: edgead benchmark part.edgead --source photos --line-rate 600
    """
    from edgead.evaluate.benchmark import benchmark as measure

    result = measure(
        bundle,
        source=source,
        seconds=seconds,
        period_ms=period_ms,
        line_rate=line_rate,
        threads=threads,
        backend=backend,
        precision=precision,
    )
    emit(result, as_json, lambda: table("benchmark", _speeds(result)))
    asked = result["line_rate"]
    if asked is not None and not asked["ok"]:
        raise typer.Exit(1)


def _rows(figures: dict[str, Any]) -> list[tuple[str, Any]]:
    hidden = ("per_defect", "false_reject_interval", "missed_defect_interval")
    rows = [(k, v) for k, v in figures.items() if k not in hidden]
    for name, entry in figures["per_defect"].items():
        missed = entry.get("missed_defect_rate", entry.get("false_reject_rate"))
        what = "missed" if "missed_defect_rate" in entry else "rejected"
        rows.append((f"  {name}", f"{entry['frames']} frames, {what} {missed:.3f}"))
    return rows


def _speeds(result: dict[str, Any]) -> list[tuple[str, Any]]:
    raw, all_in = result["raw_engine"], result["end_to_end"]
    rows: list[tuple[str, Any]] = [
        ("backend", f"{result['backend']} {result['backend_version']}, {result['precision']}"),
        ("frame -> input", f"{result['frame_size']} -> {result['input_size']}"),
        ("raw engine", f"{raw['fps']:.1f} fps, p50 {raw['p50_ms']:.2f} ms"),
        (
            "end to end",
            f"{all_in['fps']:.1f} fps, p50 {all_in['p50_ms']:.2f}, p90 {all_in['p90_ms']:.2f}, "
            f"p99 {all_in['p99_ms']:.2f}, max {all_in['max_ms']:.2f} ms",
        ),
        ("overhead ratio", result["overhead_ratio"]),
    ]
    rows += [(f"  {name}", f"{ms:.3f} ms") for name, ms in result["stages_ms"].items()]
    rows += [
        (f"batch {row['n']}", f"{row['fps']:.1f} fps, {row['ms_per_frame']:.2f} ms a frame")
        for row in result["batch"]
    ]
    rows += [
        (f"{row['threads']} threads, {row['hint']}", f"{row['fps']:.1f} fps of frames in a batch")
        for row in result["throughput"]
    ]
    if result["line_rate"] is not None:
        asked = result["line_rate"]
        verdict = "OK" if asked["ok"] else "NOT OK"
        rows.append(("line rate", f"{asked['asked']:.0f}/min at p99: {verdict}"))
    rows.append(("peak memory", f"{result['peak_rss_mb']:.0f} MB"))
    return rows
