"""The wire-format walk agrees with the onnx package and refuses what must not be loaded."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import TINY_MODEL, tiny_model
from onnx import TensorProto, helper

from edgead.errors import BundleError
from edgead.onnx_walk import OnnxLimits, check_model


def _refusal(data: bytes | onnx.ModelProto, **options: Any) -> str:
    raw = data if isinstance(data, bytes) else data.SerializeToString()
    with pytest.raises(BundleError) as error:
        check_model(raw, **options)
    return str(error.value)


def _model(nodes: list[Any], initializers: tuple[Any, ...] = (), **more: Any) -> onnx.ModelProto:
    side = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, "n"]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", side[:1], side[1:], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], **more)


def _external(name: str = "w") -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    return tensor


def _body(*tensors: Any, nodes: tuple[Any, ...] = ()) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [4])
    identity = helper.make_node("Identity", ["w"], ["o"])
    return helper.make_graph([*nodes, identity], "body", [], [out], list(tensors))


def test_the_packaged_tiny_model_is_what_onnx_writes() -> None:
    expected, packaged = onnx.ModelProto(), onnx.ModelProto()
    expected.ParseFromString(tiny_model())
    packaged.ParseFromString(TINY_MODEL)
    assert packaged == expected


def test_summary_of_the_tiny_model() -> None:
    seen = check_model(tiny_model())
    assert (seen.opset, seen.ir_version) == (18, 9)
    assert [(v.name, v.element_type, v.shape) for v in seen.inputs] == [
        ("image", TensorProto.UINT8, (1, 8, 8, 3))
    ]
    assert [(v.name, v.shape) for v in seen.outputs] == [("anomaly_map", (1, 8, 8))]
    assert seen.operators == {"Cast": 1, "ReduceMean": 1, "Mul": 1}
    assert seen.initializer_bytes == 4 + 8


def test_agrees_with_onnx_on_its_own_test_models() -> None:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    refused: dict[str, str] = {}
    alike = 0
    for path in sorted(folder.rglob("model.onnx")):
        data = path.read_bytes()
        try:
            seen = check_model(data)
        except BundleError as error:
            refused[path.parent.name] = str(error)
            continue
        alike += 1
        expected = onnx.load_model_from_string(data).graph
        assert [value.name for value in seen.outputs] == [o.name for o in expected.output]
        assert [value.name for value in seen.inputs] == [i.name for i in expected.input]
        assert seen.operators.total() >= len(expected.node)
        assert {node.op_type for node in expected.node} <= set(seen.operators)
    assert alike > 100
    assert all("[MODEL_OP]" in text for text in refused.values()), refused


@pytest.mark.parametrize("field", ["float_data", "int32_data", "int64_data", "raw", "float16"])
def test_typed_data_of_every_kind(field: str) -> None:
    kinds = {
        "float_data": (TensorProto.FLOAT, False),
        "int32_data": (TensorProto.INT8, False),
        "int64_data": (TensorProto.INT64, False),
        "raw": (TensorProto.FLOAT, True),
        "float16": (TensorProto.FLOAT16, False),
    }
    kind, raw = kinds[field]
    values = np.array([-100, 3, 0, 127], np.float32)
    stored: Any = values.tobytes() if raw else values.tolist()
    if kind in (TensorProto.INT8, TensorProto.INT64):
        stored = [int(v) for v in values]
    tensor = helper.make_tensor("w", kind, [4], stored, raw=raw)
    check_model(_model([helper.make_node("Identity", ["x"], ["y"])], (tensor,)).SerializeToString())
    tensor.dims[0] = 5
    assert _refusal(_model([helper.make_node("Identity", ["x"], ["y"])], (tensor,))).startswith(
        "[MODEL_CORRUPT] model.onnx: not a whole ONNX model: tensor 'w' [5] holds"
    )


_EXTERNAL = (
    "[MODEL_EXTERNAL] model.onnx: tensor 'w' keeps its data outside the file. "
    "Save the model as one file, without external data."
)


def _hiding_places() -> dict[str, onnx.ModelProto]:
    identity = helper.make_node("Identity", ["x"], ["y"])
    constant = helper.make_node("Constant", [], ["c"], value=_external())
    deep = helper.make_node("If", ["x"], ["y"], then_branch=_body(_external()))
    deeper = helper.make_node("If", ["x"], ["y"], then_branch=_body(nodes=(deep,)))
    listed = helper.make_node("Strange", ["x"], ["y"])
    attribute = onnx.AttributeProto(name="many", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(_external())
    listed.attribute.append(attribute)
    sparse = onnx.SparseTensorProto(values=_external(), dims=[4])
    sparse.indices.CopyFrom(helper.make_tensor("i", TensorProto.INT64, [0], []))
    in_sparse = _model([identity])
    in_sparse.graph.sparse_initializer.append(sparse)
    in_function = _model([identity])
    function = in_function.functions.add(name="f", domain="")
    function.node.append(constant)
    only_keys = _external()
    only_keys.data_location = TensorProto.DEFAULT
    no_keys = _external()
    del no_keys.external_data[:]
    return {
        "initializer": _model([identity], (_external(),)),
        "constant": _model([constant, identity]),
        "branch": _model([deep]),
        "branch of a branch": _model([deeper]),
        "list of tensors": _model([listed]),
        "sparse": in_sparse,
        "function": in_function,
        "keys without the flag": _model([identity], (only_keys,)),
        "flag without the keys": _model([identity], (no_keys,)),
    }


@pytest.mark.parametrize("place", _hiding_places())
def test_external_data_is_found_everywhere(place: str) -> None:
    assert _refusal(_hiding_places()[place]) == _EXTERNAL


def test_operators() -> None:
    custom = helper.make_node("Nope", ["x"], ["y"], domain="evil.ops")
    assert _refusal(_model([custom])) == (
        "[MODEL_OP] model.onnx: node 0 is 'Nope' of domain 'evil.ops'; want a standard ONNX "
        "operator whose work is bounded. Export the model without it."
    )
    loop = helper.make_node("Loop", ["x"], ["y"], body=_body())
    assert _refusal(
        _model([helper.make_node("If", ["x"], ["z"], then_branch=_body(nodes=(loop,)))])
    )
    assert "'Loop' of domain ''" in _refusal(_model([loop]))


def test_limits() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"]) for _ in range(11)]
    assert _refusal(_model(nodes), limits=OnnxLimits(max_nodes=10)) == (
        "[MODEL_LIMIT] model.onnx: it has too many nodes; at most 10 are read."
    )
    branch = helper.make_node("Identity", ["x"], ["y"])
    for _ in range(6):
        branch = helper.make_node("If", ["x"], ["y"], then_branch=_body(nodes=(branch,)))
    assert _refusal(_model([branch])) == (
        "[MODEL_LIMIT] model.onnx: graphs are nested too deep; at most 4 are read."
    )
    assert _refusal(tiny_model(), limits=OnnxLimits(max_bytes=10)) == (
        f"[MODEL_TOO_LARGE] model.onnx has {len(tiny_model())} bytes; at most 10 are read."
    )


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of 2**64 - 1
        b"\xff" * 100,
        b"\x0b\x0c",  # groups
        b"\x3a\x02\x0a\x05",  # a node longer than its graph
        bytes(10_000_000),
        b"\x12\x00" * 5_000_000,
    ],
)
def test_hostile_wire_format_ends_soon(data: bytes) -> None:
    started = time.monotonic()
    assert _refusal(data).startswith("[MODEL_")
    assert time.monotonic() - started < 20  # a bound on work, not a speed test


def test_deep_nesting_does_not_reach_the_stack() -> None:
    """A graph in a node's attribute in a graph, 10,000 deep."""
    body = b""
    for _ in range(10_000):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # attribute.g, node.attribute, graph.node
            body = tag + _varint(len(body)) + body
    model = b"\x3a" + _varint(len(body)) + body
    assert _refusal(model).startswith("[MODEL_LIMIT]")


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_other_files() -> None:
    assert _refusal(b"") == "[MODEL_EMPTY] model.onnx is 0 bytes. Copy it again."
    for data in (pickle.dumps({"a": 1}), b"PK\x03\x04archive/data.pkl"):
        assert _refusal(data, name="part.ckpt") == (
            "[MODEL_PICKLE] part.ckpt is a pickle or a checkpoint and can run code; edgead does "
            "not open it. Export it to ONNX where it was trained."
        )
    assert _refusal(b"\xff\xd8\xff\xe0JFIF").startswith("[MODEL_CORRUPT]")


def test_every_cut_is_refused() -> None:
    data = tiny_model()
    for length in range(1, len(data)):
        with pytest.raises(BundleError):
            check_model(data[:length])
