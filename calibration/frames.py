"""Which frames calibrate, which choose, which prove: three disjoint parts of one set of good images.

A certificate speaks of frames that neither calibrated nor chose the model that it certifies.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import CalibrationError, FrameError
from edgead.evaluate import data
from edgead.evaluate.anomalies import simulate
from edgead.frame import Frame, PixelFormat
from edgead.manifest import Thresholds
from edgead.scorer import Scored, Scorer

__all__ = ["CalibrationFrames", "ProofFrame", "gather", "proof_frames"]

CALIBRATE, CHOOSE, PROVE = 48, 24, 256
#: So unlikely that good images of this line score like that is taken for "not good".
SURE = 0.01
_KINDS = ("cutpaste", "stain", "structural", "scratch", "dent")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ProofFrame:
    """One frame of a comparison: good, labelled defect or simulated defect.

    Attributes:
        mask: Ground truth where the smoothed map lies and at its size, (h, w) bool, or None where
            there is none.
    """

    frame: Frame
    is_defect: bool
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class CalibrationFrames:
    """The parts of a set.

    Attributes:
        tensors: Engine inputs (1, h, w, 3) uint8 that activations are measured on.
        choose: Frames for the search.
        prove: Frames for the certificate.
        record: What ``calibration.json`` says of them.
    """

    tensors: list[NDArray[np.uint8]]
    choose: list[ProofFrame]
    prove: list[ProofFrame]
    record: dict[str, Any]


def gather(
    scorer: Scorer,
    thresholds: Thresholds,
    source: str | Path,
    *,
    seed: int = 0,
) -> CalibrationFrames:
    """Read a folder of good images, or an MVTec-layout root, check it and part it.

    With a root whose ``test`` folder is labelled, those frames prove; else good frames that were
    kept back, and defects simulated on them.

    Args:
        scorer: The bundle's FP32 model with the commissioned ranges.
        thresholds: What good images score.
        source: The folder.
        seed: Of the split and the simulated defects.

    Raises:
        CalibrationError: DATA_* as `edgead.evaluate.data.find_training`; CALIBRATION_FRAME naming an
            image that must not be judged; CALIBRATION_FOREIGN or CALIBRATION_DEFECTS.
    """
    paths = data.find_training(source)
    rng = np.random.default_rng(seed)
    labelled = (Path(source) / "test").is_dir()
    wanted = CALIBRATE + CHOOSE + (0 if labelled else PROVE // 2)
    paths = [paths[i] for i in sorted(rng.permutation(len(paths))[:wanted].tolist())]
    frames = data.load_images(paths)
    scored = [_score(scorer, frame, path) for frame, path in zip(frames, paths, strict=True)]
    _check_good([one.score for one in scored], paths, thresholds)
    good = [i for i, one in enumerate(scored) if one.score <= thresholds.threshold]
    # Good parts above the threshold do not widen ranges, but they do belong to the proof.
    order = rng.permutation(good).tolist()
    rest = [i for i in range(len(paths)) if i not in set(order)]
    share = 2 * len(order) // 3 if labelled else len(order) // 3
    calibrate, choose = order[: min(CALIBRATE, share)], order[share : 2 * share][:CHOOSE]
    prove = [i for i in [*order, *rest] if i not in {*calibrate, *choose}]
    if len(calibrate) < 16:
        _log.warning("%d images calibrate; 16 or more make INT8 ranges that hold.", len(calibrate))
    proof = (
        proof_frames(source, scorer, seed=seed)
        if labelled
        else with_simulated([frames[i] for i in prove], scorer, rng)
    )
    return CalibrationFrames(
        tensors=_inputs([scored[i] for i in calibrate]),
        choose=with_simulated([frames[i] for i in choose], scorer, rng),
        prove=proof,
        record={
            "images": [
                {"name": paths[i].name, "sha256": data.file_hash(paths[i])} for i in calibrate
            ],
            "set_sha256": data.set_hash([paths[i] for i in calibrate]),
            "left_out": [paths[i].name for i in rest],
            "chosen_on": len(choose) * 2,
            "proven_on": len(proof),
            "defects": "labelled" if labelled else "simulated",
            "seed": seed,
        },
    )


def proof_frames(
    source: str | Path,
    scorer: Scorer,
    *,
    without: Collection[str] = (),
    seed: int = 0,
) -> list[ProofFrame]:
    """Frames to prove on alone: a labelled ``test`` folder, else good images and simulated defects.

    Frames that the bundle refuses to judge (light, size) are left out and logged.

    Args:
        source: The folder.
        scorer: The bundle's FP32 model.
        without: SHA-256 of files that calibrated, which prove nothing.
        seed: Of the choice of frames and the simulated defects.

    Raises:
        CalibrationError: DATA_* as `edgead.evaluate.data.find_training`, CERTIFY_FRAMES.
    """
    rng = np.random.default_rng(seed)
    if not (Path(source) / "test").is_dir():
        paths = [p for p in data.find_training(source) if data.file_hash(p) not in without]
        if len(paths) < 2:
            raise CalibrationError(
                "CERTIFY_FRAMES",
                f"{source} holds {len(paths)} images that did not calibrate this bundle; "
                "expected at least 2.",
                "Give other good images of this line.",
            )
        chosen = sorted(rng.permutation(len(paths))[: PROVE // 2].tolist())
        return with_simulated(data.load_images([paths[i] for i in chosen]), scorer, rng)
    samples = data.find_test(source)
    chosen = sorted(rng.permutation(len(samples))[:PROVE].tolist())
    found: list[ProofFrame] = []
    for sample in (samples[i] for i in chosen):
        frame = data.load_images([sample.path])[0]
        if not _is_judged(scorer, frame, sample.path.name):
            continue
        has_mask = not sample.label or sample.mask_path is not None
        mask = data.load_mask(sample, frame.size) if has_mask else None
        if mask is not None:
            mask = data.in_view(mask, scorer.placement(frame))
        found.append(ProofFrame(frame, sample.label, mask))
    return found


def with_simulated(
    frames: Sequence[Frame], scorer: Scorer, rng: np.random.Generator
) -> list[ProofFrame]:
    """Good frames, and each once more with a simulated defect where its format can carry one."""
    places = [scorer.placement(frame) for frame in frames]
    good = [
        ProofFrame(frame, False, np.zeros(place.size or frame.size, dtype=bool))
        for frame, place in zip(frames, places, strict=True)
    ]
    bad = []
    for index, frame in enumerate(frames):
        if frame.format not in (PixelFormat.BGR8, PixelFormat.RGB8, PixelFormat.MONO8):
            break
        grey = frame.pixels.ndim == 2
        picture = np.repeat(frame.pixels[:, :, None], 3, axis=2) if grey else frame.pixels
        try:
            drawn, mask = simulate(picture, _KINDS[index % len(_KINDS)], rng)
        except CalibrationError:  # no draw shows on this image
            continue
        pixels = np.ascontiguousarray(drawn[:, :, 0] if grey else drawn)
        damaged = Frame(pixels, frame.format, depth=frame.depth)
        if _is_judged(scorer, damaged, f"simulated defect {index}"):
            bad.append(ProofFrame(damaged, True, data.in_view(mask.astype(bool), places[index])))
    return [*good, *bad]


def _inputs(scored: Sequence[Scored]) -> list[NDArray[np.uint8]]:
    """Engine inputs (1, h, w, 3), evenly spread over the frames where tiles make many of them."""
    each = [picture[None] for one in scored for picture in one.inputs]
    return each[:: max(1, len(each) // (2 * CALIBRATE))]


def frames_hash(tensors: Sequence[NDArray[np.uint8]]) -> str:
    """SHA-256 over engine inputs, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _score(scorer: Scorer, frame: Frame, path: Path) -> Scored:
    try:
        return scorer(frame)
    except FrameError as error:
        raise CalibrationError(
            "CALIBRATION_FRAME",
            f"{path} is no usable picture of a good part: {error.code}: {error.message}",
            "Remove it from the folder and repeat.",
        ) from error


