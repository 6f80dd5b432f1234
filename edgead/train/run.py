"""Good images -> bundle: split, train, export, commission, prove, write."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.numpy import save as save_tensors

from edgead import files
from edgead._version import __version__
from edgead.backends import open_backend
from edgead.backends.base import Backend
from edgead.bundle import HEAD, MODEL, Bundle, write_bundle
from edgead.deploy.export import Parity, check_parity, onnx_from_spec
from edgead.evaluate import data
from edgead.evaluate.commission import Commissioned, commission, frame_spec, open_scorer
from edgead.evaluate.threshold import Threshold
from edgead.frame import Frame
from edgead.heads import Head
from edgead.manifest import (
    IGNORE_MASK,
    NOT_COMMISSIONED,
    InputSpec,
    Manifest,
    Training,
)
from edgead.models.base import ExportSpec, Method
from edgead.models.registry import batch_of
from edgead.scorer import Scored
from edgead.train.images import Look, TrainingImages
from edgead.train.loop import Budget, Loop, Progress
from edgead.train.memory import memory_error_says
from edgead.view import Sketch

__all__ = ["Trained", "train"]

HELD_OUT = 0.2
#: Under so many good images, holding a fifth out proves nothing: all are scored by cross-fitting.
CROSS_FIT_BELOW = 40
FOLDS = 3

_log = logging.getLogger(__name__)
MakeMethod = Callable[[], Method]


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        bundle: What was written.
        promise: The threshold and what it proves.
        parity: Torch against the exported file on the held-out frames.
        seconds: Wall-clock time, all in.
    """

    bundle: Bundle
    promise: Threshold
    parity: Parity
    seconds: float


@dataclass(frozen=True)
class _Fitted:
    spec: ExportSpec
    model: bytes
    loop: Loop
    method: Method


