"""Real builds with TensorRT-RTX, which needs no GPU: graphs parse under strong typing and become engines.

That is all they show: nothing here has run on a device.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from trt_graphs import SIDE, graph

from edgead.backends.trt import TrtOptions, build_engine, header
from edgead.errors import BackendError

pytestmark = pytest.mark.rtx


def build(
    model: bytes, cache: Path, *, precision: str = "fp32", target: str = "sm86", **arguments
) -> dict:
    return build_engine(
        model, name="tensorrt-rtx", target=target, precision=precision, cache_dir=cache, **arguments
    )  # fmt: skip


def opened(told: dict, cache: Path) -> tuple[bytes, dict]:
    """The plan and the build's record."""
    secret = (cache / "machine.key").read_bytes()
    _, plan, info = header.unpack(Path(told["engine"]).read_bytes(), secret, source="")
    return plan, info


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_graph_builds_for_a_named_gpu(tmp_path, precision):
    model = graph(precision)
    frame = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    assert np.isfinite(onnxruntime.InferenceSession(model).run(None, {"image": frame})[1]).all()
    told = build(model, tmp_path / "cache", precision=precision)
    plan, info = opened(told, tmp_path / "cache")
    assert (told["precision"], told["typing"], told["notes"]) == (precision, "strong", [])
    assert told["seconds"] > 0
    assert told["bytes"] > len(plan) > 1000
    assert info["inputs"] == [{"name": "image", "shape": [1, SIDE, SIDE, 3], "dtype": "UINT8"}]
    assert {o["name"] for o in info["outputs"]} == {"anomaly_map", "score"}
    assert {o["dtype"] for o in info["outputs"]} == {"FLOAT"}


def test_same_model_gives_the_same_plan(tmp_path):
    plans = []
    for number in range(2):
        cache = tmp_path / str(number)
        plans.append(
            hashlib.sha256(opened(build(graph("int8"), cache, precision="int8"), cache)[0]).digest()
        )
    assert plans[0] == plans[1]


@pytest.mark.parametrize("target", ["sm75", "sm89", "sm120"])
def test_other_targets(tmp_path, target):
    told = build(graph(), tmp_path / "cache", target=target)
    assert told["bytes"] > 1000


def test_free_batch(tmp_path):
    options = TrtOptions(batch=(1, 2, 8))
    told = build(graph(batch="n"), tmp_path / "cache", options=options)
    _, info = opened(told, tmp_path / "cache")
    assert info["is_dynamic"]
    assert info["inputs"][0]["shape"] == [-1, SIDE, SIDE, 3]


def test_progress_is_told(tmp_path):
    events: list[dict] = []
    build(graph(), tmp_path / "cache", options=TrtOptions(on_progress=events.append))
    steps = [event["progress"] for event in events if "progress" in event]
    assert steps[0]["step"] == 0
    assert max(step["step"] for step in steps) >= 1
    assert "estimate" in events[0]


def test_refusal_of_the_parser_is_a_sentence(tmp_path):
    """uint8 goes into a Cast and into nothing else: the export must keep to that."""
    with pytest.raises(BackendError) as caught:
        build(graph(transpose_first=True), tmp_path / "cache")
    assert caught.value.code == "MODEL_REFUSED"
    assert "the parser of tensorrt-rtx" in caught.value.message
    assert "first input has type UInt8 but must have type Float" in caught.value.message
    assert not list((tmp_path / "cache").glob("*.engine"))


def test_rubbish_is_refused(tmp_path):
    with pytest.raises(BackendError) as caught:
        build(b"this is no model", tmp_path / "cache")
    assert caught.value.code == "MODEL_REFUSED"


def test_engine_without_a_gpu_is_not_loaded(tmp_path):
    from edgead.backends.trt import device, open_backend

    if device.load_driver() is not None:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(BackendError) as caught:
        open_backend(graph(), name="tensorrt-rtx", precision="fp32", cache_dir=tmp_path / "cache")
    assert caught.value.code == "NO_DRIVER"


def test_installed_library_has_what_the_table_says():
    """The committed table against the real bindings, for the one version that can be installed here."""
    import tensorrt_rtx
    from fake_tensorrt import API, VERSIONS, members

    version = f"rtx-{tensorrt_rtx.__version__}"
    if version not in VERSIONS:
        pytest.skip(f"the table has no column for {version}")
    for name in API["classes"]:
        listed = members(version, name)
        real = getattr(tensorrt_rtx, name, None)
        assert (real is not None) == bool(listed), name
        assert all(hasattr(real, member) for member in listed), name
