"""Draw the compact table of TensorRT's Python API that the contract tests use.

    python tests/tensorrt_api/extract.py FOLDER

FOLDER holds one JSON file for each version: ``{"version": "10.3.0", "top": [names], "ClassName": [members]}``,
listed from the real bindings with ``dir()``. The result, ``api.json`` beside this script, keeps the classes that the
back end uses: ``{"versions": [...], "classes": {class: {member: "11110000"}}}``, one digit a version.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

CLASSES = (
    "Builder", "BuilderFlag", "ComputeCapability", "DataType", "IBuilderConfig", "ICudaEngine",
    "IExecutionContext", "IHostMemory", "ILayer", "ILogger", "INetworkDefinition",
    "IOptimizationProfile", "IProgressMonitor", "ITensor", "ITimingCache", "LayerType",
    "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError", "Runtime",
    "TensorIOMode",
)  # fmt: skip


def order(version: str) -> tuple[bool, tuple[int, ...]]:
    """TensorRT by its number, TensorRT-RTX last."""
    return version.startswith("rtx-"), tuple(
        int(n) for n in version.removeprefix("rtx-").split(".")
    )


def main(folder: Path) -> None:
    """Read all files of ``folder`` and write ``api.json``."""
    apis = {}
    for path in folder.glob("tensorrt-*.json"):
        told = json.loads(path.read_text())
        prefix = "rtx-" if path.name.startswith("tensorrt-rtx-") else ""
        apis[prefix + told["version"]] = told
    versions = sorted(apis, key=order)
    classes = {}
    for name in CLASSES:
        members = sorted({m for v in versions for m in apis[v].get(name, [])})
        classes[name] = {
            m: "".join("1" if m in apis[v].get(name, []) else "0" for v in versions)
            for m in members
        }
    lines = [f'"{name}": {json.dumps(members)}' for name, members in classes.items()]
    text = f'{{"versions": {json.dumps(versions)},\n"classes": {{\n' + ",\n".join(lines) + "\n}}\n"
    Path(__file__).with_name("api.json").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
