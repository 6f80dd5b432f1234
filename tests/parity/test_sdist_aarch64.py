"""The source distribution holds all that a Jetson compiles: its own CMake makes edgead._C for aarch64 from it.

The kernels' results on aarch64 are `test_kernels_aarch64`'s; here it is the package, with pybind11 and the bindings.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.aarch64

ROOT = Path(__file__).resolve().parent.parent.parent
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.so", "*.pyc")
_AARCH64 = 183  # e_machine in the ELF header


def test_the_native_module_is_cross_compiled_from_an_sdist(tmp_path: Path) -> None:
    pytest.importorskip("pybind11")  # the build fetches it; a tested installation need not have it
    unpacked = unpack(sdist(tmp_path), tmp_path)
    suffix = ".cpython-aarch64-linux-gnu.so"
    definitions = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": str(tmp_path / "out"),
        "EDGEAD_CUDA_ARCHITECTURES": "off",
        "Python_EXECUTABLE": sys.executable,
        "Python_INCLUDE_DIR": sysconfig.get_paths()["include"],
        "PYTHON_MODULE_EXTENSION": suffix,
        "pybind11_DIR": said([sys.executable, "-m", "pybind11", "--cmakedir"]).strip(),
    }
    said(
        ["cmake", "-S", str(unpacked / "csrc"), "-B", str(tmp_path / "build"),
         *(f"-D{name}={value}" for name, value in definitions.items())]
    )  # fmt: skip
    said(["cmake", "--build", str(tmp_path / "build")])
    module = tmp_path / "out" / f"_C{suffix}"
    data = module.read_bytes()
    assert data[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", data, 18)[0] == _AARCH64
    assert "PyInit__C" in said(["aarch64-linux-gnu-nm", "-D", "--defined-only", str(module)])


def sdist(folder: Path) -> Path:
    """The source distribution of the checkout as it is."""
    tree = folder / "tree"
    for name in ("edgead", "calibration", "csrc"):
        shutil.copytree(ROOT / name, tree / name, ignore=_LEFT_OUT)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tree / name)
    said([sys.executable, "setup.py", "-q", "sdist", "-d", str(folder / "dist")], cwd=tree)
    (made,) = (folder / "dist").glob("edgead-*.tar.gz")
    return made


def unpack(path: Path, folder: Path) -> Path:
    with tarfile.open(path) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (found,) = (folder / "unpacked").iterdir()
    return found


def said(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
