"""A file has one job: none grows past 400 lines, no function's body past 50."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_SUFFIXES = {".py", ".cc", ".cu", ".h", ".cuh"}
_FILES = sorted(
    path
    for folder in ("edgead", "csrc", "calibration", "benchmarks")
    for path in (_ROOT / folder).rglob("*")
    if path.suffix in _SUFFIXES
)
MAX_LINES = 400
#: Without the docstring.
MAX_FUNCTION_LINES = 50
#: A list of cases or of a run's facts is data: splitting it hides it.
MAX_BENCHMARK_LINES = 60


def _name(path: Path) -> str:
    return str(path.relative_to(_ROOT))


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_file(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", [p for p in _FILES if p.suffix == ".py"], ids=_name)
def test_functions(path: Path) -> None:
    limit = MAX_BENCHMARK_LINES if "benchmarks" in path.parts else MAX_FUNCTION_LINES
    long = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > limit:
                long[node.name] = lines
    assert long == {}


def test_files_are_found() -> None:
    assert len(_FILES) > 100
