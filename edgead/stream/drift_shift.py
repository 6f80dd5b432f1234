"""How far one brightness layout has moved against another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgead.kernels.tables import bilinear_matrix

__all__ = ["displacement"]

#: Steps of a cell that are told apart.
_FINE = 4
#: Share of the picture that is searched on each side.
_REACH = 0.25
#: Moving explains the change when the layouts then agree so well, and it takes away so much of their
#: disagreement.
_AGREES, _EXPLAINS = 0.6, 0.5


def displacement(
    known: NDArray[np.float32], now: NDArray[np.float32]
) -> tuple[float, float] | None:
    """Cells that ``now`` has moved right and down against ``known``; None where moving explains nothing.

    Both [rows, columns]. Cells first, then quarters of a cell around the best one.
    """
    reach = tuple(int(side * _REACH) for side in known.shape)
    coarse = _best(known, now, (0, 0), reach)[1]
    fine = [_finer(one) for one in (known, now)]
    centre = (coarse[0] * _FINE, coarse[1] * _FINE)
    agreement, (y, x) = _best(fine[0], fine[1], centre, (_FINE - 1, _FINE - 1))
    unmoved = _agreement(fine[0], fine[1], 0, 0)
    if agreement < _AGREES or (y, x) == (0, 0):
        return None
    if agreement - unmoved < _EXPLAINS * (1 - unmoved):
        return None
    return x / _FINE, y / _FINE


def _best(
    known: NDArray[np.float32],
    now: NDArray[np.float32],
    centre: tuple[int, int],
    reach: tuple[int, ...],
) -> tuple[float, tuple[int, int]]:
    rows, columns = (range(c - r, c + r + 1) for c, r in zip(centre, reach, strict=True))
    return max((_agreement(known, now, y, x), (y, x)) for y in rows for x in columns)


def _agreement(known: NDArray[np.float32], now: NDArray[np.float32], y: int, x: int) -> float:
    """Correlation of what both show when ``now`` is moved back by (y, x)."""
    height, width = known.shape
    a = known[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    b = now[max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]
    if a.size < known.size / 4:
        return -1.0
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / length if length > 0 else 0.0


def _finer(layout: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = (bilinear_matrix(side, side * _FINE) for side in layout.shape)
    result: NDArray[np.float32] = (rows @ layout @ columns.T).astype(np.float32)
    return result
