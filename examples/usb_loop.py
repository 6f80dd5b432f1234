"""The smallest camera loop: judge every picture of a camera, say what is to be rejected.

python examples/usb_loop.py part.edgead --camera 0
"""

from __future__ import annotations

import argparse

from edgead import Detector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--camera", default="0", help="whatever `edgead run --source` takes")
    options = parser.parse_args()
    with Detector(options.bundle) as detector:
        for outcome in detector.stream(options.camera):
            found = outcome.detection
            score = "-" if found is None else f"{found.score:.3f} of {found.threshold:.3f}"
            answer = (
                "accept" if outcome.accept else f"REJECT {outcome.verdict.name} {outcome.reason}"
            )
            print(f"{outcome.seq}: {score} {answer}", flush=True)


if __name__ == "__main__":
    main()
