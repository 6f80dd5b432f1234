"""The frame of a report: one HTML file without script and without any external resource."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgead.evaluate.style import STYLE

__all__ = ["card", "html_page"]


def html_page(
    *, kicker: str, title: str, note: str, sections: Sequence[str], closing: str, skip: str
) -> str:
    """A whole page.

    Args:
        kicker: What kind of report it is.
        title: What it is about.
        note: Said under the title.
        sections: HTML.
        closing: Said at the end.
        skip: Text of the link that jumps to the sections.
    """
    # The policy makes "no external resource" a property of the file, not a promise.
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(kicker)}: {escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#report">{escape(skip)}</a>
<header>
<p class="kicker">{escape(kicker)}</p>
<h1>{escape(title)}</h1>
<p class="note">{escape(note)}</p>
</header>
<main id="report">
{"".join(sections)}
</main>
<footer>{escape(closing)}</footer>
</body>
</html>
"""


def card(name: str, value: str, note: str, state: str = "") -> str:
    """One figure of a summary; ``state`` is fine, bad or empty."""
    return (
        f'<div class="{state}"><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="note">{escape(note)}</dd></div>'
    )
