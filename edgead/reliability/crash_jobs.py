"""What a crash test kills: a training, a quantisation, an engine's build and a camera loop, all small.

Everything is made here from a seed: images, networks of random weights. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgead import files, images
from edgead.bundle import read_bundle, write_bundle
from edgead.errors import BackendError, ConfigError, EdgeadError
from edgead.reliability.crash_work import End, Work, in_child
from edgead.testing.tiny import TINY_MODEL, tiny_bundle, tiny_frame

__all__ = ["JOBS", "Build", "Quantize", "Run", "Train"]

_IMAGES, _SIDE = 48, 64
_FRAMES = 60
_TARGET = "sm86"


class Train:
    """A training in a folder: no bundle or a whole one, and in the end the undisturbed one's bits.

    Raises:
        ConfigError: CRASH_MISSING without torch and timm.
    """

    is_complete = False

    def __init__(self, folder: Path) -> None:
        _require("torch", "timm", "onnx", "onnxruntime")
        _import("edgead.train.run", "edgead.models.trisimplenet", "onnxscript", "onnxruntime")
        self.about = {"resumed": 0}
        self.good, self.out = folder / "good", folder / "part.edgead"
        self._made: Any = None
        _write_images(self.good)

    def do(self, _: Callable[[], None]) -> None:
        """Train, or go on."""
        import torch

        from edgead.models.registry import make_method
        from edgead.train.loop import Budget
        from edgead.train.run import train

        torch.set_num_threads(1)
        settings = {"strides": (4, 8), "hidden": 64, "step_patches": 512}
        train(
            lambda: make_method(
                "trisimplenet", recipe="paper", backbone="test_efficientnet", weights="random",
                image_size=_SIDE, settings=settings,
            ),
            self.good, self.out, budget=Budget(epochs=3), false_reject_rate=0.1,
        )  # fmt: skip

    def check(self, end: End) -> tuple[str, str]:
        """The bundle is absent, or holds what the first one holds to the last bit."""
        self.is_complete = self.out.exists()
        if not self.is_complete:
            self.about["resumed"] += any(self.out.parent.glob(".*.training-*/*.safetensors"))
            return ("lost", "the training ended without a bundle") if end.is_whole else ("", "")
        try:
            bundle = read_bundle(self.out)
        except EdgeadError as error:
            return "torn", str(error)
        made = bundle.members, bundle.manifest.thresholds
        self._made = self._made or made
        other = made != self._made
        return ("lost", "the resumed training ended in other bits") if other else ("", "")

    def start_over(self) -> None:
        """Forget bundle and checkpoints."""
        self.out.unlink(missing_ok=True)
        for path in self.out.parent.glob(f".{self.out.name}.training-*"):
            shutil.rmtree(path)


class Quantize:
    """`quantize` of a small trained bundle: it stays what it was, or is the complete new one.

    Raises:
        ConfigError: CRASH_MISSING.
    """

    is_complete = False

    def __init__(self, folder: Path) -> None:
        self._training = Train(folder)
        _import("edgead.deploy.quantize", "openvino")
        self.about: dict[str, Any] = {}
        self._out, self._cache = self._training.out, folder / "cache"
        end = in_child(self._training.do)
        if not end.is_whole:
            raise ConfigError(
                "CRASH_COMMAND", f"the bundle to quantise cannot be made: {end.error}"
            )
        self._before = self._out.read_bytes()
        self._made: Any = None

    def do(self, _: Callable[[], None]) -> None:
        """Quantise; what the search has found lies in a cache of its own."""
        from edgead.deploy.agreement import Limits
        from edgead.deploy.quantize import quantize

        os.environ["XDG_CACHE_HOME"] = str(self._cache)
        # Random weights are no measure of INT8: what counts here is what is written, and when.
        limits = Limits(flips=1000, auroc_loss=1, pixel_auroc_loss=1, rank_correlation=-1)
        quantize(
            self._out, self._training.good, precisions=("fp16", "int8"), limits=limits, threads=1
        )

    def check(self, end: End) -> tuple[str, str]:
        """Old bytes, or every member of the first round's."""
        data = self._out.read_bytes() if self._out.exists() else b""
        self.is_complete = data != self._before
        if not self.is_complete:
            return ("lost", "quantize ended and changed nothing") if end.is_whole else ("", "")
        try:
            members = read_bundle(self._out).members
        except EdgeadError as error:
            return "torn", str(error)
        models = {name: data for name, data in members.items() if name.endswith(".onnx")}
        made = sorted(members), models
        self._made = self._made or made
        return ("torn", "not the members of a whole round") if made != self._made else ("", "")

    def start_over(self) -> None:
        """The bundle as it was, and no search to go on with."""
        files.write_bytes(self._out, self._before)
        shutil.rmtree(self._cache, ignore_errors=True)


