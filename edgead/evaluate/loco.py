"""Ground truth of MVTec LOCO AD: several regions an image, each with an area that suffices.

``defects_config.json`` in the root says for every grey value of the masks how much of the region
must be found: an area in pixels, or a share of the region.

Source: Bergmann et al., IJCV 130 (2022), section 4, and the data set's readme.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgead.errors import CalibrationError
from edgead.evaluate.data import Sample, find_images, nearest
from edgead.evaluate.regions import Region
from edgead.images import read

__all__ = ["load_regions", "load_saturations"]

CONFIG_NAME = "defects_config.json"
Saturations = dict[int, tuple[float, bool]]


def load_saturations(root: str | Path) -> Saturations | None:
    """Grey value -> (threshold, is a share of the region); None for a root that is no LOCO set.

    Raises:
        CalibrationError: LOCO_CONFIG when the file cannot be understood.
    """
    path = Path(root) / CONFIG_NAME
    if not path.is_file():
        return None
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(one["pixel_value"]): (
                float(one["saturation_threshold"]),
                bool(one["relative_saturation"]),
            )
            for one in entries
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(
            "LOCO_CONFIG",
            f"cannot understand {path}: {error!r}; expected a list of objects with pixel_value, "
            "saturation_threshold and relative_saturation.",
            "Copy it again from the data set.",
        ) from error


def load_regions(sample: Sample, size: tuple[int, int], saturations: Saturations) -> list[Region]:
    """Regions of a sample at the map's size; areas in pixels shrink with the image.

    Args:
        sample: Of a LOCO root; good ones have no regions.
        size: (h, w) of the anomaly map.
        saturations: From `load_saturations`.

    Raises:
        CalibrationError: MASK_MISSING, or LOCO_VALUE for a grey value that the config does not have.
        FrameError: IMAGE_* for a mask that cannot be read.
    """
    if not sample.label:
        return []
    if sample.mask_path is None:
        raise CalibrationError(
            "MASK_MISSING",
            f"{sample.path} has no masks in ground_truth/{sample.defect}.",
            "Copy them again from the data set.",
        )
    is_folder = sample.mask_path.is_dir()
    return [
        region
        for path in (find_images(sample.mask_path) if is_folder else [sample.mask_path])
        if (region := _region(path, size, saturations)).mask.any()
    ]


def _region(path: Path, size: tuple[int, int], saturations: Saturations) -> Region:
    pixels = read(path).pixels
    value = int(pixels.max())
    if value not in saturations:
        raise CalibrationError(
            "LOCO_VALUE",
            f"{path} has grey value {value}; {CONFIG_NAME} has {sorted(saturations)}.",
            "Copy both again from the data set.",
        )
    threshold, is_share = saturations[value]
    mask = nearest(pixels, size)
    area = float(np.count_nonzero(pixels))
    wanted = threshold * area if is_share else min(threshold, area)
    return Region(mask, wanted * mask.size / (pixels.shape[0] * pixels.shape[1]))
