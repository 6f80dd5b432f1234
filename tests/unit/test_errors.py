"""The texts of refusals that are raised while a frame is judged, in full."""

from __future__ import annotations

import errno
import os
import re
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import TINY_MODEL, tiny_bundle, tiny_frame, tiny_manifest

from edgead import Detector, errors, files, kernels
from edgead.backends import member_for, open_backend
from edgead.bundle import Bundle
from edgead.choice import choose
from edgead.errors import (
    BackendError,
    BundleError,
    ConfigError,
    EdgeadError,
    FrameError,
    StorageError,
)
from edgead.frame import Frame
from edgead.heads import Head
from edgead.manifest import HeadSpec, InputRanges
from edgead.preprocess import Preprocess
from edgead.types import PixelFormat

_NAN = np.zeros((4, 5, 3), np.float32)
_NAN[2, 3, 1] = np.nan


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            None,
            "[FRAME_NONE] frame is None; the camera returned no image. "
            "Check the return flag of cap.read().",
        ),
        (
            "a.png",
            "[FRAME_IS_PATH] got the path 'a.png'; a frame is an array. "
            "Read it first: edgead.images.read(path).",
        ),
        (
            Path("a.png"),
            "[FRAME_IS_PATH] got the path 'a.png'; a frame is an array. "
            "Read it first: edgead.images.read(path).",
        ),
        (
            [[1, 2], [3, 4]],
            "[FRAME_TYPE] got builtins.list; want a numpy.ndarray (H, W) or (H, W, 3). "
            "Convert it with numpy.asarray().",
        ),
        (
            np.zeros((0, 640, 3), np.uint8),
            "[FRAME_EMPTY] frame has shape (0, 640, 3): no pixels.",
        ),
        (
            np.zeros((1, 48, 64, 3), np.uint8),
            "[FRAME_NDIM] frame has 4 dimensions (1, 48, 64, 3); BGR8 has 3. "
            "Pass one image, or use Detector.batch() for several.",
        ),
        (
            np.zeros(7, np.uint8),
            "[FRAME_NDIM] frame has 1 dimensions (7,); BGR8 has 3. "
            "Pass one image, or use Detector.batch() for several.",
        ),
        (
            np.zeros((3, 48, 64), np.uint8),
            "[FRAME_LAYOUT] shape (3, 48, 64) looks channel-first; want (H, W, 3). "
            "Transpose: frame.transpose(1, 2, 0).",
        ),
        (
            np.zeros((48, 64, 4), np.uint8),
            "[FRAME_CHANNELS] 4 channels; BGR8 has 3. "
            "Declare the camera's own format: Frame(pixels, PixelFormat.…).",
        ),
        (
            np.zeros((48, 64, 2), np.uint8),
            "[FRAME_CHANNELS] 2 channels; BGR8 has 3. "
            "Declare the camera's own format: Frame(pixels, PixelFormat.…).",
        ),
        (
            np.zeros((48, 64, 3), np.uint16),
            "[FRAME_DTYPE] dtype is uint16; BGR8 is uint8. "
            "For 10, 12 or 16-bit cameras declare MONO16, BGR16 or RGB16 and the depth.",
        ),
        (
            np.zeros((48, 64, 3), ">u2"),
            "[FRAME_DTYPE] dtype is '>u2'; want uint8, or native uint16 with a declared depth. "
            "Convert the frame exactly before handing it over.",
        ),
        (
            np.zeros((48, 64, 3), bool),
            "[FRAME_DTYPE] dtype is '|b1'; want uint8, or native uint16 with a declared depth. "
            "Convert the frame exactly before handing it over.",
        ),
        (
            np.ones((4, 5, 3), np.float32),
            "[FRAME_RANGE_UNDECLARED] dtype is float32 and its value range is not declared; edgead "
            "does not guess. Hand over the camera's own uint8 or uint16 pixels.",
        ),
        (
            _NAN,
            "[FRAME_NONFINITE] 1 of 60 values are NaN or infinite (first at index (2, 3, 1)). "
            "Such a frame is never judged; repair the source.",
        ),
    ],
)
def test_plain_arrays(pixels: Any, message: str) -> None:
    with pytest.raises(FrameError) as error:
        Frame.from_array(pixels)
    assert str(error.value) == message
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (
            np.zeros((4, 5), np.uint16),
            {"format": PixelFormat.MONO16},
            "[FRAME_DEPTH] depth is 8; MONO16 carries 9..16 bits. "
            "Declare the camera's significant bits a channel.",
        ),
        (
            np.zeros((5, 6), np.uint8),
            {"format": PixelFormat.NV12},
            "[FRAME_NV12] shape (5, 6); NV12 has (H * 3 / 2, W) with even H and W.",
        ),
    ],
)
def test_declared_frames(pixels: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FrameError) as error:
        Frame(pixels, **options)
    assert str(error.value) == message


