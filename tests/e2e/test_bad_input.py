"""What users hand over by mistake, each with its own code and whole sentence, exit code 2, no traceback."""

from __future__ import annotations

import re
import shutil
import sys

import numpy as np
import pytest
from data.make_bundle import pieces, write_pieces
from gravel import PATH, gravel_frame

import edgead.cli
from edgead import Detector
from edgead.errors import FrameError
from edgead.frame import Frame, PixelFormat
from edgead.images import save_image


@pytest.fixture
def edgead_command(capsys, monkeypatch):
    """Run ``edgead ARGUMENTS`` as the console script does: (exit code, stdout, stderr)."""
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgead", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            edgead.cli.main()
        text = capsys.readouterr()
        return ended.value.code, text.out, text.err

    return call


def refused(result, message):
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.strip().splitlines()[-1] == f"error: {message}"
    assert "Traceback" not in err


@pytest.fixture
def good(tmp_path):
    return write_pieces(tmp_path / "good", 12)


def sheet(folder):
    (folder / "notes.txt").write_text("shift 2")


def train(command, data, tmp_path):
    return command("train", data, "--out", tmp_path / "part.edgead", "--epochs", 1, "--json")


def test_missing_folder(edgead_command, tmp_path):
    for words in (("train",), ("commission", PATH)):
        result = edgead_command(*words, tmp_path / "no")
        refused(
            result,
            f"[DATA_MISSING] {tmp_path}/no does not exist; expected a folder of images. Check the path.",
        )


def test_empty_folder(edgead_command, tmp_path):
    (tmp_path / "empty").mkdir()
    for words in (("train",), ("commission", PATH)):
        refused(
            edgead_command(*words, tmp_path / "empty"),
            f"[DATA_EMPTY] {tmp_path}/empty has no images; expected PNG, JPEG, BMP or TIFF files, or "
            "train/good. Give the folder that holds the images.",
        )


def test_a_file_for_a_folder(edgead_command, good, tmp_path):
    refused(
        edgead_command("train", good / "000.png"),
        f"[DATA_NOT_FOLDER] {good}/000.png is a file; expected a folder of images. Give its folder.",
    )


def test_a_setting_that_is_no_json(edgead_command, good):
    for text in ("hidden", "hidden=much"):
        refused(
            edgead_command("train", good, "--set", text),
            f"[SETTING_TEXT] --set got '{text}'; want FIELD=JSON, such as light=0.3 or "
            "window='\"paper\"'.",
        )


def test_a_text_file_in_the_folder(edgead_command, good, tmp_path):
    sheet(good)
    for words in (("train",), ("commission", PATH)):
        refused(
            edgead_command(*words, good),
            f"[IMAGE_FORMAT] {good}/notes.txt is no image; expected only PNG, JPEG, BMP or TIFF files in "
            "this folder. Move it elsewhere.",
        )


def test_a_cut_jpeg(edgead_command, good, tmp_path):
    path = good / "003.jpg"
    save_image(path, pieces()[3])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 10])
    for words in (("train",), ("commission", PATH)):
        code, _, err = edgead_command(*words, good)
        assert code == 2
        assert re.search(
            rf"^error: \[IMAGE_TRUNCATED\] {re.escape(str(path))}.*$", err.strip().splitlines()[-1]
        )
        assert "Traceback" not in err


def test_three_images(edgead_command, tmp_path):
    three = write_pieces(tmp_path / "three", 3)
    refused(
        train(edgead_command, three, tmp_path),
        f"[DATA_TOO_FEW] {three} has 3 images; expected at least 8 good ones. "
        "Take more pictures of different good parts; 50 or more give a useful threshold.",
    )
    refused(
        edgead_command("commission", PATH, three),
        "[TOO_FEW_IMAGES] 3 good images; commissioning needs at least 5. "
        "42 prove a false-reject rate of 6.9 % at 95 %, 299 prove 1 %.",
    )


