"""The certificate: does a precision give FP32's verdicts on this kind of device, and how much faster.

Figures compare a precision with FP32 on the same back end, the same frames and, in turns, the same
clock; see `edgead.deploy.agreement`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgead.backends import member_for, open_backend
from edgead.backends.base import Backend
from edgead.backends.kind import arithmetic, device_kind
from edgead.bundle import CALIBRATION, CERTIFICATES, Bundle, read_bundle, write_bundle
from edgead.calibration.frames import ProofFrame, proof_frames
from edgead.choice import certificates
from edgead.deploy.agreement import Limits, Scores, agreement
from edgead.errors import BackendError, CalibrationError, EdgeadError
from edgead.golden import check_golden
from edgead.scorer import Scorer
from edgead.view import check_commissioned

__all__ = ["certify", "encoded", "issue", "merged", "score_frames"]

_BURSTS, _BURST = 15, 3


def score_frames(bundle: Bundle, backend: Backend, frames: Sequence[ProofFrame]) -> Scores:
    """Score frames through an engine with the bundle's own pre-processing and head.

    Raises:
        BackendError: The engine failed, or its output is not finite.
    """
    scorer = Scorer(bundle, backend, check_ranges=False)
    found = list(scorer.each(one.frame for one in frames))
    scores = np.array([one.score for one in found], dtype=np.float64)
    return Scores(
        scores,
        [one.anomaly_map for one in found],
        [(one.tensor.shape[0], one.tensor.shape[1]) for one in found],
    )


def issue(
    bundle: Bundle,
    frames: Sequence[ProofFrame],
    *,
    backend: str,
    precision: str,
    limits: Limits | None = None,
    threads: int = 0,
    defects: str = "simulated",
    search: Sequence[Mapping[str, Any]] = (),
    refused: int = 0,
) -> dict[str, Any]:
    """Measure one precision on one back end of this machine.

    Args:
        bundle: Holds the FP32 model and the precision's.
        frames: Frames that neither calibrated nor chose the model.
        backend: Name of the back end.
        precision: bf16, fp16 or int8.
        limits: What must hold.
        threads: CPU threads; 0 leaves the choice to the back end.
        defects: ``labelled`` or ``simulated``: what AUROC was measured with.
        search: Table of what was tried, kept in the certificate.
        refused: Other plans for this precision that were refused on these frames before: each makes a
            pass weaker evidence.

    Returns:
        The certificate, plain values. An engine that refuses the model, or gives values that are not
        finite, fails it and says so in ``reasons``.

    Raises:
        BackendError: The back end cannot run FP32 either.
        BundleError: VIEW_CHANGED when the bundle has no threshold for its view.
    """
    check_commissioned(bundle.manifest)
    limits = limits or Limits()
    member = member_for(backend, precision, bundle.members)
    sizes = {name: len(bundle.members[name]) for name in (member, "model.onnx")}
    base = open_backend(backend, bundle.members, precision="fp32", threads=threads)
    certificate: dict[str, Any] = {
        "precision": precision,
        "backend": backend,
        "backend_version": str(getattr(base, "version", "")),
        "device": device_kind(backend),
        "machine": str(getattr(base, "device", "")),
        "arithmetic": arithmetic(backend, precision),
        "threads": threads,
        "member": member,
        "defects": defects,
        "limits": asdict(limits),
        "search": [dict(row) for row in search],
        "refused": refused,
    }
    figures: dict[str, Any] = {
        "speedup": 0.0,
        "bytes": sizes[member],
        "size_ratio": sizes[member] / sizes["model.onnx"],
    }
    reasons: list[str] = []
    try:
        engine = open_backend(backend, bundle.members, precision=precision, threads=threads)
        certificate["float_parts"] = str(getattr(engine, "float_parts", "f32"))
        reference = score_frames(bundle, base, frames)
        measured = agreement(
            bundle.manifest, frames, reference, score_frames(bundle, engine, frames), limits
        )
        reasons += measured.misses(limits)
        # A bundle without golden images is held by the frames alone, and the figure says so.
        has_golden = bool(bundle.manifest.golden)
        golden = check_golden(bundle, Scorer(bundle, engine), precision) if has_golden else None
        if golden and not golden["ok"]:
            reasons.append(f"a golden image is {golden['worst']:.2f} times its allowance off")
        figures |= asdict(measured) | {"golden_worst": golden and golden["worst"]}
        figures |= _speed(bundle, base, engine, frames[0])
    except BackendError as error:
        reasons.append(str(error))
    return {**certificate, "figures": figures, "reasons": reasons, "passed": not reasons}


def certify(
    bundle_path: str | Path,
    images_dir: str | Path,
    *,
    backend: str,
    precisions: Sequence[str] | None = None,
    limits: Limits | None = None,
    threads: int = 0,
    seed: int = 0,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Certify what a bundle holds on this machine's device; the bundle is rewritten in place.

    Args:
        bundle_path: The bundle.
        images_dir: Good images, or an MVTec-layout root whose ``test`` is labelled. Frames that
            calibrated the bundle are left out.
        backend: Which back end.
        precisions: Which; None certifies all that the bundle holds for this back end.
        limits: What must hold.
        threads: CPU threads; 0 leaves the choice to the back end.
        seed: Of the choice of frames and the simulated defects.
        report: Called with a stage and the share done.

    Returns:
        ``certificates``: those made now.
    """
    bundle = read_bundle(bundle_path)
    base = open_backend(backend, bundle.members, precision="fp32", threads=threads)
    frames = proof_frames(
        images_dir, Scorer(bundle, base), without=_calibrated_on(bundle), seed=seed
    )
    if not frames:
        raise CalibrationError(
            "CERTIFY_FRAMES",
            f"none of the images in {images_dir} can be judged by this bundle.",
            "Give good images of this line.",
        )
    wanted = precisions or [p for p in ("bf16", "fp16", "int8") if _is_held(bundle, backend, p)]
    labelled = (Path(images_dir) / "test").is_dir()
    made = []
    for index, precision in enumerate(wanted):
        if report is not None:
            report(f"certify {backend} {precision}", index / len(wanted))
        search, refused = _search_of(bundle, precision)
        made.append(
            issue(
                bundle, frames, backend=backend, precision=precision, limits=limits,
                threads=threads, defects="labelled" if labelled else "simulated",
                search=search, refused=refused,
            )
        )  # fmt: skip
    table = merged(certificates(bundle), made)
    write_bundle(bundle_path, bundle.with_members({CERTIFICATES: encoded(table)}))
    return {"certificates": made}


