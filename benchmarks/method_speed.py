"""Speed and memory of bundles of several methods at the run-time: for docs/methods.md.

    python benchmarks/method_speed.py bottle-*.edgead --source DATA/test/good --save

Each turn is `edgead benchmark` in a process of its own, bundles in turn, medians over the turns: decoded frames to
verdicts in FP32, the engine on two threads. `benchmarks/results/accuracy.json` knows the bundles by their hash.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness


def turn(bundle: Path, source: Path, seconds: float) -> dict[str, Any]:
    """What one run of the command says."""
    command = [sys.executable, "-m", "edgead", "benchmark", str(bundle), "--source", str(source)]
    command += ["--seconds", str(seconds), "--precision", "fp32", "--backend", "openvino"]
    done = subprocess.run(
        [*command, "--threads", "2", "--json"], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--source", type=Path, required=True, help="folder of the set's images")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn (%(default)s)")
    parser.add_argument("--save", action="store_true", help="keep them in benchmarks/results")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    turns: dict[Path, list[dict[str, Any]]] = {bundle: [] for bundle in arguments.bundles}
    for _ in range(arguments.rounds):
        for bundle, kept in turns.items():
            kept.append(turn(bundle, arguments.source, arguments.seconds))
    rows = []
    for bundle, kept in turns.items():
        timed = [one["end_to_end"] for one in kept]
        row = {"bundle_hash": kept[0]["bundle_hash"], "bundle_mb": bundle.stat().st_size / 1e6}
        row |= {
            key: statistics.median(one[key] for one in timed) for key in ("fps", "p50_ms", "p99_ms")
        }
        row["peak_rss_mb"] = statistics.median(one["peak_rss_mb"] for one in kept)
        rows.append(row)
        print(json.dumps(row))
    if arguments.save:
        body = {"load_at_start": load, "rounds": arguments.rounds, "threads": 2, "rows": rows}
        command = "python benchmarks/method_speed.py BUNDLES --source DIR --save"
        harness.save("method_speed", command, body)


if __name__ == "__main__":
    main()