def test_one_image_repeated(edgead_command, tmp_path):
    folder = tmp_path / "same"
    folder.mkdir()
    for index in range(12):
        save_image(folder / f"{index:03d}.png", pieces()[0])
    refused(
        train(edgead_command, folder, tmp_path),
        f"[IMAGES_REPEATED] {folder} has 12 images, but too many are byte-identical; expected at least 8 "
        "different ones. Take pictures of different good parts; copies teach and prove nothing.",
    )
    for index in range(12):  # other files, the same pixels
        save_image(folder / f"{index:03d}.png", pieces()[0])
        content = (folder / f"{index:03d}.png").read_bytes()
        comment = b"Comment\0" + str(index).encode()
        (folder / f"{index:03d}.png").write_bytes(
            content[:33] + chunk(b"tEXt", comment) + content[33:]
        )
    refused(
        train(edgead_command, folder, tmp_path),
        f"[IMAGES_REPEATED] {folder} has 12 images, but too many show the same pixels; expected at least "
        "8 different ones. Take pictures of different good parts; copies teach and prove nothing.",
    )


def chunk(kind, body):
    import struct
    import zlib

    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_bundle_commissioned_on_one_size_refuses_another(edgead_command, tmp_path):
    (tmp_path / "small").mkdir()
    save_image(tmp_path / "small" / "000.png", pieces()[0][:80])
    _, out, err = edgead_command("run", PATH, "--source", tmp_path / "small")
    line = out.strip().splitlines()[-1]
    assert '"verdict": "UNKNOWN"' in line
    assert '"accept": false' in line
    assert '"reason": "FRAME_SIZE"' in line
    assert (
        "frame is 96x80; the bundle was commissioned at 96x96. "
        "Set the camera's resolution, or commission the bundle on this one."
    ) in line
    assert "Traceback" not in err


def test_colour_and_grey_images_mixed(edgead_command, good, tmp_path):
    save_image(good / "zzz.png", np.repeat(pieces()[0][:, :, None], 3, axis=2))
    refused(
        train(edgead_command, good, tmp_path),
        "[FORMATS_MIXED] the images are of different formats: MONO8 (image 0) and BGR8 (image 12); a line "
        "has one camera format. Convert them to one format, the camera's own.",
    )


def test_the_bundles_folder_does_not_exist(edgead_command, good, tmp_path):
    refused(
        edgead_command("train", good, "--out", tmp_path / "no" / "part.edgead"),
        f"[NO_FOLDER] cannot write {tmp_path}/no/part.edgead: its folder does not exist; "
        "nothing was written. Create the folder first.",
    )


def commands_that_read(path):
    return [
        ("run", path, "--source", "0"),
        ("verify", path),
        ("inspect", path),
        ("benchmark", path),
        ("evaluate", path, path.parent),
        ("commission", path, path.parent),
    ]


def test_a_bundle_cut_in_half(edgead_command, tmp_path):
    path = tmp_path / "half.edgead"
    whole = PATH.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for words in commands_that_read(path):
        code, out, err = edgead_command(*words)
        last = err.strip().splitlines()[-1]
        assert (code, out) == (2, "")
        assert last.startswith(f"error: [BUNDLE_DAMAGED] {path}: ")
        assert last.endswith("Copy it again from where it was made.")
        assert "Traceback" not in err


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_bundle_with_one_byte_changed(edgead_command, tmp_path, share):
    path = tmp_path / "changed.edgead"
    data = bytearray(PATH.read_bytes())
    data[int(len(data) * share)] ^= 0x10
    path.write_bytes(data)
    code, out, err = edgead_command("verify", path)
    last = err.strip().splitlines()[-1]
    assert (code, out) == (2, "")
    assert last.startswith(f"error: [BUNDLE_DAMAGED] {path}: ")
    assert last.endswith("Copy it again from where it was made.")


def test_a_bundle_that_is_not_there(edgead_command, tmp_path):
    code, _, err = edgead_command("verify", tmp_path / "no.edgead")
    assert code == 2
    assert (
        err.strip()
        .splitlines()[-1]
        .startswith(f"error: [BUNDLE_MISSING] {tmp_path}/no.edgead does not exist")
    )


