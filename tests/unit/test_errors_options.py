"""The texts of refused options, weights and sets of images, in full."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import TINY_MODEL, tiny_bundle, tiny_frame, tiny_manifest

from edgead import Detector, kernels
from edgead.backends.trt.options import TrtOptions
from edgead.bundle import Bundle, write_bundle
from edgead.cli.common import positive
from edgead.demo import SimulatedCamera
from edgead.errors import BundleError, CalibrationError, ConfigError, FrameError
from edgead.evaluate.benchmark import benchmark
from edgead.evaluate.commission import frame_spec
from edgead.frame import Frame
from edgead.heads import Head
from edgead.kernels import _native
from edgead.manifest import HeadSpec, Tiles, View
from edgead.models.backbones import load_weights
from edgead.models.registry import METHODS, make_method
from edgead.scorer import Scored
from edgead.stream.sources import capture
from edgead.train.loop import Budget
from edgead.types import PixelFormat, Placement


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Budget(epochs=0), "[EPOCHS] epochs is 0; want 1 or more."),
        (lambda: Budget(minutes=0.0), "[MINUTES] minutes is 0.0; want more than 0."),
        (
            lambda: Budget(minutes=float("nan")),
            "[MINUTES] minutes is nan; want more than 0.",
        ),
        (
            lambda: make_method("padim"),
            f"[METHOD_UNKNOWN] method is 'padim'; want one of {', '.join(METHODS)}.",
        ),
        (
            lambda: make_method(next(iter(METHODS)), recipe="quick"),
            "[RECIPE_UNKNOWN] recipe is 'quick'; want edge or paper.",
        ),
        (
            lambda: make_method(next(iter(METHODS)), image_size=100),
            "[IMAGE_SIZE] image size is 100; want a multiple of 32 from 64 to 2048.",
        ),
        (
            lambda: TrtOptions(optimization_level=6),
            "[OPTIMIZATION_LEVEL] optimization level 6 is not 0..5.",
        ),
        (
            lambda: TrtOptions(batch=(4, 2, 8)),
            "[BATCH] batch (4, 2, 8) is not 1 <= smallest <= best <= largest.",
        ),
        (
            lambda: positive("minutes", -1.0),
            "[OPTION] --minutes is -1.0; want more than 0.",
        ),
        (
            lambda: benchmark(tiny_bundle(), seconds=0),
            "[BENCHMARK] seconds is 0; want more than 0.",
        ),
        (
            lambda: benchmark(Bundle.build(tiny_manifest(), {"model.onnx": TINY_MODEL})),
            "[BENCHMARK] the bundle has no golden images to measure with. Give a source.",
        ),
    ],
)
def test_options(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        call()
    assert str(error.value) == message


class _Net:
    @staticmethod
    def state_dict() -> dict[str, Any]:
        return {"conv.weight": np.zeros(3)}


def _refused_weights(weights: Path | None, name: str = "resnet18") -> str:
    with pytest.raises(ConfigError) as error:
        load_weights(_Net(), name, weights)  # type: ignore[arg-type]
    return str(error.value)


def test_weights(tmp_path: Path) -> None:
    assert _refused_weights(None).startswith(
        "[WEIGHTS_MISSING] no weights for resnet18 are installed; nothing is downloaded. "
        "Give a checkpoint with --weights, or use --backbone "
    )
    assert _refused_weights(tmp_path / "no.pt") == (
        f"[WEIGHTS_MISSING] {tmp_path}/no.pt does not exist. Check --weights."
    )


class _Exploit:
    """A pickle that writes a file when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors", ".bin"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_as_weights_runs_nothing(tmp_path: Path, suffix: str, protocol: int) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps({"conv.weight": _Exploit(canary)}, protocol))
    text = _refused_weights(path)
    assert text.startswith(f"[WEIGHTS_MISMATCH] weights{suffix} is not a checkpoint of tensors (")
    assert text.endswith("). Give a state dict saved with torch.save or as safetensors.")
    assert not canary.exists()


def test_an_exploit_inside_a_torch_archive_runs_nothing(tmp_path: Path) -> None:
    import torch

    canary = tmp_path / "canary"
    torch.save({"conv.weight": torch.zeros(3), "extra": _Exploit(canary)}, tmp_path / "w.pt")
    assert "[WEIGHTS_MISMATCH] w.pt is not a checkpoint of tensors" in _refused_weights(
        tmp_path / "w.pt"
    )
    assert not canary.exists()


def test_images_of_several_formats() -> None:
    frames = [Frame(tiny_frame()), Frame(tiny_frame()[:, :, 0], PixelFormat.MONO8)]
    with pytest.raises(CalibrationError) as error:
        frame_spec(frames)
    assert str(error.value) == (
        "[FORMATS_MIXED] the images are of different formats: BGR8 (image 0) and MONO8 (image 1); "
        "a line has one camera format. Convert them to one format, the camera's own."
    )


def test_a_mosaic_of_one_line() -> None:
    with pytest.raises(FrameError) as error:
        Frame(np.zeros((1, 8), np.uint8), PixelFormat.BAYER_RG8)
    assert str(error.value) == ("[FRAME_BAYER] shape (1, 8); BAYER_RG8 has at least 2x2 pixels.")


def test_a_view_without_a_threshold() -> None:
    view = View(tiles=Tiles(size=(8, 8), overlap=2))
    bundle = Bundle.build(tiny_manifest(view=view), {"model.onnx": TINY_MODEL})
    with pytest.raises(BundleError) as error:
        Detector(bundle, backend="openvino")
    assert str(error.value) == (
        "[VIEW_CHANGED] the view (region of interest, ignored places or tiles) was changed after "
        "the thresholds were learnt: this bundle has no threshold. Learn it again from good images: "
        "edgead commission BUNDLE GOOD."
    )


