"""Coverage-guided fuzzing of a reader with atheris: finds the paths that random damage does not.

Usage: pip install atheris; python tests/fuzz/coverage_guided.py TARGET [-max_total_time=SECONDS …]

TARGET is one of `edgead.reliability.targets.TARGETS`. The seeds are the target's own sound files; a
finding is written by libFuzzer as crash-… and belongs into tests/property/corpus/TARGET once mended.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["edgead"]):
    from edgead.errors import EdgeadError
    from edgead.reliability.targets import target_named


def main() -> None:
    """Fuzz until libFuzzer's limits end it."""
    name, *flags = sys.argv[1:]
    target = target_named(name)

    def read_one(data: bytes) -> None:
        try:
            target.read(data)
        except EdgeadError:
            return  # refused by type: what should happen

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(target.seeds):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], *flags, folder], read_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
