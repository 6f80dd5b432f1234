"""The accuracy table: our measured figures beside what the papers report, and what differs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

Run = dict[str, Any]

#: What the papers ran on; figures in per cent, None where the paper gives none.
#: (image AUROC, pixel AUROC) by MVTec AD category; "mean" is over its 15 categories.
PAPERS: dict[str, dict[str, Any]] = {
    "dfda-ad": {
        "name": "DFDA-AD",
        "setup": "DenseNet121 + ResNet50, 224",
        "mean": (99.5, 99.2),
        "bottle": (99.6, None),
    },
    "nf-bmr": {"name": "NF-BMR", "setup": "EfficientNet-B5, 768", "mean": (98.7, None)},
    "mlff": {
        "name": "MLFF",
        "setup": "ResNet50, 256, 200 epochs",
        "mean": (98.7, 97.9),
        "bottle": (100.0, 99.0),
    },
    "trisimplenet": {
        "name": "TrisimpleNet",
        "setup": "WideResNet50-2, 160 epochs",
        "mean": (None, None),
    },
    "slsg": {
        "name": "SLSG",
        "setup": "ResNet18 by inpainting, 256, 3500 steps",
        "mean": (None, None),
        "bottle": (99.4, 99.1),
    },
}

NOTES = (
    "Image AUROC: over all test images, and of the worst defect class against the good images. False rejects and "
    "missed defects: at the threshold in the bundle, learnt from held-out good images for 1 % false rejects; "
    "it never saw a defect.",
    "What differs from the papers: backbone, input size and training time stand in the row, the papers' own in the "
    "last column; a fifth of the good images is held out for the threshold (below 40 images: cross-fitting). "
    "bottle is MVTec AD's, here as JPEG copies of at most 512 pixels a side; magnetic_tile and screw_block "
    "are in no paper.",
    "TrisimpleNet's paper gives five categories, bottle not among them (mean of the five 99.6).",
)


def table(runs: list[Run]) -> str:
    """Markdown: one row a category, method and setting; means over seeds."""
    if not runs:
        return "No accuracy runs yet."
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[_row_key(run)].append(run)
    lines = [
        "| set | method | backbone, input | training | image AUROC (worst defect) | pixel AUROC | PRO "
        "| false rejects | missed defects | paper: image / pixel AUROC |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(groups[key]) for key in sorted(groups)),
        "",
        *(f"{note}\n" for note in NOTES),
        f"Measured on {', '.join(sorted({_where(run) for run in runs}))}.",
    ]
    return "\n".join(lines)


def curves(runs: list[Run]) -> str:
    """Markdown: image AUROC over the minutes that a training was given, one row a category and method."""
    budgets = sorted({run["minutes"] for run in runs})
    rows: dict[tuple[Any, ...], dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        order = list(PAPERS).index(run["method"])
        rows[run["category"], order, run["backbone"]][run["minutes"]].append(run)
    lines = [
        f"| set | method | backbone | {' | '.join(f'{one:g} min' for one in budgets)} |",
        f"|{'---|' * (3 + len(budgets))}",
    ]
    for category, order, backbone in sorted(rows):
        found = rows[category, order, backbone]
        cells = [
            _mean([one["figures"] for one in found[minutes]], "image_auroc")
            if minutes in found
            else ""
            for minutes in budgets
        ]
        name = list(PAPERS.values())[order]["name"]
        lines.append(f"| {category} | {name} | {backbone} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ablations(runs: list[Run]) -> str:
    """Markdown: what a recipe's own setting and another one in its place give."""
    lines = [
        "| set | method | setting | image AUROC (worst defect) | pixel AUROC | processor time |",
        "|---|---|---|---|---|---|",
    ]
    for run in sorted(runs, key=lambda one: (one["method"], one["category"], str(one["set"]))):
        given = run["set"] or {}
        setting = ", ".join(f"`{k} = {v}`" for k, v in given.items()) or "the recipe's"
        image = f"{_mean([run['figures']], 'image_auroc')} ({_mean([run], 'worst_defect_auroc')})"
        cells = [
            run["category"],
            PAPERS[run["method"]]["name"],
            setting,
            image,
            _mean([run["figures"]], "pixel_auroc"),
            f"{run['cpu_seconds'] / 60:.1f} min",  # the machine may have had other work
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _row_key(run: Run) -> tuple[Any, ...]:
    order = list(PAPERS).index(run["method"])
    settings = (run["recipe"], run["backbone"], run["image_size"] or 0)
    return (run["category"], order, *settings, run["minutes"] or 0.0, run["epochs"] or 0)


def _row(runs: list[Run]) -> str:
    run = runs[0]
    paper = PAPERS[run["method"]]
    figures = [one["figures"] for one in runs]
    image = f"{_mean(figures, 'image_auroc')} ({_mean(runs, 'worst_defect_auroc')})"
    seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
    height, width = run["training"]["config"]["image_size"]
    size = str(height) if height == width else f"{height} x {width}"
    minutes = sum(one["training"]["seconds"] for one in runs) / len(runs) / 60
    cells = [
        run["category"],
        paper["name"],
        f"{run['backbone']}, {size}",
        f"{minutes:.1f} min{seeds}",
        image,
        _mean(figures, "pixel_auroc"),
        _mean(figures, "pro"),
        _mean(figures, "false_reject_rate"),
        _mean(figures, "missed_defect_rate"),
        _reported(paper, run["category"]),
    ]
    return f"| {' | '.join(cells)} |"


def _mean(rows: list[dict[str, Any]], key: str) -> str:
    """Mean over seeds in per cent; a dash where a set has no masks."""
    values = [row[key] for row in rows]
    if any(value is None for value in values):
        return "–"
    return f"{100 * sum(values) / len(values):.1f}"


def _reported(paper: dict[str, Any], category: str) -> str:
    if category in paper:
        return f"{_pair(paper[category])} ({paper['setup']})"
    if category in ("magnetic_tile", "screw_block") or paper["mean"] == (None, None):
        return "–"
    return f"mean of 15: {_pair(paper['mean'])} ({paper['setup']})"


def _pair(figures: tuple[float | None, float | None]) -> str:
    return " / ".join("–" if figure is None else f"{figure:.1f}" for figure in figures)


def _where(run: Run) -> str:
    machine = run["machine"]
    place = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads"
    return f"{place} (edgead {run['versions']['edgead']}, torch {run['versions']['torch']})"
