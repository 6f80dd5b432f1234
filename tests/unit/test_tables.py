"""The tables of README and docs are what the results say: drawn, never typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tables import NOT_MEASURED, PAGES, TABLES, draw, markdown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_what_the_results_say(page: Path):
    text = page.read_text("utf-8")
    assert draw(text, PAGES[page]) == text, "run: python benchmarks/tables.py"
    for name in PAGES[page]:
        assert f"<!-- table:{name} -->" in text


def test_none_is_not_measured():
    assert markdown(["a"], [[None]]).splitlines()[-1] == f"| {NOT_MEASURED} |"


def test_a_table_nobody_draws_is_an_error():
    with pytest.raises(KeyError):
        draw("<!-- table:power -->\n<!-- /table -->", TABLES)
