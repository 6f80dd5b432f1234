"""The TensorRT back end against the Python API of eight versions, and against fakes that have just that API."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import fake_tensorrt
import pytest
from fake_tensorrt import API, VERSIONS, generation

import edgead.backends.trt as package
from edgead.backends.trt import api
from edgead.errors import BackendError, ConfigError

SOURCES = [Path(package.__file__).with_name(f"{name}.py") for name in
           ("child", "log", "run", "request")]  # fmt: skip
#: Names that TensorRT's classes share with others: pycuda's, NumPy's, our own.
SHARED = {
    "close",
    "code",
    "name",
    "shape",
    "log",
    "read",
    "reset",
    "query",
    "flags",
    "dtype",
    "type",
    "device_memory",
}


def used_members() -> dict[str, set[str]]:
    """Members of TensorRT's classes in the sources -> the classes that have them.

    ``trt.BuilderFlag.INT8`` is a member of that class; a bare ``x.parse`` of any class that has it in some version.
    """
    known: dict[str, set[str]] = {}
    for class_name, members in API["classes"].items():
        for member in members:
            known.setdefault(member, set()).add(class_name)
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
                continue
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else ""
            if (
                isinstance(node.value, ast.Name)
                and node.value.id == "trt"
                and node.attr in API["classes"]
            ):
                found[node.attr] = {node.attr}
            elif owner in API["classes"]:
                found[f"{owner}.{node.attr}"] = {owner}
            elif node.attr in known and node.attr not in SHARED:
                found[f"*.{node.attr}"] = known[node.attr]
    for name in ("phase_start", "phase_finish", "step_complete"):  # defined, and called by TensorRT
        found[f"IProgressMonitor.{name}"] = {"IProgressMonitor"}
    for row in ROWS:
        found[f"ICudaEngine.{api.api_for(*row).memory_size}"] = {"ICudaEngine"}
    return found


def test_wrong_member_would_be_found():
    assert used_members()["BuilderFlag.TF32"] == {"BuilderFlag"}
    assert used_members()["*.execute_async_v3"] == {"IExecutionContext"}


ROWS = [
    ("tensorrt-rtx" if v.startswith("rtx") else "tensorrt", v.removeprefix("rtx-"))
    for v in VERSIONS
]


def test_table_covers_the_versions_it_names():
    assert [api.api_for(*row).generation for row in ROWS] == ["8.6", *["10"] * 4, "11", "11", "rtx"]
    assert [generation(v) for v in VERSIONS] == ["8.6", *["10"] * 4, "11", "11", "rtx"]


def has(class_name: str, member: str, column: int) -> bool:
    """True when a version has the class, or its member where one is named."""
    masks = API["classes"][class_name]
    return any(mask[column] == "1" for name, mask in masks.items() if name == (member or name))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_member_used_exists_or_is_guarded(version):
    used = used_members()
    assert len(used) > 50, "the walk over the sources finds nothing any more"
    column = VERSIONS.index(version)
    missing = {
        name for name, classes in used.items()
        if not any(has(c, name.partition(".")[2], column) for c in classes)
    }  # fmt: skip
    guarded = {name for name, where in api.OPTIONAL.items() if generation(version) not in where}
    guarded |= {"*." + name.rpartition(".")[2] for name in guarded}
    assert missing <= guarded, f"TensorRT {version} lacks {sorted(missing - guarded)}"


@pytest.mark.parametrize("qualified", sorted(api.OPTIONAL))
def test_optional_members_are_where_the_table_says(qualified):
    owner, _, name = qualified.partition(".")
    where = {
        generation(v) for i, v in enumerate(VERSIONS)
        if has(owner, name, i)
    }  # fmt: skip
    assert where == set(api.OPTIONAL[qualified])


def test_fake_refuses_what_the_real_version_lacks():
    trt = fake_tensorrt.make("8.6.1")
    config = trt.Builder(None).create_builder_config()
    with pytest.raises(AttributeError) as error:
        config.progress_monitor = None
    assert str(error.value) == "TensorRT 8.6.1: IBuilderConfig has no progress_monitor"
    assert not hasattr(trt, "IProgressMonitor")
    assert not hasattr(fake_tensorrt.make("11.4.0.106").BuilderFlag, "FP16")


@pytest.mark.parametrize(
    ("version", "row"),
    [
        ("8.6.1", "8.6"),
        ("10.0.1", "10"),
        ("10.16.1.11", "10"),
        ("11.0.0.114", "11"),
        ("12.1", "11"),
    ],
)
def test_versions_get_their_row(version, row):
    assert api.api_for("tensorrt", version).generation == row


@pytest.mark.parametrize(
    ("name", "version", "error", "text"),
    [
        ("tensorrt", "8.5.2.2", BackendError,
         "[TENSORRT_TOO_OLD] TensorRT 8.5.2.2 was found; 8.6 (JetPack 6.0) is the oldest that edgead drives. "
         "JetPack 4 and 5 cannot be used: flash JetPack 6.0 or newer."),
        ("tensorrt", "unknown", BackendError,
         "[TENSORRT_VERSION] tensorrt calls itself version 'unknown'."),
        ("cuda", "8.6", ConfigError,
         "[BACKEND_UNKNOWN] back end 'cuda' is not one of tensorrt, tensorrt-rtx."),
    ],
)  # fmt: skip
def test_versions_refused(name, version, error, text):
    with pytest.raises(error) as caught:
        api.api_for(name, version)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("target", "name", "text"),
    [
        ("sm86", "tensorrt", "[TARGET] target 'sm86' was asked for; tensorrt builds for the GPU it runs on only. "
         "Build on the device itself, or use --backend tensorrt-rtx."),
        ("sm87", "tensorrt-rtx", "[TARGET] target 'sm87' is not one of sm75, sm80, sm86, sm89, sm120, sm121."),
    ],
)  # fmt: skip
def test_targets_refused(target, name, text):
    with pytest.raises(ConfigError) as caught:
        api.check_target(target, name=name)
    assert str(caught.value) == text


def test_targets_are_those_of_the_library():
    named = {m.lower() for m in API["classes"]["ComputeCapability"] if m.startswith("SM")}
    assert named == set(api.TARGETS)


def test_extract_is_the_committed_one(tmp_path):
    """The extract names eight versions and holds a digit for each of them in every mask."""
    assert len(VERSIONS) == 8
    text = json.dumps(API)
    assert len(text) < 20_000
    assert all(len(mask) == 8 for members in API["classes"].values() for mask in members.values())


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_missing_module_is_a_sentence(name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, api.MODULES[name], None)
    with pytest.raises(BackendError) as caught:
        api.load(name)
    assert caught.value.code == "PROVIDER"
    assert f"the Python module {api.MODULES[name]} is not installed" in str(caught.value)
    assert "pip install" in caught.value.hint


def test_module_with_a_missing_library_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text(
        "raise ImportError('libnvinfer.so.10: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "tensorrt", raising=False)
    with pytest.raises(BackendError) as caught:
        api.load("tensorrt")
    assert str(caught.value) == (
        "[PROVIDER_BROKEN] back end tensorrt was asked for; its module tensorrt cannot be loaded: "
        "libnvinfer.so.10: cannot open shared object file. "
        "Check that the library and its Python module are of the same version."
    )
