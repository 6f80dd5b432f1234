"""edgead's side of `end_to_end.py`: ``python end_to_end_own.py BUNDLE PRECISION THREADS FRAME``."""

from __future__ import annotations

import sys
from pathlib import Path

from end_to_end_peer import answer
from numpy.typing import NDArray

from edgead import Detector, images


class Own:
    """A detector with the same commands as anomalib's side."""

    batch = 1

    def __init__(self, bundle: str, precision: str, threads: int) -> None:
        self._detector = Detector(
            bundle,
            backend="openvino",
            precision=precision,
            threads=threads,
            cache_dir=Path("edgead_cache"),
        )

    def judge(self, frame: NDArray) -> float:
        """Frame in memory, (H, W, 3) uint8 BGR -> score, map, mask and regions; the score is returned."""
        return float(self._detector(frame).score)

    @staticmethod
    def read(path: str) -> NDArray:
        """A file as the detector takes it."""
        return images.read(path)


if __name__ == "__main__":
    answer(Own(sys.argv[1], sys.argv[2], int(sys.argv[3])), sys.argv[4])
