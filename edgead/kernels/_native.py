"""Finds the native module once and remembers what it found.

``EDGEAD_KERNELS`` chooses: unset takes edgead._C where it was built and NumPy elsewhere, ``native`` insists on
edgead._C, ``reference`` forces NumPy.
"""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from types import ModuleType

from edgead.errors import ConfigError

CHOICES = ("native", "reference")


@lru_cache(maxsize=1)
def _module() -> ModuleType | ImportError:
    try:
        return importlib.import_module("edgead._C")
    except ImportError as cause:
        return cause


def native() -> ModuleType | None:
    """The native module, or None where the NumPy reference is to run.

    Raises:
        ConfigError: EDGEAD_KERNELS has an unknown value, or insists on a module that cannot be loaded.
    """
    choice = os.environ.get("EDGEAD_KERNELS", "")
    if choice == "reference":
        return None
    if choice not in ("", *CHOICES):
        raise ConfigError(
            "KERNELS_CHOICE",
            f"EDGEAD_KERNELS is {choice!r}; expected one of {', '.join(CHOICES)}, or nothing.",
            "Unset it to take the native kernels where they are built.",
        )
    module = _module()
    if isinstance(module, ModuleType):
        return module
    if choice == "native":
        raise ConfigError(
            "KERNELS_NATIVE",
            "EDGEAD_KERNELS is 'native', but edgead._C cannot be loaded.",
            "Install edgead where a C++17 compiler is present, or unset EDGEAD_KERNELS.",
        ) from module
    return None


def implementation() -> str:
    """What runs NumPy arrays: ``"native-<instruction set>"`` or ``"reference"``."""
    module = native()
    return "reference" if module is None else f"native-{module.instruction_set()}"


def has_cuda() -> bool:
    """Whether CUDA arrays can be computed on, as far as the build goes."""
    module = native()
    return module is not None and bool(module.built_with_cuda())
