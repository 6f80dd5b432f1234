"""Plots over time as inline SVG: stacked bars of verdicts, scores with the threshold, latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgead.evaluate.svg import svg_line, svg_text, svg_ticks, svg_title

__all__ = ["Axis", "bars_over_time", "lines_over_time", "scores_over_time"]

Floats = NDArray[np.float64]
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 62, 16, 16, 30
_MOST_POINTS = 1500
_MOST_TICKS = 8
#: Distances between labels: seconds, minutes, hours, days.
_STEPS_S = (
    *(1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10800, 21600, 43200),
    *(86400, 172800, 604800, 2592000, 31536000),
)


class Axis:
    """A span of time and how it is labelled.

    Args:
        start: Its begin, seconds.
        end: Its end, seconds.
        label: A moment, seconds -> its text.
        offset_s: Of the time zone, so that labels stand at its full hours.
    """

    def __init__(
        self, start: float, end: float, label: Callable[[float], str], *, offset_s: float = 0.0
    ) -> None:
        self.start, self.end, self.label = start, max(end, start + 1e-3), label
        self._offset_s = offset_s

    def x(self, seconds: float) -> float:
        """Where a moment lies in a drawing."""
        share = (seconds - self.start) / (self.end - self.start)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def edges(self, count: int) -> Floats:
        """Equal parts."""
        return np.linspace(self.start, self.end, count + 1)

    def ticks(self) -> list[float]:
        """Round moments inside the span; at least one."""
        span = self.end - self.start
        step = next((one for one in _STEPS_S if span / one <= _MOST_TICKS), _STEPS_S[-1])
        first = math.ceil((self.start + self._offset_s) / step) * step - self._offset_s
        found = [float(at) for at in np.arange(first, self.end, step)]
        return found or [self.start]

    def drawn(self, height: int) -> str:
        """The line with its moments."""
        floor = height - _BOTTOM
        parts = [svg_line(_LEFT, floor, _WIDTH - _RIGHT, floor, "muted")]
        for moment in self.ticks():
            x = self.x(moment)
            parts.append(svg_line(x, floor, x, floor + 5, "muted"))
            inside = min(max(x, _LEFT + 20), _WIDTH - _RIGHT - 24)
            parts.append(svg_text(inside, height - 8, self.label(moment), middle=True))
        return "".join(parts)


def bars_over_time(
    axis: Axis, counts: Mapping[str, Floats], *, name: str, spoken: str, height: int = 220
) -> str:
    """Stacked bars.

    Args:
        axis: Time; each part of it is a bar.
        counts: Colour name of the page -> frames in each part, the lowest first. Each [n]
        name: Title for a screen reader.
        spoken: What it shows, in a sentence.
        height: Of the drawing.
    """
    room, floor = height - _TOP - _BOTTOM, height - _BOTTOM
    total = np.sum(list(counts.values()), axis=0)
    most = max(float(total.max()), 1.0)
    edges = axis.edges(total.size)
    parts = [svg_title(_WIDTH, height, name, spoken), *_grid(most, room, floor)]
    for index in range(total.size):
        below = 0.0
        left, right = axis.x(edges[index]), axis.x(edges[index + 1])
        for colour, values in counts.items():
            tall = float(values[index]) / most * room
            if tall <= 0:
                continue
            top = floor - below - tall
            parts.append(
                f'<rect x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
                f'height="{tall:.1f}" fill="var(--{colour})"/>'
            )
            below += tall
    return "".join(parts) + axis.drawn(height) + "</svg>"


def lines_over_time(
    axis: Axis, lines: Mapping[str, Floats], *, name: str, spoken: str, height: int = 200
) -> str:
    """One line a series; NaN leaves a gap. Colour name of the page -> value in each part [n]."""
    every = np.concatenate([values[np.isfinite(values)] for values in lines.values()])
    most = float(every.max()) * 1.06 if every.size else 1.0
    room, floor = height - _TOP - _BOTTOM, height - _BOTTOM
    parts = [svg_title(_WIDTH, height, name, spoken), *_grid(most or 1.0, room, floor)]
    for colour, values in lines.items():
        edges = axis.edges(values.size)
        middle = (edges[1:] + edges[:-1]) / 2
        for run in _runs(values):
            points = " ".join(
                f"{axis.x(middle[i]):.1f},{floor - values[i] / (most or 1.0) * room:.1f}"
                for i in run
            )
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="var(--{colour})" stroke-width="2.2" '
                'stroke-linejoin="round" stroke-linecap="round"/>'
            )
    return "".join(parts) + axis.drawn(height) + "</svg>"


def scores_over_time(
    axis: Axis,
    seconds: Floats,
    scores: Floats,
    threshold: float,
    *,
    name: str,
    spoken: str,
    height: int = 240,
) -> str:
    """One dot a frame, what is above the threshold in the colour of a defect.

    Of many good frames some are drawn; of those above the threshold all, up to the same number.
    """
    above = scores > threshold
    kept = np.concatenate([_thinned(np.flatnonzero(~above)), _thinned(np.flatnonzero(above))])
    shown = scores[kept]
    reach = max(threshold - float(scores.min()), 1e-9)
    low, high = float(scores.min()), min(float(scores.max()), threshold + 6 * reach)
    low, high = min(low, threshold), max(high, threshold)
    pad = 0.05 * (high - low) or 1.0
    low, high = low - pad, high + pad
    floor, room = height - _BOTTOM, height - _TOP - _BOTTOM

    def y(value: float) -> float:
        return floor - (min(max(value, low), high) - low) / (high - low) * room

    parts = [svg_title(_WIDTH, height, name, spoken)]
    for tick in svg_ticks(low, high):
        parts.append(svg_line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick), "line"))
        parts.append(svg_text(_LEFT - 8, y(tick), f"{tick:g}", end=True, baseline="middle"))
    for at, value in zip(seconds[kept], shown, strict=True):
        colour, radius = ("defect", 3.0) if value > threshold else ("good", 1.7)
        parts.append(
            f'<circle cx="{axis.x(at):.1f}" cy="{y(value):.1f}" r="{radius}" fill="var(--{colour})"/>'
        )
    cut = y(threshold)
    parts.append(svg_line(_LEFT, cut, _WIDTH - _RIGHT, cut, "ink", dash=True))
    label = f"threshold {threshold:.4g}"
    parts.append(svg_text(_WIDTH - _RIGHT, cut - 6, label, end=True, strong=True))
    return "".join(parts) + axis.drawn(height) + "</svg>"


def _grid(most: float, room: float, floor: float) -> list[str]:
    parts = []
    for tick in svg_ticks(0.0, most):
        y = floor - tick / most * room
        parts.append(svg_line(_LEFT, y, _WIDTH - _RIGHT, y, "line"))
        parts.append(svg_text(_LEFT - 8, y, f"{tick:g}", end=True, baseline="middle"))
    return parts


def _runs(values: Floats) -> list[Sequence[int]]:
    """Indices of stretches without a gap."""
    known = np.flatnonzero(np.isfinite(values))
    if not known.size:
        return []
    breaks = np.flatnonzero(np.diff(known) > 1) + 1
    return [part.tolist() for part in np.split(known, breaks)]


def _thinned(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    if indices.size <= _MOST_POINTS:
        return indices
    chosen: NDArray[np.int64] = indices[np.linspace(0, indices.size - 1, _MOST_POINTS).astype(int)]
    return chosen