def merged(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Certificates with new ones put in the place of those of the same precision, back end and device."""

    def key(one: Mapping[str, Any]) -> tuple[Any, ...]:
        return one["precision"], one["backend"], one.get("device")

    fresh = {key(one) for one in new}
    return [*(one for one in old if key(one) not in fresh), *new]


def encoded(table: Sequence[Mapping[str, Any]]) -> bytes:
    """The member ``certificates.json``."""
    return json.dumps(table, indent=1, sort_keys=True, allow_nan=False).encode()


def _calibrated_on(bundle: Bundle) -> frozenset[str]:
    """SHA-256 of the images that calibrated the bundle."""
    record = json.loads(bundle.members.get(CALIBRATION, b"{}"))
    return frozenset(image["sha256"] for image in record.get("images", []))


def _search_of(bundle: Bundle, precision: str) -> tuple[list[dict[str, Any]], int]:
    """How the model of a precision was found: table and count go from certificate to certificate."""
    old = [c for c in certificates(bundle) if c["precision"] == precision]
    table: list[dict[str, Any]] = max((c.get("search", []) for c in old), key=len, default=[])
    return table, max((c.get("refused", 0) for c in old), default=0)


def _is_held(bundle: Bundle, backend: str, precision: str) -> bool:
    try:
        member_for(backend, precision, bundle.members)
    except EdgeadError:
        return False
    return True


def _speed(bundle: Bundle, base: Backend, engine: Backend, one: ProofFrame) -> dict[str, float]:
    """Medians of both engines in turns; a pause lets the threads of the one before come to rest."""
    tensor = Scorer(bundle, base, check_ranges=False)(one.frame).inputs[0][None]
    requests = {"fp32": base.open_request(), "this": engine.open_request()}
    times: dict[str, list[float]] = {name: [] for name in requests}
    for _ in range(_BURSTS):
        for name, request in requests.items():
            time.sleep(0.01)
            request.infer({"image": tensor})
            for _ in range(_BURST):
                started = time.perf_counter()
                request.infer({"image": tensor})
                times[name].append((time.perf_counter() - started) * 1e3)
    fp32, this = (statistics.median(times[name]) for name in ("fp32", "this"))
    return {"fp32_ms": fp32, "ms": this, "speedup": fp32 / this}
