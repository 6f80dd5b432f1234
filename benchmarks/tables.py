"""Draw README's tables from ``benchmarks/results/*.json``; no figure is typed.

``python benchmarks/tables.py`` rewrites what stands between ``<!-- table:NAME -->`` and ``<!-- /table -->``;
``--check`` only says whether that would change anything.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Sequence

from harness import RESULTS, ROOT, load

from edgead import files

__all__ = ["draw", "markdown"]

_TABLE = re.compile(r"(<!-- table:([a-z_]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
NOT_MEASURED = "not measured"


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; None is written as what it is: not measured."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(NOT_MEASURED if cell is None else str(cell) for cell in line) + " |\n"
        for line in lines
    )


def draw(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """``text`` with every marked table drawn anew."""

    def fresh(found: re.Match[str]) -> str:
        return f"{found[1]}{tables[found[2]]()}{found[3]}"

    return _TABLE.sub(fresh, text)


def main_job() -> str:
    """The main job on the bottle set: what the product's one path reaches."""
    figures = load("main_job")["figures"]
    return markdown(["figure", "value"], [[name, value] for name, value in figures.items()])


def _tables() -> dict[str, Callable[[], str]]:
    made: dict[str, Callable[[], str]] = {"main_job": main_job}
    for name in ("kernels", "accuracy", "precision", "end_to_end"):
        if not any(RESULTS.glob(f"{name}*.json")):
            made[name] = lambda: f"{NOT_MEASURED}\n"
            continue
        for module in (name, f"{name}_table"):
            try:
                made[name] = importlib.import_module(module).readme_table
                break
            except (ImportError, AttributeError):
                continue
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = draw(old, _tables())
    if arguments.check:
        sys.exit(0 if new == old else "README.md: run python benchmarks/tables.py")
    files.write_text(readme, new)