def _is_judged(scorer: Scorer, frame: Frame, name: str) -> bool:
    try:
        scorer(frame)
    except FrameError as error:
        _log.warning("%s is left out of the comparison: %s", name, error.code)
        return False
    return True


def _check_good(scores: Sequence[float], paths: Sequence[Path], limits: Thresholds) -> None:
    """Refuse images that score like another product, or among which there are defects."""
    above = [i for i, score in enumerate(scores) if score > limits.threshold]
    worst = sorted(above, key=lambda i: -scores[i])[:3]
    if 2 * len(above) > len(scores):
        raise CalibrationError(
            "CALIBRATION_FOREIGN",
            f"{len(above)} of {len(scores)} images score above the threshold {limits.threshold:.4g} "
            f"(median {float(np.median(scores)):.4g}).",
            "They show another product, light or camera: give good images of this line, or run: "
            "edgead commission BUNDLE GOOD.",
        )
    if _tail(len(above), len(scores), limits.bound) < SURE:
        names = ", ".join(f"{paths[i].name} ({scores[i]:.4g})" for i in worst)
        raise CalibrationError(
            "CALIBRATION_DEFECTS",
            f"{len(above)} of {len(scores)} images score above the threshold {limits.threshold:.4g}; "
            f"at most {limits.bound:.1%} of good ones do. Highest: {names}.",
            "Take the defects out of the folder and repeat.",
        )


def _tail(count: int, total: int, rate: float) -> float:
    """P(at least ``count`` of ``total``) for a binomial of this rate."""
    below = sum(math.comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(count))
    return 1 - below
