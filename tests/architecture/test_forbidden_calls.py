"""No file of the package runs code that came as data, builds a shell line, or reads a pickle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_FILES = sorted([*(_ROOT / "edgead").rglob("*.py"), *(_ROOT / "calibration").rglob("*.py")])
_MODULES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "yaml"}
#: Built-ins and attributes that run text as code or start a shell.
_NAMES = {"eval", "exec", "__import__"}
_CALLS = {"os.system", "os.popen", "pandas.read_pickle", "torch.hub.load", "pty.spawn"}


def violations(source: str, name: str = "file.py") -> list[str]:
    """``line: what`` for every forbidden import or call in ``source``."""
    found = []
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            modules = []
        found += [f"{node.lineno}: import {m}" for m in modules if m.split(".")[0] in _MODULES]
        if isinstance(node, ast.Call):
            found += [f"{node.lineno}: {what}" for what in _bad_call(node)]
    return found


def _bad_call(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    bad = [name] if name in _NAMES | _CALLS else []
    if name == "importlib.import_module" and call.args:
        module = call.args[0]
        text = module.value if isinstance(module, ast.Constant) else ""
        bad += [f"import_module({text!r})"] if str(text).split(".")[0] in _MODULES else []
    if name.endswith("torch.load") and not _is(options.get("weights_only"), True):
        bad.append("torch.load without weights_only=True")
    if "shell" in options and not _is(options["shell"], False):
        bad.append("shell=True")
    if "allow_pickle" in options and not _is(options["allow_pickle"], False):
        bad.append("allow_pickle=True")
    if name.endswith(("cv2.imread", "cv2.imwrite")):
        bad.append(f"{name}: returns None or False instead of an error; use edgead.images")
    return bad


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", _FILES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_file(path: Path) -> None:
    assert violations(path.read_text(), str(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml.constructor",
        "from joblib import load",
        "eval('1')",
        "exec(text)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=flag)",
        "numpy.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "importlib.import_module('pickle')",
        "cv2.imread(path)",
        "cv2.imwrite(path, pixels)",
    ],
)
def test_the_gate_can_fail(source: str) -> None:
    assert violations(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "subprocess.run(['ls'], shell=False)",
        "numpy.load(path, allow_pickle=False)",
        "model.eval()",
        "importlib.import_module('cv2')",
    ],
)
def test_the_gate_lets_pass(source: str) -> None:
    assert violations(source) == []


def test_something_was_looked_at() -> None:
    assert len(_FILES) > 20
