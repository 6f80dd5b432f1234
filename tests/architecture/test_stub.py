"""edgead/_C.pyi holds exactly what the built module has, under the same argument names."""

from __future__ import annotations

import ast
import re
from importlib.resources import files

import pytest

from edgead.kernels._native import native


def test_the_stub_matches_the_module() -> None:
    module = native()
    if module is None:
        pytest.skip("edgead._C is not built")
    stub = ast.parse(files("edgead").joinpath("_C.pyi").read_text())
    written = {
        node.name: [argument.arg for argument in node.args.args]
        for node in stub.body
        if isinstance(node, ast.FunctionDef)
    }
    classes = {node.name for node in stub.body if isinstance(node, ast.ClassDef)}
    built = {
        name: re.findall(r"(\w+): ", getattr(module, name).__doc__.split(") ->")[0])
        for name in dir(module)
        if callable(getattr(module, name)) and not isinstance(getattr(module, name), type)
    }
    assert written == built
    assert classes == {name for name in dir(module) if isinstance(getattr(module, name), type)}