def test_native_kernels_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAD_KERNELS", "native")
    monkeypatch.setattr(_native, "_module", lambda: ImportError("no such file"))
    with pytest.raises(ConfigError) as error:
        kernels.resize(tiny_frame(), (8, 8))
    assert str(error.value) == (
        "[KERNELS_NATIVE] EDGEAD_KERNELS is 'native', but edgead._C cannot be loaded. "
        "Install edgead where a C++17 compiler is present, or unset EDGEAD_KERNELS."
    )


def test_photographs_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ConfigError) as error:
        SimulatedCamera()
    assert str(error.value) == (
        "[DEMO_IMAGES] the demo's photograph comes with scikit-image, which is not installed. "
        "pip install 'edgead[demo]'."
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("[rtsp @ 0x1] method DESCRIBE failed: 401 Unauthorized", "SOURCE_AUTH"),
        ("[https @ 0x1] HTTP error 403 Forbidden", "SOURCE_AUTH"),
        ("[rtsp @ 0x1] method DESCRIBE failed: 404 Not Found", "SOURCE_NOT_FOUND"),
        (
            "[tcp @ 0x1] Connection to tcp://10.0.0.5:554 failed: Connection refused",
            "SOURCE_REFUSED",
        ),
        (
            "[tcp @ 0x1] Failed to resolve hostname cam: Name or service not known",
            "SOURCE_NOT_FOUND",
        ),
        ("VIDIOC_REQBUFS: Device or resource busy", "SOURCE_BUSY"),
        ("[tls @ 0x1] certificate verify failed", "SOURCE_TLS"),
    ],
)
def test_what_native_libraries_say_becomes_a_code(words: str, code: str) -> None:
    assert next(found for sign, found in capture._SIGNS if sign.search(words)) == code


def test_a_network_that_cannot_be_exported() -> None:
    import torch

    from edgead.deploy.export import onnx_from_spec
    from edgead.deploy.spec import ExportSpec

    class Refuses(torch.nn.Module):
        def forward(self, image: Any) -> Any:
            raise RuntimeError("no such operator\nand a long stack")

    spec = ExportSpec(Refuses(), ("anomaly_map",), HeadSpec(kind="max", sigma=0.0), (0.0,), (1.0,))
    with pytest.raises(BundleError) as error:
        onnx_from_spec(spec, (32, 32))
    assert str(error.value).startswith(
        "[EXPORT_FAILED] the network cannot be written as ONNX opset "
    )
    assert str(error.value).endswith("Choose another backbone.")
    assert "\n" not in str(error.value)


def test_an_export_that_computes_something_else() -> None:
    import torch

    from edgead.deploy.export import check_parity
    from edgead.deploy.spec import ExportSpec

    class Brightest(torch.nn.Module):
        def forward(self, image: Any) -> Any:
            return image.float().mean(-1) / 255

    head = HeadSpec(kind="max", sigma=0.0)
    spec = ExportSpec(Brightest(), ("anomaly_map",), head, (0.0,), (1.0,))
    placement = Placement((0.0, 0.0), (1.0, 1.0), (16, 16))
    picture, empty = tiny_frame(0, 100), np.zeros((16, 16), np.float32)
    drifted = Scored(empty, 100 / 255 + 0.001, placement, picture, {})
    flipped = Scored(empty, 0.6, placement, picture, {})
    limits = tiny_manifest().thresholds
    with pytest.raises(BundleError) as error:
        check_parity(spec, Head(head, {}), [drifted], limits)
    assert str(error.value) == (
        "[EXPORT_PARITY] frame 0 scores 0.392157 in torch and 0.393157 exported: 0.005 of "
        "score_scale; at most 0.001 is allowed. The bundle was not written."
    )
    with pytest.raises(BundleError) as error:
        check_parity(spec, Head(head, {}), [drifted, flipped], limits, ["a.png", "b.png"])
    assert "[EXPORT_PARITY] frame b.png scores 0.392157" in str(error.value)
    assert "and its verdict flips" in str(error.value)


def test_a_camera_that_falls_silent() -> None:
    from edgead.stream.sources.reconnect import Reconnecting, ReconnectLimits
    from edgead.testing import FakeClock

    clock = FakeClock()

    class Silent:
        def read(self, timeout_s: float) -> None:
            clock.advance(timeout_s)

        def close(self) -> None:
            pass

    source = Reconnecting(
        Silent,
        source_id="cam",
        clock=clock,
        wait=clock.advance,
        jitter=lambda: 1.0,
        limits=ReconnectLimits(),
    )
    while source.last_error is None:
        assert source.read(0.5) is None
    assert str(source.last_error).startswith("[SOURCE_TIMEOUT] cam sent nothing for ")


def test_nothing_to_quantize(tmp_path: Path) -> None:
    from edgead.deploy.quantize import quantize

    write_bundle(tmp_path / "part.edgead", tiny_bundle())
    with pytest.raises(ConfigError) as error:
        quantize(tmp_path / "part.edgead", tmp_path, precisions=[])
    assert str(error.value) == ("[PRECISION_NONE] no precision was asked for; nothing to do.")


def test_images_that_no_certificate_can_be_made_from(tmp_path: Path) -> None:
    from edgead.deploy import certificate

    write_bundle(tmp_path / "part.edgead", tiny_bundle())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(certificate, "proof_frames", lambda *_, **__: [])
        with pytest.raises(CalibrationError) as error:
            certificate.certify(tmp_path / "part.edgead", tmp_path, backend="openvino")
    assert str(error.value) == (
        f"[CERTIFY_FRAMES] none of the images in {tmp_path} can be judged by this bundle. "
        "Give good images of this line."
    )