_MANIFEST = tiny_manifest()
_NARROW = InputRanges(mean=(90.0, 100.0), std=(0.0, 200.0), sharpness=(0.0, 200.0))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            Frame(tiny_frame()[:, :, 0], PixelFormat.MONO8),
            "[FRAME_FORMAT] camera sends MONO8; the bundle was commissioned on BGR8. "
            "Set the camera's pixel format, or commission the bundle on this one.",
        ),
        (
            Frame(tiny_frame().astype(np.uint16), PixelFormat.BGR16, depth=12),
            "[FRAME_FORMAT] camera sends BGR16 with 12 bits; the bundle was commissioned on BGR8. "
            "Set the camera's pixel format, or commission the bundle on this one.",
        ),
        (
            Frame(tiny_frame()[:8]),
            "[FRAME_SIZE] frame is 16x8; the bundle was commissioned at 16x16. "
            "Set the camera's resolution, or commission the bundle on this one.",
        ),
        (
            Frame(np.zeros((16, 16, 3), np.uint8)),
            "[FRAME_CONSTANT] every pixel is 0. Lens cap, light or trigger fault?",
        ),
        (
            Frame(tiny_frame() // 4),
            "[FRAME_EXPOSURE] mean of the picture is 20.0; commissioned range 90.0..100.0. "
            "Check light, exposure and focus, or commission the bundle again.",
        ),
    ],
)
def test_frames_that_do_not_fit_the_bundle(frame: Frame, message: str) -> None:
    prepare = Preprocess(_MANIFEST.frame, _MANIFEST.input, None, _NARROW)
    with pytest.raises(FrameError) as error:
        prepare(frame)
    assert error.value.code == message[1:].partition("]")[0]
    if error.value.code != "FRAME_EXPOSURE":  # its figure is the picture's
        assert str(error.value) == message
    else:
        assert str(error.value).startswith("[FRAME_EXPOSURE] mean of the picture is ")
        assert str(error.value).endswith(message.partition("; ")[2])


def test_a_frame_of_any_size_has_a_limit() -> None:
    spec = type(_MANIFEST.frame)(format=PixelFormat.MONO8, size=None)
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (10_240, 10_240), (0, 0))
    with pytest.raises(FrameError) as error:
        Preprocess(spec, _MANIFEST.input)(Frame(huge, PixelFormat.MONO8))
    assert str(error.value) == (
        "[FRAME_TOO_LARGE] frame is 10240x10240 (104.9 Mpx); a bundle for any size takes 64 Mpx. "
        "Commission the bundle on this camera's size."
    )


def test_declared_depth_is_held_to() -> None:
    spec = type(_MANIFEST.frame)(format=PixelFormat.MONO16, size=None, depth=10)
    wide = Frame(np.full((16, 16), 1024, np.uint16), PixelFormat.MONO16, depth=10)
    with pytest.raises(FrameError) as error:
        Preprocess(spec, _MANIFEST.input)(wide)
    assert str(error.value) == (
        "[FRAME_RANGE] a pixel is 1024; 10 bits hold at most 1023. Declare the camera's real depth."
    )


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (
            np.array([[[0.0, np.nan]]], np.float32),
            "[BACKEND_NONFINITE] the engine's anomaly map holds NaN or infinity. "
            "Such a frame is never judged; run: edgead verify BUNDLE.",
        ),
        (
            np.full((1, 4, 4), 0.25, np.float32),
            "[BACKEND_DEGENERATE] every value of the engine's anomaly map is 0.25. "
            "Such a frame is never judged; run: edgead verify BUNDLE.",
        ),
    ],
)
def test_outputs_that_are_never_judged(maps: Any, message: str) -> None:
    with pytest.raises(BackendError) as error:
        Head(HeadSpec(kind="max", sigma=0.0), {})({"anomaly_map": maps})
    assert str(error.value) == message


