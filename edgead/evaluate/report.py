"""One HTML file that a quality engineer can mail: no script, no external resource, text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgead.errors import StorageError
from edgead.evaluate.curves import Curve
from edgead.evaluate.metrics import roc_curve
from edgead.evaluate.page import card, html_page
from edgead.evaluate.pictures import (
    Case,
    HeatScale,
    camera_picture,
    data_uri,
    heat_scale,
    overlay_picture,
)
from edgead.evaluate.precisions import precision_section
from edgead.evaluate.regions import PRO_LIMIT
from edgead.evaluate.svg import curve_plot, histogram, score_range, strip
from edgead.files import write_text

__all__ = ["Case", "Report", "nearest_cases", "write_report"]

REPORT_NAME = "report.html"


@dataclass(frozen=True, eq=False)
class Report:
    """What the page shows; plain values only.

    Attributes:
        title: The part or data set.
        metrics: As `evaluate_scores` gives them.
        scores: Image scores; NaN where the verdict was UNKNOWN. [N]
        defects: Class of each image, ``good`` for good ones. [N]
        promise: What the threshold proves, in one sentence (`Threshold.message`).
        false_rejects: Good images to show, highest score first. `nearest_cases` picks.
        missed: Defects to show, lowest score first.
        pro: Curve of the per-region overlap, where there are masks.
        unknown: Image and reason of each frame without a verdict.
        note: Said under the title, e.g. that the defects are simulated.
        facts: More to say at the end: bundle hash, device, date and so on.
        certificates: The bundle's, as `edgead.choice.certificates` gives them.
    """

    title: str
    metrics: Mapping[str, Any]
    scores: NDArray[np.float64]
    defects: Sequence[str]
    promise: str
    false_rejects: Sequence[Case] = ()
    missed: Sequence[Case] = ()
    pro: Curve | None = None
    unknown: Sequence[tuple[str, str]] = ()
    note: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    certificates: Sequence[Mapping[str, Any]] = ()


def nearest_cases(
    scores: ArrayLike, defects: Sequence[str], *, count: int = 8
) -> tuple[list[int], list[int]]:
    """Which images a report shows: the highest good scores and the lowest defect scores.

    Returns:
        Indices of good images, highest score first, and of defects, lowest first; at most ``count``
        each, images without a verdict left out.
    """
    values = np.asarray(scores, dtype=np.float64)
    names = np.asarray(defects)
    order = [i for i in np.argsort(values, kind="stable").tolist() if np.isfinite(values[i])]
    good = [i for i in reversed(order) if names[i] == "good"]
    return good[:count], [i for i in order if names[i] != "good"][:count]


def write_report(path: str | Path, report: Report) -> Path:
    """Write the page.

    Args:
        path: An ``.html`` file, or a folder that gets ``report.html`` and is created if missing.
        report: What to show.

    Returns:
        The file written.

    Raises:
        StorageError: As `edgead.files.atomic_writer`; the old file, if any, is unchanged.
        BackendError: OPENCV_MISSING.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                "WRITE_FAILED",
                f"cannot create the folder {target}: {error.strerror}.",
                "Choose another one.",
            ) from error
        target = target / REPORT_NAME
    write_text(target, _page(report))
    return target


def _page(report: Report) -> str:
    known = np.isfinite(report.scores)
    is_good = np.asarray(report.defects) == "good"
    good, defects = report.scores[known & is_good], report.scores[known & ~is_good]
    facts = report.metrics
    scale = heat_scale([*report.false_rejects, *report.missed], facts["pixel_threshold"])
    sections = [
        _summary(report, good, defects),
        _distribution(good, defects, facts["threshold"]),
        _curves(report, known, is_good),
        _table(report, known),
        _gallery(
            "False rejects", "good image", "rejected", report.false_rejects, facts, good, scale
        ),
        _gallery("Missed defects", "defect", "missed", report.missed, facts, defects, scale),
        _unknown(report),
        precision_section(report.certificates),
        _facts(report),
    ]
    return html_page(
        kicker="Inspection report",
        title=report.title,
        note=f"{facts['frames']} test images, {good.size} good and {defects.size} with defects; "
        f"{facts['backend']}, {facts['precision']}. {report.note}",
        sections=sections,
        closing="Made by edgead. A score above the threshold is a defect; a frame without a verdict is "
        "never good.",
        skip="Skip to the figures",
    )


