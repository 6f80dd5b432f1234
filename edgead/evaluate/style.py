"""The report's style sheet: light and dark, on paper and on a phone."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f5f7; --paper: #ffffff; --ink: #1b2430; --muted: #5d6877; --line: #dfe3e8;
  --good: #1f6fc5; --defect: #c8501a; --ok: #1d7a46; --warn: #a15c00; --focus: #1f6fc5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11151b; --paper: #1a2029; --ink: #e7ebf0; --muted: #9aa6b5; --line: #323b48;
    --good: #63a9f2; --defect: #f28a55; --ok: #5cc78a; --warn: #e5ac52; --focus: #8cc1ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main, header, footer { max-width: 1080px; margin: 0 auto; padding: 0 24px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 24px; top: 8px; background: var(--paper); padding: 8px 12px; z-index: 1; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
header { padding-top: 36px; padding-bottom: 20px; }
.kicker { color: var(--muted); margin: 0; letter-spacing: .02em; }
h1 { font-size: 30px; line-height: 1.2; margin: 2px 0 6px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 0 0 4px; letter-spacing: -.005em; }
p { margin: 0 0 12px; max-width: 74ch; }
.note { color: var(--muted); }
section {
  background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 22px 24px; margin: 0 0 20px;
}
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(146px, 1fr)); gap: 20px 18px; }
.figures div { border-left: 3px solid var(--line); padding-left: 14px; }
.figures dt, .facts dt { color: var(--muted); }
.figures dd { margin: 0; }
.figures .value { font-size: 27px; font-weight: 650; line-height: 1.25; letter-spacing: -.01em; }
.figures .bad { border-color: var(--defect); }
.figures .fine { border-color: var(--ok); }
dl { margin: 0; }
.promise { border-left: 3px solid var(--good); padding-left: 14px; margin: 22px 0 0; }
.promise p { margin: 0; max-width: none; }
.plot { display: block; width: 100%; height: auto; }
svg text { fill: var(--muted); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
svg text.strong { fill: var(--ink); font-weight: 600; }
.strip { display: block; width: 260px; height: 22px; }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 6px 0 0; }
.legend { margin: 0 0 10px; color: var(--muted); max-width: none; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 24px; }
.curves figure, .cases figure { margin: 0; }
.curves figure { max-width: 500px; }
.curves figcaption { color: var(--muted); margin-top: 4px; }
.scroll { overflow-x: auto; }
.wide svg { min-width: 620px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: 8px 12px; border-top: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--muted); font-weight: 500; border-top: 0; }
tbody th { font-weight: 600; }
td.scores { padding-right: 0; } td.scores svg { margin-left: auto; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); gap: 22px; }
.cases .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; }
.cases img { width: 100%; height: auto; border-radius: 4px; display: block; background: var(--line); }
.cases figcaption { margin-top: 6px; }
.cases figcaption span { color: var(--muted); display: block; overflow-wrap: anywhere; }
.thumbs { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 14px; margin: 12px 0 18px; }
.ramp {
  display: inline-block; width: 120px; height: 11px; border-radius: 2px; margin: 0 6px; vertical-align: -1px;
  background: linear-gradient(90deg, #000004, #420a68, #932667, #dd513a, #fca50a, #fcffa4);
}
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 4px 24px; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
footer { color: var(--muted); padding-top: 4px; padding-bottom: 36px; }
@media (max-width: 560px) {
  main, header, footer { padding-left: 14px; padding-right: 14px; }
  section { padding: 18px 16px; }
  .cases { grid-template-columns: 1fr; }
  .facts { grid-template-columns: 1fr; } .facts dt { margin-top: 8px; }
}
@media print {
  :root { --page: #fff; }
  section { break-inside: avoid-page; border-color: #ccc; }
  .cases figure { break-inside: avoid; }
}
"""
