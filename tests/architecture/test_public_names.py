"""What modules offer: ``__all__`` is true, and the package's own names are these."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import edgead

_ROOT = Path(__file__).parents[2] / "edgead"
_FILES = sorted(
    path for path in _ROOT.rglob("*.py") if path.name not in ("__main__.py", "_version.py")
)


def test_the_packages_own_names() -> None:
    assert edgead.__all__ == [
        "Detection",
        "Detector",
        "EdgeadError",
        "Frame",
        "Outcome",
        "PixelFormat",
        "Region",
        "Status",
        "Verdict",
        "__version__",
    ]
    assert dir(edgead) == edgead.__all__
    for name in edgead.__all__:
        assert getattr(edgead, name) is not None
    with pytest.raises(AttributeError) as error:
        _ = edgead.Detektor
    assert str(error.value) == "module 'edgead' has no attribute 'Detektor'"


@pytest.mark.parametrize("path", _FILES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_all_names_what_is_there_and_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says what it is for"
    public = _all_of(tree)
    if public is None:
        return
    assert len(public) == len(set(public))
    defined = _defined(tree)
    assert set(public) <= defined | {"__version__"}
    undocumented = [
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and node.name in public
        and not ast.get_docstring(node)
    ]
    assert undocumented == []


def _all_of(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def _defined(tree: ast.Module) -> set[str]:
    """Names bound at the module's top, also under ``if`` and ``try``."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


@pytest.mark.parametrize("name", ["Detector", "Frame", "Detection", "Outcome", "Region"])
def test_options_are_named(name: str) -> None:
    """Beyond what a caller surely knows by heart, options of the Detector are keyword-only."""
    assert inspect.getdoc(getattr(edgead, name))
    if name == "Detector":
        kinds = inspect.signature(edgead.Detector).parameters
        free = [k for k, v in kinds.items() if v.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        assert free == ["bundle"]
