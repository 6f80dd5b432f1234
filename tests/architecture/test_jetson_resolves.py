"""On a Jetson (aarch64, Python 3.10) the core and the jetson extra resolve from wheels, without JetPack's own packages.

pycuda is left out: it has no wheels and is built from source there.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).resolve().parent.parent.parent / "pyproject.toml"
PLATFORMS = (
    "manylinux_2_35_aarch64",
    "manylinux_2_28_aarch64",
    "manylinux_2_17_aarch64",
    "manylinux2014_aarch64",
)
UNREACHABLE = (
    "Connection",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "timed out",
)


def requirements() -> list[str]:
    """Core and jetson requirements as pyproject.toml lists them; tomllib is not there on Python 3.10."""
    text = PYPROJECT.read_text()
    core = re.search(r"^dependencies = (\[.*?\])", text, re.DOTALL | re.MULTILINE)
    jetson = re.search(r"^jetson = (\[.*?\])", text, re.DOTALL | re.MULTILINE)
    assert core is not None
    assert jetson is not None
    listed: list[str] = json.loads(core[1]) + json.loads(jetson[1])
    return [one for one in listed if not one.startswith("pycuda")]


def test_core_and_jetson_extra_resolve_from_wheels(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary=:all:",
         *(f"--platform={platform}" for platform in PLATFORMS), "--python-version=3.10", "--implementation=cp",
         f"--target={tmp_path / 'site'}", f"--report={report}", *requirements()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0 and any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    names = {one["metadata"]["name"].lower() for one in json.loads(report.read_text())["install"]}
    assert {"numpy", "msgspec", "safetensors"} <= names
    own_to_jetpack = [name for name in names if re.match(r"opencv|tensorrt|openvino|torch", name)]
    assert own_to_jetpack == []