def train(
    make: MakeMethod,
    source: str | Path,
    out: str | Path,
    *,
    budget: Budget | None = None,
    false_reject_rate: float = 0.01,
    confidence: float = 0.95,
    seed: int = 0,
    view: Sketch | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a method on good images and write a bundle.

    A training that was stopped goes on where it was when the same one is started again: its
    checkpoints lie beside ``out`` until the bundle is written.

    Args:
        make: Gives an untrained method, e.g. ``lambda: make_method("trisimplenet")``; called once
            more a fold where images are few.
        source: Folder of good images, or an MVTec-layout root, whose ``train/good`` is used.
        out: The ``.edgead`` file.
        budget: When to stop training.
        false_reject_rate: Share of good parts that the line may reject.
        confidence: How surely.
        seed: Of the split, the training and the golden images.
        view: What of the frames is looked at, in training and ever after; None looks at all.
        report: Progress, for a progress bar.

    Raises:
        CalibrationError: The images cannot carry a training; OUT_OF_MEMORY.
        BundleError: EXPORT_FAILED, EXPORT_PARITY.
        StorageError: The bundle cannot be written.
    """
    started = time.monotonic()
    files.check_target(out)  # before the training, not after it
    paths = data.find_training(source)
    frames = data.load_images(paths)
    spec = frame_spec(frames)
    if spec.size is None:
        _log.warning("%s", data.describe_sizes(data.image_sizes(paths)))
    looked = Look(spec, (view or Sketch()).on(spec), None if view is None else view.mask)
    run = _Run(make, budget or Budget(), looked, seed, report, Path(out))
    few = len(paths) < CROSS_FIT_BELOW
    fit = run.cross_fitted if few else run.held_out
    fitted, held, scored, how = fit(paths)
    draft = _draft(fitted, looked, paths, seed, time.monotonic() - started)
    ready = commission(
        draft,
        run.backend(fitted),
        held,
        false_reject_rate=false_reject_rate,
        confidence=confidence,
        how=how,
        scored=scored,
        seed=seed,
    )
    parity = _prove(fitted, ready, run, held)
    write_bundle(out, ready.bundle)
    run.discard_checkpoints()
    return Trained(ready.bundle, ready.promise, parity, time.monotonic() - started)


class _Run:
    """What one training run holds fixed."""

    def __init__(
        self,
        make: MakeMethod,
        budget: Budget,
        look: Look,
        seed: int,
        report: Callable[[Progress], None] | None,
        out: Path,
    ) -> None:
        self.make, self.budget, self.look, self.frame = make, budget, look, look.frame
        self.seed, self.report, self.out = seed, report, out
        self._loops: list[Loop] = []

    def held_out(
        self, paths: Sequence[Path]
    ) -> tuple[_Fitted, Sequence[Frame], list[Scored] | None, Literal["held_out"]]:
        """Train on four fifths; the rest touches neither training nor epoch choice."""
        training, held = data.split(paths, HELD_OUT, self.seed)
        return self.fit(training, self.budget), data.load_images(held), None, "held_out"

    def cross_fitted(
        self, paths: Sequence[Path]
    ) -> tuple[_Fitted, Sequence[Frame], list[Scored], Literal["cross_fitted"]]:
        """Each image is scored by a model that did not see it; the model shipped saw them all.

        The promise of the threshold then is of the method, not of this very model; the manifest
        says ``cross_fitted``.
        """
        share = 1 / (FOLDS + 1)
        minutes = None if self.budget.minutes is None else self.budget.minutes * share
        part = Budget(epochs=self.budget.epochs, minutes=minutes)
        scored: dict[Path, Scored] = {}
        for training, held in data.folds(paths, FOLDS, self.seed):
            fitted = self.fit(training, part)
            draft = _draft(fitted, self.look, training, self.seed, 0.0)
            scorer = open_scorer(draft, self.backend(fitted), self.frame)
            scored.update(zip(held, scorer.each(data.load_images(held)), strict=True))
        ordered = [scored[path] for path in paths]
        return self.fit(paths, part), data.load_images(paths), ordered, "cross_fitted"

    def fit(self, paths: Sequence[Path], budget: Budget) -> _Fitted:
        """One training, exported."""
        method = self.make()
        input_spec = InputSpec(size=method.image_size, mean=[0.0] * 3, std=[1.0] * 3)
        images = TrainingImages(data.load_images(paths), self.look, input_spec)
        identity = f"{method.name} {method.config} {data.set_hash(paths)} {self.seed}"
        identity += self.look.identity
        fingerprint = hashlib.sha256(identity.encode()).hexdigest()
        loop = Loop(
            budget,
            seed=self.seed,
            report=self.report,
            checkpoint=self.out.with_name(f".{self.out.name}.training-{fingerprint[:12]}"),
            fingerprint=fingerprint,
        )
        self._loops.append(loop)
        with memory_error_says(batch_of(method), method.image_size):
            method.fit(images, loop)
        spec = method.export_spec()
        return _Fitted(spec, onnx_from_spec(spec, method.image_size), loop, method)

    def discard_checkpoints(self) -> None:
        """The bundle is safe: what a resumed training would need is no longer wanted."""
        for loop in self._loops:
            loop.discard_checkpoints()

    def backend(self, fitted: _Fitted) -> Backend:
        """The FP32 engine that thresholds are learnt on."""
        return open_backend("onnxruntime", {MODEL: fitted.model})


def _prove(fitted: _Fitted, ready: Commissioned, run: _Run, held: Sequence[Frame]) -> Parity:
    """Torch against the exported file on the very frames that thresholds were learnt on."""
    head = Head(fitted.spec.head, fitted.spec.head_tensors)
    scored = ready.scored
    if ready.bundle.manifest.thresholds.how == "cross_fitted":  # scored by other models
        scorer = open_scorer(ready.bundle, run.backend(fitted), run.frame)
        scored = list(scorer.each(held))
    names = [frame.source_id for frame in held]
    return check_parity(fitted.spec, head, scored, ready.bundle.manifest.thresholds, names)


def _draft(fitted: _Fitted, look: Look, paths: Sequence[Path], seed: int, seconds: float) -> Bundle:
    """A bundle without a promise: `commission` fills in thresholds, ranges and golden images."""
    spec, method = fitted.spec, fitted.method
    members = {MODEL: fitted.model}
    if spec.head_tensors:
        members[HEAD] = save_tensors(dict(spec.head_tensors))
    if look.mask is not None:
        members[IGNORE_MASK] = look.mask
    manifest = Manifest(
        edgead=__version__,
        method=method.name,
        config=_plain(asdict(method.config)),
        backbone=method.backbone,
        frame=look.frame,
        view=look.view,
        input=InputSpec(size=method.image_size, mean=list(spec.mean), std=list(spec.std)),
        head=spec.head,
        thresholds=NOT_COMMISSIONED,
        training=Training(
            set_hash=data.set_hash(paths),
            images=len(paths),
            seed=seed,
            epochs=fitted.loop.epochs_run,
            seconds=round(seconds, 1),
            weights=method.weights,
            versions=_versions(),
            losses=fitted.loop.log,
        ),
        golden=[],
        members={},
    )
    return Bundle.build(manifest, members)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Config values as JSON has them."""
    return {
        key: list(value)
        if isinstance(value, tuple)
        else value
        if value is None or isinstance(value, bool | int | float | str)
        else str(value)
        for key, value in config.items()
    }


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "timm", "onnx", "numpy")}
