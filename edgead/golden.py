"""The golden self-check: images inside the bundle, scored on this machine, must come out as expected.

It is the one test that finds swapped colours, a wrong cached engine, double normalisation and drift
of an export.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgead import images
from edgead.bundle import Bundle
from edgead.errors import BundleError
from edgead.frame import Frame, PixelFormat
from edgead.scorer import Scorer

__all__ = ["FAR", "check_golden", "golden_frame", "golden_png"]

#: Share of score_scale (plus the score's own distance from the threshold) that a score may move.
#: fp32: other summation orders; bf16 has 8 bits of mantissa; fp16 11; int8 is held by its certificate.
_ALLOWED = {"fp32": 0.01, "fp16": 0.05, "bf16": 0.25, "int8": 0.5}
#: score_scale above the threshold beyond which INT8 scores count alike, here and in a certificate: eight bits are
#: clipped to the values of calibration frames, and no verdict hangs on how much farther a defect lies.
FAR = 3.0


def golden_png(frame: Frame) -> bytes:
    """A frame's pixels as a member; PNG has no fourth colour byte that means nothing."""
    is_padded = frame.format is PixelFormat.BGRX8
    return images.encode_png(frame.pixels[:, :, :3] if is_padded else frame.pixels)


def golden_frame(bundle: Bundle, name: str) -> Frame:
    """The frame that `golden_png` made member ``name`` of, in the bundle's format."""
    spec = bundle.manifest.frame
    pixels = images.decode(bundle.members[name], name=name).pixels
    if spec.format is PixelFormat.BGRX8:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:, :, :1])], axis=2)
    return Frame(pixels, spec.format, depth=spec.depth)


def check_golden(bundle: Bundle, scorer: Scorer, precision: str) -> dict[str, Any]:
    """Score the golden images.

    Returns:
        ``ok``; ``worst``, the largest difference over what is allowed; ``images``, one entry each
        with name, kind, expected, score, allowed, over and verdict.

    Raises:
        BundleError: GOLDEN_NONE when the bundle has none: what cannot fail is no check.
    """
    if not bundle.manifest.golden:
        raise BundleError(
            "GOLDEN_NONE",
            "the bundle has no golden images: nothing shows whether this machine scores as it should.",
            "Commission it: edgead commission BUNDLE GOOD.",
        )
    limits, copies = bundle.manifest.thresholds, scorer.of_each_copy()
    entries: list[dict[str, Any]] = []
    for golden in bundle.manifest.golden:
        frame = golden_frame(bundle, golden.name)
        scores = [copy(frame, check_ranges=False).score for copy in copies]
        score = max(scores, key=lambda one: abs(one - golden.score))
        far = limits.threshold + FAR * limits.score_scale if precision == "int8" else float("inf")
        expected = min(golden.score, far)
        room = limits.score_scale + abs(expected - limits.threshold)
        allowed = _ALLOWED[precision] * room
        verdict = "DEFECT" if score > limits.threshold else "GOOD"
        over = abs(min(score, far) - expected) / max(allowed, 1e-12)
        # Close to the threshold a verdict may tip within the allowance; farther away it may not.
        tipped = verdict != golden.verdict and abs(expected - limits.threshold) > allowed
        entries.append(
            {
                "name": golden.name,
                "kind": golden.kind,
                "expected": golden.score,
                "score": score,
                "allowed": allowed,
                "over": max(over, 2.0) if tipped else over,
                "verdict": verdict,
            }
        )
    worst = max(entry["over"] for entry in entries)
    return {"ok": bool(worst <= 1), "worst": worst, "images": entries}
