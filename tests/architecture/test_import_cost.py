"""``import edgead`` loads next to nothing, and a Detector no more than it runs on."""

from __future__ import annotations

import json
import subprocess
import sys

_LOADED = "import json, sys; before = set(sys.modules); {}; print(json.dumps(sorted(set(sys.modules) - before)))"


def loaded_by(statement: str) -> set[str]:
    """Modules that ``statement`` adds to a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED.format(statement)],
        capture_output=True,
        cwd="/",  # the installed package, not a folder that happens to lie here
        text=True,
        timeout=60,
        check=True,
    )
    return set(json.loads(done.stdout))


def test_import_edgead_loads_its_version_and_nothing_heavy() -> None:
    loaded = loaded_by("import edgead")
    assert {name for name in loaded if name.startswith("edgead")} == {"edgead", "edgead._version"}
    roots = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"edgead"}
    assert roots == set()


def test_nothing_is_started() -> None:
    statement = "import threading, edgead; assert threading.active_count() == 1"
    loaded_by(statement)


def test_a_detector_loads_neither_engines_nor_opencv_before_it_is_made() -> None:
    loaded = {name.split(".")[0] for name in loaded_by("from edgead import Detector")}
    assert "numpy" in loaded
    assert loaded.isdisjoint(
        {
            "torch",
            "onnx",
            "timm",
            "openvino",
            "onnxruntime",
            "cv2",
            "rich",
            "typer",
            "matplotlib",
            "scipy",
        }
    )


def test_the_command_line_loads_its_commands_late() -> None:
    loaded = {name.split(".")[0] for name in loaded_by("import edgead.cli")}
    assert loaded.isdisjoint({"torch", "onnx", "timm", "openvino", "onnxruntime", "cv2", "scipy"})


def test_types_need_no_engine() -> None:
    loaded = loaded_by("from edgead import Frame, Outcome, Verdict")
    ours = {name for name in loaded if name.startswith("edgead")}
    assert ours <= {
        "edgead",
        "edgead._version",
        "edgead.types",
        "edgead.appearance",
        "edgead.frame",
        "edgead.gpupixels",
        "edgead.errors",
    }
