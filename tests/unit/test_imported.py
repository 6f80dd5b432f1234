"""Another program's anomaly model as a bundle: the same map, a threshold of ours, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgead import Detector, images
from edgead.deploy import imported
from edgead.deploy.imported import import_model, wrapped
from edgead.errors import BundleError, ConfigError
from edgead.types import Verdict

SIDE = 32


def export(
    *, shape=(None, 3, SIDE, SIDE), kind=TensorProto.FLOAT, rank=4, opset=17, name="anomaly_map"
):
    """As anomalib exports: RGB in 0..1; map, normalised score and label out; the red channel is the map."""
    dims = [f"d{i}" if d is None else d for i, d in enumerate(shape)]
    given = helper.make_tensor_value_info("input", kind, dims)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *[None] * (rank - 1)]),
        helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, ["n", *["m"] * (rank - 3)]),
    ]
    constants = [
        helper.make_tensor("red", TensorProto.INT64, [1] if rank == 4 else [], [0]),
    ]
    nodes = [
        helper.make_node("Cast", ["input"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["float", "red"], [name], axis=1),
        helper.make_node("ReduceMax", [name], ["pred_score"], axes=[-2, -1], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "main", [given], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model.SerializeToString()


@pytest.fixture
def good(tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = rng.integers(40, 100 + 5 * number, (SIDE, SIDE, 3), dtype=np.uint8)
        images.save_image(folder / f"{number}.png", pixels)
    return folder


@pytest.mark.parametrize("rank", [3, 4])
def test_an_import_judges_with_a_threshold_of_ours(tmp_path, good, rank):
    (tmp_path / "padim.onnx").write_bytes(export(rank=rank))
    found = import_model(tmp_path / "padim.onnx", good, tmp_path / "part.edgead")
    assert found.parity == pytest.approx(0, abs=1e-6)
    assert (found.bundle.manifest.method, found.bundle.manifest.config["file"]) == (
        "imported",
        "padim.onnx",
    )
    frame = np.full((SIDE, SIDE, 3), 80, np.uint8)
    frame[::2, ::2] = 100
    red = frame.copy()
    red[10:20, 10:20] = (0, 0, 255)  # BGR
    blue = frame.copy()
    blue[10:20, 10:20] = (255, 0, 0)
    with Detector(tmp_path / "part.edgead", check_ranges=False) as detector:
        assert detector(red).verdict is Verdict.DEFECT
        assert detector(red).score == pytest.approx(1)
        assert detector(blue).verdict is Verdict.GOOD  # the channels are in the graph's order
        assert detector.verify()["ok"]


def test_what_the_graph_leaves_open_is_asked_for():
    open_size = export(shape=(None, 3, None, None))
    assert wrapped(open_size, 64)[1] == (64, 64)
    with pytest.raises(ConfigError) as error:
        wrapped(open_size)
    assert str(error.value) == (
        "[IMAGE_SIZE] the graph leaves its input size open: [None, 3, None, None]. Give --image-size."
    )
    with pytest.raises(ConfigError) as error:
        wrapped(export(), 64)
    assert str(error.value) == f"[IMAGE_SIZE] image size is 64; the graph wants {SIDE} x {SIDE}."


HINT = " anomalib: engine.export(model, ExportType.ONNX, input_size=(256, 256))."


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (
            {"name": "map"},
            "its inputs are ['input'] and its outputs ['map', 'pred_score']; "
            "want one picture in and 'anomaly_map' among the outputs.",
        ),
        (
            {"shape": (2, 3, SIDE, SIDE)},
            f"a batch of 2 is baked into its input [2, 3, {SIDE}, {SIDE}]; a camera gives one frame.",
        ),
        (
            {"shape": (1, 1, SIDE, SIDE)},
            f"its input is [1, 1, {SIDE}, {SIDE}]; want float32 (n, 3, h, w), RGB in 0..1.",
        ),
        (
            {"kind": TensorProto.UINT8},
            f"its input is [None, 3, {SIDE}, {SIDE}]; want float32 (n, 3, h, w), RGB in 0..1.",
        ),
        ({"opset": 12}, "its opset is 12; want 13 or later."),
        ({"rank": 2}, "its anomaly_map has 2 dimensions; want (n, 1, h, w) or (n, h, w)."),
    ],
)
def test_graphs_that_are_refused(options, what):
    with pytest.raises(BundleError) as error:
        wrapped(export(**options))
    assert str(error.value) == f"[IMPORT_GRAPH] the model cannot be imported: {what}{HINT}"


def test_a_file_that_is_no_onnx():
    with pytest.raises(BundleError) as error:
        wrapped(b"nothing of the kind")
    assert str(error.value).startswith(
        "[IMPORT_GRAPH] the model cannot be imported: it is no ONNX model"
    )


def test_a_map_that_differs_is_not_written(tmp_path, good, monkeypatch):
    (tmp_path / "padim.onnx").write_bytes(export())
    monkeypatch.setattr(imported, "_before", lambda name: swapped(name))
    with pytest.raises(BundleError) as error:
        import_model(tmp_path / "padim.onnx", good, tmp_path / "part.edgead")
    assert str(error.value).startswith("[IMPORT_PARITY] the bundled graph's map differs by ")
    assert not (tmp_path / "part.edgead").exists()


def swapped(name: str) -> list[onnx.NodeProto]:
    """Pixels that forget the channels' order."""
    return [
        helper.make_node("Cast", ["image"], ["edgead/float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["edgead/float"], ["edgead/planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["edgead/planes", "edgead/scale"], [name]),
    ]


def test_the_command(tmp_path, good):
    from typer.testing import CliRunner

    from edgead.cli import app

    (tmp_path / "padim.onnx").write_bytes(export())
    words = [
        "import",
        tmp_path / "padim.onnx",
        "--good",
        good,
        "--out",
        tmp_path / "b.edgead",
        "--json",
    ]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.exception
    assert (tmp_path / "b.edgead").is_file()
