"""Motion JPEG as the still images that it is: each frame has its own size, and damage shows.

OpenCV's FFmpeg back end scales every frame of a connection to the size of the first without a word, and
hands a damaged picture over with rows made up. So Motion JPEG is taken undecoded, and decoded as a file is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.errors import FrameError
from edgead.imageheader import inspect

__all__ = ["MAX_PIXELS", "decode_packet", "takes_packets"]

MAX_PIXELS = 64_000_000


def takes_packets(cv2: Any, opened: Any) -> bool:
    """Have a capture of Motion JPEG hand its packets over; False for any other codec.

    Args:
        cv2: OpenCV.
        opened: A capture of the FFmpeg back end that has read no frame yet.
    """
    if opened.get(cv2.CAP_PROP_FOURCC) != cv2.VideoWriter_fourcc(*"MJPG"):
        return False
    return bool(opened.set(cv2.CAP_PROP_FORMAT, -1))


def decode_packet(cv2: Any, packet: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A packet's frame, (H, W, 3) BGR.

    Raises:
        FrameError: As `edgead.imageheader.inspect`; IMAGE_CORRUPT when it cannot be decoded.
    """
    header = inspect(packet.tobytes(), "a frame of Motion JPEG", max_pixels=MAX_PIXELS)
    try:
        pixels = cv2.imdecode(packet, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape != (header.height, header.width, 3):
        raise FrameError("IMAGE_CORRUPT", "a frame of Motion JPEG cannot be decoded.")
    found: NDArray[np.uint8] = pixels
    return found
