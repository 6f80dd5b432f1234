"""A network camera with a deadline; what is not accepted is saved, and every frame goes into a journal.

    python examples/rtsp_rejects.py part.edgead rtsp://user:password@camera/1 --folder line3

Each saved reject is a replay file: ``edgead replay part.edgead line3/rejects/FILE`` gives the same score on a desk.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgead import Detector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("camera")
    parser.add_argument("--folder", type=Path, default=Path("line"))
    parser.add_argument("--deadline-ms", type=float, default=200)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with (
        Detector(options.bundle) as detector,
        detector.stream(
            options.camera,
            deadline_ms=options.deadline_ms,
            journal=options.folder / "journal.sqlite",
            save_rejects=options.folder / "rejects",
        ) as outcomes,
    ):
        for outcome in outcomes:
            if not outcome.accept:
                print(f"{outcome.seq}: {outcome.verdict.name} {outcome.reason}", flush=True)
        counts = outcomes.counts
    print(f"{counts.received} received, {counts.results} judged, {counts.dropped} dropped")


if __name__ == "__main__":
    main()
