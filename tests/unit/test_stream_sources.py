"""Sources: the grammar of names, what each hands over, and what it says when it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgead import images
from edgead.errors import EdgeadError, SourceError
from edgead.stream import open_source, run
from edgead.stream.sources import ArraySource, EndOfSource, FileSource, Source
from edgead.stream.sources.files import SUFFIXES
from edgead.stream.sources.machine_vision import frame_of
from edgead.stream.sources.reconnect import Reconnecting
from edgead.stream.sources.video import VIDEO_SUFFIXES
from edgead.testing import FakeJudge, textured
from edgead.types import Frame, PixelFormat, Status


def frames_of(source: Source) -> list[Frame | EdgeadError]:
    found = []
    while True:
        try:
            item = source.read(0.1)
        except EndOfSource:
            return found
        assert item is not None
        found.append(item)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n, name in enumerate(["b.png", "a.png", "sub/c.png"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        images.save_image(path, textured(n))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_folder_in_order_of_path(folder: Path) -> None:
    source = open_source(folder)
    found = [item for item in frames_of(source) if isinstance(item, Frame)]
    assert [frame.part_id for frame in found] == ["a.png", "b.png", "c.png"]
    assert np.array_equal(found[0].pixels, textured(1))
    assert all(frame.is_simulated for frame in found)
    assert (source.kind, source.source_id) == ("file", folder.name)


def test_glob_list_and_one_image(folder: Path) -> None:
    assert len(frames_of(open_source(f"{folder}/*.png"))) == 2
    assert len(frames_of(open_source(f"{folder}/**/*.png"))) == 3
    assert len(frames_of(open_source([folder / "a.png", str(folder / "b.png")]))) == 2
    assert len(frames_of(open_source(f"file://{folder}/a.png"))) == 1


def test_a_bad_image_is_a_failed_frame_and_the_rest_goes_on(folder: Path) -> None:
    (folder / "aa.png").write_bytes(b"hello world")
    (folder / "ab.png").write_bytes(b"")
    with run(FakeJudge(), folder) as stream:
        outcomes = list(stream)
    assert [(o.status, o.reason) for o in outcomes] == [
        (Status.RESULT, ""),
        (Status.FAILED, "IMAGE_FORMAT"),
        (Status.FAILED, "IMAGE_EMPTY"),
        (Status.RESULT, ""),
        (Status.RESULT, ""),
    ]
    assert all(o.is_simulated for o in outcomes)


def test_arrays_of_every_kind() -> None:
    picture = textured(1)
    for spec, count in [
        (picture, 1),
        (np.stack([picture, picture]), 2),
        ([picture, picture[:, :, 0], picture[:, :, :1]], 3),
        ((picture for _ in range(4)), 4),
        ([Frame(picture, PixelFormat.RGB8)], 1),
    ]:
        assert len(frames_of(open_source(spec))) == count
    mono = frames_of(open_source([picture[:, :, 0]]))[0]
    assert isinstance(mono, Frame)
    assert mono.format is PixelFormat.MONO8


def test_an_iterable_that_reuses_its_buffer_is_safe() -> None:
    buffer = np.zeros((4, 4, 3), np.uint8)

    def camera() -> Iterator[np.ndarray]:
        for n in range(3):
            buffer[:] = n
            yield buffer

    found = frames_of(open_source(camera()))
    assert [int(f.pixels[0, 0, 0]) for f in found if isinstance(f, Frame)] == [0, 1, 2]


def test_items_that_are_no_frames_are_accounted_for() -> None:
    with run(FakeJudge(), [textured(1), None, np.zeros((2, 2)), textured(1)]) as stream:
        assert [o.reason for o in stream] == ["", "FRAME_NONE", "FRAME_RANGE_UNDECLARED", ""]


def test_an_iterable_that_raises_ends_the_source_after_what_came_before() -> None:
    def camera() -> Iterator[np.ndarray]:
        yield textured(1)
        raise ValueError("cable")

    seen = []
    with pytest.raises(SourceError) as caught, run(FakeJudge(), camera()) as stream:
        seen.extend(iter(stream))
    assert str(caught.value) == (
        "[SOURCE_FAILED] the iterable behind source 'array' raised ValueError: cable. The frames "
        "before it were accounted for."
    )
    assert stream.counts.results == 1


def test_a_generator_is_closed_with_the_stream() -> None:
    ended = []

    def camera() -> Iterator[np.ndarray]:
        try:
            while True:
                yield textured(1)
        finally:
            ended.append(True)

    for outcome in run(FakeJudge(), camera()):
        if outcome.seq == 3:
            break
    assert ended == [True]


@pytest.mark.parametrize(
    ("name", "source_id"),
    [
        ("0", "video0"),
        (2, "video2"),
        ("usb://1?width=1920&height=1080&fps=30&fourcc=MJPG", "video1"),
        ("/dev/video3", "video3"),
        ("v4l2:///dev/video3", "video3"),
        ("csi://0", "csi0"),
        ("rtsp://user:pa55word@10.0.0.5:554/stream", "rtsp_10.0.0.5_554"),
        ("http://10.0.0.6/mjpeg", "http_10.0.0.6"),
        ("videotestsrc ! videoconvert", "gstreamer"),
        ("gst://videotestsrc", "gstreamer"),
        ("pylon://1234", "pylon1234"),
        ("genicam://77?cti=/opt/x.cti", "genicam77"),
    ],
)
def test_cameras_are_named_and_nothing_is_started_yet(name: str | int, source_id: str) -> None:
    source = open_source(name)
    assert isinstance(source, Reconnecting)
    assert (source.source_id, source.kind, source.is_simulated) == (source_id, "live", False)
    source.close()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("/nowhere/at/all", "[SOURCE_NOT_FOUND] /nowhere/at/all does not exist."),
        ("/nowhere/*.png", "[SOURCE_EMPTY] /nowhere/*.png matches no image."),
        ("/nowhere/a.mp4", "[SOURCE_NOT_FOUND] /nowhere/a.mp4 does not exist."),
        (
            "usb://0?brightness=3",
            "[SOURCE_URL] brightness=3 is no setting of a USB camera. e.g. "
            "usb://0?width=1920&height=1080&fps=30&fourcc=MJPG.",
        ),
        (
            "usb://0?width=big",
            "[SOURCE_URL] width=big is no setting of a USB camera. e.g. "
            "usb://0?width=1920&height=1080&fps=30&fourcc=MJPG.",
        ),
        ("csi://front", "[SOURCE_URL] csi://front: want csi:// and the sensor's number."),
        (
            3.5,
            "[SOURCE_UNKNOWN] got builtins.float. Give a folder, a file, a camera's address or "
            "number, arrays, or an iterable of them.",
        ),
    ],
)
def test_what_cannot_be_opened_says_so(spec: object, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(spec)
    assert str(caught.value) == message


def test_unknown_kind_of_file_and_scheme(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"x")
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert str(caught.value) == (
        f"[SOURCE_UNKNOWN] {path} is neither an image, nor a video, nor a folder. Images end in "
        f"{', '.join(sorted(SUFFIXES))}; videos in {', '.join(sorted(VIDEO_SUFFIXES))}."
    )
    with pytest.raises(SourceError) as caught:
        open_source("ftp://10.0.0.5/x")
    assert caught.value.code == "SOURCE_UNKNOWN"
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path)
    assert caught.value.code == "SOURCE_EMPTY"


def test_a_broken_video_says_so(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42 and nothing else")
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert str(caught.value) == (
        f"[SOURCE_CODEC] {path} holds no video that can be decoded. Play it elsewhere, or convert "
        "it to H.264 in MP4."
    )


@pytest.mark.parametrize(
    "text",
    [
        b"not a video",
        b"ffconcat version 1.0\nfile 'other.avi'\n",
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"v=0\r\nc=IN IP4 10.0.0.5\r\nm=video 5000 RTP/AVP 96\r\n",
        b"",
    ],
)
def test_a_list_of_other_files_under_a_video_s_name_is_not_opened(
    tmp_path: Path, text: bytes
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(text)
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert str(caught.value) == (
        f"[SOURCE_CODEC] {path} starts with {text[:8]!r}; want a video: MP4, MOV, AVI, Matroska, "
        "WebM, MPEG, MPEG-TS, Motion JPEG or H.264. Play it elsewhere, or convert it to H.264 in MP4."
    )


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v"), (".mkv", "MJPG")]
)
def test_a_name_with_a_colon_is_a_file_and_no_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, codec: str
) -> None:
    cv2 = pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter(f"good{suffix}", cv2.VideoWriter_fourcc(*codec), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {suffix}")
    for number in range(3):
        writer.write(textured(number, 48, 64))
    writer.release()
    assert len(frames_of(open_source(f"good{suffix}"))) == 3
    Path(f"concat:good{suffix}").write_bytes(
        b"\xff\xd8\xff"
    )  # a frame of its own, and a damaged one
    found = frames_of(open_source(f"concat:good{suffix}"))
    assert [item.code for item in found if isinstance(item, EdgeadError)] == ["IMAGE_TRUNCATED"]
    assert not any(isinstance(item, Frame) for item in found)


def _jpeg(seed: int, height: int = 48, width: int = 64) -> bytes:
    import cv2

    return bytes(cv2.imencode(".jpg", textured(seed, height, width))[1])


def test_a_video_that_changes_its_size_says_so(tmp_path: Path) -> None:
    """OpenCV alone scales the later frames to the size of the first."""
    pytest.importorskip("cv2")
    path = tmp_path / "line.mjpeg"
    small, large = [_jpeg(n) for n in range(3)], [_jpeg(n, 96, 128) for n in range(3)]
    path.write_bytes(b"".join([*small, *large]))
    found = frames_of(open_source(path))
    assert [item.size for item in found if isinstance(item, Frame)] == [(48, 64)] * 3 + [
        (96, 128)
    ] * 3
    reasons = [outcome.reason for outcome in run(FakeJudge(), path)]
    assert reasons == [""] * 3 + ["FRAME_SHAPE_CHANGED"] * 3


def test_a_frame_of_motion_jpeg_is_the_still_image(tmp_path: Path) -> None:
    """Bit by bit, so that a line may be commissioned on the files that its camera saves."""
    pytest.importorskip("cv2")
    path = tmp_path / "line.mjpeg"
    pictures = [_jpeg(n) for n in range(3)]
    path.write_bytes(b"".join(pictures))
    for picture, frame in zip(pictures, frames_of(open_source(path)), strict=True):
        assert isinstance(frame, Frame)
        assert np.array_equal(frame.pixels, images.decode(picture).pixels)


def test_a_cut_frame_of_motion_jpeg_fails_and_the_rest_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    path = tmp_path / "line.mjpeg"
    path.write_bytes(b"".join([_jpeg(0), _jpeg(1)[:900], _jpeg(2)]))
    found = frames_of(open_source(path))
    assert any(isinstance(item, EdgeadError) and item.code.startswith("IMAGE_") for item in found)
    assert sum(isinstance(item, Frame) for item in found) >= 1
    for item in found:
        if isinstance(item, Frame):
            known = [images.decode(_jpeg(n)).pixels for n in (0, 2)]
            assert any(np.array_equal(item.pixels, one) for one in known)


def test_the_fixed_kinds() -> None:
    assert isinstance(open_source([textured(1)]), ArraySource)
    source = FileSource([])
    assert open_source(source) is source


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "fmt", "depth"),
    [
        ("Mono8", (4, 6), "uint8", PixelFormat.MONO8, 8),
        ("Mono12", (4, 6), "uint16", PixelFormat.MONO16, 12),
        ("BayerRG8", (4, 6), "uint8", PixelFormat.BAYER_RG8, 8),
        ("RGB8Packed", (4, 6, 3), "uint8", PixelFormat.RGB8, 8),
        ("BGRa8", (4, 6, 4), "uint8", PixelFormat.BGRX8, 8),
    ],
)
def test_machine_vision_formats(
    name: str, shape: tuple[int, ...], dtype: str, fmt: PixelFormat, depth: int
) -> None:
    pixels = np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)
    frame = frame_of(pixels.ravel(), name, height=4, width=6, t_mono_ns=9, block_id=3)
    assert (frame.format, frame.depth, frame.block_id, frame.t_mono_ns) == (fmt, depth, 3, 9)
    assert np.array_equal(frame.pixels, pixels)
    assert not np.shares_memory(frame.pixels, pixels)


def test_alpha_is_left_out_and_packed_bits_are_refused() -> None:
    pixels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    frame = frame_of(pixels, "RGBa8", height=2, width=4, t_mono_ns=0, block_id=None)
    assert np.array_equal(frame.pixels, pixels[:, :, :3])
    with pytest.raises(SourceError) as caught:
        frame_of(pixels, "Mono12Packed", height=2, width=4, t_mono_ns=0, block_id=None)
    assert str(caught.value).startswith("[SOURCE_FORMAT] the camera sends Mono12Packed. Set it to")
