"""A line's settings in one TOML file: `edgead init` writes it, `run` and `serve` take it by ``--config``.

The keys are the options' own names, so a file can hold nothing that the command line lacks. Keys at the
top serve both commands, those in ``[run]`` or ``[serve]`` one of them; what the command line says wins.
Paths are relative to the file, so that a service finds them from any folder.
"""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from edgead import files
from edgead.cli.common import say
from edgead.errors import ConfigError, StorageError

__all__ = ["ConfigOption", "register", "settings_of", "template"]

COMMANDS = ("run", "serve")
_PATHS = ("bundle", "journal", "save_rejects")
_NOT_IN_FILE = ("config", "help")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(init)


def init(
    path: Annotated[Path, typer.Argument(metavar="LINE.toml", help="The file to write.")],
    bundle: Annotated[str, typer.Option(help="The line's bundle.")] = "part.edgead",
    source: Annotated[str, typer.Option(help="Its camera, as of run.")] = "0",
    force: Annotated[bool, typer.Option("--force", help="Replace a file.")] = False,
) -> None:
    """A commented settings file for a line, with every setting of run and serve at its default.

    Example: edgead init line.toml --bundle part.edgead --source rtsp://cam/1; edgead run --config line.toml
    """
    if path.exists() and not force:
        raise StorageError("FILE_EXISTS", f"{path} exists.", "Choose another name, or --force.")
    files.write_text(path, template(bundle=bundle, source=source))
    say(f"wrote {path}; next: edgead run --config {path}")


def template(**values: str) -> str:
    """The file's text: each setting commented out at its default, ``values`` set.

    Args:
        values: Settings that are not commented out.
    """
    known = _settings()
    shared = [name for name in known["run"] if name in known["serve"]]
    lines = ["# A line's settings for edgead run --config and edgead serve --config.", ""]
    for name in shared:
        lines += _entry(known["run"][name], values.get(name))
    for command in COMMANDS:
        lines += [f"[{command}]", f"# For edgead {command} alone.", ""]
        for name, option in known[command].items():
            if name not in shared:
                lines += _entry(option, None)
    return "\n".join(lines)


def _entry(option: click.Parameter, value: str | None) -> list[str]:
    name, told = str(option.name), getattr(option, "help", None) or ""
    if value is not None:
        shown = f"{name} = {_toml(value)}"
    elif option.default is None or callable(option.default):
        shown = f"# {name} = {_EMPTY.get(name, '...')}"
    else:
        shown = f"# {name} = {_toml(option.default)}"
    return [f"# {told}", shown, ""]


#: What a setting without a default looks like.
_EMPTY = {
    "deadline_ms": "40.0",
    "journal": '"journal.sqlite"',
    "save_rejects": '"rejects"',
    "out": '["mqtt://broker/line3"]',
}


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # TOML's plain values are written as JSON's


def _load(context: typer.Context, path: Path | None) -> Path | None:
    """Make the file's settings the command's defaults."""
    if path is not None:
        context.default_map = {
            **(context.default_map or {}),
            **_chosen(_read(path), str(context.info_name), path),
        }
    return path


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="Settings from a TOML file (edgead init writes one); the command line wins.",
        is_eager=True,
        callback=_load,
    ),
]


def settings_of(config: Path | None) -> str:
    """Where a run's settings come from, for its first line."""
    return "settings of the command line" if config is None else f"settings of {config}"


def _read(path: Path) -> dict[str, Any]:
    # Standard from Python 3.11 on; its ancestor serves 3.10, with the cpu and jetson extras.
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        toml: Any = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            "CONFIG_TOML", f"{name} does not import.", "pip install tomli."
        ) from error
    try:
        found: dict[str, Any] = toml.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError("CONFIG_FILE", f"cannot read {path}: {error.strerror}.") from error
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("CONFIG_FILE", f"{path} is no TOML: {error}.") from error
    return found


def _chosen(found: Mapping[str, Any], command: str, path: Path) -> dict[str, Any]:
    """The settings that ``command`` takes.

    Raises:
        ConfigError: CONFIG_KEY.
    """
    known = _settings()
    both = set().union(*known.values())
    chosen: dict[str, Any] = {}
    for key, value in found.items():
        if key in COMMANDS and isinstance(value, Mapping):
            for name in value:
                _check(name, set(known[key]), f"[{key}] of {path}")
            if key == command:
                chosen.update(value)
        else:
            _check(key, both | set(COMMANDS), str(path))
            if key in known[command]:
                chosen.setdefault(key, value)
    for name in _PATHS:
        if isinstance(chosen.get(name), str):
            chosen[name] = str(path.parent / chosen[name])
    several = {name for name, option in known[command].items() if option.multiple}
    return {
        name: [value] if name in several and not isinstance(value, list) else value
        for name, value in chosen.items()
    }


def _check(name: str, known: set[str], where: str) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, sorted(known), 1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError("CONFIG_KEY", f"{where} has an unknown key {name!r}.{meant}")


def _settings() -> dict[str, dict[str, Any]]:
    """Command -> option name -> option: what a file may hold."""
    # The commands take their ConfigOption from here, so they can be looked at only when asked for.
    from edgead.cli import app

    group: Any = typer.main.get_command(app)
    return {
        command: {
            str(option.name): option
            for option in group.commands[command].params
            if option.name not in _NOT_IN_FILE
        }
        for command in COMMANDS
    }
