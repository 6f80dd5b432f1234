"""`edgead report`: a shift as one HTML file that can be mailed: plots and pictures inside, no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead import files
from edgead.errors import EdgeadError
from edgead.evaluate.page import card, html_page
from edgead.evaluate.pictures import Case, camera_picture, data_uri
from edgead.evaluate.shift import KINDS, Reject, Shift
from edgead.evaluate.svg import histogram
from edgead.evaluate.svg_time import Axis, bars_over_time, lines_over_time, scores_over_time
from edgead.preprocess import as_bgr
from edgead.stream.replay import read_replay

__all__ = ["figures_of", "write_shift_report"]

_PARTS = 48  # bars over time
_PICTURES, _LISTED = 12, 24
#: Colours of the page, lowest bar first.
_COLOURS = {"good": "good", "defect": "defect", "unknown": "warn", "dropped": "muted"}


def write_shift_report(path: str | Path, shift: Shift, *, rejects: Path | None = None) -> None:
    """Write the page.

    Args:
        path: An ``.html`` file.
        shift: What it shows.
        rejects: Folder of replay files (``--save-rejects``): the last rejects get their pictures.

    Raises:
        StorageError: As `edgead.files.atomic_writer`.
        BackendError: OPENCV_MISSING, with ``rejects``.
    """
    start, end = shift.time(shift.seconds.min()), shift.time(shift.seconds.max())
    span = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
    simulated = " Some frames come from files and are simulated." if shift.is_simulated else ""
    sections = [
        _summary(shift),
        _over_time(shift),
        _scores(shift),
        _speed(shift),
        _cameras(shift),
        _reasons(shift),
        _rejected(shift, rejects),
        _books(shift),
    ]
    page = html_page(
        kicker="Shift report",
        title=span,
        note=f"{shift.seconds.size} frames of {len(shift.cameras)} "
        f"{'camera' if len(shift.cameras) == 1 else 'cameras'}, journal {shift.name}.{simulated}",
        sections=sections,
        closing="Made by edgead. A frame without a verdict is never good.",
        skip="Skip to the figures",
    )
    files.write_text(path, page)


def figures_of(shift: Shift) -> dict[str, Any]:
    """The figures of the page as plain values: what ``--json`` prints."""
    counts = {kind: shift.count(kind) for kind in KINDS}
    judged = counts["good"] + counts["defect"]
    p50, p99 = _percentiles(shift.latency_ms)
    return {
        "frames": int(shift.seconds.size),
        **counts,
        "reject_rate": counts["defect"] / judged if judged else None,
        "p50_ms": p50,
        "p99_ms": p99,
        "cameras": shift.cameras,
        "journal_ok": bool(shift.integrity["ok"]),
        "start": shift.time(shift.seconds.min()).isoformat(),
        "end": shift.time(shift.seconds.max()).isoformat(),
    }


def _summary(shift: Shift) -> str:
    found = figures_of(shift)
    judged, total = found["good"] + found["defect"], found["frames"]
    whole = shift.integrity["ok"]
    cards = [
        card(
            "Good", _count(found["good"]), f"{_share(found['good'], total)} of all frames", "fine"
        ),
        card(
            "Defects", _count(found["defect"]), f"{_share(found['defect'], judged)} of those judged"
        ),
        card(
            "Unknown",
            _count(found["unknown"]),
            f"{_share(found['unknown'], total)}, never accepted",
            "bad" if found["unknown"] else "fine",
        ),
        card(
            "Dropped", _count(found["dropped"]), f"{_share(found['dropped'], total)}, never judged"
        ),
        card("Latency p99", f"{_ms(found['p99_ms'])}", f"median {_ms(found['p50_ms'])}"),
        card(
            "Journal",
            "whole" if whole else "damaged",
            f"{shift.integrity['rows']} rows, chain checked",
            "fine" if whole else "bad",
        ),
    ]
    return f'<section aria-label="Summary"><dl class="figures">{"".join(cards)}</dl></section>'


def _axis(shift: Shift) -> Axis:
    start, end = float(shift.seconds.min()), float(shift.seconds.max())
    form = "%H:%M:%S" if end - start < 1200 else "%H:%M" if end - start < 86400 else "%d.%m. %H:%M"
    offset = shift.time(start).utcoffset()
    offset_s = 0.0 if offset is None else offset.total_seconds()
    return Axis(start, end, lambda at: f"{shift.time(at):{form}}", offset_s=offset_s)


def _part_of(shift: Shift, axis: Axis) -> NDArray[np.int64]:
    part = (shift.seconds - axis.start) / (axis.end - axis.start) * _PARTS
    return np.minimum(part.astype(np.int64), _PARTS - 1)


def _over_time(shift: Shift) -> str:
    axis = _axis(shift)
    part = _part_of(shift, axis)
    counts = {
        colour: np.bincount(part[shift.kind == KINDS.index(kind)], minlength=_PARTS).astype(float)
        for kind, colour in _COLOURS.items()
    }
    keys = "".join(
        f'<span><i class="key" style="background:var(--{colour})"></i>{kind}</span>'
        for kind, colour in _COLOURS.items()
    )
    minutes = (axis.end - axis.start) / _PARTS / 60
    spoken = "; ".join(f"{shift.count(kind)} {kind}" for kind in KINDS)
    drawn = bars_over_time(axis, counts, name="Frames over time", spoken=spoken)
    width = f"{minutes:.0f} minutes" if minutes >= 2 else f"{minutes * 60:.0f} seconds"
    return _plot("time", "Frames over time", f"{keys}<span>a bar is {width}</span>", drawn)


def _scores(shift: Shift) -> str:
    known = np.isfinite(shift.score)
    if not known.any() or not shift.thresholds:
        return ""
    threshold = shift.thresholds.most_common(1)[0][0]
    scores, seconds = shift.score[known], shift.seconds[known]
    above = int((scores > threshold).sum())
    spoken = f"{scores.size} scores, {above} above the threshold of {threshold:.4g}."
    over = scores_over_time(_axis(shift), seconds, scores, threshold, name="Scores", spoken=spoken)
    is_above = scores > threshold
    spread = histogram(scores[~is_above], scores[is_above], threshold)
    several = (
        f" {len(shift.thresholds)} thresholds were in use; the most frequent one is drawn."
        if len(shift.thresholds) > 1
        else ""
    )
    legend = f"<span>each dot is a frame.{several}</span>"
    return _plot("scores", "Scores", legend, over + spread)


def _speed(shift: Shift) -> str:
    known = np.isfinite(shift.latency_ms)
    if not known.any():
        return ""
    axis = _axis(shift)
    part = _part_of(shift, axis)
    p50, p99 = np.full(_PARTS, np.nan), np.full(_PARTS, np.nan)
    for index in np.unique(part[known]):
        values = shift.latency_ms[known & (part == index)]
        p50[index], p99[index] = np.percentile(values, (50, 99))
    low, high = _percentiles(shift.latency_ms)
    spoken = f"Median {_ms(low)}, 99th percentile {_ms(high)} over the shift."
    drawn = lines_over_time(axis, {"good": p50, "defect": p99}, name="Latency", spoken=spoken)
    legend = (
        '<span><i class="key" style="background:var(--good)"></i>median</span>'
        '<span><i class="key" style="background:var(--defect)"></i>99th percentile</span>'
        "<span>capture to verdict, milliseconds</span>"
    )
    return _plot("speed", "Latency", legend, drawn)


def _cameras(shift: Shift) -> str:
    rows = []
    for number, name in enumerate(shift.cameras):
        mine = shift.camera == number
        counts = [shift.count(kind, number) for kind in KINDS]
        p50, p99 = _percentiles(shift.latency_ms[mine])
        moments = np.sort(shift.seconds[mine])
        gap = float(np.diff(moments).max()) if moments.size > 1 else 0.0
        judged = counts[0] + counts[1]
        cells = [
            str(int(mine.sum())),
            *map(str, counts),
            _share(counts[1], judged),
            _ms(p50),
            _ms(p99),
            f"{gap:.1f} s",
        ]
        rows.append([name, *cells])
    head = ["Camera", "Frames", "Good", "Defect", "Unknown", "Dropped", "Rejected", "p50", "p99"]
    return _table("cameras", "Each camera", [*head, "Longest gap"], rows)


def _reasons(shift: Shift) -> str:
    rows = [
        [f"{kind}: {reason}", str(count)] for (kind, reason), count in shift.reasons.most_common()
    ]
    return (
        _table("reasons", "Why frames had no verdict", ["Reason", "Frames"], rows) if rows else ""
    )


def _rejected(shift: Shift, folder: Path | None) -> str:
    if not shift.rejects:
        return ""
    newest = list(reversed(shift.rejects))[:_LISTED]
    rows = [
        [
            f"{one.when.astimezone(shift.zone):%H:%M:%S}",
            one.camera,
            str(one.seq),
            one.part_id or "–",
            one.verdict.lower(),
            one.reason or f"score {one.score:.4g}",
        ]
        for one in newest
    ]
    pictures = "" if folder is None else _pictures(newest, folder)
    head = ["Time", "Camera", "Frame", "Part", "Verdict", "Why"]
    title = (
        f"The last {len(rows)} frames not accepted" if len(rows) > 1 else "The frame not accepted"
    )
    return _table("rejects", title, head, rows, before=pictures)


def _pictures(rejects: Sequence[Reject], folder: Path) -> str:
    wanted = {(one.camera, one.seq): one for one in rejects}
    shown: list[str] = []
    for path in sorted(folder.glob("*.replay"), key=lambda p: p.stat().st_mtime_ns, reverse=True):
        if len(shown) >= _PICTURES:
            break
        try:
            frame, outcome = read_replay(path)
        except EdgeadError:
            continue  # a damaged picture is no reason for no report
        one = wanted.pop((frame.source_id, frame.seq), None)
        if one is None or outcome["score"] != one.score:
            continue  # of another run
        case = Case(name="", defect="", score=0.0, image=as_bgr(frame))
        why = one.reason or f"score {one.score:.4g}"
        shown.append(
            f'<figure><img src="{data_uri(camera_picture(case))}" alt="Frame {one.seq} of '
            f'{escape(one.camera)}"><figcaption>{escape(one.camera)}, frame {one.seq}<span>'
            f"{one.verdict.lower()}, {escape(why)}</span></figcaption></figure>"
        )
    return f'<div class="cases thumbs">{"".join(shown)}</div>' if shown else ""


def _books(shift: Shift) -> str:
    found = shift.integrity
    rows: list[tuple[str, str]] = [
        ("Journal", f"{shift.name}, {found['files']} file(s), {found['rows']} rows"),
        ("Chain", "every row checked" if found["ok"] else " ".join(found["problems"])),
        (
            "Bundles",
            ", ".join(f"{name[:16]} ({count})" for name, count in shift.bundles.most_common()),
        ),
        ("Late verdicts", f"{found['late']}, never given to the line"),
    ]
    for run in shift.runs:
        policy, version = run["info"].get("policy", "–"), run["info"].get("edgead_version", "–")
        ended = "ended" if run["counts"] else "never ended: power cut, kill, or still going"
        text = f"{run['started_wall'][:19]}Z, policy {policy}, edgead {version}, {ended}"
        rows.append((f"Run {run['run_id'][:8]}", text))
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)
    return (
        '<section aria-labelledby="books"><h2 id="books">Where it comes from</h2>'
        f'<dl class="facts">{items}</dl></section>'
    )


def _plot(key: str, title: str, legend: str, drawn: str) -> str:
    return (
        f'<section aria-labelledby="{key}"><h2 id="{key}">{title}</h2><p class="legend">{legend}</p>'
        f'<div class="wide scroll" tabindex="0" role="region" aria-labelledby="{key}">{drawn}</div>'
        "</section>"
    )


def _table(
    key: str, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, before: str = ""
) -> str:
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(c)}</td>" for c in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<section aria-labelledby="{key}"><h2 id="{key}">{escape(title)}</h2>{before}'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{key}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _percentiles(latency_ms: NDArray[np.float64]) -> tuple[float | None, float | None]:
    known = latency_ms[np.isfinite(latency_ms)]
    if not known.size:
        return None, None
    p50, p99 = np.percentile(known, (50, 99))
    return float(p50), float(p99)


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _share(some: int, total: int) -> str:
    return f"{100 * some / total:.1f} %" if total else "–"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"