def _summary(report: Report, good: NDArray[Any], defects: NDArray[Any]) -> str:
    found = report.metrics
    threshold = found["threshold"]
    rejected, missed = int((good > threshold).sum()), int((defects <= threshold).sum())
    cards = [
        card(
            "False rejects",
            f"{rejected} of {good.size}",
            _between(found["false_reject_rate"], found["false_reject_interval"]),
            "bad" if rejected else "fine",
        ),
        card(
            "Missed defects",
            f"{missed} of {defects.size}",
            _between(found["missed_defect_rate"], found["missed_defect_interval"]),
            "bad" if missed else "fine",
        ),
        card("Image AUROC", _figure(found["image_auroc"]), "1 parts them perfectly"),
        card("F1", _figure(found["f1"]), _precision_recall(found)),
    ]
    if found["pixel_auroc"] is not None:
        cards.append(
            card("Pixel AUROC", _figure(found["pixel_auroc"]), f"AP {_figure(found['pixel_ap'])}")
        )
        cards.append(
            card("PRO", _figure(found["pro"]), f"to a false-positive rate of {PRO_LIMIT:g}")
        )
    if found["spro"] is not None:
        cards.append(card("sPRO", _figure(found["spro"]), "to a false-positive rate of 0.05"))
    if found["unknown_rate"]:
        unknown = round(found["unknown_rate"] * found["frames"])
        cards.append(card("No verdict", f"{unknown} of {found['frames']}", "never accepted", "bad"))
    return (
        f'<section aria-label="Summary"><dl class="figures">{"".join(cards)}</dl>'
        f'<div class="promise"><p><strong>What the threshold promises.</strong> '
        f"{escape(report.promise)}</p></div></section>"
    )


def _distribution(good: NDArray[Any], defects: NDArray[Any], threshold: float) -> str:
    return (
        '<section aria-labelledby="scores"><h2 id="scores">Image scores</h2>'
        '<p class="legend"><span><i class="key" style="background:var(--good)"></i>good images, '
        'above the axis</span> <span><i class="key" style="background:var(--defect)"></i>defects, '
        'below it</span></p><div class="wide scroll" tabindex="0" role="region" '
        f'aria-labelledby="scores">{histogram(good, defects, threshold)}</div></section>'
    )


def _curves(report: Report, known: NDArray[np.bool_], is_good: NDArray[np.bool_]) -> str:
    found = report.metrics
    figures = []
    roc = roc_curve(report.scores[known], ~is_good[known])
    if roc is not None:
        point = (found["false_reject_rate"], found["recall"])
        plot = curve_plot(
            roc,
            name="ROC",
            y_label="share of defects found",
            limit=1.0,
            area=roc.area(),
            point=point,
        )
        figures.append(
            f"<figure>{plot}<figcaption>ROC over images: defects found against good images rejected, "
            "for every threshold.</figcaption></figure>"
        )
    if report.pro is not None:
        area = report.pro.area(limit=PRO_LIMIT)
        plot = curve_plot(
            report.pro, name="PRO", y_label="mean overlap with defects", limit=PRO_LIMIT, area=area
        )
        figures.append(
            f"<figure>{plot}<figcaption>PRO over pixels: mean share of each defect region that is "
            "marked, against good pixels marked.</figcaption></figure>"
        )
    if not figures:
        return ""
    return (
        '<section aria-labelledby="curves"><h2 id="curves">Curves</h2>'
        f'<div class="curves">{"".join(figures)}</div></section>'
    )