def test_another_file_for_a_bundle(edgead_command, tmp_path):
    path = shutil.copy(__file__, tmp_path / "part.edgead")
    code, _, err = edgead_command("verify", path)
    assert code == 2
    assert err.strip().splitlines()[-1].startswith(f"error: [BUNDLE_FORMAT] {path}")


_COLOUR = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
_GREY = _COLOUR[:, :, 0].copy()
_NAN = np.zeros((96, 96), np.float32)
_NAN[2, 3] = np.nan


@pytest.fixture(scope="module")
def detector():
    with Detector(PATH, threads=1) as opened:
        yield opened


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            [[1, 2], [3, 4]],
            "[FRAME_TYPE] got builtins.list; want a numpy.ndarray (H, W) or (H, W, 3). "
            "Convert it with numpy.asarray().",
        ),
        (
            _GREY.astype(np.int32),
            "[FRAME_DTYPE] dtype is '<i4'; want uint8, or native uint16 with a declared depth. "
            "Convert the frame exactly before handing it over.",
        ),
        (
            _COLOUR.transpose(2, 0, 1),
            "[FRAME_LAYOUT] shape (3, 96, 96) looks channel-first; want (H, W, 3). "
            "Transpose: frame.transpose(1, 2, 0).",
        ),
        (
            _COLOUR[:, :, :2],
            "[FRAME_CHANNELS] 2 channels; BGR8 has 3. "
            "Declare the camera's own format: Frame(pixels, PixelFormat.…).",
        ),
        (
            _COLOUR,
            "[FRAME_FORMAT] camera sends BGR8; the bundle was commissioned on MONO8. "
            "Set the camera's pixel format, or commission the bundle on this one.",
        ),
        (
            Frame(_GREY.astype(np.uint16), PixelFormat.MONO16, depth=12),
            "[FRAME_FORMAT] camera sends MONO16 with 12 bits; the bundle was commissioned on MONO8. "
            "Set the camera's pixel format, or commission the bundle on this one.",
        ),
        (
            _GREY[:, :95],
            "[FRAME_SIZE] frame is 95x96; the bundle was commissioned at 96x96. "
            "Set the camera's resolution, or commission the bundle on this one.",
        ),
        (
            _NAN,
            "[FRAME_NONFINITE] 1 of 9216 values are NaN or infinite (first at index (2, 3)). "
            "Such a frame is never judged; repair the source.",
        ),
        (
            np.full((96, 96), 7, np.uint8),
            "[FRAME_CONSTANT] every pixel is 7. Lens cap, light or trigger fault?",
        ),
    ],
)
def test_frames(detector, frame, message):
    with pytest.raises(FrameError) as error:
        detector(frame)
    assert str(error.value) == message
    (outcome,) = list(detector.stream(iter([frame])))
    assert not outcome.accept
    assert outcome.verdict.name == "UNKNOWN"
    assert detector(gravel_frame()).accept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("verify", PATH, "--backend", "tpu"),
            "[BACKEND_UNKNOWN] backend is 'tpu'; want one of openvino, onnxruntime, tensorrt, "
            "tensorrt-rtx or auto.",
        ),
        (
            ("verify", PATH, "--precision", "fp8"),
            "[PRECISION_UNKNOWN] precision is 'fp8'; want one of fp32, bf16, fp16, int8 or auto.",
        ),
        (
            ("verify", PATH, "--precision", "int8", "--backend", "openvino"),
            "[PRECISION_MISSING] the bundle holds no int8 model for openvino. "
            "Add it: edgead quantize BUNDLE --images DIR.",
        ),
        (
            ("benchmark", PATH, "--seconds", "-1"),
            "[BENCHMARK] seconds is -1.0; want more than 0.",
        ),
    ],
)
def test_options(edgead_command, words, message):
    refused(edgead_command(*words), message)


def test_an_unknown_command_is_usage_not_a_traceback(edgead_command):
    code, _, err = edgead_command("trian")
    assert code == 2
    assert "No such command" in err
    assert "Traceback" not in err
