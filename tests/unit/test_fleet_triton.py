"""The exported Triton repository: its configuration in Triton's own schema, its verdicts `Detector`'s."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle, tiny_frame
from gravel import PATH as GRAVEL
from gravel import gravel_bundle, gravel_frame, with_blot
from numpy.typing import NDArray
from tolerances import TOLERANCES
from triton_server import Server, config_of, grpc_service
from tritonclient.grpc import InferenceServerClient, model_config_pb2

from edgead import Detector, Frame, Verdict
from edgead.backends.trt.header import EngineKey, pack
from edgead.bundle import MODEL, read_bundle, write_bundle
from edgead.cli import main
from edgead.errors import BundleError, ConfigError, EdgeadError, StorageError
from edgead.integrations.fleet.triton import export_triton

CLIENT = Path(__file__).parents[2] / "examples" / "triton_client.py"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    export_triton(GRAVEL, folder)
    return folder


@pytest.fixture
def server(repository: Path) -> Iterator[Server]:
    made = Server(repository)
    yield made
    made.close()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.edgead"
    write_bundle(path, tiny_bundle())
    return path


def frames(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Good frames and frames with a white square, mirrored and shifted."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        frame = gravel_frame()
        if index % 3 == 0:
            frame = with_blot(frame, *(int(v) for v in rng.integers(0, 70, 2)))
        pixels = np.roll(frame.pixels, tuple(rng.integers(0, 96, 2)), (0, 1))
        found.append(np.ascontiguousarray(pixels[:: 1 - 2 * int(rng.integers(2))]))
    return found


def test_the_repository(repository: Path) -> None:
    found = sorted(str(p.relative_to(repository)) for p in repository.rglob("*") if p.is_file())
    assert found == [
        "edgead/1/model.py", "edgead/1/part.edgead", "edgead/config.pbtxt",
        "edgead_engine/1/model.onnx", "edgead_engine/config.pbtxt",
        *(f"edgead_engine/warmup/golden_{i}" for i in range(4)),
    ]  # fmt: skip
    assert (repository / "edgead/1/part.edgead").read_bytes() == GRAVEL.read_bytes()
    model = (repository / "edgead_engine/1/model.onnx").read_bytes()
    assert model == gravel_bundle().members[MODEL]


def test_configuration_of_the_engine(server: Server, repository: Path) -> None:
    config = config_of(repository / "edgead_engine")
    assert (config.name, config.backend, config.max_batch_size) == (
        "edgead_engine",
        "onnxruntime",
        8,
    )
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    (group,) = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_AUTO
    (image,), (output,) = config.input, config.output
    session = server.sessions["edgead_engine"]
    assert session.get_inputs()[0].shape[1:] == list(image.dims) == [64, 64, 3]
    assert session.get_outputs()[0].shape[1:] == list(output.dims)
    assert len(config.model_warmup) == 4
    for sample in config.model_warmup:
        entry = sample.inputs["image"]
        raw = (repository / "edgead_engine" / "warmup" / entry.input_data_file).read_bytes()
        tensor = np.frombuffer(raw, np.uint8).reshape(1, *entry.dims)
        assert sample.batch_size == 1
        assert np.isfinite(server.infer("edgead_engine", {"image": tensor})["anomaly_map"]).all()


def test_configuration_of_the_step(repository: Path) -> None:
    config = config_of(repository / "edgead")
    assert (config.name, config.backend, config.max_batch_size) == ("edgead", "python", 0)
    (group,) = config.instance_group
    assert (group.kind, group.count) == (model_config_pb2.ModelInstanceGroup.KIND_CPU, 2)
    assert [(one.name, list(one.dims)) for one in config.input] == [("FRAME", [96, 96])]
    assert [one.name for one in config.output] == [
        "VERDICT", "SCORE", "THRESHOLD", "MAP", "REGIONS", "BUNDLE",
    ]  # fmt: skip
    assert config.parameters["bundle_hash"].string_value == gravel_bundle().hash


def test_a_hundred_frames_are_judged_as_by_the_detector(server: Server) -> None:
    verdicts = set()
    with Detector(GRAVEL, backend="onnxruntime", precision="fp32") as detector:
        for pixels in frames(100):
            expected, response = detector(pixels), server.judge(pixels)
            assert not response.has_error()
            server.check_outputs(response)
            found = {name: one.as_numpy() for name, one in response.tensors.items()}
            assert int(found["VERDICT"][0]) == expected.verdict
            assert (found["SCORE"][0], found["THRESHOLD"][0]) == (
                expected.score,
                expected.threshold,
            )
            np.testing.assert_array_equal(found["MAP"], expected.anomaly_map)
            regions = [region.to_json() for region in expected.regions]
            assert json.loads(found["REGIONS"].tobytes()) == regions
            assert found["BUNDLE"].tobytes().decode() == expected.bundle_hash
            verdicts.add(expected.verdict)
    assert verdicts == {Verdict.GOOD, Verdict.DEFECT}
    assert server.asked == 100 + 4  # the golden images, once


def test_frames_batched_by_the_server(server: Server) -> None:
    """Dynamic batching puts frames of several clients into one inference."""
    tensors = [np.frombuffer(path.read_bytes(), np.uint8).reshape(1, 64, 64, 3)
               for path in sorted((server.repository / "edgead_engine" / "warmup").iterdir())]  # fmt: skip
    together = server.infer("edgead_engine", {"image": np.concatenate(tensors * 2)})["anomaly_map"]
    limits = TOLERANCES["export_map"]
    for index, tensor in enumerate(tensors * 2):
        alone = server.infer("edgead_engine", {"image": tensor})["anomaly_map"][0]
        room = limits.atol * float(np.ptp(alone))
        np.testing.assert_allclose(together[index], alone, rtol=0, atol=room)


def test_graph_of_one_frame(tiny: Path, tmp_path: Path) -> None:
    result = export_triton(tiny, tmp_path / "models", name="line3", instances=3)
    assert result == {
        "repository": str(tmp_path / "models"), "models": ["line3", "line3_engine"],
        "backend": "onnxruntime", "precision": "fp32", "max_batch": 0,
        "bundle_hash": tiny_bundle().hash,
    }  # fmt: skip
    config = config_of(tmp_path / "models" / "line3_engine")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [1, 8, 8, 3]
    server = Server(tmp_path / "models", "line3")
    try:
        with Detector(tiny, backend="onnxruntime") as detector:
            for seed in range(5):
                pixels = tiny_frame(seed, 90 + 20 * seed)
                found = server.judge(pixels).tensors
                assert found["SCORE"].as_numpy()[0] == detector(pixels).score
    finally:
        server.close()


def test_frame_that_must_not_be_judged(server: Server) -> None:
    response = server.judge(np.zeros((96, 96), np.uint8))
    error = response.error()
    assert error is not None
    with (
        Detector(GRAVEL, backend="onnxruntime") as detector,
        pytest.raises(EdgeadError) as expected,
    ):
        detector(np.zeros((96, 96), np.uint8))
    assert error.message() == str(expected.value)
    assert response.tensors == {}


def test_engine_that_fails(server: Server) -> None:
    server.sessions.clear()
    error = server.judge(gravel_frame().pixels).error()
    assert error is not None
    assert error.message() == "[BACKEND_ERROR] the server's edgead_engine failed: KeyError"


def test_engine_that_answers_otherwise(server: Server) -> None:
    """Every frame is refused until the golden images hold."""
    infer = server.infer
    server.infer = lambda model, feeds: {  # type: ignore[method-assign]
        name: value * 2 for name, value in infer(model, feeds).items()
    }
    for _ in range(2):
        error = server.judge(gravel_frame().pixels).error()
        assert error is not None
        assert error.message().startswith("[GOLDEN] a golden image scores ")
    server.infer = infer  # type: ignore[method-assign]
    assert not server.judge(gravel_frame().pixels).has_error()


def test_bundle_without_golden_images_is_served_and_said_to_be_unchecked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = tiny_bundle().with_members(
        {"golden/good_0.png": None, "golden/defect_0.png": None}, golden=[]
    )
    write_bundle(tmp_path / "bare.edgead", bare)
    export_triton(tmp_path / "bare.edgead", tmp_path / "models", name="line3")
    server = Server(tmp_path / "models", "line3")
    try:
        for _ in range(2):
            assert not server.judge(tiny_frame()).has_error()
    finally:
        server.close()
    assert caplog.messages == [
        "[GOLDEN_NONE] the bundle has no golden images: nothing shows whether this machine scores "
        "as it should. Commission it: edgead commission BUNDLE GOOD. It runs unchecked."
    ]


def test_bundle_that_is_not_the_configurations(repository: Path) -> None:
    write_bundle(repository / "edgead" / "1" / "part.edgead", tiny_bundle())
    with pytest.raises(BundleError) as error:
        Server(repository)
    assert str(error.value) == (
        f"[TRITON_BUNDLE] {repository}/edgead/1/part.edgead is {tiny_bundle().hash[:12]}; the "
        f"configuration is of {gravel_bundle().hash[:12]}. Export it again: edgead export-triton."
    )


def test_models_in_use_are_not_overwritten(repository: Path) -> None:
    with pytest.raises(StorageError) as error:
        export_triton(GRAVEL, repository)
    assert str(error.value) == (
        f"[TRITON_EXISTS] {repository}/edgead_engine exists; a model in use is never overwritten. "
        "Give another --name, or delete it first."
    )
    export_triton(GRAVEL, repository, name="second")


def engine_key(model: bytes, backend: str = "tensorrt") -> EngineKey:
    return EngineKey(
        model=hashlib.sha256(model).hexdigest(), backend=backend, backend_version="10.3", cuda="12.6",
        gpu={"arch": "8.7"}, precision="fp16", shapes={"batch": [1, 1, 4]}, settings={},
    )  # fmt: skip


def test_tensorrt_plans(tmp_path: Path) -> None:
    model = gravel_bundle().members[MODEL]
    engine = tmp_path / "part.engine"
    engine.write_bytes(pack(engine_key(model), b"the plan", {}, b"secret"))
    export_triton(GRAVEL, tmp_path / "a", backend="tensorrt", engine=engine, device="gpu")
    folder = tmp_path / "a" / "edgead_engine"
    assert (folder / "1" / "model.plan").read_bytes() == b"the plan"
    config = config_of(folder)
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert (config.default_model_filename, config.max_batch_size) == ("model.plan", 4)
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    engine.write_bytes(b"a bare plan")
    export_triton(GRAVEL, tmp_path / "b", backend="tensorrt", engine=engine, max_batch=2)
    assert (tmp_path / "b/edgead_engine/1/model.plan").read_bytes() == b"a bare plan"
    assert config_of(tmp_path / "b" / "edgead_engine").max_batch_size == 2


def test_engines_that_are_refused(tmp_path: Path) -> None:
    engine = tmp_path / "part.engine"
    texts = {
        "missing": f"cannot read {engine}: No such file or directory. Build it: edgead build.",
        "other": f"{engine} is a tensorrt engine of model {hashlib.sha256(b'x').hexdigest()[:12]}, "
        "which is not in the bundle. Build one of this bundle: "
        "edgead build BUNDLE --backend tensorrt --out FILE.",
        "rtx": f"{engine} is a tensorrt-rtx engine; Triton loads tensorrt's. Build one of this "
        "bundle: edgead build BUNDLE --backend tensorrt --out FILE.",
    }
    model = gravel_bundle().members[MODEL]
    keys = {"other": engine_key(b"x"), "rtx": engine_key(model, "tensorrt-rtx")}
    for case, text in texts.items():
        if case in keys:
            engine.write_bytes(pack(keys[case], b"plan", {}, b"secret"))
        with pytest.raises(BundleError) as error:
            export_triton(GRAVEL, tmp_path / "m", backend="tensorrt", engine=engine)
        assert str(error.value) == f"[TRITON_ENGINE] {text}"
    assert not (tmp_path / "m").exists()


def test_openvino_runs_on_the_processor(tmp_path: Path) -> None:
    export_triton(GRAVEL, tmp_path, backend="openvino", device="gpu", max_batch=1)
    config = config_of(tmp_path / "edgead_engine")
    assert (config.backend, config.max_batch_size) == ("openvino", 1)
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "a/b"}, "name is 'a/b'; want letters, digits, _ and -."),
        ({"backend": "torch"}, "backend is 'torch'; want onnxruntime, openvino, tensorrt."),
        ({"device": "npu"}, "device is 'npu'; want auto, cpu or gpu."),
        ({"max_batch": 0}, "max_batch and instances want 1 or more."),
        (
            {"backend": "tensorrt"},
            "tensorrt, and it alone, wants an engine file: edgead build BUNDLE --out FILE.",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        export_triton(GRAVEL, tmp_path, **options)
    assert str(error.value) == f"[TRITON_OPTION] {text}"
    assert list(tmp_path.iterdir()) == []


def test_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc.model_config_pb2", None)
    with pytest.raises(ConfigError) as error:
        export_triton(GRAVEL, tmp_path)
    assert error.value.code == "TRITON_MISSING"
    assert error.value.hint == "pip install 'edgead[triton]'"


def test_the_example_client_over_the_wire(server: Server) -> None:
    """Triton's gRPC service and client; the models behind it are the repository's."""
    client = runpy.run_path(str(CLIENT))
    pixels = frames(1)[0]
    with grpc_service(server) as address, InferenceServerClient(address) as connection:
        found = client["ask"](connection, "edgead", pixels)
        unknown = client["ask"](connection, "edgead", np.zeros((96, 96), np.uint8))
        lost = client["ask"](connection, "edgead", pixels.astype(np.uint16))
    with Detector(GRAVEL, backend="onnxruntime") as detector:
        expected = detector(Frame(pixels, gravel_frame().format))
    assert (found["verdict"], found["score"]) == (expected.verdict, expected.score)
    assert found["bundle"] == read_bundle(GRAVEL).hash
    assert len(found["regions"]) == len(expected.regions)
    assert unknown["verdict"] is Verdict.UNKNOWN
    assert unknown["why"].startswith("[FRAME_CONSTANT]")
    assert lost["verdict"] is Verdict.UNKNOWN


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["edgead", "export-triton", str(GRAVEL), str(tmp_path / "m"), "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    for code in (0, 2):
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
    out = capfd.readouterr()
    assert json.loads(out.out)["models"] == ["edgead", "edgead_engine"]
    assert "[TRITON_EXISTS]" in out.err
