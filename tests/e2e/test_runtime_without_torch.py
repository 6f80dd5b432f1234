"""The run-time in a process where torch, onnx, timm and matplotlib cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from gravel import PATH

_BLOCK = """
import sys

BLOCKED = {"torch", "torchvision", "onnx", "timm", "matplotlib", "sklearn", "skimage"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked: the run-time must not need it")

sys.meta_path.insert(0, Refuse())
"""

_RUN = (
    _BLOCK
    + """
import json, pathlib, warnings
import numpy as np
warnings.simplefilter("error")
from edgead import Detector, Frame, PixelFormat
from edgead.backends import open_backend
from edgead.bundle import read_bundle, write_bundle
from edgead.evaluate.commission import commission
from edgead.golden import golden_frame

bundle_path, out, backend = sys.argv[1:]
bundle = read_bundle(bundle_path)
good = golden_frame(bundle, bundle.manifest.golden[0].name)
with Detector(bundle, backend=backend, threads=1) as detector:
    found = detector(good)
    streamed = [outcome.to_json() for outcome in detector.stream([good, good.pixels])]

rolled = [Frame(np.roll(good.pixels, 7 * i, axis=1), PixelFormat.MONO8) for i in range(6)]
engine = open_backend(backend, bundle.members, threads=1)
ready = commission(bundle, engine, rolled)
write_bundle(out, ready.bundle)
with Detector(out, backend=backend, threads=1) as detector:
    again = detector(good)

print(json.dumps({
    "verdicts": [found.verdict.name, again.verdict.name],
    "streamed": [one["verdict"] for one in streamed],
    "images": ready.promise.images,
    "loaded": sorted(name for name in sys.modules if name.partition(".")[0] in BLOCKED),
}))
"""
)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_open_judge_and_commission(tmp_path, backend):
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(PATH), str(tmp_path / "new.edgead"), backend],
        capture_output=True,
        cwd="/",  # the installed package, not a folder that happens to lie here
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == {
        "verdicts": ["GOOD", "GOOD"],
        "streamed": ["GOOD", "GOOD"],
        "images": 6,
        "loaded": [],
    }


def test_the_block_blocks():
    done = subprocess.run(
        [sys.executable, "-c", _BLOCK + "\nimport edgead.models.registry"],
        capture_output=True,
        cwd="/",
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "is blocked: the run-time must not need it" in done.stderr


@pytest.mark.parametrize(
    "command", ["run", "evaluate", "commission", "verify", "inspect", "doctor"]
)
def test_the_commands_of_a_device_need_no_training_packages(command):
    code = f"{_BLOCK}\nfrom edgead.cli import main\nsys.argv = ['edgead', {command!r}, '--help']\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        cwd="/",
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
