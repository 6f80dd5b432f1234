"""What the documents show works: programs run, command lines parse, codes exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer
from gravel import PATH, gravel_frame

from edgead import images
from edgead.cli import app
from edgead.cli.config import template

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Programs that need what a test has not; each document says what.
NOT_RUN = {
    "README.md": "a camera that answers",
    "serve.md": "a served page",
    "plc.md": "a broker or a PLC",
    "fleet.md": "an archive",
    "jetson.md": "a Jetson",
    "industrial-pc.md": "a machine of the line",
    "drift.md": "a camera that answers",
    "view.md": "a camera with larger frames",
}


def blocks(*languages: str) -> list[tuple[str, str]]:
    """(document and number, text) of each fenced block."""
    found = []
    for path in DOCS:
        every = re.findall(
            r"^```(\w*)\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL
        )
        for number, (language, text) in enumerate(every):
            if language in languages:
                found.append((f"{path.name}-{number}", text))
    return found


def commands() -> list[tuple[str, str]]:
    """(document, command line), continued lines joined, comments cut."""
    found = []
    for name, text in blocks("", "console", "bash", "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip().startswith("edgead "):
                found.append((name, line.strip()))
    return found


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a bundle, a camera's pictures and a settings file, under the documents' names."""
    monkeypatch.chdir(tmp_path)
    Path("part.edgead").write_bytes(PATH.read_bytes())
    Path("camera").mkdir()
    for number in range(3):
        images.save_image(f"camera/{number}.png", gravel_frame().pixels)
    Path("line.toml").write_text(template(bundle="part.edgead", source="camera/"), "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(name, text, id=name)
        for name, text in blocks("python")
        if name.rpartition("-")[0] not in NOT_RUN
    ],
)
def test_a_program_runs(desk, name, text, capsys):
    exec(compile(text, name, "exec"), {"__name__": "__main__"})
    capsys.readouterr()


@pytest.mark.parametrize(("name", "line"), commands())
def test_a_command_line_parses(desk, name, line):
    words = shlex.split(line, comments=True)[1:]
    group = typer.main.get_command(app)
    context = click.Context(group, info_name="edgead")
    while words and isinstance(group, click.Group):
        if words[0].startswith("-"):
            return
        assert words[0] in group.commands, f"edgead {words[0]} is no command"
        group, words = group.commands[words[0]], words[1:]
    with group.make_context(context.info_name, list(words), parent=context):
        pass


def test_every_code_that_is_explained_exists():
    rows = re.findall(
        r"^\| `([A-Z_0-9]+)` \|", (ROOT / "docs/troubleshooting.md").read_text(), re.M
    )
    source = "\n".join(path.read_text() for path in (ROOT / "edgead").rglob("*.py"))
    assert len(rows) > 10
    assert [code for code in rows if f'"{code}"' not in source] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text("utf-8"))
    local = [one for one in targets if "://" not in one]
    assert [one for one in local if not (path.parent / one).exists()] == []


def test_a_document_that_is_not_run_is_one():
    assert set(NOT_RUN) <= {path.name for path in DOCS}
