"""Draw README's tables from ``benchmarks/results/*.json``; no figure is typed.

``python benchmarks/tables.py`` rewrites what stands between ``<!-- table:NAME -->`` and ``<!-- /table -->``;
``--check`` only says whether that would change anything.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from harness import RESULTS, ROOT

from edgead import files

__all__ = ["draw", "markdown"]

_TABLE = re.compile(r"(<!-- table:([a-z_]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
NOT_MEASURED = "not measured"
NONE = f"{NOT_MEASURED}\n"


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
    """The main job: what the product's one path reaches, a column a data set, weak ones too."""
    sets = [
        json.loads(path.read_text())["figures"] for path in sorted(RESULTS.glob("main_job*.json"))
    ]
    rows = [[name, *(figures[name] for figures in sets)] for name in sets[0] if name != "set"]
    return markdown(["figure", *(figures["set"] for figures in sets)], rows)


def kernels() -> str:
    """The kernels against their peers."""
    import kernels as benchmark

    return benchmark.readme_table() if (RESULTS / "kernels-cpu.json").exists() else NONE


def accuracy() -> str:
    """Methods by data set, beside the papers' figures."""
    from accuracy_table import table

    path = RESULTS / "accuracy.json"
    return f"{table(json.loads(path.read_text()))}\n" if path.exists() else NONE


def precision() -> str:
    """Each precision against FP32: agreement from the certificates, speed from a run of its own."""
    text = ""
    for path in sorted(RESULTS.glob("precision_*.json")):
        found = json.loads(path.read_text())
        rows = [
            [
                one["backend"],
                one["precision"],
                f"{one['figures']['auroc_loss']:.4f}",
                one["figures"]["flips"],
                f"{one['figures']['rank_correlation']:.4f}",
                f"{found['speedup'][one['backend']][one['precision']]:.2f}x",
                _ratio(found.get("processor_speedup"), one),
                f"{one['figures']['size_ratio']:.0%}",
                "yes" if one["passed"] else "no",
            ]
            for one in found["certificates"]
            if one["arithmetic"] == "native"
        ]
        head = ["back end", "precision", "image AUROC loss", "flipped verdicts", "rank correlation"]
        head += ["speed against fp32", "in processor time", "size", "passed"]
        text += f"{found['method']} on {found['set']}, {found['test_frames']} frames, "
        text += (
            f"{found['provenance']['cpu']}, {found['threads']} threads:\n\n{markdown(head, rows)}\n"
        )
        text += f"{found['note']}\n\n" if found.get("note") else ""
    return text or NONE


def _ratio(table: dict[str, Any] | None, one: dict[str, Any]) -> str | None:
    """A speed-up, None where it was not measured."""
    return None if table is None else f"{table[one['backend']][one['precision']]:.2f}x"


TABLES = {"main_job": main_job, "kernels": kernels, "accuracy": accuracy, "precision": precision}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = draw(old, TABLES)
    if arguments.check:
        sys.exit(0 if new == old else "README.md: run python benchmarks/tables.py")
    files.write_text(readme, new)