def test_heads_that_lack_what_they_need() -> None:
    with pytest.raises(BundleError) as error:
        Head(HeadSpec(kind="kmeans", sigma=0.0), {})
    assert str(error.value) == "[HEAD_TENSORS] head kmeans needs a tensor centroids [K, D]."
    everything = np.ones((4, 4), bool)
    with pytest.raises(BundleError) as error:
        Head(HeadSpec(kind="max", sigma=0.0), {})(
            {"anomaly_map": np.arange(16, dtype=np.float32).reshape(1, 4, 4)}, everything
        )
    assert str(error.value) == (
        "[VIEW_EMPTY] the ignored places leave no cell of the map to look at. "
        "Set another view: edgead view BUNDLE, then commission it."
    )
    damaged = tiny_bundle(**{"head.safetensors": b"not tensors"})
    with pytest.raises(BundleError) as error:
        Detector(damaged, backend="openvino")
    assert str(error.value) == (
        "[HEAD_TENSORS] head.safetensors is not a safetensors file. Make the bundle again."
    )


@pytest.mark.parametrize("what", ["opset", "ONNX IR version"])
def test_a_model_that_is_newer_than_onnx_runtime(what: str) -> None:
    import onnx

    model = onnx.load_from_string(TINY_MODEL)
    if what == "opset":
        model.opset_import[0].version = 999
    else:
        model.ir_version = 999
    with pytest.raises(BackendError) as error:
        open_backend("onnxruntime", {"model.onnx": model.SerializeToString()})
    told = re.fullmatch(
        rf"\[MODEL_VERSION\] the model is of {what} 999; onnxruntime [0-9.]+ reads up to [0-9]+\. "
        r"pip install -U onnxruntime, or judge with --backend openvino\.",
        str(error.value),
    )
    assert told, str(error.value)


def test_back_ends_that_refuse() -> None:
    with pytest.raises(BackendError) as error:
        open_backend("openvino", {"model.onnx": b"rubbish"})
    assert error.value.code == "MODEL_REFUSED"
    assert "openvino" in error.value.message
    with pytest.raises(BackendError) as error:
        open_backend("onnxruntime", {"model.onnx": b"rubbish"})
    assert error.value.code == "MODEL_REFUSED"
    version = error.value.message.split()[1]
    assert str(error.value) == (
        f"[MODEL_REFUSED] onnxruntime {version} refuses the model: Failed to load model because "
        "protobuf parsing failed. Check the bundle: edgead verify BUNDLE --backend openvino."
    )
    with pytest.raises(BundleError) as missing:
        member_for("openvino", "int8", {"model.onnx": b""})
    assert str(missing.value) == (
        "[PRECISION_MISSING] the bundle holds no int8 model for openvino. "
        "Add it: edgead quantize BUNDLE --images DIR."
    )
    with pytest.raises(BackendError) as error:
        member_for("onnxruntime", "bf16", {"model.onnx": b""})
    assert str(error.value) == "[PRECISION] onnxruntime does not compute in bf16."
    with pytest.raises(ConfigError) as config:
        choose(tiny_bundle(), backend="tpu")
    assert str(config.value) == (
        "[BACKEND_UNKNOWN] backend is 'tpu'; want one of openvino, onnxruntime, tensorrt, "
        "tensorrt-rtx or auto."
    )


def test_graphs_that_are_not_what_the_manifest_says() -> None:
    manifest = tiny_manifest(head=HeadSpec(kind="kmeans", sigma=0.0))
    other_output = Bundle.build(manifest, {"model.onnx": TINY_MODEL})
    with pytest.raises(BackendError) as error:
        Detector(other_output, backend="openvino")
    assert str(error.value) == (
        "[MODEL_IO] outputs are ['anomaly_map']; head kmeans needs 'patches'."
    )
    size = type(_MANIFEST.input)(size=(16, 16), mean=[0.0] * 3, std=[1.0] * 3)
    other_size = Bundle.build(tiny_manifest(input=size), {"model.onnx": TINY_MODEL})
    with pytest.raises(BackendError) as error:
        Detector(other_size, backend="openvino")
    assert str(error.value) == (
        "[MODEL_IO] inputs are ['image']; need 'image' (n, 16, 16, 3) uint8."
    )


@pytest.mark.parametrize("data", [b"", b"{}", b"[{}]", b"[" * 100_000, b"\xff", b'[{"backend":1}]'])
def test_certificates_that_are_none(data: bytes) -> None:
    with pytest.raises(BundleError) as error:
        choose(tiny_bundle(**{"certificates.json": data}), backend="openvino")
    assert error.value.code == "CERTIFICATES"
    assert str(error.value).endswith("Make them again: edgead certify BUNDLE.")


