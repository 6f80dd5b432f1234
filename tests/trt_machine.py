"""A machine with a fake GPU, driver, pycuda and TensorRT, for the tests of the TensorRT back ends."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import fake_tensorrt
from fake_cuda import RTX3080, FakeCuda

from edgead.backends.trt import api, build, child, cuda, device, run
from edgead.backends.trt.options import TrtOptions


class Machine:
    """What a test needs of one machine.

    Attributes:
        name: tensorrt or tensorrt-rtx.
        events: What the build told about its progress.
    """

    def __init__(self, monkeypatch: Any, tmp_path: Any, version: str, gpu: dict[str, Any] = RTX3080,
                 **driver: Any) -> None:  # fmt: skip
        self.version = version
        self.name = "tensorrt-rtx" if version.startswith("rtx") else "tensorrt"
        self.cuda = FakeCuda(gpu, **driver) if gpu else FakeCuda(**driver)
        self.trt = fake_tensorrt.make(version, self.cuda)
        self.trt.__spec__ = ModuleSpec(api.MODULES[self.name], None)  # as an installed one has
        self.cache = tmp_path / "cache"
        self.events: list[dict[str, Any]] = []
        package = types.ModuleType("pycuda")
        package.driver = self.cuda.driver
        monkeypatch.setitem(sys.modules, "pycuda", package)
        monkeypatch.setitem(sys.modules, "pycuda.driver", self.cuda.driver)
        monkeypatch.setitem(sys.modules, api.MODULES[self.name], self.trt)
        monkeypatch.setattr(device, "load_driver", lambda: self.cuda.library)
        monkeypatch.setattr(cuda, "_contexts", {})
        run._runtime.cache_clear()
        # The build's child is a real process: it finds the fake where the library would be installed.
        site = tmp_path / "site"
        site.mkdir(exist_ok=True)
        monkeypatch.setenv("PYTHONPATH", str(fake_tensorrt.shadow(site, version)))

    def options(self, **changes: Any) -> TrtOptions:
        """Options that record the build's events."""
        return TrtOptions(**{"on_progress": self.events.append, **changes})

    def open(self, model: bytes, *, precision: str = "fp32", **arguments: Any) -> run.TrtBackend:
        """Open the back end, building where needed."""
        changes = arguments.pop("options", {})
        return run.open_backend(
            model, name=self.name, precision=precision, cache_dir=self.cache,
            **{"allow_build": True, **arguments}, options=self.options(**changes),
        )  # fmt: skip


class InProcess(Machine):
    """The same, but builds without the child process: for tests of what comes after a build."""

    def __init__(self, monkeypatch: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(monkeypatch, *arguments, **named)
        monkeypatch.setattr(build, "run_child", _build_here)


def _build_here(job: dict[str, Any], work: Any, *, expected: Any, tell: Any) -> dict[str, Any]:
    return {**child.build(job, tell), "notes": [], "peak_rss_bytes": 0}
