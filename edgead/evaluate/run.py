"""`edgead evaluate`: a bundle on a labelled test set, through the very Detector that runs the line."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead import images
from edgead.detector import Detector
from edgead.errors import EdgeadError
from edgead.evaluate import data
from edgead.evaluate.metrics import evaluate_scores
from edgead.types import Detection

__all__ = ["Evaluation", "evaluate"]

_log = logging.getLogger(__name__)


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
        has_mask = not sample.label or sample.mask_path is not None
        masks.append(data.load_mask(sample, manifest.input.size) if has_mask else None)
    limits = manifest.thresholds
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
    )
    return Evaluation(figures, samples, detections, masks, reasons)
