"""README's tables are what the results say: drawn, never typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tables import NOT_MEASURED, TABLES, draw, markdown

_README = Path(__file__).parents[2] / "README.md"


def test_readme_is_what_the_results_say():
    text = _README.read_text()
    assert draw(text, TABLES) == text, "run: python benchmarks/tables.py"
    for name in TABLES:
        assert f"<!-- table:{name} -->" in text


def test_none_is_not_measured():
    assert markdown(["a"], [[None]]).splitlines()[-1] == f"| {NOT_MEASURED} |"


def test_a_table_nobody_draws_is_an_error():
    with pytest.raises(KeyError):
        draw("<!-- table:power -->\n<!-- /table -->", TABLES)
