"""Plots as inline SVG: a score histogram, curves, and one-line strips for the table.

Colours are CSS variables of the page (``--good``, ``--defect``, ``--line``, ``--ink``, ``--muted``), so
that the same drawing serves the dark and the light page. Text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from edgead.evaluate.curves import Curve

__all__ = [
    "curve_plot",
    "histogram",
    "score_range",
    "strip",
    "svg_line",
    "svg_text",
    "svg_ticks",
    "svg_title",
]

Floats = NDArray[np.float64]
_BINS = 48
# A curve's plot is square; margins in its own units.
_SIDE, _LEFT, _BOTTOM, _TOP, _RIGHT = 420, 58, 46, 14, 16


def score_range(good: Floats, defects: Floats, threshold: float) -> tuple[float, float]:
    """Axis for scores: all of them, but defects far beyond the threshold share the last bin."""
    every = np.concatenate((good, defects, (threshold,)))
    low, high = float(every.min()), float(every.max())
    reach = threshold - low
    if reach > 0:
        high = min(high, threshold + 8 * reach)
    if good.size:
        high = max(high, float(good.max()))
    pad = 0.02 * (high - low) or max(abs(low), 1.0) * 0.02
    return low - pad, high + pad


def histogram(good: Floats, defects: Floats, threshold: float) -> str:
    """Good images above the axis, defects below, the threshold through both."""
    width, height, left, right, top, bottom = 960, 316, 56, 16, 34, 50
    room = height - top - bottom
    edges = _edges(*score_range(good, defects, threshold), threshold)
    low, high = float(edges[0]), float(edges[-1])
    ups, downs = _counts(good, edges), _counts(defects, edges)
    most_up, most_down = max(int(ups.max()), 1), max(int(downs.max()), 1)
    # Both sides share one scale of counts, but neither is squeezed under a fifth of the room.
    axis = top + room * min(max(most_up / (most_up + most_down), 0.2), 0.8)

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    cut = x(threshold)
    parts = [
        svg_title(width, height, "Histogram of image scores", _spoken(good, defects, threshold)),
        f'<rect x="{cut:.1f}" y="{top}" width="{width - right - cut:.1f}" height="{room}" '
        'fill="var(--defect)" opacity="0.06"/>',
        *_bars(ups / most_up * (axis - top - 4), axis, (left, width - right), "good", up=True),
        *_bars(
            downs / most_down * (top + room - axis - 4),
            axis,
            (left, width - right),
            "defect",
            up=False,
        ),
        svg_text(left - 8, top + 4, str(most_up), end=True, baseline="hanging"),
        svg_text(left - 8, top + room - 4, str(most_down), end=True),
        svg_text(left - 8, axis, "0", end=True, baseline="middle"),
        svg_line(left, axis, width - right, axis, "ink"),
        svg_line(cut, top - 6, cut, top + room + 4, "ink", dash=True),
    ]
    end = cut > width * 0.7
    name = f"threshold {threshold:.4g}"
    parts.append(svg_text(cut + (-6 if end else 6), top - 14, name, end=end, strong=True))
    for tick in svg_ticks(low, high):
        parts.append(svg_text(x(tick), height - 28, f"{tick:g}", middle=True))
        parts.append(svg_line(x(tick), top + room, x(tick), top + room + 5, "muted"))
    beyond = int((defects > high).sum())
    note = f"image score (last bar: {beyond} beyond the axis)" if beyond else "image score"
    parts.append(svg_text((left + width - right) / 2, height - 8, note, middle=True))
    return "".join(parts) + "</svg>"


def curve_plot(
    curve: Curve,
    *,
    name: str,
    y_label: str,
    limit: float,
    area: float,
    point: tuple[float, float] | None = None,
) -> str:
    """A curve up to a false-positive rate, the area under it shaded.

    Args:
        curve: Any number of points; drawn with at most a few hundred.
        name: Title, e.g. ROC.
        y_label: What the height is.
        limit: Right end of the axis.
        area: Normalised area, written into the plot.
        point: (false-positive rate, height) of the calibrated threshold.
    """
    drawn = [_place(one, limit) for one in _thinned(curve, limit)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
    floor = _SIDE - _BOTTOM
    spoken = f"{name} curve with an area of {area:.4f} up to a false-positive rate of {limit:g}."
    parts = [
        svg_title(_SIDE, _SIDE, f"{name} curve", spoken),
        *_grid(limit, y_label),
        f'<polygon points="{path} {drawn[-1][0]:.1f},{floor} {_LEFT},{floor}" '
        'fill="var(--good)" opacity="0.12"/>',
        f'<polyline points="{path}" fill="none" stroke="var(--good)" stroke-width="2.5" '
        'stroke-linejoin="round"/>',
        svg_text(_SIDE - _RIGHT - 10, floor - 14, f"area {area:.4f}", end=True, strong=True),
    ]
    if point is not None:
        x, y = _place(point, limit)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="var(--paper)" stroke="var(--defect)" '
            'stroke-width="3"/>'
        )
        end = point[0] > 0.6 * limit
        shift, drop = -12 if end else 12, -10 if point[1] < 0.2 else 16
        parts.append(svg_text(x + shift, y + drop, "calibrated threshold", end=end, strong=True))
    return "".join(parts) + "</svg>"


def strip(scores: Floats, threshold: float, bounds: tuple[float, float], *, is_defect: bool) -> str:
    """One image a tick on a line, the threshold across: what a class looks like at a glance."""
    width, height = 260, 22
    low, high = bounds

    def x(value: float) -> float:
        return 4 + (min(value, high) - low) / (high - low) * (width - 8)

    wrong = int((scores <= threshold).sum() if is_defect else (scores > threshold).sum())
    spoken = f"{scores.size} scores, {wrong} on the wrong side of the threshold."
    colour = "defect" if is_defect else "good"
    ticks = "".join(
        f'<line x1="{x(s):.1f}" x2="{x(s):.1f}" y1="4" y2="{height - 4}"/>' for s in np.sort(scores)
    )
    return (
        svg_title(width, height, "Scores", spoken, css="strip")
        + svg_line(4, height / 2, width - 4, height / 2, "line")
        + f'<g stroke="var(--{colour})" stroke-width="2" opacity="0.55">{ticks}</g>'
        + svg_line(x(threshold), 0, x(threshold), height, "ink", dash=True)
        + "</svg>"
    )


def _edges(low: float, high: float, threshold: float) -> Floats:
    """Bin edges with the threshold among them, so that no bar has both verdicts."""
    width = (high - low) / _BINS
    before = max(1, math.ceil((threshold - low) / width))
    after = max(1, math.ceil((high - threshold) / width))
    return np.asarray(threshold + width * np.arange(-before, after + 1))


def _counts(scores: Floats, edges: Floats) -> NDArray[np.int64]:
    """Scores a bin, each bin with its upper edge: a score at the threshold is good."""
    slot = np.searchsorted(edges, np.clip(scores, edges[0], edges[-1]), side="left")
    return np.bincount(np.maximum(slot - 1, 0), minlength=edges.size - 1)


def _bars(
    lengths: Floats, axis: float, span: tuple[float, float], colour: str, *, up: bool
) -> list[str]:
    step = (span[1] - span[0]) / lengths.size
    return [
        f'<rect x="{span[0] + index * step + 0.5:.1f}" y="{axis - lengths[index] * up:.1f}" '
        f'width="{step - 1:.1f}" height="{lengths[index]:.1f}" rx="1.5" fill="var(--{colour})"/>'
        for index in np.flatnonzero(lengths)
    ]


def _place(point: tuple[float, float], limit: float) -> tuple[float, float]:
    """Where a point of a curve lies in its plot."""
    span_x, span_y = _SIDE - _LEFT - _RIGHT, _SIDE - _TOP - _BOTTOM
    return _LEFT + point[0] / limit * span_x, _TOP + (1 - point[1]) * span_y


def _grid(limit: float, y_label: str) -> list[str]:
    """Grid, numbers and names of the axes of a curve."""
    parts = []
    right, floor = _SIDE - _RIGHT, _SIDE - _BOTTOM
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = _place((share * limit, share), limit)
        parts += [
            svg_line(_LEFT, y, right, y, "line"),
            svg_line(x, _TOP, x, floor, "line"),
            svg_text(_LEFT - 8, y, f"{share:g}", end=True, baseline="middle"),
            svg_text(x, floor + 16, f"{share * limit:.2g}", middle=True),
        ]
    parts.append(svg_text((_LEFT + right) / 2, _SIDE - 8, "false-positive rate", middle=True))
    parts.append(
        f'<text transform="translate(14 {(_TOP + floor) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    return parts


def _thinned(curve: Curve, limit: float, most: int = 400) -> Sequence[tuple[float, float]]:
    """Points up to the limit; of long curves those where the height has changed enough to see."""
    end = int(np.searchsorted(curve.fpr, limit, side="right"))
    height = float(np.interp(limit, curve.fpr, curve.tpr))
    fpr, tpr = np.append(curve.fpr[:end], limit), np.append(curve.tpr[:end], height)
    if fpr.size > most:
        # Equal steps along the drawn length keep both the steep and the flat part.
        way = np.cumsum(np.abs(np.diff(fpr, prepend=0)) / limit + np.abs(np.diff(tpr, prepend=0)))
        keep = np.unique(np.searchsorted(way, np.linspace(0, way[-1], most)))
        keep = np.union1d(keep, (0, fpr.size - 1))
        fpr, tpr = fpr[keep], tpr[keep]
    return list(zip(fpr.tolist(), tpr.tolist(), strict=True))


def svg_ticks(low: float, high: float) -> list[float]:
    """Five to ten round numbers inside the range."""
    raw = (high - low) / 6
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _spoken(good: Floats, defects: Floats, threshold: float) -> str:
    return (
        f"{good.size} good images, {int((good > threshold).sum())} of them above the threshold of "
        f"{threshold:.4g}; {defects.size} defects, {int((defects <= threshold).sum())} of them at or "
        "below it."
    )


def svg_title(width: int, height: int, name: str, spoken: str, css: str = "plot") -> str:
    """The opening tag of a drawing, with what a screen reader says."""
    return (
        f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(name)}: {escape(spoken)}">'
    )


def svg_line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dash: bool = False) -> str:
    """A line in one of the page's colours."""
    style = ' stroke-dasharray="5 4" stroke-width="1.5"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="var(--{colour})"{style}/>'
    )


def svg_text(
    x: float,
    y: float,
    words: str,
    *,
    end: bool = False,
    middle: bool = False,
    strong: bool = False,
    baseline: str = "auto",
) -> str:
    """A label, escaped; it begins at ``x``, or ends there, or has its middle there."""
    anchor = "end" if end else "middle" if middle else "start"
    css = ' class="strong"' if strong else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="{baseline}"{css}>'
        f"{escape(words)}</text>"
    )
