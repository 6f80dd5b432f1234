"""The unit and container files say what the command line knows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from edgead.cli import app

_ROOT = Path(__file__).parents[2]
_FILES = sorted((_ROOT / "packaging").iterdir())


def options_of_serve() -> set[str]:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_options_are_those_of_serve(path: Path) -> None:
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    start = text.index("ExecStart=" if path.suffix == ".service" else "ENTRYPOINT")
    entry = re.split(r"\n(?! )", text[start:])[0]
    used = set(re.findall(r"--[a-z-]+", entry))
    assert {"--journal", "--save-rejects", "--json-logs"} <= used <= options_of_serve()


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_extras_exist(path: Path) -> None:
    extras = re.findall(r"(?:edgead|/src)\[([a-z,]+)\]", path.read_text())
    known = set(
        re.findall(r"^([a-z0-9-]+) = \[", (_ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    )
    assert extras
    assert {one for text in extras for one in text.split(",")} <= known


def test_the_unit_is_told_and_watched() -> None:
    text = (_ROOT / "packaging" / "edgead.service").read_text()
    values = dict(re.findall(r"^([A-Za-z]+)=(.+)$", text, re.MULTILINE))
    assert (values["Type"], values["KillSignal"], values["Restart"]) == (
        "notify",
        "SIGTERM",
        "always",
    )
    assert int(values["WatchdogSec"]) > 0
    assert values["SuccessExitStatus"] == "143"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "edgead.service"
    text = (_ROOT / "packaging" / "edgead.service").read_text()
    # Everything but the program itself, which is not installed there.
    unit.write_text(text.replace("/opt/edgead/bin/edgead", shutil.which("true") or "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "Failed to initialize" in done.stderr or "Failed to create" in done.stderr:
        pytest.skip(f"systemd-analyze does not work here: {done.stderr.strip()}")
    # Of other units of this machine it may say what it likes.
    assert [line for line in done.stderr.splitlines() if "edgead" in line] == []
    assert done.returncode == 0
