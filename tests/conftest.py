"""Marks that can be forbidden to skip, seeds, and Hypothesis without deadlines."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def _has_chromium() -> bool:
    programs = all(shutil.which(name) is not None for name in ("chromium", "chromedriver"))
    return programs and importlib.util.find_spec("selenium") is not None


def _has_rtx() -> bool:
    return importlib.util.find_spec("tensorrt_rtx") is not None


#: Mark -> (is it there, environment variable that turns its skip into a failure, what is missing).
_NEEDS = {
    "gpu": (_has_gpu, "EDGEAD_REQUIRE_GPU", "no NVIDIA GPU"),
    "aarch64": (_has_aarch64, "EDGEAD_REQUIRE_AARCH64", "no aarch64 compiler and qemu-user"),
    "chromium": (
        _has_chromium,
        "EDGEAD_REQUIRE_CHROMIUM",
        "no chromium, chromedriver and selenium",
    ),
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, for tests with the mark ``chromium``."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)
