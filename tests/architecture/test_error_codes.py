"""Every error code is produced, or at least named, by a test: no refusal goes out untried."""

from __future__ import annotations

import ast
import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
#: Code -> why no test can bring it about.
_UNTRIED: dict[str, str] = {}


def _codes() -> dict[str, str]:
    """Code -> where it is raised."""
    found: dict[str, str] = {}
    for folder in ("edgead", "calibration"):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                code = _code_of(node)
                if code:
                    found.setdefault(code, f"{path.relative_to(_ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
    return found


def _code_of(node: ast.AST) -> str:
    """The code of ``SomeError("CODE", …)`` or of a helper ``_refused("CODE", …)``."""
    if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
        return ""
    name, value = ast.unparse(node.func).rpartition(".")[2], node.args[0].value
    is_error = name.endswith("Error") or name.startswith("_")
    is_code = isinstance(value, str) and len(value) > 2 and _CODE.fullmatch(value)
    return str(value) if is_error and is_code else ""


def test_every_code_is_in_a_test() -> None:
    tests = "\n".join(
        path.read_text()
        for path in (_ROOT / "tests").rglob("*.py")
        if path != Path(__file__).resolve()
    )
    codes = _codes()
    assert len(codes) > 150
    untried = {
        code: place
        for code, place in codes.items()
        if not re.search(rf"\b{code}\b", tests) and code not in _UNTRIED
    }
    assert untried == {}
    assert set(_UNTRIED) <= set(codes)
