"""Several cameras on one engine; the part is good only when every camera accepts its picture.

python examples/multi_camera.py part.edgead --camera left=0 --camera right=1
"""

from __future__ import annotations

import argparse
from collections import defaultdict

from edgead import Detector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--camera", action="append", required=True, metavar="NAME=SOURCE")
    options = parser.parse_args()
    cameras = dict(one.split("=", 1) for one in options.camera)
    views: dict[int, dict[str, bool]] = defaultdict(dict)
    with Detector(options.bundle) as detector, detector.stream(cameras) as outcomes:
        for outcome in outcomes:
            # Cameras that are triggered together count together; free-running ones need a part id.
            views[outcome.seq][outcome.source_id] = outcome.accept
            if len(views[outcome.seq]) == len(cameras):
                part = views.pop(outcome.seq)
                refused = [name for name, accept in part.items() if not accept]
                answer = f"REJECT by {', '.join(sorted(refused))}" if refused else "accept"
                print(f"part {outcome.seq}: {answer}", flush=True)


if __name__ == "__main__":
    main()
