"""`edgead report`: a shift as one HTML file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from edgead.cli.common import JsonOption, emit, table
from edgead.errors import ConfigError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(report)


def report(
    journal: Annotated[Path, typer.Argument(metavar="JOURNAL", help="As run or serve wrote it.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    since: Annotated[
        str | None, typer.Option(help="First moment, e.g. 2026-11-22T06:00; local time.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="The moment after the last.")] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="Folder of --save-rejects: puts pictures in.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """A shift's summary from its journal: one HTML file that can be mailed.

    Example: edgead report line3.sqlite --since 2026-11-22T06:00 --until 2026-11-22T14:00
    """
    from edgead import files
    from edgead.evaluate.report_shift import figures_of, write_shift_report
    from edgead.evaluate.shift import read_shift

    files.check_target(out)
    shift = read_shift(journal, since=_moment("since", since), until=_moment("until", until))
    write_shift_report(out, shift, rejects=rejects)
    result: dict[str, Any] = {"report": str(out), **figures_of(shift)}
    rows = [(k, ", ".join(v) if isinstance(v, list) else v) for k, v in result.items()]
    emit(result, as_json, lambda: table("shift", rows))


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise ConfigError(
            "PERIOD", f"--{name} is {text!r}; want a date and time.", "e.g. 2026-11-22T06:00."
        ) from error
