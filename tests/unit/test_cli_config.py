"""A line's settings in a TOML file: what init writes, run and serve take, and what is refused."""

from __future__ import annotations

import json
import sys

import pytest
from gravel import PATH, gravel_frame
from typer.testing import CliRunner

from edgead import images
from edgead.cli import app
from edgead.cli.config import template

toml = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")


def invoke(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def refusal(*words: object) -> str:
    return str(invoke(*words).exception)


@pytest.fixture
def line(tmp_path):
    """A line whose camera is a folder of two pictures, beside its bundle."""
    (tmp_path / "part.edgead").write_bytes(PATH.read_bytes())
    (tmp_path / "camera").mkdir()
    for number in range(2):
        images.save_image(tmp_path / "camera" / f"{number}.png", gravel_frame().pixels)
    text = template(bundle="part.edgead", source=str(tmp_path / "camera"))
    (tmp_path / "line.toml").write_text(text, "utf-8")
    return tmp_path / "line.toml"


def outcomes(*words: object) -> list[dict]:
    result = invoke(*words)
    assert result.exit_code == 0, result.exception
    return [json.loads(one) for one in result.stdout.splitlines() if one.startswith("{")]


def test_the_file_that_init_writes_runs_as_it_is(tmp_path, line):
    found = outcomes("run", "--config", line)
    assert [one["status"] for one in found] == ["RESULT", "RESULT"]


def test_every_setting_stands_in_the_file_at_its_default():
    """Uncommented, the file says what the command line says without it."""
    text = template(bundle="b.edgead", source="0")
    bare = "\n".join(
        one[2:] if " = " in one and one.startswith("# ") else one for one in text.splitlines()
    )
    found = toml.loads(bare)
    for command in ("run", "serve"):
        for option in command_of(command).params:
            if option.name in ("bundle", "source", "config", "help") or option.default is None:
                continue
            given = found[command].get(option.name, found.get(option.name))
            assert given == option.default, option.name


def command_of(name: str):
    import typer

    return typer.main.get_command(app).commands[name]


def test_paths_are_relative_to_the_file_and_the_command_line_wins(tmp_path, line, monkeypatch):
    monkeypatch.chdir("/")
    text = line.read_text().replace("# journal = ", "journal = ")
    line.write_text(text.replace('# backend = "auto"', 'backend = "nonsense"'))
    outcomes("run", "--config", line, "--backend", "openvino")
    assert (tmp_path / "journal.sqlite").is_file()
    assert "nonsense" in refusal("run", "--config", line)


def test_a_table_serves_one_command(line):
    text = line.read_text().replace("[serve]", '[serve]\nbackend = "nonsense"')
    line.write_text(text)
    assert len(outcomes("run", "--config", line)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('sorce = "0"', "[CONFIG_KEY] {} has an unknown key 'sorce'. Did you mean 'source'?"),
        ("colour = 1", "[CONFIG_KEY] {} has an unknown key 'colour'."),
        (
            "[serve]\nprot = 1",
            "[CONFIG_KEY] [serve] of {} has an unknown key 'prot'. Did you mean 'port'?",
        ),
        ("[run]\nport = 1", "[CONFIG_KEY] [run] of {} has an unknown key 'port'."),
        (
            "source = ",
            "[CONFIG_FILE] {} is no TOML: Invalid value (at end of document).",
        ),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    path = tmp_path / "line.toml"
    path.write_text(text)
    assert refusal("run", "--config", path).startswith(message.format(path).rstrip("."))


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "none.toml"
    assert refusal("run", "--config", path) == (
        f"[CONFIG_FILE] cannot read {path}: No such file or directory."
    )


def test_python_3_10_without_its_reader(line, monkeypatch):
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    monkeypatch.setitem(sys.modules, name, None)
    assert refusal("run", "--config", line) == (
        f"[CONFIG_TOML] {name} does not import. pip install tomli."
    )


def test_init_replaces_a_file_only_when_told(tmp_path):
    path = tmp_path / "line.toml"
    assert invoke("init", path, "--source", "rtsp://cam/1").exit_code == 0
    assert 'source = "rtsp://cam/1"' in path.read_text()
    assert refusal("init", path) == f"[FILE_EXISTS] {path} exists. Choose another name, or --force."
    assert invoke("init", path, "--source", "1", "--force").exit_code == 0
    assert 'source = "1"' in path.read_text()
