"""Builds edgead and its native module `edgead._C`.

Everything that is only data about the package is in pyproject.toml; this file holds what needs code:
the CMake build of csrc/ and the mapping of calibration/ to `edgead.calibration`.

Environment:
    EDGEAD_CUDA_ARCHITECTURES: "80;90" builds these; "" or "off" builds without CUDA; unset builds, when
        nvcc is found, the architectures listed in csrc/CMakeLists.txt that this nvcc knows.
    EDGEAD_REQUIRE_NATIVE: "1" makes a missing compiler an error instead of a warning.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
COMPILERS = ("c++", "g++", "clang++")


class CMakeBuild(build_ext):
    """Compiles csrc/ with CMake straight to where setuptools expects `edgead._C`."""

    def build_extension(self, ext: Extension) -> None:
        """Configure and build one extension, or say why it is left out."""
        compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
        if compiler is None:
            self._without_native(
                f"no C++ compiler was found (looked for $CXX, {', '.join(COMPILERS)})"
            )
            return
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        cmake = ["cmake", "-S", str(ROOT / "csrc"), "-B", str(build), "-G", "Ninja"]
        definitions = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": str(target.parent),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        architectures = os.environ.get("EDGEAD_CUDA_ARCHITECTURES")
        if architectures is not None:
            definitions["EDGEAD_CUDA_ARCHITECTURES"] = architectures or "off"
        subprocess.run(
            [*cmake, "--fresh", *(f"-D{name}={value}" for name, value in definitions.items())],
            check=True,
        )
        subprocess.run(["cmake", "--build", str(build)], check=True)
        if not target.exists():
            raise RuntimeError(f"the build of csrc/ ended without {target}")

    def _without_native(self, reason: str) -> None:
        """A machine without a compiler still gets a working package: the kernels run in NumPy."""
        message = (
            f"edgead is installed without its native module: {reason}. The kernels will run in NumPy: "
            "the same results, slower. Install a C++17 compiler (Debian, Ubuntu: apt install g++) and "
            "install edgead again."
        )
        if os.environ.get("EDGEAD_REQUIRE_NATIVE") == "1":
            raise RuntimeError(message)
        print(f"\n{'!' * 100}\n{message}\n{'!' * 100}\n", file=sys.stderr)


setup(
    packages=[*find_packages(include=["edgead*"]), "edgead.calibration"],
    package_dir={"edgead.calibration": "calibration"},
    package_data={
        "edgead": ["py.typed", "_C.pyi"],
        "edgead.integrations.serve": ["page/*"],
    },
    ext_modules=[Extension("edgead._C", sources=[], optional=True)],
    cmdclass={"build_ext": CMakeBuild},
)