def _table(report: Report, known: NDArray[np.bool_]) -> str:
    threshold = report.metrics["threshold"]
    names = np.asarray(report.defects)
    is_good = names == "good"
    bounds = score_range(report.scores[known & is_good], report.scores[known & ~is_good], threshold)
    rows = []
    for name, row in report.metrics["per_defect"].items():
        kind = "false_reject" if name == "good" else "missed_defect"
        wrong = row["false_rejects" if name == "good" else "missed"]
        scores = report.scores[known & (names == name)]
        drawn = strip(scores, threshold, bounds, is_defect=name != "good")
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td>{row["frames"]}</td>'
            f"<td>{wrong}</td><td>{_between(row[f'{kind}_rate'], row[f'{kind}_interval'])}</td>"
            f'<td>{_figure(row.get("image_auroc"))}</td><td class="scores">{drawn}</td></tr>'
        )
    head = "".join(
        f'<th scope="col">{words}</th>'
        for words in ("Class", "Images", "Wrong", "Error rate", "Image AUROC", "Scores")
    )
    return (
        '<section aria-labelledby="classes"><h2 id="classes">Each class</h2>'
        '<p class="note">Wrong means rejected for good images and missed for defects. In the last '
        "column each tick is an image, the dashed line the threshold.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="classes">'
        '<table aria-labelledby="classes">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _gallery(
    title: str,
    what: str,
    verb: str,
    cases: Sequence[Case],
    metrics: Mapping[str, Any],
    scores: NDArray[Any],
    scale: HeatScale,
) -> str:
    """The wrong verdicts; where there are none, the ones that came nearest."""
    if not scores.size:
        return ""
    threshold = metrics["threshold"]
    wrong = [case for case in cases if (case.score > threshold) == (case.defect == "good")]
    count = int(((scores > threshold) == (what == "good image")).sum())
    if count:
        intro = f"{count} of {scores.size}, the worst first."
    else:
        plural = f"{what}s" if scores.size != 1 else what
        intro = (
            f"None of the {scores.size} {plural} was {verb}. These came nearest to the threshold."
        )
    figures = "".join(_figure_of(case, scale, threshold) for case in wrong or cases[:4])
    legend = (
        '<p class="legend"><span><i class="key" style="background:#3cc850"></i>annotated defect'
        '</span> <span><i class="key" style="background:#fff;border:1px solid var(--muted)"></i>'
        'above the pixel threshold</span> <span>anomaly map: as usual<i class="ramp"></i>far off, '
        "the pixel threshold in the middle</span></p>"
        if figures
        else ""
    )
    name = title.split()[0].lower()
    return (
        f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2><p>{intro}</p>{legend}'
        f'<div class="cases">{figures}</div></section>'
    )


def _figure_of(case: Case, scale: HeatScale, threshold: float) -> str:
    name = escape(case.name)
    pictures = [(camera_picture(case), f"Camera image {name}")]
    if case.anomaly_map is not None:
        pictures.append((overlay_picture(case, scale), f"Anomaly map over {name}"))
    shown = "".join(
        f'<img src="{data_uri(one)}" alt="{alt}" width="{one.shape[1]}" height="{one.shape[0]}">'
        for one, alt in pictures
    )
    return (
        f'<figure><div class="pair">{shown}</div><figcaption><strong>{escape(case.defect)}</strong>, '
        f"score {case.score:.4g}, threshold {threshold:.4g}<span>{name}</span>"
        "</figcaption></figure>"
    )


def _unknown(report: Report) -> str:
    if not report.unknown:
        return ""
    items = "".join(
        f"<dt>{escape(why)}</dt><dd>{escape(what)}</dd>" for what, why in report.unknown
    )
    return (
        '<section aria-labelledby="unknown"><h2 id="unknown">Frames without a verdict</h2>'
        "<p>They are UNKNOWN, which is never good, and count in no other figure.</p>"
        f'<dl class="facts">{items}</dl></section>'
    )


def _facts(report: Report) -> str:
    found = report.metrics
    rows = {
        **report.facts,
        "Backend": found["backend"],
        "Precision": found["precision"],
        "Image threshold": f"{found['threshold']:.6g}",
        "Pixel threshold": f"{found['pixel_threshold']:.6g}",
    }
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in rows.items())
    return (
        '<section aria-labelledby="made"><h2 id="made">How it was made</h2>'
        f'<dl class="facts">{items}</dl></section>'
    )


def _figure(value: float | None) -> str:
    """Four digits, cut and not rounded near 1: a figure that is not perfect never reads as 1."""
    if value is None:
        return "–"
    return f"{value:.4f}" if value <= 0.9999 or value == 1 else f"{np.floor(value * 1e6) / 1e6:.6f}"


def _between(rate: float | None, interval: Sequence[float] | None) -> str:
    if rate is None or interval is None:
        return "–"
    low, high = (f"{100 * end:.1f}" for end in interval)
    return f"{100 * rate:.1f} % ({low} to {high} %)"


def _precision_recall(found: Mapping[str, Any]) -> str:
    return f"precision {_figure(found['precision_score'])}, recall {_figure(found['recall'])}"
