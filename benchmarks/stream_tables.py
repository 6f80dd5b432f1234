"""Tables of the streaming run-time, drawn from results: many cameras, hot swaps, planted faults."""

from __future__ import annotations

import json
from typing import Any

from harness import NOT_MEASURED, RESULTS, markdown

__all__ = ["faults", "streams", "swaps"]

_NONE = f"{NOT_MEASURED}\n"


def streams() -> str:
    """For docs/cameras.md: what a stream, eight cameras and eight files reach on one engine."""
    found = _result("stream")
    if found is None:
        return _NONE
    rows = []
    for run in found["results"]:
        fps, ratios = run["fps"], run["ratios"]
        rows.append(
            [
                run["workers"],
                f"{fps['one source']:.0f} fps",
                f"{fps['eight sources']:.0f} fps, {ratios['eight sources / one source']:.1%}",
                f"{fps['eight files']:.0f} fps, {ratios['eight files / bound']:.1%}",
            ]
        )
    head = [
        "`workers`",
        "one source in memory",
        "eight in memory, of one",
        "eight video files, of what decoding and engine allow",
    ]
    text = f"{markdown(head, rows)}\n{found['detector']}, {_where(found)}\n"
    batches = _result("stream-batch")
    if batches is None:
        return text
    each = batches["batch"]
    sizes = ", ".join(str(one["n"]) for one in each)
    times = ", ".join(f"{one['ms_per_frame']:.2f}" for one in each)
    return f"{text}\nA batch of {sizes} takes {times} ms a frame there: `{batches['command']}`.\n"


def swaps() -> str:
    """For docs/line.md: what swaps cost under load."""
    found = _result("stream-swap")
    if found is None:
        return _NONE
    run = found["results"][0]
    rows = [
        ["bundles swapped in, refused by their golden images", f"{run['swaps']}, {run['refused']}"],
        ["frames, lost to a swap", f"{run['received']}, {run['lost']}"],
        [
            "frames judged by another bundle than their generation's",
            run["judged_by_another_bundle"],
        ],
        ["one swap, median", f"{run['swap_s'] * 1e3:.0f} ms"],
        ["latency of a frame, median", f"{run['p50_ms']:.1f} ms"],
        ["99 % of frames settled during a swap", f"{run['p99_ms_during_a_swap']:.0f} ms"],
    ]
    about = f"Judging takes {run['service_ms']:.1f} ms, {run['load']:.0%} of the time"
    return f"{markdown(['', ''], rows)}\n{about}; {_where(found)}\n"


def faults() -> str:
    """For docs/line.md: the whole campaign of planted faults."""
    found = _result("chaos-full")
    if found is None:
        return _NONE
    parts = found["parts"]
    late = parts["supervised"]
    rows = [
        [
            "frames and triggers, each accounted for once",
            f"{found['frames']:,}, {found['accounted']:.0%}",
        ],
        ["faults planted, accepted falsely", f"{found['faults']:,}, {found['false_accepts']}"],
        ["cameras that fell silent, came back", _of(parts["outages"], "stalls")],
        ["cameras that hung up, came back", _of(parts["outages"], "disconnects")],
        [
            "signals, ended within 3 s",
            f"{parts['signals']['signals']}, {parts['signals']['ended']}",
        ],
        [
            f"triggers in a worker process beside a busy one, {late['deadline_ms']:.0f} ms: accepted late",
            f"{late['triggers']:,}, {late['late_accepts']}",
        ],
        ["the latest answer of these after its deadline", f"{late['lateness_ms']['max']:.1f} ms"],
    ]
    return f"{markdown(['planted', 'seen'], rows)}\n{_where(found)} {found.get('note', '')}\n"


def _of(part: dict[str, Any], name: str) -> str:
    return f"{part[name]}, {part[f'{name}_recovered']}"


def _result(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _where(found: dict[str, Any]) -> str:
    where = found["provenance"]
    return f"{where['cpu']}, {where['cores']} cores, {where['date']}: `{found['command']}`."
