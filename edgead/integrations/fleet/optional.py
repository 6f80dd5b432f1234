"""Packages of the fleet's extras, imported on use, and the sentence that says what to install."""

from __future__ import annotations

import importlib
from typing import Any

from edgead.errors import ConfigError

__all__ = [
    "fsspec",
    "oras_client",
    "pyarrow",
    "pyarrow_parquet",
    "ray",
    "ray_data",
    "triton_config",
]


def pyarrow() -> Any:
    """``pyarrow``; ConfigError PYARROW_MISSING."""
    return _package(
        "pyarrow", "PYARROW_MISSING", "results are Parquet files, which need", "parquet"
    )


def pyarrow_parquet() -> Any:
    """``pyarrow.parquet``; ConfigError PYARROW_MISSING."""
    pyarrow()
    return importlib.import_module("pyarrow.parquet")


def ray() -> Any:
    """``ray``; ConfigError RAY_MISSING."""
    return _package("ray", "RAY_MISSING", "--ray needs", "ray")


def ray_data() -> Any:
    """``ray.data``; ConfigError RAY_MISSING."""
    ray()
    return _package("ray.data", "RAY_MISSING", "--ray needs", "ray")


def fsspec() -> Any:
    """``fsspec``; ConfigError FSSPEC_MISSING."""
    return _package("fsspec", "FSSPEC_MISSING", "stores need", "fleet")


def oras_client() -> Any:
    """``oras.client``; ConfigError ORAS_MISSING."""
    return _package("oras.client", "ORAS_MISSING", "OCI registries need", "fleet")


def triton_config() -> Any:
    """Triton's own protobuf schema of a model configuration; ConfigError TRITON_MISSING."""
    module = "tritonclient.grpc.model_config_pb2"
    return _package(module, "TRITON_MISSING", "a Triton configuration needs", "triton")


def _package(module: str, code: str, what: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            code,
            f"{what} {module.partition('.')[0]}, which does not import ({error}).",
            f"pip install 'edgead[{extra}]'",
        ) from error
