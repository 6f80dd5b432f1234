"""A folder of pictures, one line of a CSV each; for millions of them see `edgead score`.

python examples/batch_folder.py part.edgead photos/ > scores.csv
"""

from __future__ import annotations

import argparse
import csv
import sys

from edgead import Detector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("folder")
    options = parser.parse_args()
    rows = csv.writer(sys.stdout)
    rows.writerow(["picture", "verdict", "score", "threshold", "regions", "reason"])
    with Detector(options.bundle) as detector:
        for outcome in detector.stream(options.folder):
            found = outcome.detection
            judged = ["", "", ""]
            if found is not None:
                judged = [f"{found.score:.6g}", f"{found.threshold:.6g}", str(len(found.regions))]
            rows.writerow([outcome.frame_id, outcome.verdict.name, *judged, outcome.reason])


if __name__ == "__main__":
    main()
