"""Commands that a customer runs to prove the claims: chaos, fuzz, crashtest, soak; journal, replay, sign."""

from __future__ import annotations

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
from edgead.errors import ConfigError

__all__ = ["register"]

SeedOption = Annotated[int, typer.Option(help="Same seed, same faults.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (chaos, fuzz, crashtest, soak, journal, replay, sign):
        app.command()(command)


def chaos(
    seed: SeedOption = 0,
    full: Annotated[bool, typer.Option("--full", help="The claims' own sizes: long.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Overload, stalls, faults and deadlines on the streaming run-time; exit 1 when a claim breaks.

    Example: edgead chaos --json
    """
    from edgead.testing.chaos import FULL, SMOKE
    from edgead.testing.chaos import chaos as run

    _finish(run(seed, sizes=FULL if full else SMOKE, progress=say), as_json, "chaos")


def fuzz(
    target: Annotated[
        str,
        typer.Argument(
            help="bundle, manifest, onnx, onnx-engine, image, calibration or engine-header."
        ),
    ],
    runs: Annotated[int, typer.Option(help="Damaged files to read.")] = 100_000,
    minutes: Annotated[float | None, typer.Option(help="End earlier after this time.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder for inputs of findings.")] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Instead: every byte of a small file.")
    ] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Damaged files must be refused by type; exit 1 on a crash, a hang or a silent success.

    Example: edgead fuzz bundle --minutes 5
    """
    from edgead.reliability.fuzz import every_byte
    from edgead.reliability.fuzz import fuzz as run

    if exhaustive:
        result = every_byte(target)
    else:
        result = run(target, runs=runs, seed=seed, minutes=minutes, keep=keep)
    _finish(result, as_json, f"fuzz {target}")


def crashtest(
    part: Annotated[
        str, typer.Argument(help="all, writes, powercut, train, quantize, build or run.")
    ] = "all",
    kills: Annotated[
        int | None, typer.Option(help="How often each is killed; by default a release's number.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to write.")] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Kill -9 at random points of writing, training, quantising, building and running.

    Exit 1 when a file is torn, a written row is lost, or what was killed cannot go on.

    Example: edgead crashtest --json; edgead crashtest train --kills 20
    """
    from edgead.reliability.crash_suite import crash_suite

    result = crash_suite(part, kills=kills, seed=seed, folder=folder, progress=say)
    _finish(result, as_json, f"crashtest {part}")


def soak(
    bundle: BundleArgument,
    minutes: Annotated[float, typer.Option(help="120 is a release's figure.")] = 120.0,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Judge without pause and watch memory, handles and latency; exit 1 when something drifts.

    Example: edgead soak part.edgead --json
    """
    from edgead.reliability.soak import soak as run

    with progress_bar() as bar:
        result = run(
            bundle,
            minutes=minutes,
            backend=backend,
            precision=precision,
            on_progress=lambda done: bar("soak", done),
        )
    _finish(result, as_json, "soak")


def journal(
    action: Annotated[str, typer.Argument(help="verify or export.")],
    path: Annotated[Path, typer.Argument(metavar="JOURNAL", help="The journal file.")],
    out: Annotated[Path | None, typer.Option(help="For export: a .jsonl or .csv file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a journal (exit 1 when a row is damaged), or write its rows to one file.

    Example: edgead journal verify line3.sqlite
    """
    from edgead.stream.journal_read import export_journal, verify_journal

    if action == "verify":
        _finish(verify_journal(path), as_json, "journal")
    elif action == "export" and out is not None:
        form: Any = "csv" if out.suffix == ".csv" else "jsonl"
        result = export_journal(path, out, form=form)
        emit(result, as_json, lambda: table("exported", list(result.items())))
    else:
        raise ConfigError(
            "JOURNAL_ACTION",
            f"got {action!r}{'' if out else ' without --out'}; want verify, or export with --out.",
        )


def replay(
    bundle: BundleArgument,
    rejects: Annotated[Path, typer.Argument(metavar="REJECTS", help="Folder of replay files.")],
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Judge saved rejects again; exit 1 when a score is not the same to the last bit.

    Example: edgead replay part.edgead rejects
    """
    from edgead.detector import Detector
    from edgead.stream.replay import replay as judge_again

    files = sorted(path for path in rejects.iterdir() if path.is_file())
    with Detector(bundle, backend=backend, precision=precision) as detector:
        result = judge_again(detector, files)
    _finish(result, as_json, "replay")


def sign(
    bundle: BundleArgument,
    key: Annotated[Path | None, typer.Option(help="PEM file of an Ed25519 private key.")] = None,
    new_key: Annotated[
        Path | None, typer.Option(help="Make this key, with NAME.pub beside it, and sign with it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a bundle: writes BUNDLE.sig beside it.

    Example: edgead sign part.edgead --new-key line3; EDGEAD_TRUSTED_KEY=line3.pub edgead run …
    """
    from edgead.bundle import read_bundle
    from edgead.sign import make_keys, write_signature

    if (key is None) == (new_key is None):
        raise ConfigError("KEY", "give --key with a private key, or --new-key with a name for one.")
    found = read_bundle(bundle, to_sign=True).hash
    if new_key is not None:
        make_keys(new_key, f"{new_key}.pub")
    written = write_signature(bundle, found, new_key or key or Path())
    result = {"signature": str(written), "bundle": found}
    emit(result, as_json, lambda: table("signed", list(result.items())))


def _finish(result: dict[str, Any], as_json: bool, title: str) -> None:
    """Print, and exit 1 when the claim did not hold."""
    rows = [(key, value) for key, value in result.items() if not isinstance(value, dict)]
    for name, figures in result.get("jobs", {}).items():
        rows += [(f"  {name}: {key}", value) for key, value in figures.items()]
    emit(result, as_json, lambda: table(title, [(key, str(value)) for key, value in rows]))
    if not result["ok"]:
        raise typer.Exit(1)
