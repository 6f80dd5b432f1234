"""The part of the report that shows a bundle's certificates: what each precision keeps, and what it gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["precision_section"]

_COLUMNS = (
    "Precision", "Device", "Holds", "Verdicts flipped", "Largest score change",
    "Rank correlation", "Image AUROC lost", "Pixel AUROC lost", "Speed", "Size",
)  # fmt: skip


def precision_section(certificates: Sequence[Mapping[str, Any]]) -> str:
    """A table of certificates; nothing where the bundle has none.

    Args:
        certificates: As `edgead.choice.certificates` gives them.
    """
    if not certificates:
        return ""
    head = "".join(f'<th scope="col">{words}</th>' for words in _COLUMNS)
    rows = "".join(_row(one) for one in certificates)
    frames = sorted({one["figures"].get("frames", 0) for one in certificates})
    defects = " and ".join(sorted({one.get("defects", "simulated") for one in certificates}))
    missed = "".join(
        f"<dt>{escape(_name(one))}</dt><dd>{escape('; '.join(notes))}</dd>"
        for one in certificates
        if (notes := _notes(one))
    )
    reasons = f'<dl class="facts">{missed}</dl>' if missed else ""
    return (
        '<section aria-labelledby="precisions"><h2 id="precisions">Precisions</h2>'
        f'<p class="note">Each compared with FP32 on the same engine and on the same '
        f"{' or '.join(map(str, frames))} frames, which neither calibrated nor chose it; {defects} "
        "defects. Score changes are shares of the distance from a usual good score to the threshold. "
        "Speed was measured in turns with FP32. Emulated means that the device computes in another "
        "arithmetic, and that no GPU is spoken for.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="precisions">'
        f'<table aria-labelledby="precisions"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{reasons}</section>"
    )


def _notes(one: Mapping[str, Any]) -> list[str]:
    """Why it does not hold, and what makes it weaker evidence than it looks."""
    refused = one.get("refused", 0)
    tried = f"before it, {refused} other ways to {one['precision']} were refused on these frames"
    return [*one["reasons"], *([tried] if refused else [])]


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['precision']} on {one['backend']}"


def _row(one: Mapping[str, Any]) -> str:
    found = one["figures"]
    emulated = ", emulated" if one["arithmetic"] == "emulated" else ""
    cells = (
        f"{one.get('machine') or one.get('device', '')}{emulated}",
        "yes" if one["passed"] else "no",
        _flips(found),
        _number(found.get("score_change_max"), ".3f"),
        _number(found.get("rank_correlation"), ".4f"),
        _number(found.get("auroc_loss"), ".4f"),
        _number(found.get("pixel_auroc_loss"), ".4f"),
        f"{found['speedup']:.2f}x" if found["speedup"] else "–",
        f"{100 * found['size_ratio']:.0f} %",
    )
    shown = "".join(f"<td>{escape(text)}</td>" for text in cells)
    return f'<tr><th scope="row">{escape(_name(one))}</th>{shown}</tr>'


def _flips(found: Mapping[str, Any]) -> str:
    if "flips" not in found:
        return "–"
    return f"{found['flips']} of {found['frames']}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
