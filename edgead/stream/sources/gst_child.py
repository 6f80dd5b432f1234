"""GStreamer pipelines through PyGObject, for machines whose OpenCV has no GStreamer.

Runs in the capture child only.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["pipeline_frames"]

#: Bounded and leaky: a slow reader loses the oldest frame, never memory.
_SINK = "appsink name=edgead_sink max-buffers=2 drop=true sync=false"


def pipeline_frames(
    text: str, read_ms: int
) -> Iterator[tuple[int, Callable[[], NDArray[np.uint8] | None]]]:
    """Frames of a pipeline that ends in an appsink, or of one to which edgead adds it.

    Args:
        text: e.g. ``videotestsrc ! video/x-raw,width=640``; converted to BGR.
        read_ms: Longest wait for one frame, ms.

    Yields:
        Time of arrival, ns, and a function that copies the frame out, (H, W, 3) uint8.

    Raises:
        ImportError: PyGObject or GStreamer's introspection data is not installed.
        RuntimeError: The pipeline cannot be built or failed.
    """
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstApp", "1.0")
    from gi.repository import GLib, Gst, GstApp

    _ = GstApp  # loads try_pull_sample
    Gst.init(None)
    if "appsink" not in text:
        text = f"{text} ! videoconvert ! video/x-raw,format=BGR ! {_SINK}"
    try:
        pipeline = Gst.parse_launch(text)
    except GLib.Error as error:
        raise RuntimeError(error.message) from error
    sink = _sink_of(pipeline, Gst)
    pipeline.set_state(Gst.State.PLAYING)
    try:
        while (sample := sink.try_pull_sample(read_ms * Gst.MSECOND)) is not None:
            yield time.monotonic_ns(), functools.partial(_pixels, sample, Gst)
        failed = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
        if failed is not None:
            raise RuntimeError(failed.parse_error()[0].message)
        if not sink.is_eos():
            raise RuntimeError(f"no frame came within {read_ms} ms")
    finally:
        pipeline.set_state(Gst.State.NULL)


def _sink_of(pipeline: Any, gst: Any) -> Any:
    found = pipeline.iterate_sinks()
    while True:
        result, element = found.next()
        if result != gst.IteratorResult.OK:
            raise RuntimeError("the pipeline has no appsink")
        if element.get_factory().get_name() == "appsink":
            return element


def _pixels(sample: Any, gst: Any) -> NDArray[np.uint8] | None:
    """Copy (H, W, 3) out; rows are padded to four bytes."""
    about = sample.get_caps().get_structure(0)
    height, width = about.get_value("height"), about.get_value("width")
    if about.get_value("format") != "BGR":
        raise RuntimeError(f"the appsink gets {about.get_value('format')}; want format=BGR")
    buffer = sample.get_buffer()
    found, view = buffer.map(gst.MapFlags.READ)
    if not found:
        return None
    try:
        raw = np.frombuffer(view.data, np.uint8)
        stride = len(raw) // height
        rows = raw[: stride * height].reshape(height, stride)[:, : width * 3]
        return np.array(rows.reshape(height, width, 3))
    finally:
        buffer.unmap(view)
