"""The one grammar that names a source.

=============================  ===================================================================
``images/``  ``images/*.png``  a folder (with sub-folders) or a glob pattern of image files
``part.png``  ``line.mp4``     one image; a video file
``0``  ``usb://0?width=640``   USB camera by number; ``/dev/video0``, ``v4l2:///dev/video0`` by name
``csi://0``                    CSI camera of a Jetson (GStreamer's nvarguscamerasrc)
``rtsp://…``  ``http://…``     network stream; also rtsps and https
``videotestsrc ! …``           GStreamer pipeline, also as ``gst://…``; without an appsink, one is added
``genicam://SERIAL?cti=FILE``  GenICam camera (GigE Vision, USB3 Vision) by harvesters
``pylon://SERIAL``             Basler camera by pypylon; no serial number: the only one
=============================  ===================================================================
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote

from edgead.errors import SourceError
from edgead.stream.sources.base import Source
from edgead.stream.sources.capture import CaptureConfig, ChildCapture
from edgead.stream.sources.files import SUFFIXES, FileSource, image_files
from edgead.stream.sources.reach import look_of
from edgead.stream.sources.reconnect import Connection, Reconnecting
from edgead.stream.sources.v4l2 import device_path, settings_of
from edgead.stream.sources.video import VIDEO_SUFFIXES, VideoSource
from edgead.urls import SourceUrl

__all__ = ["parse_source"]

_NETWORK = frozenset({"rtsp", "rtsps", "http", "https"})
_CSI = (
    "nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM),format=NV12 ! nvvidconv ! "
    "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
    "appsink max-buffers=2 drop=true sync=false"
)


def parse_source(text: str) -> Source:
    """Open what a source's name says.

    Args:
        text: See the table above.

    Raises:
        SourceError: SOURCE_NOT_FOUND, SOURCE_EMPTY, SOURCE_URL, SOURCE_BACKEND, or SOURCE_UNKNOWN for
            a name outside the grammar. A network camera that cannot be reached does not raise: it
            is tried for ever.
    """
    if " ! " in text or text.startswith("gst://"):
        return _captured("gstreamer", text.removeprefix("gst://"), "GSTREAMER", SourceUrl(text))
    url = SourceUrl(text)
    if url.scheme:
        return _from_url(url, text.partition("://")[2])
    if text.isdigit() or text.startswith("/dev/video"):
        return _usb(text, url)
    return _from_path(text, str(url))


def _from_url(url: SourceUrl, rest: str) -> Source:
    if url.scheme in _NETWORK:
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{url}".replace("***", "")).strip("_.")
        return _captured(name, url.reveal(), "FFMPEG", url)
    if url.scheme == "file":
        return _from_path(unquote(rest), str(url))
    if url.scheme in ("usb", "v4l2"):
        return _usb(rest, url)
    if url.scheme == "csi":
        if not rest.isdigit():
            raise SourceError("SOURCE_URL", f"{url}: want csi:// and the sensor's number.")
        return _captured(f"csi{rest}", _CSI.format(number=int(rest)), "GSTREAMER", url)
    if url.scheme in ("genicam", "pylon"):
        return _machine_vision(url.scheme, rest)
    raise SourceError(
        "SOURCE_UNKNOWN",
        f"{url}: scheme {url.scheme!r} is not known.",
        "Use rtsp, rtsps, http, https, usb, v4l2, csi, gst, genicam, pylon or file.",
    )


def _from_path(text: str, shown: str) -> Source:
    """``shown`` stands for the text in errors: it may be a camera's address with a typing error."""
    path = Path(text)
    if path.is_dir():
        return FileSource(image_files(path), source_id=path.name or "images")
    suffix = path.suffix.lower()
    if any(sign in text for sign in "*?[") and not path.exists():
        # glob, not Path.glob: the pattern may be absolute.
        found = [Path(p) for p in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207
        images = [p for p in found if p.suffix.lower() in SUFFIXES]
        if not images:
            raise SourceError("SOURCE_EMPTY", f"{shown} matches no image.")
        return FileSource(images, source_id="glob")
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path)
    if suffix in SUFFIXES and path.is_file():
        return FileSource([path], source_id=path.name)
    if not path.exists():
        raise SourceError("SOURCE_NOT_FOUND", f"{shown} does not exist.")
    raise SourceError(
        "SOURCE_UNKNOWN",
        f"{shown} is neither an image, nor a video, nor a folder.",
        f"Images end in {', '.join(sorted(SUFFIXES))}; videos in {', '.join(sorted(VIDEO_SUFFIXES))}.",
    )


def _usb(text: str, url: SourceUrl) -> Reconnecting:
    name, _, query = text.partition("?")
    path = device_path(name)
    return _captured(Path(path).name, path, "V4L2", url, settings_of(query))


def _captured(
    name: str,
    target: str,
    api: Literal["FFMPEG", "V4L2", "GSTREAMER"],
    url: SourceUrl,
    settings: Mapping[str, int | str] | None = None,
) -> Reconnecting:
    """A camera that is read in a child process and opened again for ever."""
    config = CaptureConfig(target, api, settings=settings or {})
    look = look_of(target if api == "V4L2" else str(url))
    return Reconnecting(lambda: ChildCapture(config, url), source_id=name, is_reachable=look)


def _machine_vision(scheme: str, rest: str) -> Reconnecting:
    serial, _, query = rest.partition("?")

    def connect() -> Connection:
        if scheme == "pylon":
            from edgead.stream.sources.pylon import PylonCamera

            return PylonCamera(serial)
        from edgead.stream.sources.genicam import GenicamCamera

        return GenicamCamera(serial, parse_qs(query).get("cti", []))

    return Reconnecting(connect, source_id=f"{scheme}{serial}")
