"""Marks that can be forbidden to skip, seeds, and Hypothesis without deadlines."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("edgead", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("edgead")


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists() or Path("/dev/nvhost-gpu").exists()


def _has_aarch64() -> bool:
    tools = ("aarch64-linux-gnu-g++", "qemu-aarch64")
    return all(shutil.which(tool) is not None for tool in tools)


def _has_rtx() -> bool:
    return importlib.util.find_spec("tensorrt_rtx") is not None


#: Mark -> (is it there, environment variable that turns its skip into a failure, what is missing).
_NEEDS = {
    "gpu": (_has_gpu, "EDGEAD_REQUIRE_GPU", "no NVIDIA GPU"),
    "aarch64": (_has_aarch64, "EDGEAD_REQUIRE_AARCH64", "no aarch64 compiler and qemu-user"),
    "rtx": (_has_rtx, "EDGEAD_REQUIRE_RTX", "no tensorrt_rtx: pip install 'edgead[tensorrt-rtx]'"),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip visibly what this machine lacks, or fail where the environment forbids the skip."""
    for mark, (is_there, variable, missing) in _NEEDS.items():
        if item.get_closest_marker(mark) is None or is_there():
            continue
        if os.environ.get(variable) == "1":
            pytest.fail(f"{variable}=1, but this machine has {missing}", pytrace=False)
        pytest.skip(missing)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)
