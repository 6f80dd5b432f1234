"""The run-time's dependency list stays as short as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def _project() -> dict[str, object]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and later read TOML themselves")
    project: dict[str, object] = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    return project


def test_core() -> None:
    names = {re.split(r"[<>=\[; ]", line)[0] for line in _project()["dependencies"]}  # type: ignore[attr-defined]
    assert names == {"numpy", "msgspec", "safetensors", "typer", "rich"}


def test_security_md_names_them() -> None:
    text = (_ROOT / "SECURITY.md").read_text()
    assert "numpy, msgspec, safetensors, typer and rich" in text