def test_golden_image_off() -> None:
    bundle = tiny_bundle()
    golden = [
        type(entry)(
            name=entry.name, kind=entry.kind, score=entry.score + 0.1, verdict=entry.verdict
        )
        for entry in bundle.manifest.golden
    ]
    golden[0] = bundle.manifest.golden[0]
    with pytest.raises(BundleError) as error:
        Detector(bundle.with_members({}, golden=golden), backend="openvino")
    assert str(error.value) == (
        "[GOLDEN] golden/defect_0.png scored 0.78431, expected 0.88431 ± 0.0058, on openvino fp32. "
        "Not started. Try another backend or precision, or make the bundle again."
    )


def test_kernels_asked_for_by_a_wrong_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAD_KERNELS", "cuda")
    with pytest.raises(ConfigError) as error:
        kernels.resize(tiny_frame(), (8, 8))
    assert str(error.value) == (
        "[KERNELS_CHOICE] EDGEAD_KERNELS is 'cuda'; expected one of native, reference, or nothing. "
        "Unset it to take the native kernels where they are built."
    )


@pytest.mark.parametrize(
    ("number", "code", "what", "hint"),
    [
        (errno.ENOSPC, "DISK_FULL", "no space left", "Free some space and repeat the command."),
        (errno.EDQUOT, "DISK_FULL", "quota exceeded", "Free some space and repeat the command."),
        (errno.EROFS, "READ_ONLY", "file system is read-only", "Choose another folder."),
        (
            errno.EACCES,
            "NO_PERMISSION",
            "permission denied",
            "Choose a folder that you may write to.",
        ),
        (errno.EIO, "WRITE_FAILED", "Input/output error", ""),
    ],
)
@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_writes_that_fail(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: str,
    what: str,
    hint: str,
    step: str,
) -> None:
    target = tmp_path / "part.edgead"
    target.write_bytes(b"old")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    place = {"open": "tempfile.mkstemp", "fsync": "os.fsync", "replace": "pathlib.Path.replace"}
    with monkeypatch.context() as patched:
        patched.setattr(place[step], fails)
        with pytest.raises(StorageError) as error:
            files.write_bytes(target, b"new")
    text = f"[{code}] cannot write {target}: {what}; the old file is unchanged."
    assert str(error.value) == f"{text} {hint}".strip()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["part.edgead"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no/part.edgead",
            "[NO_FOLDER] cannot write {}: its folder does not exist; nothing was written. "
            "Create the folder first.",
        ),
        (
            "file/part.edgead",
            "[NO_FOLDER] cannot write {}: its parent is not a folder; nothing was written. "
            "Choose another folder.",
        ),
        (
            "folder",
            "[IS_FOLDER] cannot write {}: it is a folder; nothing was written. Give a file name.",
        ),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError) as error:
        files.write_bytes(tmp_path / name, b"new")
    assert str(error.value) == message.format(tmp_path / name)


def test_a_real_limit_of_the_system_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    target = tmp_path / "part.edgead"
    target.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError) as error:
            files.write_bytes(target, bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value) == (
        f"[DISK_FULL] cannot write {target}: file size limit reached; the old file is unchanged. "
        "Raise the limit and repeat the command."
    )
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_left_overs_of_dead_writers_are_swept_and_others_kept(tmp_path: Path) -> None:
    dead, alive = (
        tmp_path / ".a.edgead-999999999-x.tmp",
        tmp_path / f".a.edgead-{os.getpid()}-x.tmp",
    )
    foreign = tmp_path / ".a.tmp"
    for path in (dead, alive, foreign):
        path.write_text("x")
    assert files.sweep(tmp_path, min_age_s=600) == []
    os.utime(dead, (0, 0))
    assert files.sweep(tmp_path, min_age_s=600) == [dead]
    dead.write_text("x")
    assert files.sweep(tmp_path) == [dead]
    assert sorted(tmp_path.iterdir()) == sorted([alive, foreign])


def test_every_error_is_an_edgead_error_and_of_a_built_in_kind() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, EdgeadError)
        if kind is not EdgeadError:
            assert issubclass(kind, (ValueError, RuntimeError))
            made = kind("CODE", "what was given.", "what to do.")
            assert str(made) == "[CODE] what was given. what to do."
            assert (made.code, made.message, made.hint) == made.args
