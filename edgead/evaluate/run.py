"""`edgead evaluate`: a bundle on a labelled test set, through the very Detector that runs the line."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead import images
from edgead.bundle import Bundle
from edgead.choice import certificates
from edgead.detector import Detector
from edgead.errors import EdgeadError
from edgead.evaluate import data
from edgead.evaluate.loco import load_regions, load_saturations
from edgead.evaluate.metrics import evaluate_scores
from edgead.evaluate.regions import pro_curve
from edgead.evaluate.report import Case, Report, nearest_cases
from edgead.evaluate.threshold import promise_sentence
from edgead.manifest import View
from edgead.preprocess import as_bgr
from edgead.types import Detection

__all__ = ["Evaluation", "evaluate", "report_of"]

_log = logging.getLogger(__name__)
_HOW = {
    "held_out": "They were held out: training never saw them.",
    "cross_fitted": "They were cross-fitted: each was scored by a model that had not seen it.",
    "commissioned": "They are this line's own.",
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of a test set.

    Attributes:
        figures: What ``edgead evaluate --json`` prints.
        samples: The images, in order.
        detections: The verdict on each, None where it was UNKNOWN.
        masks: Ground truth at the map's size, None where there is none.
        reasons: Why a verdict was UNKNOWN, by index.
    """

    figures: dict[str, Any]
    samples: list[data.Sample]
    detections: list[Detection | None]
    masks: list[NDArray[np.bool_] | None]
    reasons: dict[int, str]


def evaluate(detector: Detector, root: str | Path) -> Evaluation:
    """Judge every image of ``root/test/<class>`` and compare with its label and mask.

    Raises:
        CalibrationError: The set has no test images; see `edgead.evaluate.data.find_test`.
    """
    manifest = detector.bundle.manifest
    samples = data.find_test(root)
    detections: list[Detection | None] = []
    masks: list[NDArray[np.bool_] | None] = []
    reasons: dict[int, str] = {}
    for index, sample in enumerate(samples):
        try:
            detections.append(detector(images.read(sample.path)))
        except EdgeadError as error:
            _log.warning("%s: UNKNOWN: %s", sample.path, error)
            reasons[index] = error.code
            detections.append(None)
        masks.append(_mask_of(sample, detections[-1], manifest.input.size))
    limits = manifest.thresholds
    # Saturated overlap counts pixels of whole frames.
    loco = load_saturations(root) if manifest.view == View() else None
    empty = np.zeros(manifest.input.size, dtype=np.float32)
    figures = evaluate_scores(
        [np.nan if found is None else found.score for found in detections],
        [sample.defect for sample in samples],
        threshold=limits.threshold,
        pixel_threshold=limits.pixel_threshold,
        backend=detector.choice.backend,
        precision=detector.choice.precision,
        maps=[
            empty if found is None or found.anomaly_map is None else found.anomaly_map
            for found in detections
        ],
        masks=masks,
        regions=None
        if loco is None
        else [load_regions(sample, manifest.input.size, loco) for sample in samples],
    )
    return Evaluation(figures, samples, detections, masks, reasons)


def _mask_of(
    sample: data.Sample, found: Detection | None, size: tuple[int, int]
) -> NDArray[np.bool_] | None:
    """Ground truth where the map lies, at its size; None where there is none."""
    if sample.label and sample.mask_path is None:
        return None
    if found is None or found.placement is None:
        return data.load_mask(sample, size)
    whole = data.load_mask(sample, found.placement.frame_size)
    return data.in_view(whole, found.placement)


def report_of(found: Evaluation, bundle: Bundle, *, note: str = "") -> Report:
    """What the report page shows of an evaluation.

    Args:
        found: Results of a test set.
        bundle: The bundle that judged it.
        note: One more fact for the reader, e.g. that defects are simulated.
    """
    manifest, limits = bundle.manifest, bundle.manifest.thresholds
    scores = [np.nan if one is None else one.score for one in found.detections]
    defects = [sample.defect for sample in found.samples]
    good, bad = nearest_cases(scores, defects)
    pairs = [
        (one.anomaly_map, mask)
        for one, mask in zip(found.detections, found.masks, strict=True)
        if one is not None and one.anomaly_map is not None and mask is not None
    ]
    facts = {
        "bundle": bundle.hash,
        "method": f"{manifest.method} on {manifest.backbone}",
        "engine": f"{found.figures['backend']} {found.figures['precision']}",
        "trained on": f"{manifest.training.images} good images",
        "edgead": manifest.edgead,
    }
    return Report(
        title=found.samples[0].path.resolve().parents[2].name,
        metrics=found.figures,
        scores=np.asarray(scores),
        defects=defects,
        promise=promise_sentence(
            limits.images,
            limits.bound,
            limits.confidence,
            limits.false_reject_rate,
            limits.needed,
        )
        + f" {_HOW[limits.how]}",
        false_rejects=[_case(found, i) for i in good],
        missed=[_case(found, i) for i in bad],
        pro=pro_curve([m for m, _ in pairs], [mask for _, mask in pairs]) if pairs else None,
        unknown=[(str(found.samples[i].path), why) for i, why in sorted(found.reasons.items())],
        note=note,
        certificates=certificates(bundle),
        facts=facts,
    )


def _case(found: Evaluation, index: int) -> Case:
    sample, detection = found.samples[index], found.detections[index]
    assert detection is not None  # nearest_cases leaves out what has no score
    place = detection.placement
    box = None
    if place is not None and detection.anomaly_map is not None:
        (x, y), (sx, sy), (h, w) = place.offset_xy, place.scale_xy, detection.anomaly_map.shape
        box = (x, y, x + sx * w, y + sy * h)
    return Case(
        name=sample.path.name,
        defect=sample.defect,
        score=detection.score,
        image=as_bgr(images.read(sample.path)),
        anomaly_map=detection.anomaly_map,
        truth=found.masks[index] if sample.label else None,
        box_xyxy=box,
    )
