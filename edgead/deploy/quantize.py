"""`edgead quantize`: FP16 and INT8 members that were proven on this line's images, or none."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgead.backends import open_backend
from edgead.bundle import CALIBRATION, CERTIFICATES, MODEL, Bundle, read_bundle, write_bundle
from edgead.calibration.calibrators import Histogram, clip_ranges
from edgead.calibration.frames import CalibrationFrames, frames_hash, gather
from edgead.calibration.recipes import Recipe, kept_nodes, recipe_for
from edgead.choice import certificates
from edgead.deploy.activations import float_tensors, watch
from edgead.deploy.agreement import Agreement, Limits, agreement
from edgead.deploy.certificate import encoded, issue, merged, score_frames
from edgead.deploy.half import half_model, prove_ranges
from edgead.deploy.qdq import (
    CONV_ONLY,
    FORMS,
    Form,
    Layout,
    costs,
    first_depthwise,
    int8_model,
    quantisable,
)
from edgead.deploy.rewrite import split
from edgead.deploy.rounding import round_weights
from edgead.deploy.search import Plan, Search, Trial
from edgead.errors import BackendError, BundleError, ConfigError
from edgead.scorer import Scorer

__all__ = ["PRECISIONS", "quantize"]

PRECISIONS = ("bf16", "fp16", "int8")
HALF = "model.fp16.onnx"
INT8 = [*FORMS.values(), CONV_ONLY]
_PROOFS = 12  # INT8 plans that proof may refuse before it is given up
_log = logging.getLogger(__name__)
Report = Callable[[str, float], None]


def quantize(
    bundle_path: str | Path,
    images_dir: str | Path,
    *,
    precisions: Sequence[str] = PRECISIONS,
    limits: Limits | None = None,
    layout: Layout = "all",
    minutes: float = 10.0,
    threads: int = 0,
    replace: bool = False,
    seed: int = 0,
    report: Report | None = None,
) -> dict[str, Any]:
    """Add precisions to a bundle, each with its certificates; rewritten in place, atomically.

    Args:
        bundle_path: The bundle.
        images_dir: Good images of this line, or an MVTec-layout root whose labelled ``test`` then
            proves.
        precisions: Of ``bf16`` (OpenVINO's own, no member), ``fp16`` and ``int8``.
        limits: What a precision must hold.
        layout: ``conv-only`` leaves additions in floating point.
        minutes: Budget of the INT8 search; a search that is cut off goes on at the next call.
        threads: CPU threads; 0 leaves the choice to the back end.
        replace: Make members again that the bundle holds already.
        seed: Of the split and the simulated defects.
        report: Called with a stage and the share done.

    Returns:
        ``certificates``: those made now. ``members``: bytes of each member that was added.
        ``notes``: what was not added, and what came closest.

    Raises:
        ConfigError: PRECISION_UNKNOWN.
        BundleError: ALREADY_QUANTIZED, QUANTIZE_FAILED, HALF_SUBGRAPH.
        CalibrationError: The images; see `edgead.calibration.frames.gather`.
        BackendError: PROVIDER when no back end is installed.
        StorageError: The bundle cannot be written; it is then what it was.
    """
    bundle = read_bundle(bundle_path)
    _check(bundle, precisions, replace=replace, path=bundle_path)
    job = _Job(bundle, images_dir, limits or Limits(), layout, minutes, threads, seed, report)
    for precision in precisions:
        getattr(job, f"add_{precision}")()
    table = merged(certificates(bundle), job.made)
    record = {**job.frames.record, **job.record}
    changes = {
        **job.members,
        CERTIFICATES: encoded(table),
        CALIBRATION: json.dumps(record, indent=1, sort_keys=True).encode(),
    }
    write_bundle(bundle_path, bundle.with_members(changes))
    job.forget()
    added = {name: len(data) for name, data in job.members.items() if data is not None}
    return {"certificates": job.made, "members": added, "notes": job.notes}


@dataclass
class _Job:
    """One call of `quantize`."""

    bundle: Bundle
    source: str | Path
    limits: Limits
    layout: Layout
    minutes: float
    threads: int
    seed: int
    report: Report | None

    def __post_init__(self) -> None:
        self.backends = _installed()
        self.made: list[dict[str, Any]] = []
        self.members: dict[str, bytes | None] = {}
        self.notes: list[str] = []
        self.record: dict[str, Any] = {}
        self._journal: Path | None = None
        self._tell("reading images", 0.0)
        manifest = self.bundle.manifest
        first = self.backends[0]
        self._base = open_backend(first, self.bundle.members, threads=self.threads)
        self.frames: CalibrationFrames = gather(
            Scorer(self.bundle, self._base),
            manifest.thresholds,
            self.source,
            seed=self.seed,
        )
        self.model = onnx.load_from_string(self.bundle.members[MODEL])
        self.recipe: Recipe = recipe_for(manifest.method)

    def add_bf16(self) -> None:
        """Nothing to make: OpenVINO computes the FP32 graph in bf16. It still needs a certificate."""
        if "openvino" in self.backends:
            self._certify("bf16", {}, ["openvino"])

    def add_fp16(self) -> None:
        """The typed graph, kept FP32 by range and recipe."""
        self._tell("FP16 range proof", 0.0)
        names = [node.name for node in self.model.graph.node]
        keep = kept_nodes(names, self.recipe.fp16)
        proof = prove_ranges(self.model, self.frames.tensors, keep)
        made = half_model(self.model, keep | set(proof.kept)).SerializeToString()
        self.record["fp16"] = {
            "largest": proof.largest, "tensor": proof.tensor, "frames": proof.frames,
            "kept_by_range": list(proof.kept), "kept_by_recipe": sorted(keep),
        }  # fmt: skip
        passed = self._certify("fp16", {HALF: made}, self.backends)
        if passed:
            self.members[HALF] = made
        else:
            self._refuse("fp16", [HALF], "")

    def add_int8(self) -> None:
        """As much INT8 as holds the limits, in every form that engines need."""
        plans = _Plans(self)
        search = Search(
            plans.evaluate,
            plans.nodes,
            frozenset(kept_nodes(plans.nodes, self.recipe.int8) | first_depthwise(plans.model)),
            self.limits,
            costs(plans.model),
            # A recipe that keeps weights exact keeps what is computed with them exact, too.
            bf16="openvino" in self.backends and not self.recipe.weights,
            minutes=self.minutes,
            journal=self._journal_path(),
            report=self.report,
        )
        for refused, trial in enumerate(search.plans()):
            forms = plans.forms(trial.plan)
            table = [one.row(plans.nodes) for one in search.trials]
            if self._certify("int8", forms, self.backends, table, refused):
                self.members |= {name: None for name in INT8 if name in self.bundle.members}
                self.members |= forms
                self.record["int8"] = trial.row() | {"layout": self.layout}
                return
            if refused + 1 == _PROOFS:
                break
        self._refuse("int8", INT8, _closest(search))

    def _certify(
        self,
        precision: str,
        members: dict[str, bytes],
        backends: Sequence[str],
        search: Sequence[dict[str, Any]] = (),
        refused: int = 0,
    ) -> bool:
        """Certificates on each back end; True when the first passed, which INT8 was searched on.

        When it did not, the others are not asked. A former attempt's certificates are replaced.
        """
        candidate = self.bundle.with_members(members)
        made = []
        for index, backend in enumerate(backends):
            self._tell(f"certify {precision} on {backend}", index / len(backends))
            made.append(
                issue(
                    candidate, self.frames.prove, backend=backend, precision=precision,
                    limits=self.limits, threads=self.threads,
                    defects=self.frames.record["defects"], search=search,
                    refused=refused,
                )
            )  # fmt: skip
            if not made[0]["passed"]:
                break
        self.made = merged(self.made, made)
        return bool(made[0]["passed"])

    def _refuse(self, precision: str, members: Sequence[str], closest: str) -> None:
        """Leave a precision out of the bundle, old members of it too, and say why."""
        reasons = [
            f"{one['backend']}: {'; '.join(one['reasons'])}"
            for one in self.made
            if one["precision"] == precision and not one["passed"]
        ]
        note = " ".join(part for part in (f"{precision} was not added.", *reasons, closest) if part)
        _log.info("%s", note)
        self.notes.append(note)
        self.made = [one for one in self.made if one["precision"] != precision]
        self.members |= {name: None for name in members if name in self.bundle.members}

    def _journal_path(self) -> Path:
        # The last word changes with what a plan of the same name means.
        identity = f"{frames_hash(self.frames.tensors)} {self.limits} {self.layout} {self.seed} f16"
        own = hashlib.sha256(f"{_model_hash(self.bundle)} {identity}".encode()).hexdigest()
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = folder / "edgead" / "quantize"
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = folder / f"{own[:32]}.json"
        return self._journal

    def forget(self) -> None:
        """The bundle is written: the journal has done its work, unless a search was cut off."""
        if self._journal is not None and not any("cut off" in note for note in self.notes):
            self._journal.unlink(missing_ok=True)

    def _tell(self, stage: str, share: float) -> None:
        if self.report is not None:
            self.report(stage, share)


class _Plans:
    """Makes and measures INT8 plans of one job; activations are measured once."""

    def __init__(self, job: _Job) -> None:
        self._job, self._manifest = job, job.bundle.manifest
        self.model = split(job.model)
        self.nodes = quantisable(self.model, layout=job.layout)
        self._backend = job.backends[0]
        self._form: Form = "u8s8" if self._backend == "onnxruntime" else "s8"
        self._histograms = {name: Histogram() for name in float_tensors(self.model)}
        tensors = job.frames.tensors
        for done, values in enumerate(watch(self.model, tensors, list(self._histograms))):
            job._tell("measuring activations", done / len(tensors))  # noqa: SLF001 - same module
            for name, array in values.items():
                self._histograms[name].add(array)
        job._tell("rounding weights", 1.0)  # noqa: SLF001
        exact = kept_nodes(self.nodes, job.recipe.weights)
        rounding = [name for name in self.nodes if name not in exact]
        self._rounded = round_weights(self.model, rounding, tensors)
        base = open_backend(self._backend, job.bundle.members, threads=job.threads)
        self._reference = score_frames(job.bundle, base, job.frames.choose)

    def make(self, plan: Plan, form: Form) -> bytes:
        """The quantised graph of a plan."""
        ranges = clip_ranges(self._histograms, plan.calibrator)
        chosen = [name for name in self.nodes if name not in plan.kept]
        rounded = self._rounded.restored(self.model, plan.kept) if plan.exact else self._rounded
        return int8_model(
            rounded.model, ranges, chosen, form, rounded.levels,
            float_parts="" if plan.bf16 else "f32",
        )  # fmt: skip

    def forms(self, plan: Plan) -> dict[str, bytes]:
        """Every member of a plan; the coarser layout too, where the plan quantises sums."""
        made = {member: self.make(plan, form) for form, member in FORMS.items()}
        sums = frozenset(self.nodes) - set(quantisable(self.model, layout="conv-only"))
        if sums - plan.kept:
            made[CONV_ONLY] = self.make(dataclasses.replace(plan, kept=plan.kept | sums), "qdq")
        return made

    def evaluate(self, plan: Plan) -> Agreement | None:
        """Compare a plan with FP32 on the choosing frames; None when the engine fails."""
        job = self._job
        try:
            data = {FORMS[self._form]: self.make(plan, self._form)}
            engine = open_backend(self._backend, data, precision="int8", threads=job.threads)
            found = score_frames(job.bundle, engine, job.frames.choose)
        except BackendError as error:
            _log.info("%s: %s", plan.key, error)
            return None
        return agreement(self._manifest, job.frames.choose, self._reference, found, job.limits)


def _closest(search: Search) -> str:
    best: Trial | None = search.closest()
    if best is None or best.agreement is None:
        return "No INT8 model ran."
    cut = (
        " The search was cut off by its budget; repeat the command to go on."
        if search.is_cut_off
        else ""
    )
    missed = "; ".join(best.agreement.misses(search.limits)) or "nothing on the choosing frames"
    return (
        f"Closest: {best.plan.calibrator}, {len(best.plan.kept)} of {len(search.nodes)} layers in "
        f"floating point, score change {best.error():.3g} of score_scale; missed: {missed}.{cut}"
    )


def _installed() -> list[str]:
    found = [n for n in ("openvino", "onnxruntime") if importlib.util.find_spec(n) is not None]
    if "onnxruntime" not in found:
        raise BackendError(
            "PROVIDER",
            "quantising measures activations with ONNX Runtime, which is not installed.",
            "pip install 'edgead[quantize]'.",
        )
    return found


def _model_hash(bundle: Bundle) -> str:
    return bundle.manifest.members[MODEL].sha256


def _check(bundle: Bundle, precisions: Sequence[str], *, replace: bool, path: str | Path) -> None:
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ConfigError(
                "PRECISION_UNKNOWN",
                f"precision is {precision!r}; quantize adds {', '.join(PRECISIONS)}.",
            )
    members = {"fp16": [HALF], "int8": INT8}
    there = [p for p in precisions if any(m in bundle.members for m in members.get(p, []))]
    if there and not replace:
        raise BundleError(
            "ALREADY_QUANTIZED",
            f"{path} already holds {' and '.join(there)}.",
            "Make it again with --replace, or certify what is there: edgead certify BUNDLE.",
        )
    if not set(precisions):
        raise ConfigError("PRECISION_NONE", "no precision was asked for; nothing to do.")