class Build:
    """An engine's build into the cache: no entry, or a whole one that this machine signed.

    The builder is TensorRT-RTX, which needs no GPU; where it is not installed, a stand-in.
    """

    is_complete = False

    def __init__(self, folder: Path) -> None:
        from edgead.backends.trt import api, build
        from edgead.backends.trt.cache import EngineStore
        from edgead.backends.trt.options import TrtOptions

        self._is_real = importlib.util.find_spec("tensorrt_rtx") is not None
        version = str(api.load("tensorrt-rtx").__version__) if self._is_real else "0"
        self.about = {"builder": f"tensorrt-rtx {version}" if self._is_real else "stand-in"}
        self._store = EngineStore(folder / "engines")
        self._key = build.make_key(
            TINY_MODEL, name="tensorrt-rtx", precision="fp32", version=version, cuda=None, gpu=None,
            target=_TARGET, options=TrtOptions(),
        )  # fmt: skip
        self._made = b""

    def do(self, _: Callable[[], None]) -> None:
        """Build."""
        from edgead.backends.trt.build import build_engine

        if self._is_real:
            build_engine(
                TINY_MODEL, name="tensorrt-rtx", precision="fp32", target=_TARGET,
                cache_dir=self._store.folder,
            )  # fmt: skip
        else:
            self._store.get_or_build(self._key, self._stand_in)

    def check(self, end: End) -> tuple[str, str]:
        """What the cache gives is nothing or the first round's plan."""
        try:
            plan = self._store.load(self._key)
        except BackendError as error:
            self.is_complete = False
            if error.code != "ENGINE_MISSING":
                return "torn", str(error)
            return ("lost", "the build ended without an engine") if end.is_whole else ("", "")
        self.is_complete = True
        self._made = self._made or plan
        return ("torn", "a plan that nobody built") if plan != self._made else ("", "")

    def start_over(self) -> None:
        """Remove the engine, and what killed builders left."""
        self._store.path(self._key).unlink(missing_ok=True)
        self._store.sweep()

    def _stand_in(self) -> tuple[bytes, dict[str, Any]]:
        plan = bytes(range(256)) * 8192
        with self._store.work_folder() as place:
            (place / "plan").write_bytes(plan)
            return (place / "plan").read_bytes(), {"seconds": 0.0}


class Run:
    """A camera loop with journal and saved rejects: what was handed over is in the journal."""

    is_complete = False

    def __init__(self, folder: Path, *, early: bool = False) -> None:
        _import("openvino", "onnxruntime")
        self.about = {"rows": 0}
        self._path, self._rejects = folder / "line.sqlite", folder / "rejects"
        self._bundle = folder / "part.edgead"
        write_bundle(self._bundle, tiny_bundle())
        self._early = early

    def do(self, acknowledge: Callable[[], None]) -> None:
        """Judge some frames; every second one is a defect and saved."""
        from edgead.detector import Detector
        from edgead.stream import Journal

        frames = [tiny_frame(number, 100 + 100 * (number % 2)) for number in range(_FRAMES)]
        with Detector(self._bundle, threads=1) as detector:
            journal = Journal(self._path, sync="full")
            if self._early:  # positive control: rows are promised that nobody has written
                for _ in frames:
                    acknowledge()
            with detector.stream(frames, journal=journal, save_rejects=self._rejects) as outcomes:
                for _ in outcomes:
                    acknowledge()

    def check(self, end: End) -> tuple[str, str]:
        """Every acknowledged row is there, the chain whole, every saved reject too."""
        from edgead.stream.journal_read import verify_journal
        from edgead.stream.replay import read_replay

        self.is_complete = end.is_whole
        found: dict[str, Any] = {"ok": True, "rows": 0}
        try:
            for path in self._rejects.glob("*.replay"):
                read_replay(path)
        except EdgeadError as error:
            return "torn", str(error)
        try:
            if self._path.exists():
                found = verify_journal(self._path)
        except EdgeadError as error:
            # A journal without a first row has nothing to verify yet.
            return ("torn", str(error)) if end.acknowledged or self.about["rows"] else ("", "")
        if not found["ok"]:
            return "torn", "; ".join(found["problems"])
        promised, rows = self.about["rows"] + end.acknowledged, int(found["rows"])
        self.about["rows"] = rows
        return ("lost", f"{rows} rows, {promised} promised") if rows < promised else ("", "")

    def start_over(self) -> None:
        """Journal and bundle go on; rejects are counted anew."""
        shutil.rmtree(self._rejects, ignore_errors=True)


JOBS: dict[str, Callable[[Path], Work]] = {
    "train": Train,
    "quantize": Quantize,
    "build": Build,
    "run": Run,
}


def _require(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            "CRASH_MISSING",
            f"a training to kill needs {' and '.join(missing)}, not installed here.",
            "pip install 'edgead[train]'.",
        )


def _import(*modules: str) -> None:
    """Before the first fork, what is there: a kill shall hit work, not imports."""
    for name in modules:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)


def _write_images(folder: Path) -> None:
    """Pieces of one texture, each with its own noise."""
    from edgead.evaluate.textures import procedural_texture

    rng = np.random.default_rng(7)
    texture = procedural_texture((4 * _SIDE, 4 * _SIDE), rng)
    folder.mkdir()
    for number in range(_IMAGES):
        y, x = rng.integers(0, 3 * _SIDE, 2)
        piece = texture[y : y + _SIDE, x : x + _SIDE].astype(np.float64)
        noisy = np.clip(piece + rng.normal(0, 3, piece.shape), 0, 255).astype(np.uint8)
        images.save_image(folder / f"{number:02d}.png", noisy)
