"""Draws docs/api.md from the docstrings: what programs import, with signatures.

    python docs/make_api.py             # rewrites docs/api.md
    python docs/make_api.py --check     # only says whether that would change anything

It reads the source and imports nothing, so that it needs no optional package.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
#: What an integrator's program may import; the rest is edgead's own and may change.
MODULES = (
    "edgead",
    "edgead.errors",
    "edgead.frame",
    "edgead.images",
    "edgead.bundle",
    "edgead.view",
    "edgead.swap",
    "edgead.stream",
    "edgead.stream.handshake",
    "edgead.stream.replay",
    "edgead.stream.drift_status",
    "edgead.integrations.publisher",
    "edgead.integrations.parts",
    "edgead.integrations.serve",
    "edgead.integrations.serve.cameras",
    "edgead.evaluate.data",
    "edgead.evaluate.metrics",
    "edgead.evaluate.threshold",
    "edgead.evaluate.commission",
    "edgead.testing",
)
HEAD = """# API reference

Drawn from the docstrings by `python docs/make_api.py`. What is not here is edgead's own and may change without notice.
Types, shapes, units and errors stand with each name; every error is an `EdgeadError` with a stable `code`.

"""
_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields):$")
_COMMA = re.compile(r", (?![^\[(]*[\])])")  # not those inside brackets
_ITEM = re.compile(r"^    (\S[^:]*): (.*)$")

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def source_of(module: str) -> Path:
    """Its file."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def public_names(module: str) -> list[str]:
    """What its ``__all__`` says, sorted, without dunder names."""
    for node in ast.parse(source_of(module).read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(name for name in ast.literal_eval(node.value) if name[0] != "_")
    raise SystemExit(f"{module} has no __all__")


def definition(module: str, name: str) -> ast.stmt | None:
    """Where a name is defined, through the imports of the package's own modules."""
    tree = ast.parse(source_of(module).read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return node
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == name:
                return node
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgead"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(str(node.module), alias.name)
    return None


def draw() -> str:
    """The page."""
    parts = [HEAD]
    for module in MODULES:
        tree = ast.parse(source_of(module).read_text("utf-8"))
        parts.append(f"## `{module}`\n\n{text_of(tree)}\n\n")
        for name in public_names(module):
            parts.append(entry(name, definition(module, name)))
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).rstrip() + "\n"


def entry(name: str, node: ast.stmt | None) -> str:
    """One name: its signature, its docstring, its public methods."""
    if not isinstance(node, Definition):
        value = "" if node is None else f" = {ast.unparse(node.value)}"  # type: ignore[attr-defined]
        return f"### `{name}{value}`\n\n" if len(value) < 90 else f"### `{name}`\n\n"
    head = name if isinstance(node, ast.ClassDef) else f"{name}{signature(node)}"
    parts = [f"### `{name}`\n\n"]
    if isinstance(node, ast.ClassDef):
        made = next((one for one in methods(node) if one.name == "__init__"), None)
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        head = f"class {name}" + (f"({bases})" if bases else "")
        head += f"\n{name}{signature(made)}" if made else ""
    parts.append(f"```text\n{head}\n```\n\n{text_of(node)}\n")
    if isinstance(node, ast.ClassDef):
        shown = [one for one in methods(node) if one.name == "__call__" or one.name[0] != "_"]
        parts += ["\n**Members**\n\n"] if shown else []
        parts += [method(one) for one in shown]
    return "".join(parts) + "\n"


def methods(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """In the order of the source."""
    return [one for one in node.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]


def method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """One method in a line: its signature and its summary."""
    is_property = any("property" in ast.unparse(one) for one in node.decorator_list)
    summary = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
    shown = node.name if is_property else f"{node.name}{signature(node, is_whole=False)}"
    return f"- `{shown}`" + (f": {summary}\n" if summary else "\n")


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, is_whole: bool = True) -> str:
    """As it is written, without ``self``; one argument a line where it is long."""
    arguments = re.sub(r"^(self|cls)(, )?", "", ast.unparse(node.args))
    answer = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    if len(arguments) + len(answer) > 80 and is_whole:
        arguments = "".join(f"\n    {one}," for one in _COMMA.split(arguments)) + "\n"
    return f"({arguments}){answer}"


def text_of(node: Definition | ast.Module) -> str:
    """A Google-style docstring as Markdown."""
    return "\n".join(_markdown((ast.get_docstring(node) or "").splitlines()))


def _markdown(lines: list[str]) -> Iterator[str]:
    in_items = in_code = False
    for line in lines:
        is_code = line.startswith((">>> ", "... ", "    ")) and not in_items
        if is_code != in_code:
            yield "```text" if is_code else "```"
            in_code = is_code
        if in_code:
            yield line.partition("  # doctest: ")[0].rstrip()
            continue
        section = _SECTION.match(line)
        if section:
            in_items = True
            yield f"**{section[1]}**\n"
        elif in_items and (item := _ITEM.match(line)):
            yield f"- `{item[1]}`: {item[2]}"
        elif in_items and line.startswith("    "):
            yield f"  {line.strip()}"
        else:
            in_items = in_items and not line.strip()
            yield line
    if in_code:
        yield "```"


def main() -> None:
    """Write the page, or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        sys.exit(0 if PAGE.read_text("utf-8") == draw() else "run python docs/make_api.py")
    PAGE.write_text(draw(), "utf-8")


if __name__ == "__main__":
    main()
