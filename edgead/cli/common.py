"""What the commands share: where output goes, tables, progress bars, option types."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edgead.errors import ConfigError

__all__ = [
    "RECHECK_MINUTES",
    "BackendOption",
    "BundleArgument",
    "DeadlineOption",
    "FreshOption",
    "HintOption",
    "JournalOption",
    "JsonOption",
    "OutOption",
    "PolicyOption",
    "PrecisionOption",
    "RejectsOption",
    "emit",
    "number",
    "progress_bar",
    "say",
    "table",
]

#: A line that runs for weeks has looked at the golden images again.
RECHECK_MINUTES = 60.0

_errors = Console(stderr=True, highlight=False)
_PIPE_WIDTH = 1000

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A .edgead file.")]
OutOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Where verdicts go, repeatable: mqtt://broker/topic, modbus://0.0.0.0:5020, "
        "opcua://127.0.0.1:4840, https://host/path, gpio://?accept=12."
    ),
]
FreshOption = Annotated[
    float, typer.Option(help="The outputs' heartbeat stops so many seconds after the last verdict.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
BackendOption = Annotated[
    str, typer.Option(help="auto, openvino, onnxruntime, tensorrt or tensorrt-rtx.")
]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")]
HintOption = Annotated[
    str, typer.Option(help="latency: each frame on all threads; throughput: more frames a second.")
]
PolicyOption = Annotated[
    str, typer.Option(help="auto, every, latest, drop_oldest(n) or reject_when_full.")
]
DeadlineOption = Annotated[
    float | None, typer.Option(help="A verdict leaves in this time, UNKNOWN if need be.")
]
JournalOption = Annotated[Path | None, typer.Option(help="SQLite file: one row a frame.")]
RejectsOption = Annotated[
    Path | None, typer.Option(help="Folder for replay files of what was not accepted.")
]


def say(text: str) -> None:
    """A line for a person, on stderr."""
    _errors.print(text, markup=False, soft_wrap=True)


def emit(result: Mapping[str, Any], as_json: bool, shown: Callable[[], Any]) -> None:
    """Print the result: one JSON object, or what ``shown`` makes of it for a person."""
    if as_json:
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
        sys.stdout.flush()
    else:
        # Into a file or a pipe nothing is cut to a terminal's width.
        width = None if sys.stdout.isatty() else _PIPE_WIDTH
        Console(highlight=False, width=width).print(shown(), soft_wrap=True)


def table(title: str, rows: Sequence[tuple[str, Any]]) -> Table:
    """Names and values."""
    made = Table(
        title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in rows:
        # Text, not markup: messages hold brackets, e.g. pip install 'edgead[cpu]'.
        made.add_row(Text(name), Text(value if isinstance(value, str) else number(value)))
    return made


def number(value: Any) -> str:
    """A figure as a person reads it; a dash for what was not measured."""
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


class _Bar:
    """Shows `edgead.train.loop.Progress` and plain shares."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: float, note: str = "") -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=1.0, note="")
        self._progress.update(self._tasks[stage], completed=done, note=note)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[..., None]]:
    """A progress bar with the time left on stderr; silent where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=_errors, disable=not _errors.is_terminal) as progress:
        yield _Bar(progress)


def positive(name: str, value: float | None) -> None:
    """Refuse zero and less for an option that counts something.

    Raises:
        ConfigError: OPTION.
    """
    if value is not None and not value > 0:
        raise ConfigError("OPTION", f"--{name} is {value}; want more than 0.")
