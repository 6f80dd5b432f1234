"""The streaming run-time: every frame accounted for, every verdict in time.

    for outcome in edgead.stream.run(judge, "images/", deadline_ms=40):
        if not outcome.accept:
            reject(outcome.frame_id, outcome.reason)

It runs any ``Callable[[Frame], Detection]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from edgead.stream.interrupts import undisturbed
from edgead.stream.journal import Journal
from edgead.stream.limits import Limits
from edgead.stream.pipeline import Judge, Stream
from edgead.stream.replay import Rejects
from edgead.stream.sources import Source, open_source
from edgead.stream.supervised import Supervised
from edgead.stream.triggered import Triggered
from edgead.swap import Swappable
from edgead.types import Frame, Outcome

__all__ = [
    "Journal",
    "Judge",
    "Limits",
    "Rejects",
    "Source",
    "Stream",
    "Supervised",
    "Swappable",
    "Triggered",
    "open_source",
    "run",
]


def run(
    judge: Judge,
    source: Any,
    *,
    policy: str = "auto",
    deadline_ms: float | None = None,
    workers: int | None = None,
    journal: str | Path | Journal | None = None,
    save_rejects: str | Path | Rejects | None = None,
    limits: Limits | None = None,
    on_frame: Callable[[Outcome, Frame | None], None] | None = None,
) -> Stream:
    """Judge every frame of a source.

    Args:
        judge: Called with each frame, from ``workers`` threads; an `EdgeadError` that it raises
            makes the frame FAILED with that code, any other exception FAILED(BACKEND_ERROR).
        source: See `open_source`; a mapping of names to sources runs several on one judge.
        policy: ``every``, ``latest``, ``drop_oldest(n)``, ``reject_when_full(n)``, or ``auto``:
            the one that fits the source.
        deadline_ms: A verdict leaves within so many milliseconds of capture, UNKNOWN if need be.
        workers: Frames judged at the same time; None takes the judge's own ``in_flight``, where it has
            one, and else 1.
        journal: File that gets one row for each frame; see `edgead.stream.journal.Journal`.
        save_rejects: Folder that gets a replay file for each frame that was judged and not
            accepted, or failed.
        limits: Bounds of the stream.
        on_frame: Sees each frame as it is settled; see `Stream`.

    Returns:
        An iterator of `edgead.types.Outcome` and a context manager.

    Raises:
        SourceError: The source cannot be opened.
        ConfigError: An option is out of range.
    """
    opening = partial(
        _open,
        judge,
        dict(source) if isinstance(source, Mapping) else {"": source},
        journal,
        save_rejects,
        policy=policy,
        deadline_ms=deadline_ms,
        workers=getattr(judge, "in_flight", 1) if workers is None else workers,
        limits=limits,
        on_frame=on_frame,
    )
    return undisturbed(opening, Stream.close)


def _open(
    judge: Judge,
    specs: Mapping[str, Any],
    journal: str | Path | Journal | None,
    rejects: str | Path | Rejects | None,
    **options: Any,
) -> Stream:
    sources: dict[str, Source] = {}
    with ExitStack() as opened:  # what was opened is closed when something after it fails
        for name, spec in specs.items():
            one = open_source(spec)
            opened.callback(one.close)
            one.source_id = name or one.source_id
            sources[one.source_id] = one
        if isinstance(journal, (str, Path)):
            journal = Journal(journal)
            opened.callback(journal.close)
        if isinstance(rejects, (str, Path)):
            rejects = Rejects(rejects)
            opened.callback(rejects.close)
        stream = Stream(judge, sources, journal=journal, rejects=rejects, **options)
        opened.pop_all()
    return stream
