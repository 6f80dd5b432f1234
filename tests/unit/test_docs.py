"""What the documents show works: programs run, command lines parse, codes exist, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import importlib.util
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


@pytest.mark.parametrize(("name", "text"), blocks("python"), ids=lambda value: value[:24])
def test_a_program_imports_what_there_is(name, text):
    tree = ast.parse(text, name)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "edgead":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{name}: {node.module}.{alias.name}"


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


def test_every_command_has_an_example_that_parses():
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        examples = re.findall(r"Example: edgead ([^;…\n]*)", command.help)
        assert examples, name
        for words in map(shlex.split, examples):
            assert words[0] == name
            with command.make_context(name, words[1:], parent=click.Context(group)):
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


def test_every_public_name_is_in_the_reference():
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    make_api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_api)
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    sections = dict(re.findall(r"^## `([\w.]+)`$(.*?)(?=^## |\Z)", page, re.M | re.S))
    missing = []
    for module in make_api.MODULES:
        for name in make_api.public_names(module):
            assert make_api.definition(module, name) is not None, f"{module}.{name}"
            if not re.search(rf"^### `{name}\b", sections[module], re.M):
                missing.append(f"{module}.{name}")
    assert missing == [], "run: python docs/make_api.py"


def test_a_document_that_is_not_run_is_one():
    assert set(NOT_RUN) <= {path.name for path in DOCS}
