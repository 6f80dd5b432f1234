"""The CUDA sources compile for every architecture in csrc/CMakeLists.txt that the nvcc at hand knows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parent.parent.parent / "csrc"
NVCC = shutil.which("nvcc")


def known_architectures() -> list[str]:
    listed = re.search(
        r"set\(EDGEAD_ARCHITECTURES ([\d ]+)\)", (SOURCES / "CMakeLists.txt").read_text()
    )
    assert listed is not None
    assert NVCC is not None
    known = subprocess.run(
        [NVCC, "--list-gpu-arch"], capture_output=True, text=True, check=True
    ).stdout.split()
    return [number for number in listed[1].split() if f"compute_{number}" in known]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", sorted(path.name for path in SOURCES.glob("*.cu")))
def test_every_architecture_compiles(source: str, tmp_path: Path) -> None:
    if NVCC is None:
        if os.environ.get("EDGEAD_REQUIRE_NVCC") == "1":
            pytest.fail("EDGEAD_REQUIRE_NVCC=1, but there is no nvcc on the PATH")
        pytest.skip("no nvcc on the PATH")
    numbers = known_architectures()
    assert numbers, "this nvcc knows none of edgead's architectures"
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    done = subprocess.run(
        [NVCC, "-std=c++17", "-O3", "-Werror", "all-warnings", "--threads", "0", *targets, "-c",
         str(SOURCES / source), "-o", str(tmp_path / "kernel.o")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
